//! Quantiles of Student's t distribution (Student 1908) and of the normal one, from `statrs`.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Quantile `p` of Student's t with `df` degrees of freedom; `None` unless `0 < p < 1` and `df >= 1`.
pub fn t_quantile(p: f64, df: usize) -> Option<f64> {
    if !(p > 0.0 && p < 1.0) || df == 0 {
        return None;
    }
    let distribution = StudentsT::new(0.0, 1.0, df as f64).ok()?;
    Some(distribution.inverse_cdf(p)).filter(|t| t.is_finite())
}

/// Half the width of a two-sided interval in standard errors: quantile `(1 + confidence) / 2`.
pub(super) fn t_two_sided(confidence: f64, df: usize) -> Option<f64> {
    if confidence > 0.0 { t_quantile(f64::midpoint(1.0, confidence), df) } else { None }
}

/// Quantile `p` of the standard normal distribution; `None` unless `0 < p < 1`.
pub fn normal_quantile(p: f64) -> Option<f64> {
    (p > 0.0 && p < 1.0).then(|| Normal::standard().inverse_cdf(p)).filter(|z| z.is_finite())
}

/// As [`t_two_sided`] without limit of the degrees of freedom.
pub(super) fn normal_two_sided(confidence: f64) -> Option<f64> {
    if confidence > 0.0 { normal_quantile(f64::midpoint(1.0, confidence)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy.stats.t.ppf, `tools/golden/known_intervals.py`.
    #[test]
    fn quantiles_agree_with_scipy() {
        for (p, df, expected) in [
            (0.975, 1, 12.706204736174694),
            (0.975, 9, 2.262157162798206),
            (0.95, 29, 1.6991270265334972),
            (0.995, 5, 4.032142983555228),
            (0.6, 3, 0.2766706623326898),
        ] {
            let got = t_quantile(p, df).unwrap();
            assert!((got - expected).abs() < 1e-7, "t({p}, {df}) = {got}, expected {expected}");
        }
    }

    #[test]
    fn impossible_arguments_have_no_quantile() {
        for (p, df) in [(0.0, 3), (1.0, 3), (f64::NAN, 3), (0.9, 0), (-1.0, 3)] {
            assert_eq!(t_quantile(p, df), None);
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(f64::NAN), normal_two_sided(0.0)), (None, None, None));
        assert!((normal_two_sided(0.95).unwrap() - 1.959963984540054).abs() < 1e-9);
        assert_eq!(t_two_sided(0.0, 3), None);
        assert_eq!(t_two_sided(1.0, 3), None);
    }
}
