//! Tiny decoders of every family against the logits of Hugging Face transformers (`tools/golden/tiny_models.py`).

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::{Isa, KvFormat, Pool, vector};
use quantbench::network::{Block, Config, Decoder, Head, LoadOptions, ObservedBlock, Passage, Site, Workspace, score};
use quantbench::tensor::DenseFormat;

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
const EXACT: LoadOptions = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };

struct Golden {
    checkpoint: Checkpoint,
    tokens: Vec<u32>,
    /// `(tokens, vocab_size)`.
    logits: Vec<f32>,
}

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_models").join(family)
}

fn golden(family: &str) -> Golden {
    let text = std::fs::read_to_string(folder(family).join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = expected["logits"].as_array().unwrap();
    Golden {
        checkpoint: Checkpoint::open(&folder(family)).unwrap(),
        tokens: expected["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect(),
        logits: rows.iter().flat_map(|row| row.as_array().unwrap()).map(|v| v.as_f64().unwrap() as f32).collect(),
    }
}

fn assert_close(name: &str, got: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= bound, "{name} at {i}: {got} against {expected}");
    }
}

/// Logits after feeding `tokens` in pieces of `step`.
fn logits(decoder: &Decoder, pool: &Pool, tokens: &[u32], step: usize) -> Vec<f32> {
    let mut cache = decoder.cache(1, tokens.len());
    let (mut all, mut some) = (Vec::new(), Vec::new());
    for piece in tokens.chunks(step) {
        let hidden = decoder.forward(pool, piece, &mut cache).unwrap();
        decoder.logits(pool, hidden, &mut some);
        all.extend_from_slice(&some);
    }
    assert_eq!(cache.len(), tokens.len());
    all
}

#[test]
fn prefill_and_decode_give_the_logits_of_transformers() {
    let pool = Pool::new(2);
    for family in FAMILIES {
        let golden = golden(family);
        let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
        for step in [golden.tokens.len(), 7, 1] {
            let got = logits(&decoder, &pool, &golden.tokens, step);
            assert_close(&format!("{family} by {step}"), &got, &golden.logits, 5e-5);
        }
    }
}

#[test]
fn sixteen_bit_weights_come_close() {
    let pool = Pool::new(1);
    for family in FAMILIES {
        let golden = golden(family);
        for (format, bound) in [(DenseFormat::F16, 0.05), (DenseFormat::Bf16, 0.4)] {
            let decoder =
                Decoder::load(&golden.checkpoint, LoadOptions { dense: Some(format), kv_cache: None }).unwrap();
            let got = logits(&decoder, &pool, &golden.tokens, 20);
            assert_close(&format!("{family} {format:?}"), &got, &golden.logits, bound);
        }
    }
}

#[test]
fn eight_bit_keys_and_values_come_close_in_prefill_and_decode() {
    let pool = Pool::new(1);
    for family in FAMILIES {
        let golden = golden(family);
        let options = LoadOptions { kv_cache: Some(KvFormat::Int8), ..EXACT };
        let decoder = Decoder::load(&golden.checkpoint, options).unwrap();
        let exact = Decoder::load(&golden.checkpoint, EXACT).unwrap();
        let got = logits(&decoder, &pool, &golden.tokens, 20);
        assert_close(&format!("{family} against 32 bits"), &got, &golden.logits, 0.2);
        assert_ne!(got, golden.logits, "{family}: rounding shows");
        let by_one = logits(&decoder, &pool, &golden.tokens, 1);
        assert_close(&format!("{family} token by token"), &by_one, &got, 1e-3);
        let bytes = |decoder: &Decoder| decoder.cache(1, 512).bytes();
        assert!(bytes(&decoder) * 2 < bytes(&exact), "{family}");
    }
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let pool = Pool::new(2);
    for family in FAMILIES {
        let golden = golden(family);
        let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
        let reversed: Vec<u32> = golden.tokens.iter().rev().copied().collect();
        let alone = logits(&decoder, &pool, &reversed, reversed.len());
        let mut cache = decoder.cache(2, golden.tokens.len());
        let mut got = Vec::new();
        let both = [golden.tokens.clone(), reversed].concat();
        decoder.logits(&pool, decoder.forward(&pool, &both, &mut cache).unwrap(), &mut got);
        assert_close(family, &got, &[golden.logits, alone].concat(), 5e-5);
    }
}

#[test]
fn blocks_alone_make_the_decoder_and_show_their_inputs() {
    let pool = Pool::new(1);
    for family in FAMILIES {
        let golden = golden(family);
        let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
        let config = decoder.config();
        let tokens = golden.tokens.len();
        let mut passage = Passage { hidden: decoder.embed(&golden.tokens), inputs: Vec::new(), ends: vec![tokens] };
        for layer in 0..config.layers {
            let block = Block::load(&golden.checkpoint, config, layer, EXACT).unwrap();
            let (mut whole, mut work) = (passage.hidden.clone(), Workspace::default());
            block.forward(&pool, &mut whole, 1, tokens, &mut work);
            let widths = [config.hidden_size, config.query_width(), config.hidden_size, config.intermediate_size];
            for (site, width) in Site::ALL.into_iter().zip(widths) {
                block.reach(site, &pool, &mut passage, &mut work);
                assert_eq!(passage.inputs.len(), tokens * width);
            }
            block.finish(&pool, &mut passage, &mut work);
            assert_eq!(passage.hidden, whole, "from site to site is the same way as in one go");
        }
        let hidden = passage.hidden;
        let norm = golden.checkpoint.tensor_f32("model.norm.weight").unwrap().1;
        let mut normalized = vec![0.0; hidden.len()];
        let eps = config.rms_norm_eps;
        for (hidden, out) in hidden.chunks_exact(norm.len()).zip(normalized.chunks_exact_mut(norm.len())) {
            vector::rms_norm(Isa::active(), hidden, &norm, eps, out);
        }
        let mut got = Vec::new();
        Head::load(&golden.checkpoint, EXACT).unwrap().logits(&pool, &normalized, &mut got);
        assert_close(family, &got, &golden.logits, 5e-5);
    }
}

