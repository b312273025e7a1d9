//! How often a variant is on the Pareto frontier when the measurement is drawn again, and the hypervolume of the suite.
//!
//! A draw takes all variants together, so that what they share stays shared: the same documents with replacement for
//! every variant's accuracy, and one vector of log times from the multivariate Student-t with the sample covariance of
//! the blocks' paired differences over n - 1 degrees of freedom (a bootstrap of so few blocks is too narrow). Memory is
//! exact. The share of draws is a number to look at, no error rate: at exact ties it hovers around 1 - 2^-m.
//!
//! Hypervolume (Zitzler & Thiele 1999): the share of the box between the ideal point and the reference point that the
//! variants dominate. The reference point is the reference's time and weights and twice dAcc_max; the ideal one no time,
//! no weights, no loss.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Case;
use super::choices::{PICKED, PICKED_NORM};
use super::scores::LEAST_CLUSTERS;
use super::timings::log_time_by_block;
use crate::results::{Hypervolume, Score, VariantResult};
use crate::stats::quantile;
use crate::suite::AccuracyMetric;

/// Draws: the share's own standard error is about 1 %.
const DRAWS: usize = 2000;

/// Loss, log time and log weights against the reference, all to be small.
type Point = [f64; 3];

/// Everything that is drawn from, of the variants that have it all.
struct Data {
    /// Index of each variant among the run's.
    variants: Vec<usize>,
    /// Loss sums and counts: one entry a document, in it one sum a variant.
    documents: Vec<(Vec<f64>, f64)>,
    /// `ln T_variant - ln T_reference`: one entry a block, in it one difference a variant.
    blocks: Vec<Vec<f64>>,
    log_weights: Vec<f64>,
}

/// Share of draws in which each variant is on the frontier, and the hypervolume; nothing where there is too little data.
pub(super) fn resampled(case: &Case<'_>, variants: &[VariantResult]) -> (Vec<Option<f64>>, Option<Hypervolume>) {
    let none = (vec![None; variants.len()], None);
    let Some(data) = data(case, variants) else { return none };
    let mut rng = StdRng::seed_from_u64(case.evidence.suite.seed);
    let mut on = vec![0_usize; data.variants.len()];
    let mut volumes = Vec::with_capacity(DRAWS);
    let twice = 2.0 * margin(case);
    for _ in 0..DRAWS {
        let points = data.draw(&mut rng);
        for (i, count) in on.iter_mut().enumerate() {
            *count += usize::from(!points.iter().any(|other| dominates(other, &points[i])));
        }
        volumes.push(hypervolume(&points, twice));
    }
    let mut shares = vec![None; variants.len()];
    for (variant, count) in data.variants.iter().zip(on) {
        shares[*variant] = Some(count as f64 / DRAWS as f64);
    }
    let bound = |p: f64| quantile(&volumes, p);
    let volume = bound(0.05).zip(bound(0.95)).map(|(low, high)| Hypervolume {
        value: hypervolume(&data.estimates(), twice),
        low,
        high,
    });
    (shares, volume)
}

fn dominates(a: &Point, b: &Point) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
}

impl Data {
    fn estimates(&self) -> Vec<Point> {
        let weights = vec![1.0; self.documents.len()];
        let still = vec![0.0; self.blocks.len()];
        self.points(&weights, &still, 1.0)
    }

    fn draw(&self, rng: &mut StdRng) -> Vec<Point> {
        let mut weights = vec![0.0; self.documents.len()];
        for _ in 0..self.documents.len() {
            weights[rng.random_range(0..self.documents.len())] += 1.0;
        }
        let normals: Vec<f64> = self.blocks.iter().map(|_| normal(rng)).collect();
        let freedom = self.blocks.len() - 1;
        let chi_squared: f64 = (0..freedom).map(|_| normal(rng).powi(2)).sum();
        self.points(&weights, &normals, (freedom as f64 / chi_squared).sqrt())
    }

