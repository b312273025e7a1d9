//! Known drops of accuracy, planted into the reference's own answers, and what the rule says of them.
//!
//! An item that the reference has right is lost, and one that it has wrong is won, by chance and independently, so that a
//! given share of items changes sides and the accuracy drops by a given amount on average over all texts of the kind. The
//! rule must accept a drop of its whole margin at most as often as it may err, and so with rejecting a smaller one.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::choices::PICKED;
use super::{Case, answers};
use crate::results::{Answer, Evidence, ItemScore, Score};
use crate::suite::{Accept, AccuracyMetric};

/// What the rule said of one planted drop.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundDrop {
    /// Points by which accuracy drops.
    pub planted: f64,
    /// Answers yes, no and unknown to whether the drop is within the margin.
    pub answers: (usize, usize, usize),
    /// Mean of the estimated drops, points.
    pub mean: f64,
}

/// Plants `drops`, in points, each so many times, while a share `flips` of the items of the rule's task changes sides.
///
/// # Errors
/// A reference without answers to the task, or a drop that the flips or the reference's answers cannot make, in words.
pub fn planted_flips(
    evidence: &Evidence,
    accept: &Accept,
    flips: f64,
    drops: &[f64],
    repetitions: usize,
) -> Result<Vec<FoundDrop>, String> {
    let case = Case::new(evidence, accept);
    let task = &accept.accuracy.task;
    let reference = case.reference.scores.get(task).filter(|score| !score.items.is_empty());
    let reference = reference.ok_or_else(|| format!("the reference has no multiple-choice items in task {task}"))?;
    let right = reference.items.iter().filter(|item| PICKED(item)).count() as f64 / reference.items.len() as f64;
    let mut rng = StdRng::seed_from_u64(0);
    let found = |points: &f64| {
        let (lost, won) = ((flips + points / 100.0) / 2.0, (flips - points / 100.0) / 2.0);
        if !(won >= 0.0 && lost <= right && won <= 1.0 - right) {
            return Err(format!(
                "a drop of {points} points with {:.1} % of the items changing sides is not possible where {:.1} % are right",
                100.0 * flips,
                100.0 * right
            ));
        }
        // Of the items that can be lost, and of those that can be won.
        let chances = (lost / right.max(f64::MIN_POSITIVE), won / (1.0 - right).max(f64::MIN_POSITIVE));
        let mut found = FoundDrop { planted: *points, answers: (0, 0, 0), mean: 0.0 };
        for _ in 0..repetitions {
            let score = with_flips(reference, chances, &mut rng);
            match answers::compare(&case, &score, reference).0 {
                Answer::Yes => found.answers.0 += 1,
                Answer::No => found.answers.1 += 1,
                Answer::Unknown => found.answers.2 += 1,
            }
            let difference = case.score_difference(&score, reference, accept.confidence).map_or(f64::NAN, |d| d.value);
            found.mean -= difference / repetitions as f64;
        }
        Ok(found)
    };
    drops.iter().map(found).collect()
}

/// The margin of a rule on multiple-choice items, in points; `None` for other rules.
pub fn margin_in_points(metric: AccuracyMetric) -> Option<f64> {
    match metric {
        AccuracyMetric::Accuracy { max_drop_points } => Some(max_drop_points),
        _ => None,
    }
}

fn with_flips(reference: &Score, (lost, won): (f64, f64), rng: &mut StdRng) -> Score {
    let mut flipped = |item: &ItemScore| {
        let flips = rng.random::<f64>() < if PICKED(item) { lost } else { won };
        let other = (item.answer + 1) % item.log_likelihoods.len().max(1);
        match (flips, PICKED(item)) {
            (false, _) => item.clone(),
            (true, true) => ItemScore { picked: other, ..item.clone() },
            (true, false) => ItemScore { picked: item.answer, ..item.clone() },
        }
    };
    Score { items: reference.items.iter().map(&mut flipped).collect(), ..reference.clone() }
}
