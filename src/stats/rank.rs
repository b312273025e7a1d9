//! Spearman's rank correlation.

/// Correlation of the ranks of `a` and `b` (Spearman 1904); equal values share the mean of their ranks. `None` where the
/// lengths differ, there are fewer than two pairs, a value is NaN, or all values of one side are equal.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 || a.iter().chain(b).any(|v| v.is_nan()) {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let correlation = sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt();
    correlation.is_finite().then_some(correlation)
}

/// Ranks from 0.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let shared = start as f64 + (equal.len() as f64 - 1.0) / 2.0;
        equal.iter().for_each(|&at| ranks[at] = shared);
        start += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let close = |a: &[f64], b: &[f64], expected: f64| {
            let got = rank_correlation(a, b).unwrap();
            assert!((got - expected).abs() < 1e-12, "{got} against {expected}");
        };
        close(&[1.0, 2.0, 3.0], &[10.0, 20.0, 1000.0], 1.0);
        close(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0], -1.0);
        // 1 - 6 * sum of d^2 / (n (n^2 - 1)) = 1 - 6 * 8 / 120.
        close(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 5.0, 3.0, 4.0], 0.6);
        // With a tie, by scipy.stats.spearmanr.
        close(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0], 0.948_683_298_050_513_8);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(rank_correlation(&[1.0], &[1.0]), None);
        assert_eq!(rank_correlation(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[1.0, f64::NAN], &[1.0, 2.0]), None);
    }
}