    /// Losses under document weights; times moved by `spread Σ normal_b (D_b - mean) / sqrt(n (n - 1))`, whose
    /// covariance is that of the mean.
    fn points(&self, weights: &[f64], normals: &[f64], spread: f64) -> Vec<Point> {
        let n = self.blocks.len() as f64;
        let count: f64 = self.documents.iter().zip(weights).map(|((_, count), w)| w * count).sum();
        let point = |v: usize| {
            let loss: f64 = self.documents.iter().zip(weights).map(|((sums, _), w)| w * sums[v]).sum();
            let mean = self.blocks.iter().map(|d| d[v]).sum::<f64>() / n;
            let moved: f64 = self.blocks.iter().zip(normals).map(|(d, normal)| normal * (d[v] - mean)).sum();
            [loss / count, mean + spread * moved / (n * (n - 1.0)).sqrt(), self.log_weights[v]]
        };
        (0..self.variants.len()).map(point).collect()
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// dAcc_max in the unit of the losses: nats, shares or cosine.
fn margin(case: &Case<'_>) -> f64 {
    let metric = case.accept.accuracy.metric;
    match metric {
        AccuracyMetric::Perplexity { max_increase_percent } => (max_increase_percent / 100.0).ln_1p(),
        AccuracyMetric::TokenAccuracy { .. }
        | AccuracyMetric::Accuracy { .. }
        | AccuracyMetric::AccuracyNorm { .. } => metric.margin() / 100.0,
        AccuracyMetric::LogLikelihood { .. } | AccuracyMetric::Similarity { .. } => metric.margin(),
    }
}

/// Share of the box between ideal and reference point that the points dominate; sweeps the points by weights and adds
/// slabs over the staircase of the other two objectives.
fn hypervolume(points: &[Point], twice_margin: f64) -> f64 {
    let scaled = |p: &Point| [(p[0] / twice_margin).max(0.0), p[1].exp(), p[2].exp()];
    let mut inside: Vec<Point> = points.iter().map(scaled).filter(|p| p.iter().all(|f| *f < 1.0)).collect();
    inside.sort_by(|a, b| a[2].total_cmp(&b[2]));
    let mut volume = 0.0;
    for (at, point) in inside.iter().enumerate() {
        let next = inside.get(at + 1).map_or(1.0, |p| p[2]);
        volume += staircase(&inside[..=at]) * (next - point[2]);
    }
    volume
}

/// Area that points dominate in their first two objectives, up to (1, 1).
fn staircase(points: &[Point]) -> f64 {
    let mut sorted: Vec<(f64, f64)> = points.iter().map(|p| (p[0], p[1])).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut area, mut top) = (0.0, 1.0);
    for (x, y) in sorted {
        if y < top {
            area += (1.0 - x) * (top - y);
            top = y;
        }
    }
    area
}

fn data(case: &Case<'_>, variants: &[VariantResult]) -> Option<Data> {
    let (point, metric) = (case.judged_point(), case.speed_metric());
    let reference_times = log_time_by_block(case.reference, point, metric, false).ok()?;
    let reference_weights = variants.iter().find(|v| v.reference)?.memory?.weight_bytes as f64;
    let mut found = Vec::new();
    for (at, variant) in variants.iter().enumerate().filter(|(_, v)| v.failures.is_empty()) {
        let losses = losses(case, &variant.name);
        let times = log_time_by_block(case.of(&variant.name), point, metric, false).ok();
        let weights = variant.memory.map(|m| (m.weight_bytes as f64 / reference_weights).ln());
        if let (Some(losses), Some(times), Some(weights)) = (losses, times, weights) {
            found.push((at, losses, times, weights));
        }
    }
    let blocks: BTreeSet<usize> = reference_times
        .keys()
        .copied()
        .filter(|block| found.iter().all(|(_, _, times, _)| times.contains_key(block)))
        .collect();
    let documents: Vec<usize> = found.first()?.1.keys().copied().collect();
    let same = found.iter().all(|(_, losses, ..)| losses.keys().eq(&documents));
    if blocks.len() < 3 || documents.len() < LEAST_CLUSTERS || !same {
        return None;
    }
    let document = |d: &usize| {
        let sums = found.iter().map(|(_, losses, ..)| losses[d].0).collect();
        (sums, found[0].1[d].1)
    };
    let block = |b: &usize| found.iter().map(|(_, _, times, _)| times[b] - reference_times[b]).collect();
    Some(Data {
        documents: documents.iter().map(document).collect(),
        blocks: blocks.iter().map(block).collect(),
        log_weights: found.iter().map(|(.., weights)| *weights).collect(),
        variants: found.iter().map(|(at, ..)| *at).collect(),
    })
}

/// Sum of losses against the reference, and of what they are divided by, for each document.
fn losses(case: &Case<'_>, variant: &str) -> Option<BTreeMap<usize, (f64, f64)>> {
    let limit = &case.accept.accuracy;
    let (own, base) = (case.of(variant).scores.get(&limit.task)?, case.reference.scores.get(&limit.task)?);
    super::scores::same_questions(own, base).ok()?;
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (document, loss, count) in each_loss(own, base, limit.metric)? {
        let entry = sums.entry(document).or_insert((0.0, 0.0));
        *entry = (entry.0 + loss, entry.1 + count);
    }
    sums.values().all(|(sum, _)| sum.is_finite()).then_some(sums)
}

/// (document, loss, count) of every window, item or sentence.
fn each_loss(own: &Score, base: &Score, metric: AccuracyMetric) -> Option<Vec<(usize, f64, f64)>> {
    let windows = || own.windows.iter().zip(&base.windows);
    let items = |right: super::choices::Right| {
        let loss = move |item| f64::from(u8::from(right(item)));
        let pairs = own.items.iter().zip(&base.items);
        Some(pairs.map(|(a, b)| (a.document, loss(b) - loss(a), 1.0)).collect())
    };
    match metric {
        AccuracyMetric::Perplexity { .. } | AccuracyMetric::LogLikelihood { .. } => {
            Some(windows().map(|(a, b)| (a.document, a.nll - b.nll, a.tokens as f64)).collect())
        }
        AccuracyMetric::TokenAccuracy { .. } => {
            Some(windows().map(|(a, b)| (a.document, b.correct as f64 - a.correct as f64, a.tokens as f64)).collect())
        }
        AccuracyMetric::Accuracy { .. } => items(PICKED),
        AccuracyMetric::AccuracyNorm { .. } => items(PICKED_NORM),
        AccuracyMetric::Similarity { .. } => {
            own.sentences.iter().map(|s| Some((s.document, 1.0 - s.cosine?, 1.0))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypervolume_of_known_boxes() {
        let at = |loss: f64, time: f64, weights: f64| [loss, f64::ln(time), f64::ln(weights)];
        let near = |points: &[Point], expected: f64| {
            let volume = hypervolume(points, 1.0);
            assert!((volume - expected).abs() < 1e-12, "{volume} instead of {expected}");
        };
        near(&[], 0.0);
        near(&[at(0.5, 0.5, 0.5)], 0.125);
        near(&[at(0.5, 0.5, 0.5), at(0.5, 0.5, 0.5), at(0.6, 0.7, 0.8)], 0.125);
        near(&[at(0.0, 1.0, 0.5)], 0.0);
        // Two boxes of 0.25 x 0.5 x 0.5 and 0.5 x 0.25 x 0.5 that share 0.25 x 0.25 x 0.5.
        near(&[at(0.75, 0.5, 0.5), at(0.5, 0.75, 0.5)], 0.0625 + 0.0625 - 0.03125);
        // Better than the reference counts as no loss.
        near(&[at(-3.0, 0.5, 0.5)], 0.25);
    }

    /// Two variants whose times differ by `gap` standard errors: the slower is on the frontier as often as a Student-t
    /// number exceeds the gap.
    #[test]
    fn a_share_is_the_students_tail() {
        let blocks: Vec<Vec<f64>> = (0..9).map(|b| vec![0.0, 0.01 * (f64::from(b) - 4.0) + 0.01]).collect();
        let documents = vec![(vec![0.0, 0.0], 1.0); 5];
        let data = Data { variants: vec![0, 1], documents, blocks, log_weights: vec![0.0, 0.0] };
        let mut rng = StdRng::seed_from_u64(1);
        let draws = 20_000;
        let on = (0..draws).filter(|_| {
            let points = data.draw(&mut rng);
            !dominates(&points[0], &points[1])
        });
        // Standard deviation 0.02739, standard error 0.009129, t = 1.0954 with 8 degrees of freedom: P(T > t) = 0.1526.
        let share = on.count() as f64 / f64::from(draws);
        assert!((share - 0.1526).abs() < 0.008, "{share}");
    }
}
