//! Multiple-choice accuracy, against the reference on the same items, with the items of a document as a cluster.

use std::collections::BTreeMap;

use super::Case;
use super::estimate::estimate;
use super::scores::{LEAST_CLUSTERS, same_questions};
use crate::results::{ChoiceEstimates, Direction, Estimate, GenreAccuracy, ItemScore, Score, Unit, VariantEvidence};
use crate::stats::{Interval, PairedItem, PairedTable, Proportion, paired_difference, proportion};

/// Whether an item was picked rightly, by one way of picking.
pub(super) type Right = fn(&ItemScore) -> bool;

/// By log-likelihood.
pub(super) const PICKED: Right = |item| item.picked == item.answer;
/// By log-likelihood per token.
pub(super) const PICKED_NORM: Right = |item| item.picked_norm == item.answer;

/// Estimates by task.
pub(super) fn estimates(
    case: &Case<'_>,
    evidence: &VariantEvidence,
    is_reference: bool,
) -> BTreeMap<String, ChoiceEstimates> {
    let of = |(task, score): (&String, &Score)| {
        let reference = case.reference.scores.get(task).filter(|_| !is_reference);
        Some((task.clone(), task_estimates(score, reference, case.confidence())?))
    };
    evidence.scores.iter().filter_map(of).collect()
}

fn task_estimates(score: &Score, reference: Option<&Score>, confidence: f64) -> Option<ChoiceEstimates> {
    let items = &score.items;
    let all: Vec<&ItemScore> = items.iter().collect();
    let against = reference.filter(|r| same_questions(score, r).is_ok());
    let table = against.map(|r| PairedTable::count(items.iter().zip(&r.items).map(|(a, b)| (PICKED(b), PICKED(a)))));
    Some(ChoiceEstimates {
        items: items.len(),
        chance: items.iter().map(|i| 1.0 / i.log_likelihoods.len() as f64).sum::<f64>() / items.len() as f64,
        accuracy: share(&all, PICKED, confidence)?,
        accuracy_norm: share(&all, PICKED_NORM, confidence)?,
        accuracy_difference: against.and_then(|r| difference(score, r, PICKED, confidence)),
        accuracy_norm_difference: against.and_then(|r| difference(score, r, PICKED_NORM, confidence)),
        accuracy_difference_newcombe: table.and_then(|table| newcombe(&table, confidence)),
        flips: table.map(|table| (table.lost, table.won)),
        mcnemar_p: table.map(|table| table.mcnemar_mid_p()),
        genres: genres(score, confidence),
    })
}

fn share(items: &[&ItemScore], right: Right, confidence: f64) -> Option<Estimate> {
    let items: Vec<(usize, bool)> = items.iter().map(|item| (item.document, right(item))).collect();
    finish(proportion(&items, confidence)?, 1.0, Unit::Share, confidence, "wilson score interval at the effective size")
}

/// Share of items that `a` picks rightly minus that of `b`, points; both over the same items.
pub(super) fn difference(a: &Score, b: &Score, right: Right, confidence: f64) -> Option<Estimate> {
    let pair = |(a, b): (&ItemScore, &ItemScore)| PairedItem { id: a.document, before: right(b), after: right(a) };
    let pairs: Vec<PairedItem> = a.items.iter().zip(&b.items).map(pair).collect();
    let how = "wider of cluster-robust student-t and tango score interval";
    finish(paired_difference(&pairs, confidence)?, 100.0, Unit::Points, confidence, how)
}

fn newcombe(table: &PairedTable, confidence: f64) -> Option<Estimate> {
    let value = (table.won as f64 - table.lost as f64) / table.n() as f64;
    let interval = Interval { value, bounds: table.newcombe(confidence), n: table.n() };
    let points = interval.map(|share| 100.0 * share);
    estimate(points, confidence, Unit::Points, Direction::Higher, "newcombe 10 over items as if independent")
}

fn finish(found: Proportion, scale: f64, unit: Unit, confidence: f64, how: &str) -> Option<Estimate> {
    let mut interval = found.interval.map(|share| scale * share);
    if interval.n < LEAST_CLUSTERS {
        interval.bounds = None;
    }
    let method = format!("{how} over {} documents, design effect {:.1}", interval.n, found.design_effect);
    estimate(interval, confidence, unit, Direction::Higher, method)
}

fn genres(score: &Score, confidence: f64) -> Vec<GenreAccuracy> {
    let of = |(genre, name): (usize, &String)| {
        let own = score.items.iter().zip(&score.genres.of).filter(|(_, of)| **of == genre);
        let items: Vec<&ItemScore> = own.map(|(item, _)| item).collect();
        Some(GenreAccuracy { name: name.clone(), items: items.len(), accuracy: share(&items, PICKED, confidence)? })
    };
    score.genres.names.iter().enumerate().filter_map(of).collect()
}
