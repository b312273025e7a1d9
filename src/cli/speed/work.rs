//! What is timed, and how often.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::kernels::{Pool, Profile};
use crate::stats::split_mix;

/// Fewest repetitions and shortest time of a warm-up.
const WARMUP_REPETITIONS: u64 = 2;
const WARMUP: Duration = Duration::from_millis(500);
/// Repetitions whose time is shared out over its parts.
const PROFILED: u64 = 3;

/// A phase of a network's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// A prompt, in one pass.
    Prefill,
    /// Tokens one at a time.
    Decode,
    /// All sequences through an encoder.
    Encode,
}

impl Phase {
    /// Name as in [`crate::results::KernelUse`].
    pub fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
            Phase::Encode => "encode",
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
    pub fn rows(self) -> usize {
        match self.phase {
            Phase::Prefill | Phase::Encode => self.batch * self.tokens,
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
    /// Bytes of keys and values behind the last token of a decoder.
    pub kv_bytes: u64,
}

/// Warms up, times `repeat` repetitions and shares out the time of some more; `once(seed)` does one on the tokens of a seed
/// and returns its seconds. Returns the seconds of the repetitions. Repetition `n` has the seed `seed << 16 | n`, however
/// long the warm-up took, so that other engines can be given the same tokens (`tools/peers/slot.py`).
///
/// # Errors
/// What `once` returns.
pub(super) fn repeat(
    pool: &Pool,
    repeat: u32,
    seed: u32,
    once: &mut dyn FnMut(u64) -> Result<f64>,
) -> Result<(Vec<f64>, Profile)> {
    let (began, mut warmed) = (Instant::now(), 0);
    while warmed < WARMUP_REPETITIONS || began.elapsed() < WARMUP {
        once(u64::MAX - warmed)?;
        warmed += 1;
    }
    let seconds = (0..u64::from(repeat)).map(|n| once(u64::from(seed) << 16 | n)).collect::<Result<_>>()?;
    let (done, profile) = pool.profile(|| (0..PROFILED).try_for_each(|n| once(u64::MAX - n).map(|_| ())));
    done?;
    Ok((seconds, profile))
}

/// Tokens drawn evenly from the vocabulary: outputs of SplitMix64 (Steele, Lea & Flood 2014) modulo its size.
pub(super) fn random_tokens(vocabulary: usize, count: usize, seed: u64) -> Vec<u32> {
    split_mix(seed).take(count).map(|number| (number % vocabulary as u64) as u32).collect()
}
