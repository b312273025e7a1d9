//! Differences of accuracy between two records, tested on the same items.
//!
//! The difference is that of mean log-likelihood by token (cluster-robust over documents), of the share of right items
//! (the wider of the cluster-robust interval and Tango's), or of the mean cosine. It passes where the one-sided bound lies
//! within the margin, and fails where the other bound lies beyond it; a fail of any of m tests errs with α in all
//! (Bonferroni), while a pass needs none, as all must pass (Berger 1982, Technometrics 24:295).

use super::record::{Record, TaskRecord};
use super::verdict::{Check, Level, State};
use crate::stats::{Cluster, Interval, PairedItem, paired_difference, ratio_interval};
use crate::suite::{AccuracyMetric, Suite, Task, TaskKind};

/// Fewest documents of an interval; below, the cluster-robust error is too unsure.
const LEAST_DOCUMENTS: usize = 5;

/// Margins of tasks that the suite's rule does not ask about.
const USUAL_INCREASE_PERCENT: f64 = 1.0;
const USUAL_DROP_POINTS: f64 = 1.0;
const USUAL_COSINE_DROP: f64 = 0.005;

/// How much of a task may be lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Margin {
    /// In the unit of the difference: nats by token, share of items, cosine.
    pub value: f64,
    /// Digit of [`TaskRecord::right`] that counts as right, for a choice.
    right: u32,
    /// Factor and name of the unit for people.
    shown: (f64, &'static str),
}

impl Margin {
    /// The rule's margin where it asks about this task, else a usual one.
    pub fn of(suite: &Suite, task: &Task) -> Margin {
        let rule = &suite.accept.accuracy;
        let asked = (rule.task == task.name).then_some(rule.metric);
        let of = |value, right, shown| Margin { value, right, shown };
        let (nats, points, cosine) = ((1.0, "nats by token"), (100.0, "points"), (1.0, "of mean cosine"));
        match (task.kind, asked) {
            (TaskKind::Perplexity { .. }, Some(AccuracyMetric::LogLikelihood { max_drop })) => of(max_drop, 0, nats),
            (TaskKind::Perplexity { .. }, Some(AccuracyMetric::Perplexity { max_increase_percent: percent })) => {
                of((percent / 100.0).ln_1p(), 0, nats)
            }
            (TaskKind::Perplexity { .. }, _) => of((USUAL_INCREASE_PERCENT / 100.0).ln_1p(), 0, nats),
            (TaskKind::Choice { .. }, Some(AccuracyMetric::AccuracyNorm { max_drop_points: drop })) => {
                of(drop / 100.0, 2, points)
            }
            (TaskKind::Choice { .. }, Some(AccuracyMetric::Accuracy { max_drop_points: drop })) => {
                of(drop / 100.0, 1, points)
            }
            (TaskKind::Choice { .. }, _) => of(USUAL_DROP_POINTS / 100.0, 1, points),
            (TaskKind::Similarity { .. }, Some(AccuracyMetric::Similarity { max_drop })) => of(max_drop, 0, cosine),
            (TaskKind::Similarity { .. }, _) => of(USUAL_COSINE_DROP, 0, cosine),
        }
    }

    /// A difference in words.
    pub fn show(&self, difference: f64) -> String {
        format!("{:+.4} {}", self.shown.0 * difference, self.shown.1)
    }

    /// What `new` has more than `old`, over the same items; no bounds for too few documents.
    pub fn difference(&self, old: &TaskRecord, new: &TaskRecord, confidence: f64) -> Option<Interval> {
        if old.counts != new.counts {
            return None;
        }
        let mut interval = if new.right.is_empty() {
            let cluster = |id: usize| Cluster { id, sum: new.sums[id] - old.sums[id], count: new.counts[id] as f64 };
            let clusters: Vec<Cluster> = (0..new.counts.len()).map(cluster).collect();
            ratio_interval(&clusters, confidence)?.interval
        } else {
            paired_difference(&self.items(old, new), confidence)?.interval
        };
        if interval.n < LEAST_DOCUMENTS {
            interval.bounds = None;
        }
        Some(interval)
    }

    fn items(&self, old: &TaskRecord, new: &TaskRecord) -> Vec<PairedItem> {
        let right = |c: char| c.to_digit(10).is_some_and(|digit| digit & self.right != 0);
        let documents = new.counts.iter().enumerate().flat_map(|(id, count)| std::iter::repeat_n(id, *count));
        let answers = old.right.chars().zip(new.right.chars());
        documents
            .zip(answers)
            .map(|(id, (old, new))| PairedItem { id, before: right(old), after: right(new) })
            .collect()
    }
}

