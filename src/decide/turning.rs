//! For which thresholds each question of the rule is answered yes or no, with the evidence as it is.
//!
//! The larger dAcc_max and M_max are, and the smaller S_min is, the looser a question: from some threshold on its answer
//! is yes, up to another it is no, in between it is unknown. These two numbers say what any other threshold would have
//! answered, so the report's sliders judge by the rule of `answers` without its data.

use super::Case;
use super::answers::{accuracy_question, judged_differences, memory_bytes};
use super::error_rates::ErrorRates;
use super::timings::log_ratios;
use crate::results::{TurningPoint, TurningPoints, VariantResult};
use crate::stats::{Side, sequential_claim};
use crate::suite::AccuracyMetric;

/// Turning points of a candidate; a question without one is unknown at every threshold.
pub(super) fn turning_points(case: &Case<'_>, variant: &VariantResult, timing_fault: Option<&str>) -> TurningPoints {
    if !variant.failures.is_empty() {
        return TurningPoints::default();
    }
    TurningPoints {
        accuracy: accuracy(case, variant),
        speed: if timing_fault.is_some() { None } else { speed(case, variant) },
        memory: case.accept.memory.as_ref().and_then(|limit| {
            let bytes = memory_bytes(variant, limit.metric).1? as f64;
            Some(TurningPoint { yes: bytes, no: bytes })
        }),
    }
}

fn accuracy(case: &Case<'_>, variant: &VariantResult) -> Option<TurningPoint> {
    let limit = &case.accept.accuracy;
    let sound = accuracy_question(limit, variant).estimate.is_some()
        && case.reference_fault().is_none()
        && case.blind().is_none();
    let scores = (case.of(&variant.name).scores.get(&limit.task)?, case.reference.scores.get(&limit.task)?);
    let (for_yes, for_no) = judged_differences(case, scores.0, scores.1).filter(|_| sound)?;
    Some(match limit.metric {
        AccuracyMetric::Perplexity { .. } => TurningPoint { yes: for_yes.high?, no: for_no.low? },
        _ => TurningPoint { yes: -for_yes.low?, no: -for_no.high? },
    })
}

fn speed(case: &Case<'_>, variant: &VariantResult) -> Option<TurningPoint> {
    let limit = case.accept.speed.as_ref().filter(|_| case.reference_fault().is_none())?;
    let ratios = log_ratios(case.reference, case.of(&variant.name), case.judged_point(), limit.metric).ok()?;
    speed_turning_point(&ratios, ErrorRates::divided(case.accept, case.candidates()), case.planned_blocks(ratios.len()))
}

/// The largest speedup that paired log ratios prove to be exceeded (0 where none), and the smallest that they prove not to
/// be reached ([`f64::MAX`] where none); `None` where they prove nothing. Between two that are both proven, which happens
/// only if one is wrong, nothing is.
pub(super) fn speed_turning_point(ratios: &[f64], rates: ErrorRates, planned: usize) -> Option<TurningPoint> {
    let proven = |factor: f64, side, rate| {
        sequential_claim(ratios, factor.ln(), side, rate, planned).is_some_and(|claim| claim.proven_after.is_some())
    };
    sequential_claim(ratios, 0.0, Side::Above, rates.no, planned)?;
    let exceeded = last_that_holds(0.0, &|factor| proven(factor, Side::Above, rates.yes));
    // The inverse of a factor decreases, so the search is the same.
    let missed = last_that_holds(0.0, &|inverse| proven(1.0 / inverse, Side::Below, rates.no));
    let missed = if missed > 0.0 { 1.0 / missed } else { f64::MAX };
    let anything = exceeded > 0.0 || missed < f64::MAX;
    anything.then_some(TurningPoint { yes: exceeded.min(missed), no: exceeded.max(missed) })
}

/// The largest positive number for which `holds`, which holds for all smaller ones; `none` where it holds for none.
fn last_that_holds(none: f64, holds: &dyn Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (1e-6, 1e6);
    if !holds(low) {
        return none;
    }
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turning_points_of_a_speedup_surround_it() {
        let ratios: Vec<f64> = (0..12).map(|i| 2.0f64.ln() + 0.01 * f64::from(i % 5 - 2)).collect();
        let turn = |blocks: usize| speed_turning_point(&ratios[..blocks], ErrorRates { yes: 0.05, no: 0.05 }, 30);
        let all = turn(12).unwrap();
        assert!((1.9..2.0).contains(&all.yes) && (2.0..2.1).contains(&all.no), "{all:?}");
        let fewer = turn(8).unwrap();
        assert!(fewer.yes < all.yes && fewer.no >= all.no, "{fewer:?}");
        assert_eq!(turn(3), None, "three blocks prove nothing");
    }
}
