//! The bundled model and its twins: what this crate calculates from their files against what PyTorch calculated when
//! they were made (`tools/train`), the twins by its own fake quantization.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::Pool;
use quantbench::network::{Decoder, LoadOptions, score};
use quantbench::tensor::DenseFormat;
use serde::Deserialize;

/// A window of held-out tokens and its mean loss in nats a token.
#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    loss: f64,
}

/// Differences of the windows' losses from PyTorch's.
fn differences(model: &str, options: LoadOptions) -> Vec<f64> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = std::fs::read(root.join(format!("tests/fixtures/scribe/{model}.json"))).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() >= 12);
    let checkpoint = Checkpoint::open(&root.join("suites/models").join(model)).unwrap();
    let decoder = Decoder::load(&checkpoint, options).unwrap();
    let pool = Pool::new(2);
    let windows: Vec<Vec<u32>> = cases.iter().map(|case| case.ids.clone()).collect();
    let mut sums = vec![0.0; cases.len()];
    score(&decoder, &pool, &windows, &mut |chunk| {
        sums[chunk.window] += chunk.scores(&pool).iter().map(|score| score.nll).sum::<f64>();
        Ok(())
    })
    .unwrap();
    let losses = sums.iter().zip(&cases).map(|(sum, case)| sum / (case.ids.len() - 1) as f64);
    losses.zip(&cases).map(|(loss, case)| loss - case.loss).collect()
}

fn largest(differences: &[f64]) -> f64 {
    differences.iter().fold(0.0, |largest, difference| difference.abs().max(largest))
}

#[test]
fn the_model_is_the_one_that_was_trained() {
    let exact = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
    let difference = largest(&differences("scribe-7m", exact));
    assert!(difference < 2e-5, "{difference:e}");
    // Another arithmetic is seen at this resolution.
    let rounded = LoadOptions { dense: Some(DenseFormat::Bf16), kv_cache: None };
    assert!(largest(&differences("scribe-7m", rounded)) > 2e-5);
}

/// The same numbers here and there, but for the keys and values that attention keeps in 16 bits.
#[test]
fn the_weight_only_twin_is_the_one_that_was_trained() {
    let difference = largest(&differences("scribe-7m-qat-int4", LoadOptions::default()));
    assert!(difference < 2e-4, "{difference:e}");
    // Sums in 16 bits are seen at this resolution.
    let rounded = LoadOptions { dense: Some(DenseFormat::Bf16), kv_cache: None };
    assert!(largest(&differences("scribe-7m-qat-int4", rounded)) > 2e-4);
}

/// Inputs that are rounded to 8 bits make a network chaotic: a last bit decides which of two codes a number near their
/// middle gets, that code moves the next layer's numbers over such middles, and after some layers the rounding errors
/// are other ones, of the same size. (PyTorch differs as much from itself when it divides by the scale instead of
/// multiplying by its inverse.) So the losses agree on average only; layer by layer they agree exactly, which the
/// proof of import and the golden files test.
#[test]
fn the_twins_with_8_bit_inputs_are_those_that_were_trained() {
    for twin in ["scribe-7m-qat-int8", "scribe-7m-qat-int4-a8"] {
        let differences = differences(twin, LoadOptions::default());
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        assert!(largest(&differences) < 0.03 && mean.abs() < 4e-3, "{twin}: mean {mean:e}, {differences:?}");
    }
}

#[test]
fn the_model_card_names_the_files_by_their_hashes() {
    use sha2::{Digest, Sha256};

    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let card = std::fs::read_to_string(suites.join("models/scribe-7m/README.md")).unwrap();
    let rows: Vec<(&str, &str)> = card
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |")?.split_once("` | `"))
        .filter(|(_, hash)| hash.len() == 64)
        .collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    for (file, hash) in rows {
        let path = suites.join(if file.starts_with("data/") { "" } else { "models" }).join(file);
        let found: String =
            Sha256::digest(std::fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, hash, "{file}");
    }
}
