//! What the choice of calibration windows alone changes: the spread of the rule's difference over draws.

use super::Case;
use super::answers::judged_differences;
use crate::results::{CalibrationDraws, Estimate, Score, VariantEvidence};

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
        deviation: deviation(&points)?,
        differences,
        failures: evidence.redrawn.values().filter_map(|draw| draw.clone().err()).collect(),
    })
}

/// Standard deviation of a sample.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = crate::stats::mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(deviation(&[1.0, 2.0, 3.0, 4.0]), Some((5.0_f64 / 3.0).sqrt()));
        assert_eq!((deviation(&[1.0]), deviation(&[])), (None, None));
    }
}
