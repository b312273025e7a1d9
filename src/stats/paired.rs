//! Difference of two proportions over the same items, some of which share a cluster (document).
//!
//! With `d_i` in {-1, 0, 1} for item i lost, unchanged or won, the estimate is the mean of d. Two intervals are made and
//! the wider bound of each side is taken:
//!
//! - the cluster-robust Student-t interval of [`super::ratio_interval`] (Miller 2024, arXiv:2411.00640). It fails where
//!   few items differ: without any, its width is zero;
//! - the score interval for paired proportions (Tango 1998, Statistics in Medicine 17:891), which inverts the test of
//!   every possible difference and never has zero width. Clusters enter by their design effect: counts are divided by it
//!   (Rao & Scott 1992, Biometrics 48:577), and the quantile is Student's over the clusters. As too few differing items
//!   tell nothing about how alike the items of a cluster are, the design effect is the largest of that of d, that of
//!   the first proportion's items, and 1.

use super::Interval;
use super::ratio::{Cluster, Ratio, ratio_interval};
use super::student::t_two_sided;

/// One item asked twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairedItem {
    /// Cluster.
    pub id: usize,
    /// Right the first time (the reference).
    pub before: bool,
    /// Right the second time.
    pub after: bool,
}

/// A proportion or a difference of proportions, with the design effect that widened it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proportion {
    /// Estimate; `n` is the number of clusters.
    pub interval: Interval,
    /// By how much resembling items count less than independent ones, at least 1.
    pub design_effect: f64,
}

/// Share of `after` minus share of `before`; `None` without items, without bounds for a single cluster.
pub fn paired_difference(items: &[PairedItem], confidence: f64) -> Option<Proportion> {
    let number = |yes: bool| f64::from(u8::from(yes));
    let over = |value: &dyn Fn(&PairedItem) -> f64| clustered(items.iter().map(|i| (i.id, value(i))), confidence);
    let difference = over(&|i| number(i.after) - number(i.before))?;
    let before = over(&|i| number(i.before))?;
    let design_effect = larger_effect(&[difference, before]);
    let count = |wanted: (bool, bool)| items.iter().filter(|i| (i.before, i.after) == wanted).count() as f64;
    let (won, lost, n) = (count((false, true)), count((true, false)), items.len() as f64);
    let mut interval = difference.interval;
    interval.bounds = interval.bounds.and_then(|(low, high)| {
        let critical = t_two_sided(confidence, interval.n - 1)?;
        let score = tango(won / design_effect, lost / design_effect, n / design_effect, critical);
        Some((low.min(score.0), high.max(score.1)))
    });
    Some(Proportion { interval, design_effect })
}

/// Share of items that are right, each with its cluster: Wilson's score interval (Wilson 1927, JASA 22:209) at the
/// effective number of items, with Student's quantile over the clusters (Korn & Graubard 1998).
pub fn proportion(items: &[(usize, bool)], confidence: f64) -> Option<Proportion> {
    let ratio = clustered(items.iter().map(|(id, right)| (*id, f64::from(u8::from(*right)))), confidence)?;
    let design_effect = larger_effect(&[ratio]);
    let mut interval = ratio.interval;
    interval.bounds = interval.bounds.and_then(|_| {
        let critical = t_two_sided(confidence, interval.n - 1)?;
        Some(wilson(interval.value, items.len() as f64 / design_effect, critical))
    });
    Some(Proportion { interval, design_effect })
}

fn clustered(items: impl Iterator<Item = (usize, f64)>, confidence: f64) -> Option<Ratio> {
    let items: Vec<Cluster> = items.map(|(id, sum)| Cluster { id, sum, count: 1.0 }).collect();
    ratio_interval(&items, confidence)
}

fn larger_effect(ratios: &[Ratio]) -> f64 {
    ratios.iter().filter_map(|ratio| ratio.design_effect).fold(1.0, f64::max)
}

