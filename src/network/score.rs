//! Scoring of text: the negative log-likelihood of every token but the first of a window.
//!
//! Logits are made for at most [`CHUNK`] positions at a time and handed to the caller with the hidden states they came
//! from, so that memory stays bounded and a divergence can be computed against a second [`crate::network::Head`].

use crate::error::{Error, Result};
use crate::kernels::{Isa, Pool, vector};
use crate::network::Decoder;
use crate::network::range::check_finite;

/// Positions whose logits are held at once.
pub(super) const CHUNK: usize = 64;
/// Tokens of a forward pass, where windows are shorter.
pub(super) const BATCH_TOKENS: usize = 512;

/// Consecutive positions of one window.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Index of the window.
    pub window: usize,
    /// Position of the first row: the row's logits predict the token after it.
    pub position: usize,
    /// The tokens to be predicted, one for each row.
    pub targets: &'a [u32],
    /// Final normalized hidden states, `(rows, hidden_size)` row-major.
    pub hidden: &'a [f32],
    /// Logits, `(rows, vocab_size)` row-major.
    pub logits: &'a [f32],
}

/// How well one token was predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Negative natural logarithm of the token's probability.
    pub nll: f64,
    /// The likeliest token; the first of equals.
    pub argmax: u32,
}

impl Chunk<'_> {
    /// Scores of all rows, shared out over the pool.
    pub fn scores(&self, pool: &Pool) -> Vec<TokenScore> {
        let vocabulary = self.logits.len() / self.targets.len();
        let mut scores = vec![TokenScore { nll: 0.0, argmax: 0 }; self.targets.len()];
        let rows = self.logits.chunks_exact(vocabulary).zip(self.targets);
        let shares = std::sync::Mutex::new(scores.iter_mut().zip(rows));
        pool.run(&|_| {
            loop {
                let next = shares.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some((score, (logits, &target))) = next else { break };
                *score = score_token(logits, target);
            }
        });
        scores
    }
}

/// Score of `target` under a row of logits; the sum of exponentials is in f64. NaN when a logit is.
///
/// # Panics
/// When `target` is outside the row.
pub fn score_token(logits: &[f32], target: u32) -> TokenScore {
    let isa = Isa::active();
    let nll = vector::log_sum_exp(isa, logits) - f64::from(logits[target as usize]);
    TokenScore { nll, argmax: vector::argmax(isa, logits) as u32 }
}

/// Runs the decoder over `windows`, each from an empty cache, and calls `each` for every chunk of predicted tokens, in
/// order. Windows of the same length that follow each other run together where they are short.
///
/// # Errors
/// A window of fewer than two tokens, a token outside the vocabulary, numbers out of range, or what `each` returns.
pub fn score(
    decoder: &Decoder,
    pool: &Pool,
    windows: &[Vec<u32>],
    each: &mut dyn FnMut(&Chunk<'_>) -> Result<()>,
) -> Result<()> {
    if let Some(short) = windows.iter().position(|window| window.len() < 2) {
        return Err(Error::input(
            format!("window {short}"),
            "expected at least two tokens; a token needs one before it",
        ));
    }
    let mut logits = Vec::new();
    let mut first = 0;
    while first < windows.len() {
        let length = windows[first].len();
        let together = windows[first..].iter().take((BATCH_TOKENS / length).max(1));
        let count = together.take_while(|window| window.len() == length).count();
        let batch = &windows[first..first + count];
        // The last token of a window is predicted, but predicts nothing.
        let inputs: Vec<u32> = batch.iter().flat_map(|window| &window[..length - 1]).copied().collect();
        let mut cache = decoder.cache(count, length - 1);
        let hidden = decoder.forward(pool, &inputs, &mut cache)?;
        let width = decoder.config().hidden_size;
        for (window, hidden) in batch.iter().zip(hidden.chunks_exact((length - 1) * width)) {
            check_finite(decoder, pool, hidden, &window[..length - 1])?;
        }
        for (index, (window, hidden)) in batch.iter().zip(hidden.chunks_exact((length - 1) * width)).enumerate() {
            for (chunk, (targets, hidden)) in window[1..].chunks(CHUNK).zip(hidden.chunks(CHUNK * width)).enumerate() {
                decoder.logits(pool, hidden, &mut logits);
                each(&Chunk { window: first + index, position: chunk * CHUNK, targets, hidden, logits: &logits })?;
            }
        }
        first += count;
    }
    Ok(())
}
