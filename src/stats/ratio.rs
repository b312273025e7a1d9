//! Ratio of sums with a cluster-robust interval: `θ = ΣS_g / ΣN_g` over clusters g (documents).
//!
//! `SE² = G/(G-1) Σ(S_g - θ N_g)² / (ΣN_g)²`, interval `θ ± t_{G-1} SE` (Cochran 1977, 6.3; Miller 2024,
//! arXiv:2411.00640, for language-model scores). Windows of one document resemble each other, so the document is the
//! unit; treating windows as independent covers 66 to 80 % instead of 95 % (see the module's simulations). The design
//! effect `(SE_cluster / SE_independent)²` says how much they resemble each other.

use super::Interval;
use super::student::t_two_sided;

/// Sums over one item (window) of a cluster (document).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Which cluster the item belongs to.
    pub id: usize,
    /// Numerator: summed effect.
    pub sum: f64,
    /// Denominator: number of tokens.
    pub count: f64,
}

/// A ratio of sums with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// θ and its interval; `n` is the number of clusters.
    pub interval: Interval,
    /// Cluster-robust standard error; `None` for one cluster.
    pub standard_error: Option<f64>,
    /// Design effect; `None` where either standard error is missing or zero.
    pub design_effect: Option<f64>,
}

/// The ratio of sums over `items`, clustered by `id`; `None` for no items, non-finite sums or a total count of 0.
pub fn ratio_interval(items: &[Cluster], confidence: f64) -> Option<Ratio> {
    let count: f64 = items.iter().map(|i| i.count).sum();
    let value = items.iter().map(|i| i.sum).sum::<f64>() / count;
    let sound = |i: &Cluster| i.sum.is_finite() && i.count.is_finite() && i.count >= 0.0;
    if !items.iter().all(sound) || count <= 0.0 || !value.is_finite() {
        return None;
    }
    let clusters = merge(items);
    let standard_error = standard_error(&clusters, value, count);
    let independent = self::standard_error(items, value, count);
    let design_effect = match (standard_error, independent) {
        (Some(clustered), Some(independent)) if independent > 0.0 => Some((clustered / independent).powi(2)),
        _ => None,
    };
    let bounds = standard_error.and_then(|se| {
        let half = t_two_sided(confidence, clusters.len() - 1)? * se;
        Some((value - half, value + half))
    });
    Some(Ratio { interval: Interval { value, bounds, n: clusters.len() }, standard_error, design_effect })
}

/// One entry per cluster, in the order of the ids.
fn merge(items: &[Cluster]) -> Vec<Cluster> {
    let mut sorted = items.to_vec();
    sorted.sort_by_key(|i| i.id);
    let mut clusters: Vec<Cluster> = Vec::new();
    for item in sorted {
        match clusters.last_mut() {
            Some(last) if last.id == item.id => {
                last.sum += item.sum;
                last.count += item.count;
            }
            _ => clusters.push(item),
        }
    }
    clusters
}

fn standard_error(units: &[Cluster], ratio: f64, count: f64) -> Option<f64> {
    if units.len() < 2 {
        return None;
    }
    let g = units.len() as f64;
    let residuals: f64 = units.iter().map(|u| (u.sum - ratio * u.count).powi(2)).sum();
    Some((g / (g - 1.0) * residuals).sqrt() / count).filter(|se| se.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(documents: &[&[f64]]) -> Vec<Cluster> {
        let of = |(id, values): (usize, &&[f64])| {
            values.iter().map(move |v| Cluster { id, sum: *v, count: 1.0 }).collect::<Vec<_>>()
        };
        documents.iter().enumerate().flat_map(of).collect()
    }

    /// The same formulas in numpy, `tools/golden/known_intervals.py`.
    #[test]
    fn known_clusters() {
        let documents: [&[f64]; 4] = [&[0.02, 0.03], &[0.01, -0.01, 0.0], &[0.05, 0.04], &[0.0, 0.01, 0.02, 0.01]];
        let got = ratio_interval(&items(&documents), 0.95).unwrap();
        assert!((got.interval.value - 0.0163636).abs() < 1e-7);
        assert!((got.standard_error.unwrap() - 0.0085515).abs() < 1e-7);
        assert!((got.design_effect.unwrap() - 2.4716).abs() < 1e-4);
        assert_eq!(got.interval.n, 4);
        let (low, high) = got.interval.bounds.unwrap();
        assert!((high - low - 2.0 * 3.182446 * 0.0085515).abs() < 1e-6);
    }

    #[test]
    fn order_of_items_does_not_matter_and_one_cluster_has_no_interval() {
        let mut shuffled = items(&[&[0.1, 0.2], &[0.3], &[0.0, 0.1]]);
        let before = ratio_interval(&shuffled, 0.9).unwrap();
        shuffled.reverse();
        assert!((ratio_interval(&shuffled, 0.9).unwrap().interval.value - before.interval.value).abs() < 1e-15);
        let single = ratio_interval(&items(&[&[0.1, 0.2]]), 0.95).unwrap();
        assert_eq!((single.interval.bounds, single.standard_error), (None, None));
    }

    #[test]
    fn senseless_items_have_no_ratio() {
        let item = |sum, count| Cluster { id: 0, sum, count };
        for items in [vec![], vec![item(1.0, 0.0)], vec![item(f64::NAN, 1.0)], vec![item(1.0, -1.0), item(1.0, 3.0)]] {
            assert_eq!(ratio_interval(&items, 0.95), None);
        }
    }

    #[test]
    fn identical_twins_tie_exactly() {
        let got = ratio_interval(&items(&[&[0.0], &[0.0], &[0.0]]), 0.95).unwrap();
        assert_eq!((got.interval.value, got.interval.bounds, got.design_effect), (0.0, Some((0.0, 0.0)), None));
    }
}
