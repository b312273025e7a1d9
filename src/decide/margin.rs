//! Margins that follow from the reference's own score: MLPerf's "99 % of the reference's accuracy", or a share of its
//! errors. They become points once the reference is scored; its own standard error then enters as a fraction of the margin
//! alone, which is small beside that of the difference.

use super::choices::{PICKED, PICKED_NORM};
use crate::results::{Evidence, Score};
use crate::suite::{Accept, AccuracyMetric, MarginOf};

/// `accept` with a relative margin turned into points of this run's reference; as it is where there is none, or no score.
pub(super) fn in_points(evidence: &Evidence, accept: &Accept) -> Accept {
    let mut accept = accept.clone();
    let reference = evidence.variants.get(&evidence.suite.reference);
    let score = reference.and_then(|found| found.scores.get(&accept.accuracy.task));
    if let Some(margin) = accept.accuracy.relative
        && let Some(right) = score.and_then(|score| share_right(score, accept.accuracy.metric))
    {
        let of = match margin.of {
            MarginOf::Accuracy => right,
            MarginOf::Errors => 1.0 - right,
        };
        accept.accuracy.metric = accept.accuracy.metric.with_points(rounded_down(margin.percent * of));
    }
    accept
}

/// To a thousandth of a point.
fn rounded_down(points: f64) -> f64 {
    (points * 1e3).floor() / 1e3
}

fn share_right(score: &Score, metric: AccuracyMetric) -> Option<f64> {
    let (right, all) = match metric {
        AccuracyMetric::Accuracy { .. } => (score.items.iter().filter(|i| PICKED(i)).count(), score.items.len()),
        AccuracyMetric::AccuracyNorm { .. } => {
            (score.items.iter().filter(|i| PICKED_NORM(i)).count(), score.items.len())
        }
        _ => (score.windows.iter().map(|w| w.correct).sum(), score.windows.iter().map(|w| w.tokens).sum()),
    };
    (all > 0).then(|| right as f64 / all as f64)
}
