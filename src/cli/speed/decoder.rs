//! Prompts and generation of a decoder, timed.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::kernels::roofline::{Bound, Limits};
use crate::kernels::{Pool, Profile};
use crate::network::{Decoder, KvCache};
use crate::results::KernelUse;

/// Fewest repetitions and shortest time of a warm-up.
const WARMUP_REPETITIONS: u64 = 2;
const WARMUP: Duration = Duration::from_millis(500);
/// Repetitions whose time is shared out over its parts.
const PROFILED: u64 = 3;

/// A phase of a decoder's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// A prompt, in one pass.
    Prefill,
    /// Tokens one at a time.
    Decode,
}

impl Phase {
    /// Name as in [`KernelUse`].
    fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// What one repetition does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Work {
    pub phase: Phase,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Tokens of each sequence that are in the cache before.
    pub depth: usize,
    /// Sequences.
    pub batch: usize,
}

impl Work {
    /// Rows of the passes' inputs.
    fn rows(self) -> usize {
        match self.phase {
            Phase::Prefill => self.batch * self.tokens,
            Phase::Decode => self.batch,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.phase.name(), self.tokens)?;
        if self.depth > 0 {
            write!(f, " after {}", self.depth)?;
        }
        if self.batch > 1 { write!(f, ", batch {}", self.batch) } else { Ok(()) }
    }
}

/// Times of one kind of work.
pub(super) struct Timed {
    /// Of each repetition.
    pub seconds: Vec<f64>,
    /// Parts of [`PROFILED`] more repetitions.
    pub profile: Profile,
    /// Bytes of keys and values behind the last token.
    pub kv_bytes: u64,
}

/// Warms up and times `repeat` repetitions, each with tokens of its own.
///
/// # Errors
/// When the cache cannot hold the tokens.
pub(super) fn time(decoder: &Decoder, pool: &Pool, work: Work, repeat: usize, seed: u64) -> Result<Timed> {
    let mut cache = decoder.cache(work.batch, work.depth + work.tokens);
    if work.depth > 0 {
        decoder.forward(pool, &random_tokens(decoder, work.batch * work.depth, seed), &mut cache)?;
    }
    let mut run = Run { decoder, pool, work, cache, rows: Vec::new(), logits: Vec::new() };
    let mut seeds = seed + 1..;
    let mut once = |run: &mut Run| {
        let tokens = random_tokens(decoder, work.batch * work.tokens, seeds.next().unwrap_or(seed));
        let began = Instant::now();
        run.once(&tokens)?;
        Ok(began.elapsed().as_secs_f64())
    };
    let (began, mut warmed) = (Instant::now(), 0);
    while warmed < WARMUP_REPETITIONS || began.elapsed() < WARMUP {
        once(&mut run)?;
        warmed += 1;
    }
    let seconds = (0..repeat).map(|_| once(&mut run)).collect::<Result<_>>()?;
    let (done, profile) = pool.profile(|| (0..PROFILED).try_for_each(|_| once(&mut run).map(|_| ())));
    done?;
    Ok(Timed { seconds, profile, kv_bytes: run.cache.bytes() })
}

/// The least time of a repetition, whose keys and values take `kv_bytes` in the end.
pub(super) fn bound(decoder: &Decoder, limits: &Limits, work: Work, kv_bytes: u64) -> Option<Bound> {
    let (passes, mean_length) = match work.phase {
        Phase::Prefill => (1, work.depth as f64),
        Phase::Decode => (work.tokens, work.depth as f64 + work.tokens as f64 / 2.0),
    };
    let kept = kv_bytes as f64 * mean_length / (work.depth + work.tokens) as f64;
    let pass = limits.bound(decoder.products(work.rows(), work.batch), kept)?;
    Some(Bound { seconds: pass.seconds * passes as f64, ..pass })
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
    /// Final hidden states of every sequence's last token, `(batch, hidden_size)`.
    rows: Vec<f32>,
    /// `(batch, vocab_size)`.
    logits: Vec<f32>,
}

impl Run<'_> {
    /// One repetition over `tokens`, `(batch, tokens)` sequence-major.
    fn once(&mut self, tokens: &[u32]) -> Result<()> {
        self.cache.truncate(self.work.depth);
        match self.work.phase {
            Phase::Prefill => self.pass(tokens),
            Phase::Decode => tokens.chunks_exact(self.work.batch).try_for_each(|step| self.pass(step)),
        }
    }

    /// Feeds as many tokens to each sequence and makes the logits of the last ones.
    fn pass(&mut self, tokens: &[u32]) -> Result<()> {
        let (each, width) = (tokens.len() / self.work.batch, self.decoder.config().hidden_size);
        let hidden = self.decoder.forward(self.pool, tokens, &mut self.cache)?;
        self.rows.clear();
        for sequence in hidden.chunks_exact(each * width) {
            self.rows.extend_from_slice(&sequence[(each - 1) * width..]);
        }
        self.decoder.logits(self.pool, &self.rows, &mut self.logits);
        Ok(())
    }
}

/// Tokens drawn evenly from the vocabulary: outputs of SplitMix64 (Steele, Lea & Flood 2014) modulo its size.
fn random_tokens(decoder: &Decoder, count: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count).map(|_| (next() % decoder.config().vocab_size as u64) as u32).collect()
}