#[test]
fn scores_are_the_log_probabilities_of_the_logits() {
    let pool = Pool::new(2);
    let golden = golden("qwen2");
    let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
    let vocabulary = decoder.config().vocab_size;
    let windows = vec![golden.tokens.clone(), golden.tokens.clone(), golden.tokens[..9].to_vec()];
    let mut nll = vec![Vec::new(); windows.len()];
    score(&decoder, &pool, &windows, &mut |chunk| {
        assert_eq!(chunk.hidden.len(), chunk.targets.len() * decoder.config().hidden_size);
        nll[chunk.window].extend(chunk.scores(&pool).into_iter().map(|score| score.nll));
        Ok(())
    })
    .unwrap();
    for (window, nll) in windows.iter().zip(&nll) {
        assert_eq!(nll.len(), window.len() - 1);
        for (i, nll) in nll.iter().enumerate() {
            let row = &golden.logits[i * vocabulary..(i + 1) * vocabulary];
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            let exact = sum.ln() - f64::from(row[window[i + 1] as usize]);
            assert!((nll - exact).abs() < 1e-4, "{nll} against {exact}");
        }
    }
    assert_eq!(nll[0], nll[1]);
}

#[test]
fn numbers_do_not_depend_on_the_number_of_threads() {
    let golden = golden("llama");
    let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
    let one = logits(&decoder, &Pool::new(1), &golden.tokens, 20);
    for threads in [2, 3] {
        assert_eq!(logits(&decoder, &Pool::new(threads), &golden.tokens, 20), one);
    }
}

#[test]
fn bad_input_is_an_error_and_leaves_the_cache_as_it_was() {
    let pool = Pool::new(1);
    let golden = golden("qwen3");
    let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
    let mut cache = decoder.cache(2, 4);
    for (tokens, expected) in [
        (vec![1, 2, 3], "3 tokens cannot be shared by 2 sequences"),
        (vec![], "0 tokens"),
        (vec![1, 48], "token 48 is outside the vocabulary of 48"),
        (vec![0; 10], "5 more exceed its 4"),
    ] {
        let message = decoder.forward(&pool, &tokens, &mut cache).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
        assert!(cache.is_empty());
    }
    decoder.forward(&pool, &[0; 8], &mut cache).unwrap();
    assert_eq!(cache.len(), 4);
    assert!(decoder.forward(&pool, &[0; 2], &mut cache).is_err());
    cache.clear();
    assert!(decoder.forward(&pool, &[0; 2], &mut cache).is_ok());
    let short = score(&decoder, &pool, &[vec![1]], &mut |_| Ok(())).expect_err("one token").to_string();
    assert!(short.contains("at least two tokens"), "{short}");
}

#[test]
fn a_config_that_does_not_fit_the_tensors_is_refused_by_name() {
    let checkpoint = golden("qwen2").checkpoint;
    let mut json = checkpoint.config().clone();
    json["intermediate_size"] = 32.into();
    let config = Config::from_json("config.json", &json).unwrap();
    let message = Block::load(&checkpoint, &config, 0, EXACT).expect_err("another shape").to_string();
    assert!(message.contains("mlp.gate_proj.weight") && message.contains("[32, 16]"), "{message}");
    let message = Block::load(&checkpoint, &config, 9, EXACT).expect_err("no such layer").to_string();
    assert!(message.contains("model.layers.9.") && message.contains("is missing"), "{message}");
}

#[test]
fn sizes_count_everything_once() {
    let pool = Pool::new(1);
    for family in FAMILIES {
        let golden = golden(family);
        let decoder = Decoder::load(&golden.checkpoint, EXACT).unwrap();
        let names = golden.checkpoint.names();
        let stored: usize =
            names.iter().map(|name| golden.checkpoint.shape(name).unwrap().iter().product::<usize>() * 4).sum();
        // Packing pads rows to 16 columns and the like; it never drops anything.
        let bytes = decoder.weight_bytes() as usize;
        assert!(bytes >= stored && bytes < 6 * stored, "{family}: {bytes} for {stored}");
        let prefill = decoder.kernels(8, 1).into_iter().filter(|used| used.phase == "prefill");
        assert_eq!(prefill.map(|used| used.matrices).sum::<usize>(), 7 * 2 + 1);
        let mut cache = decoder.cache(1, 16);
        let empty = cache.bytes();
        decoder.forward(&pool, &[1], &mut cache).unwrap();
        assert_eq!(cache.bytes(), empty);
    }
}
