//! The run's own negative controls. The reference against itself, in time, must tie (`noise`); the reference broken on
//! purpose must be rejected by the very rule that accepts others. If not, the run is invalid.

use std::collections::BTreeMap;

use super::answers::compare;
use super::noise::control_differs;
use super::rule::Rule;
use super::{Case, scores};
use crate::results::{Answer, BrokenControl, Estimate, Genres, Score};

/// What the rule says of the broken reference; `None` where the run has no such control.
pub(super) fn broken(case: &Case<'_>) -> Option<BrokenControl> {
    let control = case.evidence.broken.as_ref()?;
    let whole = case.reference.scores.get(&case.accept.accuracy.task)?;
    let failed = |why: &str| Some(BrokenControl { rejected: false, reason: format!("it could not be scored: {why}") });
    let Some(score) = &control.score else {
        return failed(control.failure.as_deref().unwrap_or("no reason is known"));
    };
    let reference = at_places(whole, &control.places);
    if let Err(difference) = scores::same_questions(score, &reference) {
        return failed(&difference);
    }
    let (answer, reason) = compare(case, score, &reference);
    Some(BrokenControl { rejected: answer == Answer::No, reason })
}

/// The part of a score at these places.
fn at_places(score: &Score, places: &[usize]) -> Score {
    fn part<T: Clone>(all: &[T], places: &[usize]) -> Vec<T> {
        places.iter().filter_map(|place| all.get(*place).cloned()).collect()
    }
    Score {
        windows: part(&score.windows, places),
        items: part(&score.items, places),
        sentences: part(&score.sentences, places),
        genres: Genres::default(),
        ..score.clone()
    }
}

/// Why the run is invalid, if it is.
pub(super) fn invalid(case: &Case<'_>, control: &BTreeMap<String, Estimate>) -> Vec<String> {
    let mut faults = Vec::new();
    if Rule::parse(&case.accept.rule).is_some_and(Rule::asks_speed)
        && let Some(estimate) = control_differs(case, control)
    {
        faults.push(format!("the reference does not tie with itself in time: {estimate}"));
    }
    faults.extend(case.blind());
    faults
}
