//! Accuracy against the reference on the same windows, cluster-robust over documents.
//!
//! With one document, contiguous blocks of its windows stand for documents; their length is doubled once, and the
//! larger standard error taken, since neighbouring blocks may still resemble each other. Fewer than
//! [`LEAST_CLUSTERS`] clusters give no interval.

use std::collections::{BTreeMap, BTreeSet};

use super::Case;
use super::estimate::estimate;
use crate::results::{
    Direction, Estimate, Generation, GenerationEstimates, GenrePerplexity, ItemScore, Score, ScoreEstimates,
    SentenceScore, Unit, VariantEvidence, WindowScore,
};
use crate::stats::{Cluster, Ratio, ratio_interval};

/// Fewest clusters of an interval: below, the cluster-robust error is too unsure (see the simulations in `stats`).
pub const LEAST_CLUSTERS: usize = 5;

/// Most blocks that one document is cut into.
const MOST_BLOCKS: usize = 30;

/// Estimates by task; a score whose sums are not finite is left out.
pub(super) fn estimates(
    case: &Case<'_>,
    evidence: &VariantEvidence,
    is_reference: bool,
) -> BTreeMap<String, ScoreEstimates> {
    let of = |(task, score): (&String, &Score)| {
        let reference = case.reference.scores.get(task).filter(|_| !is_reference);
        Some((task.clone(), task_estimates(score, reference, case.confidence())?))
    };
    evidence.scores.iter().filter_map(of).collect()
}

fn task_estimates(score: &Score, reference: Option<&Score>, confidence: f64) -> Option<ScoreEstimates> {
    let windows = &score.windows;
    let tokens: usize = windows.iter().map(|w| w.tokens).sum();
    let nll: f64 = windows.iter().map(|w| w.nll).sum();
    let correct: usize = windows.iter().map(|w| w.correct).sum();
    let perplexity = (nll / tokens as f64).exp();
    if tokens == 0 || !nll.is_finite() || !perplexity.is_finite() {
        return None;
    }
    let against = reference.filter(|r| same_questions(score, r).is_ok());
    let agree = windows.iter().map(|w| w.agree).sum::<Option<usize>>();
    let flips = windows.iter().map(|w| w.flips).try_fold((0, 0), |(lost, won), f| f.map(|f| (lost + f.0, won + f.1)));
    Some(ScoreEstimates {
        perplexity,
        nll,
        tokens,
        perplexity_increase: against.and_then(|r| perplexity_increase(score, r, confidence)),
        log_likelihood_difference: against.and_then(|r| log_likelihood_difference(score, r, confidence)),
        token_accuracy: correct as f64 / tokens as f64,
        token_accuracy_difference: against.and_then(|r| token_accuracy_difference(score, r, confidence)),
        kl: kl(windows, confidence),
        kl_quantiles: score.kl_quantiles.filter(|q| q.iter().all(|v| v.is_finite())),
        agreement: agree.map(|a| a as f64 / tokens as f64),
        flips: flips.filter(|_| !windows.is_empty()),
        rms_probability_difference: rms_probability_difference(windows, confidence),
        generations: generations(score, against),
        genres: genres(score),
    })
}

fn generations(score: &Score, reference: Option<&Score>) -> Option<GenerationEstimates> {
    let own = &score.generations;
    let tokens = |all: &[Generation]| all.iter().map(|g| g.tokens).sum::<usize>();
    let of_reference = reference.map(|r| &r.generations).filter(|r| r.len() == own.len() && tokens(r) > 0);
    (!own.is_empty()).then(|| GenerationEstimates {
        prompts: own.len(),
        ended: own.iter().filter(|g| g.ended).count(),
        in_circles: own.iter().filter(|g| g.in_circles).count(),
        length_ratio: of_reference.map(|r| tokens(own) as f64 / tokens(r) as f64),
    })
}

/// Whether two scores are over the same windows, items and sentences.
///
/// # Errors
/// The first difference, in words.
pub(super) fn same_questions(a: &Score, b: &Score) -> Result<(), String> {
    let window = |w: &WindowScore| (w.document, w.tokens);
    let item = |i: &ItemScore| (i.document, i.answer, i.log_likelihoods.len());
    same("window", a.windows.iter().map(window), b.windows.iter().map(window))?;
    same("item", a.items.iter().map(item), b.items.iter().map(item))?;
    let sentence = |s: &SentenceScore| (s.document, s.tokens);
    same("sentence", a.sentences.iter().map(sentence), b.sentences.iter().map(sentence))
}

fn same<T: PartialEq>(
    what: &str,
    mut a: impl ExactSizeIterator<Item = T>,
    b: impl ExactSizeIterator<Item = T>,
) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} {what}s against {} of the reference", a.len(), b.len()));
    }
    match b.enumerate().find(|(_, b)| a.next().as_ref() != Some(b)) {
        Some((at, _)) => Err(format!("{what} {at} is not the reference's")),
        None => Ok(()),
    }
}

