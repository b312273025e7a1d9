//! Closeness of embeddings to the reference's, cluster-robust over documents.

use std::collections::BTreeMap;

use super::Case;
use super::estimate::estimate;
use super::scores::{LEAST_CLUSTERS, same_questions};
use crate::results::{Direction, Estimate, Score, SimilarityEstimates, Unit, VariantEvidence};
use crate::stats::{Cluster, mean, ratio_interval};

/// Estimates by task.
pub(super) fn estimates(
    case: &Case<'_>,
    evidence: &VariantEvidence,
    is_reference: bool,
) -> BTreeMap<String, SimilarityEstimates> {
    let of = |(task, score): (&String, &Score)| {
        let reference = case.reference.scores.get(task).filter(|_| !is_reference);
        Some((task.clone(), task_estimates(score, reference, case.confidence())?))
    };
    evidence.scores.iter().filter_map(of).collect()
}

fn task_estimates(score: &Score, reference: Option<&Score>, confidence: f64) -> Option<SimilarityEstimates> {
    let cosines: Vec<f64> = score.sentences.iter().map(|sentence| sentence.cosine).collect::<Option<_>>()?;
    let against = reference.filter(|r| same_questions(score, r).is_ok());
    let worst_cosine = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    let mean_cosine = mean(&cosines).filter(|mean| mean.is_finite())?;
    Some(SimilarityEstimates {
        sentences: cosines.len(),
        mean_cosine,
        worst_cosine,
        cosine_difference: against.and_then(|r| difference(score, r, confidence)),
        rank_correlation: score.rank_correlation.filter(|r| r.is_finite()),
    })
}

/// Mean cosine of `a` minus that of `b`, both to the reference's embeddings and over the same sentences; the reference's
/// own is 1.
pub(super) fn difference(a: &Score, b: &Score, confidence: f64) -> Option<Estimate> {
    let pair = |(a, b): (&crate::results::SentenceScore, &crate::results::SentenceScore)| {
        Some(Cluster { id: a.document, sum: a.cosine? - b.cosine?, count: 1.0 })
    };
    let items: Vec<Cluster> = a.sentences.iter().zip(&b.sentences).map(pair).collect::<Option<_>>()?;
    let mut ratio = ratio_interval(&items, confidence)?;
    if ratio.interval.n < LEAST_CLUSTERS {
        ratio.interval.bounds = None;
    }
    let method = format!("cluster-robust student-t over {} documents", ratio.interval.n);
    estimate(ratio.interval, confidence, Unit::Cosine, Direction::Higher, method)
}
