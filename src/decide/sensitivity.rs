//! How sure the recommendation is of its thresholds: for each of them the nearest stricter and the nearest looser value
//! at which another variant, or none, would be recommended, the other thresholds staying as they are.
//!
//! Answers change at turning points only, so these are all the thresholds that need to be tried.

use super::Case;
use super::recommend;
use super::rule::Rule;
use crate::results::{Answer, Answers, Change, Outcome, TurningPoint, VariantResult};

/// The three thresholds, each as its looseness: dAcc_max, `-S_min`, M_max in bytes.
type Loose = [Option<f64>; 3];

/// Turning points of a variant in looseness: yes from `yes` on, no below `no`.
fn turning(variant: &VariantResult) -> [Option<TurningPoint>; 3] {
    let points = variant.turning_points;
    let negated = points.speed.map(|p| TurningPoint { yes: -p.yes, no: -p.no });
    [points.accuracy, negated, points.memory]
}

/// The nearest changes, stricter before looser, accuracy before speed before memory.
pub(super) fn changes(case: &Case<'_>, variants: &[VariantResult]) -> Vec<Change> {
    let accept = case.accept;
    let margin = accept.accuracy.metric.margin();
    let memory = accept.memory.as_ref().map(|m| m.max_bytes as f64);
    let loose: Loose = [Some(margin), accept.speed.as_ref().map(|s| -s.min_speedup), memory];
    let keys = [accept.accuracy.metric.margin_key(), "min_speedup", "max_memory"];
    let now = shipped(case, variants, loose);
    let mut changes = Vec::new();
    for (question, key) in keys.into_iter().enumerate() {
        let Some(at) = loose[question] else { continue };
        let mut turns: Vec<f64> =
            variants.iter().filter_map(|v| turning(v)[question]).flat_map(|turn| [turn.yes, turn.no]).collect();
        turns.sort_by(f64::total_cmp);
        let with = |value: f64| {
            let mut other = loose;
            other[question] = Some(value);
            shipped(case, variants, other)
        };
        // Below a turning point the answer is another one; from it on, too.
        let stricter = turns.iter().rev().filter(|t| **t <= at).map(|t| (*t, with(t.next_down())));
        let looser = turns.iter().filter(|t| **t > at).map(|t| (*t, with(*t)));
        // No dAcc_max, S_min or M_max is zero or less.
        let possible = |value: f64| if question == 1 { value < 0.0 } else { value > 0.0 };
        for (is_looser, found) in [
            (false, stricter.into_iter().find(|(_, ship)| *ship != now)),
            (true, looser.into_iter().find(|(_, ship)| *ship != now)),
        ] {
            changes.extend(found.filter(|(value, _)| possible(*value)).map(|(value, ship)| Change {
                threshold: key.into(),
                at: value.abs(),
                looser: is_looser,
                variant: ship.map(str::to_string),
            }));
        }
    }
    changes
}

/// The variant that would be recommended.
fn shipped<'v>(case: &Case<'_>, variants: &'v [VariantResult], loose: Loose) -> Option<&'v str> {
    let rule = Rule::parse(&case.accept.rule)?;
    let accepted: Vec<&VariantResult> = variants
        .iter()
        .filter(|v| !v.reference && v.failures.is_empty())
        .filter(|v| rule.outcome(&answers(v, loose)) == Outcome::Accept)
        .collect();
    recommend::best(case, &accepted).map(|(best, _)| best.name.as_str())
}

fn answers(variant: &VariantResult, loose: Loose) -> Answers {
    let answer = |question: usize| -> Option<Answer> {
        let at = loose[question]?;
        Some(match turning(variant)[question] {
            Some(turn) if at >= turn.yes => Answer::Yes,
            Some(turn) if at < turn.no => Answer::No,
            _ => Answer::Unknown,
        })
    };
    Answers { accuracy: answer(0).unwrap_or(Answer::Unknown), speed: answer(1), memory: answer(2) }
}
