//! Rotated models: that they compute what the originals do, and what rotation is for.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::{Value, json};

use super::gguf_tests::write_byte_level_tokenizer;
use super::rotation::rotate;
use super::tests::{logits, make, quantize, quantized, scheme, unchanged, write_model};
use super::{Order, build_gguf};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::Pool;
use crate::network::{Architecture, Decoder, LoadOptions};
use crate::results::Artefact;
use crate::suite::{InputScheme, Method, Override, Recipe, Rotation};
use crate::tensor::{DenseFormat, Granularity};

const EXACT: LoadOptions = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };

fn workers(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn rotated(recipe: Recipe) -> Recipe {
    match recipe {
        Recipe::Quantize(method) => Recipe::Quantize(Method { rotation: Some(Rotation::Hadamard), ..method }),
        other => other,
    }
}

/// Logits of a prompt in 32 bits.
fn exact_logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let decoder = Decoder::load(checkpoint, EXACT).unwrap();
    let vocabulary = decoder.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..12).map(|i| i * 7 % vocabulary).collect();
    let (pool, mut out) = (Pool::new(1), Vec::new());
    let mut cache = decoder.cache(1, 12);
    decoder.logits(&pool, decoder.forward(&pool, &tokens, &mut cache).unwrap(), &mut out);
    // The same by the way that takes up hidden states between blocks.
    let mut hidden = decoder.embed(&tokens);
    decoder.run_on(&pool, 0, 12, &mut hidden);
    let mut again = Vec::new();
    decoder.logits(&pool, &hidden, &mut again);
    assert_eq!(out, again);
    out
}

#[test]
fn rotated_models_compute_what_the_originals_do() {
    let root = tempfile::tempdir().unwrap();
    let mut models: Vec<PathBuf> =
        ["llama", "mistral", "qwen2", "qwen3"].iter().map(|family| fixture("tiny_models").join(family)).collect();
    for tied in [true, false] {
        let model = root.path().join(format!("tied-{tied}"));
        write_model(&model, tied, &unchanged);
        models.push(model);
    }
    for (number, model) in models.iter().enumerate() {
        let original = Checkpoint::open(model).unwrap();
        let turned = rotate(&original, &workers(2), &root.path().join(format!("{number}"))).unwrap();
        let (expected, got) = (exact_logits(&original), exact_logits(&turned));
        let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() < 5e-6 * largest, "{}: {got} against {expected}", model.display());
        }
        for name in turned.names() {
            let (before, after) = (original.tensor_f32(&name).unwrap().1, turned.tensor_f32(&name).unwrap().1);
            let gains = name.ends_with("layernorm.weight");
            assert!(!gains || after.iter().all(|gain| *gain == 1.0), "{name}");
            let turns = ["_proj.weight", "v_proj.bias", "o_proj.bias", "down_proj.bias"];
            assert_eq!(
                before != after && !gains,
                turns.iter().any(|end| name.ends_with(end)) || {
                    let ends = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"];
                    !Architecture::of(&original).unwrap().tied_head() && ends.contains(&name.as_str())
                },
                "{name}"
            );
        }
        let config = Architecture::of(&turned).unwrap();
        assert_eq!(config.rotation().is_some(), config.tied_head(), "an untied head needs nothing at run time");
    }
}

/// Largest magnitude over the root mean square.
fn peak(values: &[f32]) -> f64 {
    let mean_square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
    values.iter().fold(0.0, |peak: f64, v| peak.max(f64::from(v.abs()))) / mean_square.sqrt()
}

/// A model with one channel of the residual stream that stands out, and whose weights for it are `factor` times the others.
fn write_outlier(model: &Path, tied: bool, factor: f32) {
    write_model(model, tied, &|name, values| {
        let mut channel = |factor| values.iter_mut().skip(7).step_by(64).for_each(|v| *v *= factor);
        match name.rsplit('.').nth(1) {
            Some("embed_tokens") => channel(40.0),
            Some("q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj") => channel(factor),
            _ => {}
        }
    });
}

#[test]
fn outliers_of_the_stream_and_of_weights_are_spread() {
    let root = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let model = root.path().join(format!("tied-{tied}"));
        write_outlier(&model, tied, 10.0);
        let original = Checkpoint::open(&model).unwrap();
        let turned = rotate(&original, &workers(1), &root.path().join(format!("turned-{tied}"))).unwrap();
        let of_weight =
            |checkpoint: &Checkpoint| peak(&checkpoint.tensor_f32("model.layers.0.self_attn.q_proj.weight").unwrap().1);
        let of_stream = |checkpoint: &Checkpoint| {
            let decoder = Decoder::load(checkpoint, EXACT).unwrap();
            let rows = decoder.embed(&[1, 2, 3, 4]);
            rows.chunks(64).map(peak).sum::<f64>() / 4.0
        };
        let weights = (of_weight(&original), of_weight(&turned));
        let stream = (of_stream(&original), of_stream(&turned));
        assert!(weights.1 < 0.6 * weights.0, "{weights:?}");
        assert!(stream.1 < 0.4 * stream.0, "{stream:?}");
    }
}

