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

/// Median with the narrowest interval of two order statistics, the k-th from either end, that covers the true median with
/// at least `confidence` whatever the distribution: `P(B < k) <= (1 - confidence) / 2` for B binomial (n, 1/2) (Thompson
/// 1936). At 95 % it exists from six values on. `None` for no, more than a thousand or non-finite values.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let value = median(values)?;
    let n = values.len();
    // Above, the first term is too small for a double.
    let exponent = i32::try_from(n).ok().filter(|n| *n <= 1000)?;
    let (mut k, mut term, mut below) = (0, 0.5f64.powi(exponent), 0.0);
    while k < n.div_ceil(2) && below + term <= (1.0 - confidence) / 2.0 {
        below += term;
        term *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    let sorted = sorted(values);
    let bounds = (k > 0).then(|| (sorted[k - 1], sorted[n - k]));
    Some(Interval { value, bounds, n })
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
        assert!(median_interval(&[1.0; 1000], 0.95).unwrap().bounds.is_some());
        assert_eq!(median_interval(&[1.0; 1001], 0.95), None);
    }
}
