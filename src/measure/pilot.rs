//! How many iterations a slot is worth, from pilot blocks (Kalibera & Jones 2013, "Rigorous benchmarking in reasonable
//! time", section 6): with `c2` the seconds that a slot takes besides its iterations and `c1` those of an iteration, `T1²`
//! the variance of an iteration within its slot and `T2²` that of slots, the time for a given precision is least at
//! `sqrt(c2/c1 · T1²/T2²)` iterations. Estimated once, then kept.

use std::collections::BTreeMap;

use super::Session;
use crate::error::Result;
use crate::results::{Event, Evidence, Slot};
use crate::stats::{mean, median, variance};

/// Blocks from which it is estimated.
const PILOT_BLOCKS: usize = 3;

/// Least seconds of timed work in a slot: the scheduler's and the kernel's clock ticks are some milliseconds.
const LEAST_TIMED_S: f64 = 0.1;

impl Session<'_> {
    /// After the pilot blocks, where the suite leaves the number of iterations open, chooses and records it.
    pub(super) fn choose_iterations(&mut self, blocks: usize) -> Result<()> {
        let workload = &self.inputs.suite.workload;
        if !workload.pilot || blocks != PILOT_BLOCKS || self.evidence.iterations.is_some() {
            return Ok(());
        }
        let count = iterations(&self.evidence, workload.iterations, workload.most_iterations());
        self.progress.note(&format!("iterations of a slot from here on: {count}"));
        self.record(Event::Iterations { count })
    }
}

/// The median over arms of their best number of iterations.
fn iterations(evidence: &Evidence, fewest: usize, most: usize) -> usize {
    let mut arms: BTreeMap<(&str, bool, usize, usize), Vec<&Slot>> = BTreeMap::new();
    for slot in evidence.variants.values().flat_map(|v| &v.slots) {
        arms.entry((&slot.variant, slot.control, slot.batch, slot.threads)).or_default().push(slot);
    }
    let best: Vec<f64> = arms.values().filter_map(|slots| best(slots, most)).collect();
    median(&best).map_or(fewest, |best| (best.ceil() as usize).clamp(fewest, most))
}

/// The best number of iterations for one arm; `most` where slots differ no more than their iterations explain.
fn best(slots: &[&Slot], most: usize) -> Option<f64> {
    let times = |slot: &&Slot| slot.samples.iter().map(|s| s.ttft_s + s.decode_s).collect::<Vec<f64>>();
    let logs = |slot: &&Slot| times(slot).iter().map(|t| t.ln()).collect::<Vec<f64>>();
    let counts: Vec<f64> = slots.iter().map(|slot| slot.samples.len() as f64).collect();
    let within = mean(&slots.iter().map(|slot| variance(&logs(slot))).collect::<Option<Vec<f64>>>()?)?;
    let means: Vec<f64> = slots.iter().map(|slot| mean(&logs(slot))).collect::<Option<_>>()?;
    let between = variance(&means)? - within / mean(&counts)?;
    let iteration_s = mean(&slots.iter().flat_map(times).collect::<Vec<f64>>())?;
    let besides = |slot: &&Slot| slot.wall_s - times(slot).iter().sum::<f64>();
    let besides_s = mean(&slots.iter().map(besides).collect::<Vec<f64>>())?;
    let least = LEAST_TIMED_S / iteration_s;
    let best = if between > 0.0 { (besides_s / iteration_s * within / between).sqrt() } else { most as f64 };
    Some(best.max(least)).filter(|best| best.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    /// Slots with these times of their iterations and a second of everything else.
    fn slots(times: &[[f64; 3]]) -> Vec<Slot> {
        let sample = |t: &f64| Sample { ttft_s: *t, decode_s: 0.0, prompt_tokens: 1, generated_tokens: 0 };
        let slot = |times: &[f64; 3]| Slot {
            samples: times.iter().map(sample).collect(),
            wall_s: 1.0 + times.iter().sum::<f64>(),
            ..super::super::tests::slot()
        };
        times.iter().map(slot).collect()
    }

    fn best_of(times: &[[f64; 3]]) -> f64 {
        let slots = slots(times);
        best(&slots.iter().collect::<Vec<_>>(), 50).unwrap()
    }

    #[test]
    fn noise_within_a_slot_asks_for_more_iterations_and_noise_between_slots_for_fewer() {
        let e = |log: f64| 0.1 * log.exp();
        // Within: variance 0.01². Between: means 0, 0.03, 0.06 with variance 0.03².
        let times = [0.0, 0.03, 0.06].map(|at| [e(at - 0.01), e(at), e(at + 0.01)]);
        // c2/c1 is about 1 / 0.103, T2² = 0.03² - 0.01²/3.
        let expected = (1.0_f64 / 0.10305 * 0.0001 / (0.0009 - 0.0001 / 3.0)).sqrt();
        assert!((best_of(&times) - expected).abs() < 0.01, "{} {expected}", best_of(&times));
        let alike = [[e(-0.01), e(0.0), e(0.01)]; 3];
        assert_eq!(best_of(&alike), 50.0);
        // A tenth of a second is timed in any case.
        let short = [0.0, 0.3, 0.6].map(|at: f64| [0.002 * at.exp(); 3]);
        assert!(best_of(&short) > 30.0);
    }
}
