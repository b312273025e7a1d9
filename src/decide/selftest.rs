//! What a selftest found: the reference timed against itself, and against itself with a slowdown that was planted.
//!
//! Blocks in a row are cut into comparisons, each judged as a run of that many planned blocks judges one candidate
//! (`sequential_claim`, 2.5 % for each side). A sound machine and protocol call the reference different from itself in at
//! most 5 % of them, and find what was planted.

use std::collections::BTreeMap;

use super::noise;
use super::timings::{Point, differences, judged_metric, log_time_by_block};
use crate::results::Evidence;
use crate::stats::{Interval, Side, mean_interval, sequential_claim, signed_rank_p};

/// Chance of each of the two wrong answers of a comparison.
const RATE: f64 = 0.025;

/// Confidence of the estimate over all blocks.
const CONFIDENCE: f64 = 0.95;

/// One arm against the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Share by which it was slowed down; 0 for the reference itself.
    pub planted: f64,
    /// Comparisons.
    pub comparisons: usize,
    /// Comparisons that called it slower, and faster, than the reference.
    pub called: (usize, usize),
    /// Two-sided p-value of the signed-rank test of each comparison, ascending.
    pub p: Vec<f64>,
    /// Share by which it is slower, over all blocks.
    pub slowdown: Interval,
}

/// Blocks of a selftest during which the machine was disturbed, those measured again among them, and all.
pub fn disturbed_blocks(evidence: &Evidence) -> (usize, usize) {
    let blocks = evidence.timed_blocks();
    (noise::disturbed_blocks(evidence) + evidence.set_aside.len(), blocks + evidence.set_aside.len())
}

/// What was found of the A/A control and of the `planted` variants, in comparisons of `blocks` blocks each.
///
/// # Errors
/// An arm without times, or too few blocks for one comparison, in words.
pub fn selftest(evidence: &Evidence, planted: &BTreeMap<String, f64>, blocks: usize) -> Result<Vec<Found>, String> {
    let suite = &evidence.suite;
    let (point, metric) =
        (Point::judged(&suite.workload, &suite.accept), judged_metric(&suite.workload, &suite.accept));
    let of = |name: &str| evidence.variants.get(name).ok_or_else(|| format!("{name} is not in the run"));
    let reference = log_time_by_block(of(&suite.reference)?, point, metric, false)?;
    let control = log_time_by_block(of(&suite.reference)?, point, metric, true)?;
    let mut arms = vec![(0.0, control)];
    for (name, slowdown) in planted {
        arms.push((*slowdown, log_time_by_block(of(name)?, point, metric, false)?));
    }
    arms.sort_by(|a, b| a.0.total_cmp(&b.0));
    let found = |(slowdown, times): &(f64, _)| found(&differences(&reference, times), *slowdown, blocks);
    arms.iter().map(found).collect::<Option<_>>().ok_or_else(|| format!("fewer than {blocks} blocks were timed"))
}

/// `ratios` are logarithms of the reference's time over the arm's, block by block.
fn found(ratios: &[f64], planted: f64, blocks: usize) -> Option<Found> {
    let comparisons: Vec<&[f64]> = ratios.chunks_exact(blocks).collect();
    let called = |side| {
        let proven =
            |r: &&&[f64]| sequential_claim(r, 0.0, side, RATE, blocks).is_some_and(|c| c.proven_after.is_some());
        comparisons.iter().filter(proven).count()
    };
    let two_sided = |ratios: &&[f64]| {
        let mirrored: Vec<f64> = ratios.iter().map(|ratio| -ratio).collect();
        Some((2.0 * signed_rank_p(ratios)?.min(signed_rank_p(&mirrored)?)).min(1.0))
    };
    let mut p: Vec<f64> = comparisons.iter().map(two_sided).collect::<Option<_>>()?;
    p.sort_by(f64::total_cmp);
    Some(Found {
        planted,
        comparisons: comparisons.len(),
        called: (called(Side::Below), called(Side::Above)),
        p,
        slowdown: mean_interval(ratios, CONFIDENCE)?.negated().map(f64::exp_m1),
    })
    .filter(|found| found.comparisons > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_slowdown_is_found_in_every_comparison_and_nothing_where_nothing_is() {
        // Two comparisons of ten blocks; noise that favours neither side.
        let noise = |block: usize| 0.004 * ((block * 7 % 10) as f64 - 4.5);
        let ratios = |slowdown: f64| (0..20).map(|block| noise(block) - slowdown.ln_1p()).collect::<Vec<_>>();
        let same = found(&ratios(0.0), 0.0, 10).unwrap();
        assert_eq!((same.comparisons, same.called), (2, (0, 0)));
        assert!(same.p.iter().all(|p| *p > 0.9), "{:?}", same.p);
        let slower = found(&ratios(0.05), 0.05, 10).unwrap();
        assert_eq!(slower.called, (2, 0));
        assert!((slower.slowdown.value - 0.05).abs() < 1e-12, "{:?}", slower.slowdown);
        assert_eq!(found(&ratios(0.05)[..9], 0.05, 10), None);
    }
}
