//! For which thresholds each question of the rule is answered yes or no, with the intervals as they are.
//!
//! The larger dAcc_max and M_max are, and the smaller S_min is, the looser a question: from some threshold on its answer
//! is yes, up to another it is no, in between it is unknown. These two numbers say what any other threshold would have
//! answered, so the report's sliders judge by the rule of `answers` without its data.

use super::Case;
use super::answers::{accuracy_question, memory_bytes};
use super::timings::speedups;
use crate::results::{TurningPoint, TurningPoints, VariantResult};
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
    let estimate = accuracy_question(limit, variant).estimate.filter(|_| case.reference_fault().is_none())?;
    let (low, high) = (estimate.low?, estimate.high?);
    Some(match limit.metric {
        AccuracyMetric::Perplexity { .. } => TurningPoint { yes: high, no: low },
        _ => TurningPoint { yes: -low, no: -high },
    })
}

/// Both intervals must agree, as in `answers`.
fn speed(case: &Case<'_>, variant: &VariantResult) -> Option<TurningPoint> {
    let limit = case.accept.speed.as_ref().filter(|_| case.reference_fault().is_none())?;
    let evidence = case.of(&variant.name);
    let (t, hl) = speedups(case.reference, evidence, case.judged_point(), limit.metric, case.confidence()).ok()?;
    Some(TurningPoint { yes: t.low?.min(hl.low?), no: t.high?.max(hl.high?) })
}