/// Wilson's interval of a share of `n`.
pub(super) fn wilson(share: f64, n: f64, critical: f64) -> (f64, f64) {
    let z2 = critical * critical;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = critical / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Tango's interval of `(won - lost) / n`: all differences `δ` with
/// `|won - lost - nδ| <= critical √(n (2q + δ(1 - δ)))`, q being the share of lost items that is likeliest under δ.
fn tango(won: f64, lost: f64, n: f64, critical: f64) -> (f64, f64) {
    let value = (won - lost) / n;
    // Above 0 where the difference δ is too small to be believed (`side` 1), or too large (`side` -1).
    let excess = |delta: f64, side: f64| {
        let b = (2.0 * n - won + lost) * delta - won - lost;
        let root = (b * b + 8.0 * n * lost * delta * (1.0 - delta)).max(0.0).sqrt();
        let q = (root - b) / (4.0 * n);
        let variance = (n * (2.0 * q + delta * (1.0 - delta))).max(0.0);
        side * (won - lost - n * delta) - critical * variance.sqrt()
    };
    let bound = |side: f64| {
        let (mut outside, mut inside) = (-side, value);
        for _ in 0..200 {
            let middle = f64::midpoint(outside, inside);
            if excess(middle, side) > 0.0 { outside = middle } else { inside = middle }
        }
        inside
    };
    (bound(1.0), bound(-1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published examples (Tango 1998; Fagerland, Lydersen & Laake 2014, table 6).
    #[test]
    fn tango_agrees_with_published_intervals() {
        let z = 1.959963984540054;
        for ((won, lost, n), (low, high)) in
            [((1.0, 7.0, 21.0), (-0.51723, -0.02600)), ((18.0, 26.0, 2000.0), (-0.010907, 0.002608))]
        {
            let got = tango(won, lost, n, z);
            assert!((got.0 - low).abs() < 1e-5 && (got.1 - high).abs() < 1e-5, "{got:?}");
        }
    }

    #[test]
    fn tango_mirrors_and_is_never_of_no_width() {
        let (low, high) = tango(3.0, 9.0, 100.0, 2.0);
        let mirrored = tango(9.0, 3.0, 100.0, 2.0);
        assert!((low + mirrored.1).abs() < 1e-12 && (high + mirrored.0).abs() < 1e-12);
        let (low, high) = tango(0.0, 0.0, 400.0, 2.0);
        assert!((low + 4.0 / 404.0).abs() < 1e-9 && (high - 4.0 / 404.0).abs() < 1e-9, "{low} {high}");
        assert_eq!(tango(0.0, 5.0, 5.0, 2.0).0, -1.0);
    }

    fn items(clusters: usize, of_each: usize, lost: usize) -> Vec<PairedItem> {
        let item = |at: usize| PairedItem {
            id: at / of_each,
            before: !at.is_multiple_of(3),
            after: at >= lost && !at.is_multiple_of(3),
        };
        (0..clusters * of_each).map(item).collect()
    }

    #[test]
    fn no_discordant_pair_proves_little() {
        let same = paired_difference(&items(40, 5, 0), 0.95).unwrap();
        let (low, high) = same.interval.bounds.unwrap();
        assert_eq!(same.interval.value, 0.0);
        assert!(low < -0.015 && high > 0.015, "200 items cannot prove a difference of less than a point: {low} {high}");
        assert_eq!(paired_difference(&items(1, 5, 0), 0.95).unwrap().interval.bounds, None);
        assert_eq!(paired_difference(&[], 0.95), None);
    }

    #[test]
    fn clusters_that_change_together_widen() {
        let clustered = paired_difference(&items(40, 5, 20), 0.95).unwrap();
        let mut scattered = items(40, 5, 20);
        scattered.iter_mut().enumerate().for_each(|(at, item)| item.id = at % 40);
        let scattered = paired_difference(&scattered, 0.95).unwrap();
        let width = |p: &Proportion| p.interval.bounds.map(|(low, high)| high - low).unwrap();
        assert!(clustered.design_effect > 2.0 && width(&clustered) > 1.5 * width(&scattered));
    }

    /// Wilson's interval of 15 of 20, by hand.
    #[test]
    fn a_share_has_wilsons_interval() {
        let (low, high) = wilson(0.75, 20.0, 1.959963984540054);
        assert!((low - 0.53130).abs() < 1e-5 && (high - 0.88814).abs() < 1e-5, "{low} {high}");
        let all: Vec<(usize, bool)> = (0..50).map(|at| (at, true)).collect();
        let (low, high) = proportion(&all, 0.95).unwrap().interval.bounds.unwrap();
        assert!(low < 0.95 && high == 1.0, "{low} {high}");
    }
}
