//! What the choice of calibration windows alone changes: the spread of the rule's difference over draws.

use super::Case;
use super::answers::judged_differences;
use crate::results::{CalibrationDraws, Estimate, Score, VariantEvidence};
use crate::stats::variance;

/// The differences of all draws; `None` where the variant was made of one only.
pub(super) fn draws(case: &Case<'_>, evidence: &VariantEvidence) -> Option<CalibrationDraws> {
    let task = &case.accept.accuracy.task;
    let (own, reference) = (evidence.scores.get(task)?, case.reference.scores.get(task)?);
    if evidence.redrawn.is_empty() {
        return None;
    }
    let difference = |score: &Score| Some(judged_differences(case, score, reference)?.0);
    let scores = std::iter::once(own).chain(evidence.redrawn.values().flatten());
    let differences: Vec<Estimate> = scores.map(difference).collect::<Option<_>>()?;
    let points: Vec<f64> = differences.iter().map(|estimate| estimate.value).collect();
    Some(CalibrationDraws {
        deviation: variance(&points)?.sqrt(),
        differences,
        failures: evidence.redrawn.values().filter_map(|draw| draw.clone().err()).collect(),
    })
}
