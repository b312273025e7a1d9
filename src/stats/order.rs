//! Order statistics: quantiles and the median.

use super::all_finite;

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
}
