//! Order statistics: quantiles, the median and its interval.

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

/// Median with the interval of [`quantile_interval`]; at 95 % it exists from six values on.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    quantile_interval(values, 0.5, confidence)
}

/// Quantile `p` with the narrowest interval of two order statistics that leaves out the true quantile with probability at
/// most `(1 - confidence) / 2` on each side, whatever the distribution: of n independent values, B binomial (n, p) lie
/// below it, so the l-th smallest is above it with `P(B < l)` and the u-th smallest below it with `P(B >= u)` (Thompson
/// 1936). No bounds where n is too small: p99 at 90 % needs 299 values. `None` for no or non-finite values, or p outside
/// (0, 1).
pub fn quantile_interval(values: &[f64], p: f64, confidence: f64) -> Option<Interval> {
    if !(p > 0.0 && p < 1.0) {
        return None;
    }
    let value = quantile(values, p)?;
    let n = values.len();
    let tail = (1.0 - confidence) / 2.0;
    let low = ranks_within(n, p, tail);
    // As many from above: the number of values above the quantile is binomial (n, 1 - p).
    let high = ranks_within(n, 1.0 - p, tail);
    let sorted = sorted(values);
    let bounds = (low > 0 && high > 0 && confidence > 0.0).then(|| (sorted[low - 1], sorted[n - high]));
    Some(Interval { value, bounds, n })
}

/// The largest k for which `P(B < k) <= tail`, B being binomial (n, p); 0 where there is none.
fn ranks_within(n: usize, p: f64, tail: f64) -> usize {
    let odds = (p / (1.0 - p)).ln();
    let (mut k, mut log_mass, mut below) = (0, n as f64 * (1.0 - p).ln(), 0.0);
    while k < n && below + log_mass.exp() <= tail {
        below += log_mass.exp();
        log_mass += ((n - k) as f64 / (k + 1) as f64).ln() + odds;
        k += 1;
    }
    k
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

    /// Ranks of the sign test's tables (scipy.stats.binom.ppf).
    #[test]
    fn intervals_of_the_median_have_the_tabulated_ranks() {
        for (n, k) in [(6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6), (40, 14)] {
            let values: Vec<f64> = (1..=n).rev().map(f64::from).collect();
            let got = median_interval(&values, 0.95).unwrap();
            assert_eq!(got.bounds, Some((f64::from(k), f64::from(n + 1 - k))), "n = {n}");
            assert_eq!((got.value, got.n), (f64::from(n + 1) / 2.0, n as usize));
        }
        assert_eq!(median_interval(&[3.0, 1.0, 2.0, 5.0, 4.0], 0.95).unwrap().bounds, None, "five are too few");
        assert_eq!(median_interval(&[], 0.95), None);
        assert!(median_interval(&[1.0; 100_000], 0.95).unwrap().bounds.is_some());
    }

    /// scipy.stats.binom, `tools/golden/known_intervals.py`.
    #[test]
    fn intervals_of_quantiles_have_scipys_ranks_or_too_few_values() {
        for (n, p, confidence, ranks) in [
            (299, 0.99, 0.9, Some((293, 299))),
            (298, 0.99, 0.9, None),
            (29, 0.9, 0.9, Some((23, 29))),
            (28, 0.9, 0.9, None),
            (200, 0.9, 0.95, Some((171, 189))),
        ] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let expected = ranks.map(|(low, high)| (f64::from(low), f64::from(high)));
            assert_eq!(quantile_interval(&values, p, confidence).unwrap().bounds, expected, "n = {n}, p = {p}");
        }
        assert_eq!(quantile_interval(&[1.0, 2.0], 1.0, 0.9), None);
    }
}