/// Perplexity by genre; a genre without windows is left out.
fn genres(score: &Score) -> Vec<GenrePerplexity> {
    let of = |(genre, name): (usize, &String)| {
        let own = score.windows.iter().zip(&score.genres.of).filter(|(_, of)| **of == genre);
        let (nll, tokens) = own.fold((0.0, 0), |(nll, tokens), (w, _)| (nll + w.nll, tokens + w.tokens));
        let perplexity = (nll / tokens as f64).exp();
        (tokens > 0 && perplexity.is_finite()).then(|| GenrePerplexity { name: name.clone(), tokens, perplexity })
    };
    score.genres.names.iter().enumerate().filter_map(of).collect()
}

/// Mean log-likelihood per token of `a` minus that of `b`, nats; both over the same windows.
pub(super) fn log_likelihood_difference(a: &Score, b: &Score, confidence: f64) -> Option<Estimate> {
    let sums: Vec<f64> = a.windows.iter().zip(&b.windows).map(|(a, b)| b.nll - a.nll).collect();
    let (ratio, method) = clustered(&a.windows, &sums, confidence)?;
    estimate(ratio.interval, confidence, Unit::Nats, Direction::Higher, method)
}

/// `100 (exp(θ) - 1)` of the mean increase θ of negative log-likelihood.
pub(super) fn perplexity_increase(a: &Score, b: &Score, confidence: f64) -> Option<Estimate> {
    let sums: Vec<f64> = a.windows.iter().zip(&b.windows).map(|(a, b)| a.nll - b.nll).collect();
    let (ratio, method) = clustered(&a.windows, &sums, confidence)?;
    let percent = ratio.interval.map(|theta| 100.0 * theta.exp_m1());
    estimate(percent, confidence, Unit::Percent, Direction::Lower, method)
}

pub(super) fn token_accuracy_difference(a: &Score, b: &Score, confidence: f64) -> Option<Estimate> {
    let sums: Vec<f64> = a.windows.iter().zip(&b.windows).map(|(a, b)| a.correct as f64 - b.correct as f64).collect();
    let (ratio, method) = clustered(&a.windows, &sums, confidence)?;
    estimate(ratio.interval.map(|share| 100.0 * share), confidence, Unit::Points, Direction::Higher, method)
}

fn kl(windows: &[WindowScore], confidence: f64) -> Option<Estimate> {
    let sums: Vec<f64> = windows.iter().map(|w| w.kl).collect::<Option<_>>()?;
    let (ratio, method) = clustered(windows, &sums, confidence)?;
    estimate(ratio.interval, confidence, Unit::Nats, Direction::Lower, method)
}

fn rms_probability_difference(windows: &[WindowScore], confidence: f64) -> Option<Estimate> {
    let sums: Vec<f64> = windows.iter().map(|w| w.squared_difference).collect::<Option<_>>()?;
    let (ratio, method) = clustered(windows, &sums, confidence)?;
    let points = ratio.interval.map(|mean| 100.0 * mean.max(0.0).sqrt());
    estimate(points, confidence, Unit::Points, Direction::Lower, method)
}

/// `Σ sums / Σ tokens` with its interval over documents, or over blocks of a single document, and how it was made.
fn clustered(windows: &[WindowScore], sums: &[f64], confidence: f64) -> Option<(Ratio, String)> {
    let documents: BTreeSet<usize> = windows.iter().map(|w| w.document).collect();
    let over = |id: &dyn Fn(usize) -> usize| {
        let item =
            |(at, (w, sum)): (usize, (&WindowScore, &f64))| Cluster { id: id(at), sum: *sum, count: w.tokens as f64 };
        let items: Vec<Cluster> = windows.iter().zip(sums).enumerate().map(item).collect();
        ratio_interval(&items, confidence)
    };
    let (mut ratio, unit) = if documents.len() > 1 {
        (over(&|at| windows[at].document)?, "documents")
    } else {
        let blocks = |count: usize| over(&|at| at * count / windows.len());
        let count = windows.len().min(MOST_BLOCKS);
        let short = blocks(count)?;
        let long = if count / 2 >= LEAST_CLUSTERS { blocks(count / 2) } else { None };
        let grew = |long: &Ratio| Some(long.standard_error? > 1.1 * short.standard_error?);
        (long.filter(|l| grew(l) == Some(true)).unwrap_or(short), "blocks of one document's windows")
    };
    if ratio.interval.n < LEAST_CLUSTERS {
        ratio.interval.bounds = None;
    }
    let mut method = format!("cluster-robust student-t over {} {unit}", ratio.interval.n);
    if let Some(effect) = ratio.design_effect {
        method.push_str(&format!(", design effect {effect:.1}"));
    }
    Some((ratio, method))
}
