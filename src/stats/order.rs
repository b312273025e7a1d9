//! Order statistics: quantiles, and the median with its distribution-free interval.
//!
//! The interval between the l-th smallest and the l-th largest of n values contains the median with probability
//! `1 - 2 P(Bin(n, 1/2) < l)`, whatever the distribution (Thompson 1936).

use super::{Interval, all_finite};

/// Quantile `p` by linear interpolation between order statistics (Hyndman & Fan 1996, type 7).
pub fn quantile(values: &[f64], p: f64) -> Option<f64> {
    if !all_finite(values) || !(0.0..=1.0).contains(&p) {
        return None;
    }
    let sorted = sorted(values);
    let at = p * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = at.ceil() as usize;
    Some(sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64))
}

/// Median; `None` for no or non-finite values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Median with its order-statistics interval; bounds only where n allows the `confidence` (95 %: from 6 on).
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let value = median(values)?;
    let sorted = sorted(values);
    let n = sorted.len();
    let bounds = median_rank(n, confidence).map(|rank| (sorted[rank - 1], sorted[n - rank]));
    Some(Interval { value, bounds, n })
}

/// Largest l with `2 P(Bin(n, 1/2) < l) <= 1 - confidence`; `None` where even l = 1 is too much.
fn median_rank(n: usize, confidence: f64) -> Option<usize> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let alpha = 1.0 - confidence;
    let mut rank = 0;
    let mut mass = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut below = mass;
    while 2.0 * below <= alpha && rank < n / 2 {
        rank += 1;
        mass *= (n - rank + 1) as f64 / rank as f64;
        below += mass;
    }
    (rank > 0).then_some(rank)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::super::mean::LOG_RATIOS;
    use super::*;

    #[test]
    fn ranks_agree_with_the_tables() {
        let expected = [(5, None), (6, Some(1)), (10, Some(2)), (15, Some(4)), (20, Some(6)), (30, Some(10))];
        for (n, rank) in expected {
            assert_eq!(median_rank(n, 0.95), rank, "n = {n}");
        }
    }

    #[test]
    fn interval_of_the_known_blocks() {
        let got = median_interval(&LOG_RATIOS, 0.95).unwrap();
        assert!((got.value - 0.0275).abs() < 1e-12);
        assert_eq!(got.bounds, Some((0.015, 0.044)));
        assert_eq!(median_interval(&LOG_RATIOS[..5], 0.95).unwrap().bounds, None);
    }

    /// numpy.quantile, `tools/golden/known_intervals.py`.
    #[test]
    fn quantiles_agree_with_numpy() {
        for (p, expected) in [(0.0, 0.009), (0.25, 0.019), (0.9, 0.0447), (1.0, 0.051)] {
            assert!((quantile(&LOG_RATIOS, p).unwrap() - expected).abs() < 1e-12, "p = {p}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0], 1.5), None);
        assert_eq!(median(&[1.0, f64::INFINITY]), None);
    }
}
