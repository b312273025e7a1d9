//! Frozen work that tells how fast this machine is just now, beside what is measured on it.
//!
//! Kernels get faster with every release; these loops never change, so a session's times can be told from its machine's
//! mood. Whoever changes a loop raises [`VERSION`]; sessions of two versions are not compared.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Version of the loops.
const VERSION: u32 = 1;
/// Each is timed so often; the median counts.
const REPETITIONS: usize = 7;
/// Values that the arithmetic works on, all in registers.
const VALUES: usize = 32;
/// Rounds of the arithmetic.
const ROUNDS: usize = 1 << 20;
/// Words that are read, 128 MiB: more than the last level of cache of most processors.
const WORDS: usize = 1 << 24;
/// Pairs of threads that are started and joined.
const FORKS: usize = 50;

/// The machine's pace: seconds that frozen work took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Version of the work.
    pub version: u32,
    /// Multiplying and adding in registers.
    pub compute_s: f64,
    /// Reading memory in order.
    pub memory_s: f64,
    /// Starting and joining threads.
    pub fork_join_s: f64,
}

impl Pace {
    /// Does the work now; takes about half a second and 128 MiB for its time.
    pub fn measure() -> Pace {
        let words = vec![1u64; WORDS];
        let memory_s = median_time(|| _ = black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))));
        drop(words);
        Pace { version: VERSION, compute_s: median_time(compute), memory_s, fork_join_s: median_time(fork_join) }
    }

    /// The geometric mean of two, one from before and one from after a session.
    pub fn between(self, after: Pace) -> Pace {
        let mean = |a: f64, b: f64| (a * b).sqrt();
        Pace {
            version: self.version,
            compute_s: mean(self.compute_s, after.compute_s),
            memory_s: mean(self.memory_s, after.memory_s),
            fork_join_s: mean(self.fork_join_s, after.fork_join_s),
        }
    }
}

fn compute() {
    let mut values: [f32; VALUES] = std::array::from_fn(|at| at as f32);
    for _ in 0..ROUNDS {
        values.iter_mut().for_each(|value| *value = *value * 0.999 + 0.5);
    }
    black_box(values);
}

fn fork_join() {
    for _ in 0..FORKS {
        std::thread::scope(|scope| {
            scope.spawn(|| black_box(1));
            scope.spawn(|| black_box(2));
        });
    }
}

fn median_time(mut work: impl FnMut()) -> f64 {
    let mut times = [0.0; REPETITIONS];
    for time in &mut times {
        let began = Instant::now();
        work();
        *time = began.elapsed().as_secs_f64();
    }
    times.sort_by(f64::total_cmp);
    times[REPETITIONS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_work_takes_time_and_is_averaged() {
        let now = Pace::measure();
        assert!(now.compute_s > 1e-5 && now.memory_s > 1e-4 && now.fork_join_s > 1e-6, "{now:?}");
        let doubled = Pace { compute_s: 4.0 * now.compute_s, ..now };
        let between = now.between(doubled);
        assert!((between.compute_s / now.compute_s - 2.0).abs() < 1e-9 && between.memory_s == now.memory_s);
    }
}
