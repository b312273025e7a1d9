//! Batches of an encoder, timed.

use std::time::Instant;

use super::work::{self, Timed, Work, random_tokens};
use crate::error::Result;
use crate::kernels::Pool;
use crate::kernels::roofline::{Bound, Limits};
use crate::network::Encoder;

/// Warms up and times `repeat` repetitions, each with tokens of its own.
///
/// # Errors
/// When no position fits the tokens.
pub(super) fn time(encoder: &Encoder, pool: &Pool, work: Work, repeat: u32, seed: u32) -> Result<Timed> {
    let mut memory = encoder.memory();
    let (seconds, profile) = work::repeat(pool, repeat, seed, &mut |seed| {
        let tokens = random_tokens(encoder.config().vocab_size, work.rows(), seed);
        let sequences: Vec<&[u32]> = tokens.chunks_exact(work.tokens).collect();
        let began = Instant::now();
        encoder.forward(pool, &sequences, &mut memory)?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    Ok(Timed { seconds, profile, kv_bytes: 0 })
}

/// The least time of a repetition.
pub(super) fn bound(encoder: &Encoder, limits: &Limits, work: Work) -> Option<Bound> {
    limits.bound(encoder.products(work.rows()), 0.0)
}
