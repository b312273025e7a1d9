//! Tiny encoders against the vectors of Hugging Face transformers (`tools/golden/tiny_encoders.py`).

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::Pool;
use quantbench::network::{
    Architecture, Encoder, EncoderEmbeddings, LoadOptions, Passage, Pooling, Site, Workspace, load_block,
};
use quantbench::tensor::DenseFormat;

const CASES: [&str; 4] = ["bert", "bert_classifier", "roberta", "roberta_classifier"];

struct Golden {
    checkpoint: Checkpoint,
    sequences: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

fn golden(case: &str) -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_encoders").join(case);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    Golden {
        checkpoint: Checkpoint::open(&folder).unwrap(),
        sequences: serde_json::from_value(expected["sequences"].clone()).unwrap(),
        vectors: serde_json::from_value(expected["vectors"].clone()).unwrap(),
    }
}

fn load(golden: &Golden, format: DenseFormat) -> Encoder {
    Encoder::load(&golden.checkpoint, LoadOptions { dense: Some(format), kv_cache: None }).unwrap()
}

fn worst(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

#[test]
fn blocks_one_at_a_time_give_the_vectors_of_transformers() {
    for case in ["bert", "roberta"] {
        let (golden, pool) = (golden(case), Pool::new(2));
        let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
        let architecture = Architecture::of(&golden.checkpoint).unwrap();
        let Architecture::Encoder { config, prefix } = &architecture else { panic!("{case} is an encoder") };
        let embeddings = EncoderEmbeddings::load(&golden.checkpoint, config, prefix, options).unwrap();
        let hidden = embeddings.states(&pool, &golden.sequences).unwrap();
        let mut end = 0;
        let ends: Vec<usize> = golden
            .sequences
            .iter()
            .map(|s| {
                end += s.len();
                end
            })
            .collect();
        let mut passage = Passage { hidden, inputs: Vec::new(), ends: ends.clone() };
        let mut seen = Vec::new();
        for layer in 0..config.layers {
            let block = load_block(&golden.checkpoint, &architecture, layer, options).unwrap();
            let work = &mut Workspace::default();
            for site in Site::ALL {
                block.reach(site, &pool, &mut passage, work);
                seen.push(passage.inputs.len() / end);
            }
            block.finish(&pool, &mut passage, work);
        }
        let hidden = passage.hidden;
        let widths = [config.hidden_size, config.hidden_size, config.hidden_size, config.intermediate_size];
        assert_eq!(seen, widths.repeat(config.layers));
        let pooling = Pooling::of(&golden.checkpoint).unwrap();
        let mut start = 0;
        for (end, expected) in ends.iter().zip(&golden.vectors) {
            let mut vector = vec![0.0; config.hidden_size];
            pooling.pool(&hidden[start * config.hidden_size..end * config.hidden_size], &mut vector);
            assert!(worst(&vector, expected) <= 2e-5, "{case}: {}", worst(&vector, expected));
            start = *end;
        }
    }
}

#[test]
fn batches_of_different_lengths_give_the_vectors_of_transformers() {
    for (case, threads) in CASES.into_iter().zip([1, 2, 3, 2]) {
        let (golden, pool) = (golden(case), Pool::new(threads));
        let encoder = load(&golden, DenseFormat::F32);
        let mut memory = encoder.memory();
        // A large batch, a smaller one in the same memory, and every sequence alone.
        for count in [4, 2] {
            let got = encoder.forward(&pool, &golden.sequences[..count], &mut memory).unwrap();
            let difference = worst(got, &golden.vectors[..count].concat());
            assert!(difference <= 2e-5, "{case}, {count} sequences: {difference}");
        }
        for (sequence, vector) in golden.sequences.iter().zip(&golden.vectors) {
            let difference = worst(encoder.forward(&pool, &[sequence], &mut memory).unwrap(), vector);
            assert!(difference <= 2e-5, "{case}, {} tokens: {difference}", sequence.len());
        }
    }
}

#[test]
fn sixteen_bit_weights_come_close_and_take_less_memory() {
    let pool = Pool::new(1);
    for case in CASES {
        let golden = golden(case);
        let exact = load(&golden, DenseFormat::F32);
        for (format, bound) in [(DenseFormat::F16, 0.02), (DenseFormat::Bf16, 0.15)] {
            let encoder = load(&golden, format);
            let mut memory = encoder.memory();
            let got = encoder.forward(&pool, &golden.sequences, &mut memory).unwrap();
            let difference = worst(got, &golden.vectors.concat());
            assert!(difference > 0.0 && difference <= bound, "{case} {format:?}: {difference}");
            assert!(encoder.weight_bytes() < exact.weight_bytes(), "{case} {format:?}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let golden = golden("bert");
    let encoder = load(&golden, DenseFormat::F32);
    // One pass whose products the threads share, and so many that each takes passes of its own.
    for repeats in [1, 100] {
        let sequences = vec![golden.sequences.as_slice(); repeats].concat();
        let run = |threads| encoder.forward(&Pool::new(threads), &sequences, &mut encoder.memory()).unwrap().to_vec();
        let alone = run(1);
        assert_eq!(alone, run(2));
        assert_eq!(alone, run(3));
        let first: Vec<f32> = alone[..alone.len() / repeats].to_vec();
        assert_eq!(alone, first.repeat(repeats), "vectors depend on what else is in the pass");
    }
}

#[test]
fn inputs_that_no_position_or_word_fits_are_refused() {
    let golden = golden("roberta");
    let (encoder, pool) = (load(&golden, DenseFormat::F32), Pool::new(1));
    let message =
        |sequence: &[u32]| encoder.forward(&pool, &[sequence], &mut encoder.memory()).unwrap_err().to_string();
    assert!(message(&[]).contains("a sequence has 0 tokens; expected 1 to 38"));
    assert!(message(&[5; 39]).contains("a sequence has 39 tokens"));
    assert!(message(&[48]).contains("token 48 is outside the vocabulary of 48"));
}