/// Tests every task of every variant whose numbers differ between the records; those that are equal need no test.
pub fn against(old: &Record, new: &Record, suite: &Suite) -> Vec<Check> {
    let mut pairs = Vec::new();
    for (name, before) in &old.variants {
        let Some(after) = new.variants.get(name) else { continue };
        for task in &suite.tasks {
            if let (Some(before), Some(after)) = (before.tasks.get(&task.name), after.tasks.get(&task.name))
                && before.counts == after.counts
                && (before.sums != after.sums || before.right != after.right)
            {
                pairs.push((name, task, before, after));
            }
        }
    }
    let alpha = 1.0 - suite.accept.confidence;
    let tests = pairs.len();
    pairs
        .into_iter()
        .map(|(name, task, old, new)| test(name, &task.name, Margin::of(suite, task), (old, new), (alpha, tests)))
        .collect()
}

fn test(
    variant: &str,
    task: &str,
    margin: Margin,
    (old, new): (&TaskRecord, &TaskRecord),
    (alpha, tests): (f64, usize),
) -> Check {
    let at = |rate: f64| margin.difference(old, new, 1.0 - 2.0 * rate);
    let (one, all) = (at(alpha), at(alpha / tests as f64));
    let bounds = |interval: Option<Interval>| interval.and_then(|i| i.bounds);
    let (state, verdict) = match (bounds(one), bounds(all)) {
        (Some((low, _)), Some((all_low, all_high))) => {
            if all_high < -margin.value {
                (State::Fail, "proven worse by more than the margin")
            } else if low < -margin.value {
                (State::Inconclusive, "not proven to lie within the margin")
            } else if all_high < 0.0 {
                (State::Notice, "a loss is proven, but within the margin")
            } else if all_low > 0.0 {
                (State::Notice, "proven better; `bench baseline update` keeps it")
            } else {
                (State::Pass, "proven to lie within the margin")
            }
        }
        _ => (State::Inconclusive, "too few documents for a test"),
    };
    let interval = one.map_or_else(
        || "unknown".into(),
        |i| {
            let bounds = i.bounds.map(|(low, high)| format!(" [{}, {}]", margin.show(low), margin.show(high)));
            format!("{}{}", margin.show(i.value), bounds.unwrap_or_default())
        },
    );
    let message = format!("{verdict}: {interval}, margin {}", margin.show(-margin.value));
    Check::new(Level::Accuracy, variant, task, state, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn margin(value: f64, right: u32) -> Margin {
        Margin { value, right, shown: (100.0, "points") }
    }

    fn text(shift: f64) -> TaskRecord {
        let noise = |at: usize| 0.1 * ((at * 7 % 5) as f64 - 2.0);
        TaskRecord {
            counts: vec![100; 20],
            sums: (0..20).map(|at| -200.0 + shift * 100.0 + if shift == 0.0 { 0.0 } else { noise(at) }).collect(),
            correct: vec![50; 20],
            ..TaskRecord::default()
        }
    }

    fn state(shift: f64, value: f64) -> State {
        test("v", "t", margin(value, 0), (&text(0.0), &text(shift)), (0.05, 4)).state
    }

    #[test]
    fn differences_are_judged_by_both_bounds() {
        assert_eq!(state(-0.05, 0.01), State::Fail);
        assert_eq!(state(-0.0101, 0.01), State::Inconclusive);
        assert_eq!(state(-0.005, 0.01), State::Notice);
        assert_eq!(state(0.005, 0.01), State::Notice);
        assert_eq!(state(1e-9, 0.01), State::Pass);
        let short = TaskRecord { counts: vec![9; 3], sums: vec![1.0; 3], correct: vec![1; 3], ..TaskRecord::default() };
        let other = TaskRecord { sums: vec![1.5; 3], ..short.clone() };
        assert_eq!(test("v", "t", margin(0.1, 0), (&short, &other), (0.05, 1)).state, State::Inconclusive);
    }

    #[test]
    fn items_are_paired_with_their_documents() {
        let record = |right: String| TaskRecord {
            counts: vec![4; 100],
            sums: vec![0.0; 100],
            correct: vec![2; 100],
            right,
            ..TaskRecord::default()
        };
        let (old, lost) = (record("1032".repeat(100)), record("1032".repeat(95) + &"0032".repeat(5)));
        // Five of 400 lost by the first rule, none by the second.
        let by = |right| margin(0.005, right).difference(&old, &lost, 0.9).unwrap();
        assert_eq!((by(1).value, by(2).value), (-0.0125, 0.0));
        assert!(by(1).bounds.unwrap().0 < -0.0125 && by(2).bounds.unwrap().0 < 0.0);
        let states = [record("1032".repeat(60) + &"0000".repeat(40)), old.clone()];
        let states = states.map(|new| test("v", "t", margin(0.02, 1), (&old, &new), (0.05, 1)).state);
        assert_eq!(states, [State::Fail, State::Pass]);
    }
}
