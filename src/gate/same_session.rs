//! Two builds of this program in one session: is the later one slower by more than a tolerance?
//!
//! In every block a variant runs under each build, in turns. `D` is the median over them of `ln T_base - ln T_head`; if head were
//! slower by exactly the tolerance, D would lie above or below `-ln(1 + tolerance)` with equal chance, whatever the noise, so
//! the sequential test of [`sequential_claim`] may look after every block. *Not slower* is a claim that must be proven
//! (non-inferiority), each at α, as all must be; *slower* is proven at α/m for m times in all. What is neither when blocks
//! or time end is inconclusive.

use super::observed::{log_ratio, series_name};
use super::verdict::{Check, Level, State};
use crate::measure::Pair;
use crate::stats::{Side, hodges_lehmann, sequential_claim};
use crate::suite::{SpeedMetric, Workload};

/// Questions to ask of pairs of slots.
#[derive(Debug, Clone)]
pub struct SameSession {
    /// Slower by less is no matter: share, such as 0.05.
    pub tolerance: f64,
    /// α of both claims.
    pub alpha: f64,
    /// Blocks that were planned.
    pub blocks: usize,
    /// All times of all variants.
    pub series: Vec<Series>,
}

/// One time of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Variant.
    pub variant: String,
    /// Which time.
    pub metric: SpeedMetric,
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
}

/// Which claim of a series is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proven {
    Slower,
    NotSlower,
    Neither,
}

impl SameSession {
    /// Every gated time of `variants` under a workload.
    pub fn new(variants: &[String], workload: &Workload, tolerance: f64, confidence: f64, blocks: usize) -> Self {
        let mut series = Vec::new();
        for variant in variants {
            for (&batch, &threads) in workload.batch.iter().flat_map(|b| workload.threads.iter().map(move |t| (b, t))) {
                series.extend(super::observed::gated_metrics(workload).map(|metric| Series {
                    variant: variant.clone(),
                    metric,
                    batch,
                    threads,
                }));
            }
        }
        SameSession { tolerance, alpha: 1.0 - confidence, blocks, series }
    }

    /// Whether more blocks can still change the answer about a variant.
    pub fn is_open(&self, variant: &str, pairs: &[Pair]) -> bool {
        self.series.iter().filter(|s| s.variant == variant).any(|s| self.proven(&s.effects(pairs)) == Proven::Neither)
    }

    fn proven(&self, effects: &[f64]) -> Proven {
        let limit = -self.tolerance.ln_1p();
        let claim = |side, rate| {
            sequential_claim(effects, limit, side, rate, self.blocks).is_some_and(|claim| claim.proven_after.is_some())
        };
        if claim(Side::Below, self.alpha / self.series.len() as f64) {
            Proven::Slower
        } else if claim(Side::Above, self.alpha) {
            Proven::NotSlower
        } else {
            Proven::Neither
        }
    }

    /// One check a series.
    pub fn checks(&self, pairs: &[Pair]) -> Vec<Check> {
        self.series.iter().map(|series| self.check(series, pairs)).collect()
    }

    fn check(&self, series: &Series, pairs: &[Pair]) -> Check {
        let effects = series.effects(pairs);
        let percent = |log: f64| 100.0 * (-log).exp_m1();
        let numbers = hodges_lehmann(&effects, 1.0 - self.alpha).map_or_else(
            || "no block".into(),
            |d| {
                let bounds = d.bounds.map(|(low, high)| format!(" [{:+.1}, {:+.1}]", percent(high), percent(low)));
                format!("time {:+.1} %{} in {} blocks", percent(d.value), bounds.unwrap_or_default(), effects.len())
            },
        );
        let tolerance = 100.0 * self.tolerance;
        let faster = sequential_claim(
            &effects,
            self.tolerance.ln_1p(),
            Side::Above,
            self.alpha / self.series.len() as f64,
            self.blocks,
        );
        let (state, verdict) = match self.proven(&effects) {
            Proven::Slower => (State::Fail, format!("proven slower by more than {tolerance} %")),
            Proven::NotSlower if faster.is_some_and(|claim| claim.proven_after.is_some()) => {
                (State::Notice, format!("proven faster by more than {tolerance} %"))
            }
            Proven::NotSlower => (State::Pass, format!("proven not slower by {tolerance} %")),
            Proven::Neither => (
                State::Inconclusive,
                format!(
                    "neither proven slower by {tolerance} % nor not; allow more --blocks or --budget, or quiet the machine"
                ),
            ),
        };
        let name = series_name(series.metric, series.batch, series.threads);
        Check::new(
            Level::Timing,
            &series.variant,
            format!("{name} against base"),
            state,
            format!("{verdict}: {numbers}"),
        )
    }
}

impl Series {
    /// `ln T_base - ln T_head` of each block, the median over its turns; a pair without a sound time ends the list, so that nothing is proven of it.
    fn effects(&self, pairs: &[Pair]) -> Vec<f64> {
        let own =
            pairs.iter().filter(|p| (&p.variant, p.batch, p.threads) == (&self.variant, self.batch, self.threads));
        own.map_while(|pair| log_ratio(&pair.base, &pair.head, self.metric, self.batch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn questions(blocks: usize) -> SameSession {
        let workload = Workload {
            prompt: 8,
            generate: 0,
            batch: vec![1],
            threads: vec![1],
            iterations: 1,
            pilot: false,
            blocks: (6, 30),
        };
        SameSession::new(&["v".into()], &workload, 0.05, 0.95, blocks)
    }

    /// Pairs in which head takes `ratio` times as long, with spreading noise.
    fn pairs(blocks: usize, ratio: f64) -> Vec<Pair> {
        let sample = |ttft_s| vec![Sample { ttft_s, decode_s: 0.0, prompt_tokens: 8, generated_tokens: 0 }];
        let noise = |at: usize| 1.0 + 0.01 * ((at * 7 % 11) as f64 - 5.0) / 5.0;
        (0..blocks)
            .map(|block| Pair {
                variant: "v".into(),
                block,
                batch: 1,
                threads: 1,
                head_first: block % 2 == 0,
                base: sample(1.0),
                head: sample(ratio * noise(block)),
            })
            .collect()
    }

    fn state(blocks: usize, ratio: f64) -> State {
        questions(30).checks(&pairs(blocks, ratio))[0].state
    }

    #[test]
    fn equal_builds_pass_slower_ones_fail_and_few_blocks_prove_nothing() {
        assert_eq!(state(12, 1.0), State::Pass);
        assert_eq!(state(12, 1.10), State::Fail);
        assert_eq!(state(12, 0.80), State::Notice);
        assert_eq!(state(4, 1.5), State::Inconclusive);
        assert_eq!(state(12, 1.05), State::Inconclusive);
        assert!(questions(30).is_open("v", &pairs(4, 1.0)) && !questions(30).is_open("v", &pairs(12, 1.0)));
        assert!(!questions(30).is_open("w", &[]));
    }

    #[test]
    fn a_time_that_is_none_proves_nothing() {
        let mut broken = pairs(12, 1.0);
        broken[0].head[0].ttft_s = 0.0;
        let check = questions(30).checks(&broken).remove(0);
        assert_eq!(check.state, State::Inconclusive);
        assert!(check.message.contains("no block"), "{}", check.message);
    }
}
