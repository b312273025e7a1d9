//! Wilcoxon's signed-rank test, exact, and the Hodges-Lehmann estimate with the interval that inverts it.
//!
//! The estimate is the median of the `M = n(n+1)/2` Walsh averages `(x_i + x_j)/2, i <= j`; the interval runs from the
//! k-th smallest to the k-th largest of them, with the largest k for which `2 P(W < k) <= 1 - confidence` under the
//! exact null distribution of the signed-rank sum W (Hodges & Lehmann 1963; Hollander & Wolfe 1999, 3.2). It asks for
//! symmetry, not for normality, and is robust against spikes.

use super::{Interval, all_finite, order};

/// Hodges-Lehmann estimate; bounds only where n allows the `confidence` (95 %: from 6 on).
pub fn hodges_lehmann(values: &[f64], confidence: f64) -> Option<Interval> {
    if !all_finite(values) {
        return None;
    }
    let mut walsh = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (i, a) in values.iter().enumerate() {
        walsh.extend(values[i..].iter().map(|b| f64::midpoint(*a, *b)));
    }
    walsh.sort_by(f64::total_cmp);
    let bounds = rank(values.len(), confidence).map(|k| (walsh[k - 1], walsh[walsh.len() - k]));
    Some(Interval { value: order::median(&walsh)?, bounds, n: values.len() })
}

/// Largest k with `2 P(W < k) <= 1 - confidence`; `None` where even k = 1 is too much.
///
fn rank(n: usize, confidence: f64) -> Option<usize> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let mass = rank_sum_mass(1..=n);
    let mut below = 0.0;
    let k = mass.iter().take_while(|m| {
        below += *m;
        2.0 * below <= 1.0 - confidence
    });
    Some(k.count()).filter(|k| *k > 0)
}

/// `P(W = w)` for w from 0: the sum of those `ranks` whose fair coin shows heads. Each rank r in turn:
/// `p(w) <- (p(w) + p(w - r)) / 2`.
fn rank_sum_mass(ranks: impl IntoIterator<Item = usize>) -> Vec<f64> {
    let mut mass = vec![1.0];
    for rank in ranks {
        mass.resize(mass.len() + rank, 0.0);
        for w in (0..mass.len()).rev() {
            let shifted = if w >= rank { mass[w - rank] } else { 0.0 };
            mass[w] = f64::midpoint(mass[w], shifted);
        }
    }
    mass
}

/// One-sided p-value that the values' centre of symmetry is at most 0: the chance, were every sign a fair coin, of a sum
/// of the positive values' ranks at least as large as seen (Wilcoxon 1945). Zeros are left out and equal magnitudes share
/// their mean rank, for which the distribution stays exact. `None` for no or non-finite values.
pub fn signed_rank_p(values: &[f64]) -> Option<f64> {
    if !all_finite(values) {
        return None;
    }
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| *v != 0.0).collect();
    sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the rank, which is whole for shared ranks too.
    let mut doubled = Vec::with_capacity(sorted.len());
    for tied in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
        let first = doubled.len() + 1;
        doubled.extend(std::iter::repeat_n(2 * first + tied.len() - 1, tied.len()));
    }
    let seen: usize = sorted.iter().zip(&doubled).filter(|(v, _)| **v > 0.0).map(|(_, rank)| *rank).sum();
    Some(rank_sum_mass(doubled)[seen..].iter().sum::<f64>().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::super::mean::LOG_RATIOS;
    use super::*;

    #[test]
    fn ranks_agree_with_the_tables() {
        let expected =
            [(5, None), (6, Some(1)), (8, Some(4)), (10, Some(9)), (15, Some(26)), (20, Some(53)), (30, Some(138))];
        for (n, k) in expected {
            assert_eq!(rank(n, 0.95), k, "n = {n}");
        }
    }

    #[test]
    fn estimate_and_interval_of_the_known_blocks() {
        let got = hodges_lehmann(&LOG_RATIOS, 0.95).unwrap();
        let (low, high) = got.bounds.unwrap();
        assert!((got.value - 0.0275).abs() < 1e-12);
        assert!((low - 0.0185).abs() < 1e-12 && (high - 0.0375).abs() < 1e-12, "[{low}, {high}]");
    }

    /// scipy.stats.wilcoxon(alternative="greater", mode="exact"), `tools/golden/known_intervals.py`.
    #[test]
    fn p_values_agree_with_scipy() {
        for (centre, expected) in [(0.0, 0.0009765625), (0.0201, 0.0654296875), (0.0301, 0.75390625)] {
            let values = LOG_RATIOS.map(|v| v - centre);
            assert!((signed_rank_p(&values).unwrap() - expected).abs() < 1e-14, "{centre}");
        }
    }

    #[test]
    fn ties_share_ranks_and_zeros_tell_nothing() {
        // Ranks 1.5, 1.5, 3; positive 1.5 + 3 = 4.5: reached by 4.5, 4.5 and 6 of eight patterns.
        assert_eq!(signed_rank_p(&[1.0, -1.0, 2.0, 0.0]), Some(3.0 / 8.0));
        assert_eq!(signed_rank_p(&[0.0, 0.0]), Some(1.0));
        assert_eq!(signed_rank_p(&[-1.0, -2.0]), Some(1.0));
        assert_eq!((signed_rank_p(&[]), signed_rank_p(&[f64::NAN])), (None, None));
    }

    #[test]
    fn too_few_values_have_no_interval() {
        assert_eq!(hodges_lehmann(&LOG_RATIOS[..5], 0.95).unwrap().bounds, None);
        assert!(hodges_lehmann(&LOG_RATIOS[..5], 0.9).unwrap().bounds.is_some());
        assert_eq!(hodges_lehmann(&[], 0.95), None);
        assert_eq!(hodges_lehmann(&[f64::NAN; 8], 0.95), None);
    }

    #[test]
    fn one_spike_moves_the_mean_but_not_this() {
        let mut values = LOG_RATIOS;
        values[0] = 5.0;
        assert!(hodges_lehmann(&values, 0.95).unwrap().value < 0.04);
        assert!(super::super::mean(&values).unwrap() > 0.5);
    }
}
