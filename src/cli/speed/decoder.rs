//! Prompts and generation of a decoder, timed.

use std::time::Instant;

use super::work::{self, Phase, Timed, Work, random_tokens};
use crate::error::Result;
use crate::kernels::Pool;
use crate::kernels::roofline::{Bound, Limits};
use crate::network::{Decoder, KvCache};
use crate::results::KernelUse;

/// Warms up and times `repeat` repetitions, each with tokens of its own.
///
/// # Errors
/// When the cache cannot hold the tokens.
pub(super) fn time(decoder: &Decoder, pool: &Pool, work: Work, repeat: u32, seed: u32) -> Result<Timed> {
    let mut cache = decoder.cache(work.batch, work.depth + work.tokens);
    if work.depth > 0 {
        decoder.forward(
            pool,
            &random_tokens(decoder.config().vocab_size, work.batch * work.depth, u64::MAX),
            &mut cache,
        )?;
    }
    let mut run = Run { decoder, pool, work, cache, logits: Vec::new() };
    let vocabulary = decoder.config().vocab_size;
    let (seconds, profile) = work::repeat(pool, repeat, seed, &mut |seed| {
        let tokens = random_tokens(vocabulary, work.batch * work.tokens, seed);
        let began = Instant::now();
        run.once(&tokens)?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    Ok(Timed { seconds, profile, kv_bytes: run.cache.bytes() })
}

/// The least time of a repetition, whose keys and values take `kv_bytes` in the end.
pub(super) fn bound(decoder: &Decoder, limits: &Limits, work: Work, kv_bytes: u64) -> Option<Bound> {
    let (passes, mean_length) = match work.phase {
        Phase::Prefill => (1, work.depth as f64),
        _ => (work.tokens, work.depth as f64 + work.tokens as f64 / 2.0),
    };
    let kept = kv_bytes as f64 * mean_length / (work.depth + work.tokens) as f64;
    decoder.bound(limits, work.rows() / work.batch, work.batch, passes, kept)
}

/// The kernels of the work.
pub(super) fn kernels(decoder: &Decoder, work: Work) -> Vec<KernelUse> {
    let mut kernels = decoder.kernels(work.rows(), work.batch);
    kernels.retain(|kernel| kernel.phase == work.phase.name());
    kernels
}

/// The timed work, with its memory.
struct Run<'a> {
    decoder: &'a Decoder,
    pool: &'a Pool,
    work: Work,
    cache: KvCache,
    /// `(batch, vocab_size)`.
    logits: Vec<f32>,
}

impl Run<'_> {
    /// One repetition over `tokens`, `(batch, tokens)` sequence-major.
    fn once(&mut self, tokens: &[u32]) -> Result<()> {
        self.cache.truncate(self.work.depth);
        match self.work.phase {
            Phase::Prefill => self.pass(tokens),
            _ => tokens.chunks_exact(self.work.batch).try_for_each(|step| self.pass(step)),
        }
    }

    /// Feeds as many tokens to each sequence and makes the logits of the last ones.
    fn pass(&mut self, tokens: &[u32]) -> Result<()> {
        self.decoder.next_logits(self.pool, tokens, &mut self.cache, &mut self.logits)
    }
}