#[test]
fn rotated_recipes_lose_less_to_outliers_of_8_bit_inputs_and_depend_on_no_threads() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_outlier(&model, false, 1.0 / 40.0);
    let exact = logits(&model);
    let distance = |folder: &Path| -> f64 {
        logits(folder).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / exact.len() as f64
    };
    for method in ["rtn", "gptq"] {
        let Recipe::Quantize(plain) = quantize(method, scheme(8, Granularity::Channel, true), vec![]) else { panic!() };
        let plain = Recipe::Quantize(Method { activations: InputScheme::DynamicToken, ..plain });
        let build = |name: &str, recipe: &Recipe, threads| {
            let into = root.path().join(format!("{method}-{name}"));
            make(&model, recipe, &into, threads).unwrap();
            into
        };
        let without = distance(&build("plain", &plain, 2));
        let turned = build("turned", &rotated(plain.clone()), 2);
        let with = distance(&turned);
        assert!(with < 0.5 * without, "{method}: rotated {with}, plain {without}");
        let again = build("turned-again", &rotated(plain), 1);
        for file in ["model.safetensors", "config.json"] {
            assert!(fs::read(turned.join(file)).unwrap() == fs::read(again.join(file)).unwrap(), "{method} {file}");
        }
        let left: Vec<_> = fs::read_dir(&turned).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}

#[test]
fn a_quantized_tied_embedding_serves_both_ends_of_a_rotated_stream() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    let eight = scheme(8, Granularity::Channel, true);
    let head = Override { tensors: "lm_head".into(), weights: Some(eight), activations: None };
    let build = |name: &str, recipe: Recipe| {
        make(&model, &recipe, &root.path().join(name), 2).unwrap();
        root.path().join(name)
    };
    let plain = build("plain", quantize("gptq", eight, vec![head.clone()]));
    let turned = build("turned", rotated(quantize("gptq", eight, vec![head])));
    let table = |folder: &Path| quantized(&Checkpoint::open(folder).unwrap(), "model.embed_tokens.weight").0;
    assert_eq!(table(&plain), table(&turned));
    let config: Value = serde_json::from_slice(&fs::read(turned.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "rotated_llama");
    assert_eq!(config["residual_rotation"], json!({"kind": "hadamard", "seed": 1}));
    let (exact, got) = (logits(&model), logits(&turned));
    let error: f64 = exact.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let energy: f64 = exact.iter().map(|a| f64::from(*a).powi(2)).sum();
    assert!(error < 1e-3 * energy, "{error} of {energy}");
}

#[test]
fn what_cannot_be_rotated_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let message = |model: &Path| {
        let folder = root.path().join("unmade");
        let text = rotate(&Checkpoint::open(model).unwrap(), &workers(1), &folder).unwrap_err().to_string();
        let _ = fs::remove_dir_all(&folder);
        text
    };
    let text = message(&fixture("tiny_encoders/bert"));
    assert!(text.contains("is an encoder") && text.contains("remove `rotation`"), "{text}");

    let model = root.path().join("model");
    write_model(&model, true, &unchanged);
    let once = root.path().join("once");
    rotate(&Checkpoint::open(&model).unwrap(), &workers(1), &once).unwrap();
    assert!(message(&once).contains("is rotated already"));

    let damaged = root.path().join("damaged");
    write_model(&damaged, true, &|name, values| {
        if name.contains("layers.1.input_layernorm") {
            values[3] = f32::NAN;
        }
    });
    let text = message(&damaged);
    assert!(text.contains("layers.1.input_layernorm.weight\": holds NaN"), "{text}");

    for (key, value, expected) in [
        ("hidden_size", json!(60), "embed_tokens.weight\": expected shape [40, 60]"),
        ("head_dim", json!(28), "q_proj.weight\": expected shape [56, 64]"),
    ] {
        let text = fs::read_to_string(model.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["head_dim"] = json!(32);
        config[key] = value;
        write_model(&damaged, true, &unchanged);
        fs::write(damaged.join("config.json"), config.to_string()).unwrap();
        let text = message(&damaged);
        assert!(text.contains(expected), "{key}: {text}");
    }
}

#[test]
fn a_gguf_file_holds_a_rotated_model_only_where_the_head_is_its_own() {
    let root = tempfile::tempdir().unwrap();
    let recipe = rotated(quantize("rtn", scheme(4, Granularity::Group, true), vec![]));
    let export = |model: &Path, recipe: &Recipe| -> Result<Artefact> {
        let into = root.path().join("model.gguf");
        let _ = fs::remove_file(&into);
        write_byte_level_tokenizer(model);
        let order = Order { model, model_sha256: "00", recipe, import: None, calibration: None, threads: 1 };
        build_gguf(&order, &into, &mut |_, _| {}).map(|exported| exported.artefact)
    };
    let (tied, untied, made) = (root.path().join("tied"), root.path().join("untied"), root.path().join("made"));
    write_model(&tied, true, &unchanged);
    write_model(&untied, false, &unchanged);
    make(&tied, &recipe, &made, 1).unwrap();
    let cast = Recipe::Cast { dtype: DenseFormat::F16 };
    for (model, recipe) in [(&tied, &recipe), (&made, &cast)] {
        let text = export(model, recipe).unwrap_err().to_string();
        assert!(text.contains("which a GGUF file cannot say") && text.contains("compressed-tensors"), "{text}");
    }
    export(&untied, &recipe).unwrap();
}
