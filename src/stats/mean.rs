//! Mean with Student's t interval: `x̄ ± t_{n-1} s/√n` (Student 1908).

use super::student::t_two_sided;
use super::{Interval, all_finite};

/// Arithmetic mean; `None` for no or non-finite values.
pub fn mean(values: &[f64]) -> Option<f64> {
    all_finite(values).then(|| values.iter().sum::<f64>() / values.len() as f64).filter(|m| m.is_finite())
}

/// Variance of a sample; `None` for fewer than two values or non-finite ones.
pub fn variance(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    Some(values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64)
}

/// Mean with its t interval at a two-sided `confidence`; bounds from two values on.
pub fn mean_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let n = values.len();
    let value = mean(values)?;
    Some(Interval { value, bounds: bounds(values, value, confidence), n })
}

fn bounds(values: &[f64], mean: f64, confidence: f64) -> Option<(f64, f64)> {
    let t = t_two_sided(confidence, values.len() - 1)?;
    let half = t * (variance(values)? / values.len() as f64).sqrt();
    half.is_finite().then_some((mean - half, mean + half))
}

/// Log speedups of ten blocks, used by several known answers; `tools/golden/known_intervals.py`.
#[cfg(test)]
pub(super) const LOG_RATIOS: [f64; 10] = [0.031, 0.018, 0.044, 0.026, 0.009, 0.037, 0.022, 0.051, 0.015, 0.029];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_that_of_a_sample() {
        assert_eq!(variance(&[1.0, 2.0, 3.0, 4.0]).map(f64::sqrt), Some((5.0_f64 / 3.0).sqrt()));
        assert_eq!((variance(&[1.0]), variance(&[])), (None, None));
    }

    #[test]
    fn interval_agrees_with_scipy() {
        let got = mean_interval(&LOG_RATIOS, 0.95).unwrap();
        let (low, high) = got.bounds.unwrap();
        assert!((got.value - 0.0282).abs() < 1e-12);
        assert!((low - 0.018825457680).abs() < 1e-10, "{low}");
        assert!((high - 0.037574542320).abs() < 1e-10, "{high}");
        assert!((got.value.exp() - 1.028601).abs() < 1e-6);
    }

    #[test]
    fn one_value_has_no_interval_and_no_value_no_mean() {
        assert_eq!(mean_interval(&[2.0], 0.95).unwrap().bounds, None);
        assert_eq!(mean_interval(&[], 0.95), None);
        assert_eq!(mean_interval(&[1.0, f64::NAN], 0.95), None);
        assert_eq!(mean_interval(&[f64::MAX, f64::MAX], 0.95), None);
    }

    #[test]
    fn higher_confidence_contains_lower() {
        let narrow = mean_interval(&LOG_RATIOS, 0.8).unwrap().bounds.unwrap();
        let wide = mean_interval(&LOG_RATIOS, 0.99).unwrap().bounds.unwrap();
        assert!(wide.0 < narrow.0 && narrow.1 < wide.1);
    }
}
