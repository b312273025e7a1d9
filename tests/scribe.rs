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

/// Largest difference of a window's loss from PyTorch's.
fn largest_difference(model: &str, options: LoadOptions) -> f64 {
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
    losses.zip(&cases).map(|(loss, case)| (loss - case.loss).abs()).fold(0.0, f64::max)
}

#[test]
fn the_model_is_the_one_that_was_trained() {
    let exact = LoadOptions { dense: Some(DenseFormat::F32) };
    let difference = largest_difference("scribe-7m", exact);
    assert!(difference < 2e-5, "{difference:e}");
    // Another arithmetic is seen at this resolution.
    let rounded = LoadOptions { dense: Some(DenseFormat::Bf16) };
    assert!(largest_difference("scribe-7m", rounded) > 2e-5);
}
