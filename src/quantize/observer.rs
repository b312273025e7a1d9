//! Which range of numbers the codes of a group cover: the [`Observer`] of a scheme.
//!
//! Min-max covers all values. The other two look for the scale (and zero point) of least squared error
//! `Σ h (w - s (q - z))²`: many starting ranges, wider and narrower than the values', are rounded to; given their codes,
//! the best scale is a weighted least-squares fit, `s = Σ h w u / Σ h u²` with `u = q - z`, whose error is
//! `Σ h w² - (Σ h w u)² / Σ h u²`. The best start is refined by rounding and fitting in turns. A symmetric grid may get
//! a negative scale: its codes reach one step further below zero than above, and the sign turns that step to the side
//! that needs it (as llama.cpp's Q4_0 does). The importance `h` is 1 for `mse` and `E[x²]` of the weight's input for
//! `imatrix_mse`, the diagonal of the Hessian (llama.cpp's importance matrix).

use super::InputStatistics;
use super::grid::{Grid, round};
use crate::suite::{Observer, WeightScheme};
use crate::tensor::Granularity;

/// Starting scales as shares of the scale that spans the values.
const START_SHARES: std::ops::RangeInclusive<u8> = 8..=23;
/// What a unit of [`START_SHARES`] is.
const SHARE: f32 = 0.05;
/// Rounds of fitting after the best start.
const REFINEMENTS: usize = 3;
/// Importance of an input that calibration never saw, as a share of the mean: as GPTQ's damping.
const UNSEEN: f64 = 0.01;

/// How much the error of each column counts, `(cols)`.
///
/// # Errors
/// `imatrix_mse` without statistics.
pub(super) fn importance(
    scheme: WeightScheme,
    statistics: Option<&InputStatistics>,
    cols: usize,
) -> Result<Vec<f32>, String> {
    match (scheme.observer, statistics) {
        (Observer::MinMax | Observer::Mse, _) => Ok(vec![1.0; cols]),
        (Observer::ImatrixMse, None) => Err("observer \"imatrix_mse\" needs calibration statistics".into()),
        (Observer::ImatrixMse, Some(statistics)) => Ok(from_diagonal(statistics.hessian.diag().iter().copied(), cols)),
    }
}

/// Importances that sum to the number of columns; those near 0 are raised.
fn from_diagonal(diagonal: impl Iterator<Item = f64> + Clone, cols: usize) -> Vec<f32> {
    let mean = diagonal.clone().sum::<f64>() / cols as f64;
    if mean == 0.0 {
        return vec![1.0; cols];
    }
    diagonal.map(|value| (value / mean).max(UNSEEN) as f32).collect()
}

/// The grid of `values`, whose columns count by `importance`; values of several rows follow each other, each with as
/// many columns as there are importances.
pub(super) fn grid(values: &[f32], importance: &[f32], scheme: WeightScheme) -> Grid {
    let covering = Grid::covering(values, scheme.bits, scheme.symmetric);
    match scheme.observer {
        Observer::MinMax => covering,
        Observer::Mse | Observer::ImatrixMse => least_error(covering, values, importance, scheme),
    }
}

/// The one grid of a tensor, for [`Granularity::Tensor`]; `None` where rows or groups have grids of their own.
pub(super) fn shared_grid(values: &[f32], importance: &[f32], scheme: WeightScheme) -> Option<Grid> {
    (scheme.granularity == Granularity::Tensor).then(|| grid(values, importance, scheme))
}

/// The grid of least weighted squared error that the search finds; never worse than `covering`.
fn least_error(covering: Grid, values: &[f32], importance: &[f32], scheme: WeightScheme) -> Grid {
    let mut best: Option<(f64, Grid)> = None;
    for start in starts(covering, values, scheme) {
        let (along, square) = moments(start, values, importance);
        let gain = along * along / square;
        // Comparing with nothing or with a smaller number; a start whose codes are all zero gains NaN.
        if gain > best.map_or(0.0, |(gain, _)| gain) {
            best = Some((gain, start.with_scale((along / square) as f32)));
        }
    }
    let Some((_, mut found)) = best else { return covering };
    for _ in 0..REFINEMENTS {
        let (along, square) = moments(found, values, importance);
        if along != 0.0 {
            found = found.with_scale((along / square) as f32);
        }
    }
    let found = found.stored();
    if squared_error(found, values, importance) < squared_error(covering, values, importance) {
        found
    } else {
        covering
    }
}

/// Grids narrower and wider than `covering`: of both signs for symmetric grids, with neighbouring zero points else.
fn starts(covering: Grid, values: &[f32], scheme: WeightScheme) -> impl Iterator<Item = Grid> {
    let min = values.iter().fold(0.0f32, |min, &v| min.min(v));
    let (signs, shifts) = if scheme.symmetric { (&[1.0f32, -1.0][..], 0..=0) } else { (&[1.0][..], -1..=1) };
    START_SHARES.flat_map(move |share| {
        let scale = covering.scale() * f32::from(share) * SHARE;
        let shifts = shifts.clone();
        signs.iter().flat_map(move |sign| {
            shifts.clone().map(move |shift| match scheme.symmetric {
                true => covering.with_scale(sign * scale),
                false => covering.with_scale(scale).reaching(min * f32::from(share) * SHARE, shift),
            })
        })
    })
}

/// `Σ h w u` and `Σ h u²` with `u` the distances of the codes of `values` from the zero point.
fn moments(grid: Grid, values: &[f32], importance: &[f32]) -> (f64, f64) {
    /// Sums that run side by side, so that a processor's vector unit can.
    const LANES: usize = 8;
    let (inverse, (low, high)) = (1.0 / grid.scale(), grid.distances());
    let (mut along, mut square) = (0.0f64, 0.0f64);
    for row in values.chunks(importance.len()) {
        let (mut row_along, mut row_square) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (values, importance) in row.chunks(LANES).zip(importance.chunks(LANES)) {
            for (lane, (&w, &h)) in values.iter().zip(importance).enumerate() {
                let u = round((w * inverse).clamp(low, high));
                row_along[lane] += h * w * u;
                row_square[lane] += h * u * u;
            }
        }
        along += row_along.iter().map(|&v| f64::from(v)).sum::<f64>();
        square += row_square.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (along, square)
}

/// `Σ h (w - ŵ)²`.
fn squared_error(grid: Grid, values: &[f32], importance: &[f32]) -> f64 {
    let error = |(&w, &h): (&f32, &f32)| f64::from(h) * f64::from(w - grid.value(grid.code(w))).powi(2);
    values.chunks(importance.len()).map(|row| row.iter().zip(importance).map(error).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn scheme(bits: u8, symmetric: bool) -> WeightScheme {
        WeightScheme { bits, granularity: Granularity::Channel, group_size: None, symmetric, observer: Observer::Mse }
    }

    /// The least error over a fine raster of all scales of both signs and all zero points.
    fn exhaustive(values: &[f32], importance: &[f32], scheme: WeightScheme) -> f64 {
        let covering = Grid::covering(values, scheme.bits, scheme.symmetric);
        let mut least = f64::INFINITY;
        for step in 1..=1200 {
            for sign in [1.0, -1.0] {
                let grid = covering.with_scale(sign * covering.scale() * step as f32 / 1000.0);
                let shifts = if scheme.symmetric { 0..=0 } else { -(1 << scheme.bits)..=1 << scheme.bits };
                for shift in shifts {
                    let grid = if scheme.symmetric { grid } else { grid.reaching(0.0, shift) };
                    least = least.min(squared_error(grid, values, importance));
                }
            }
        }
        least
    }

    proptest! {
        #[test]
        fn the_search_is_never_worse_than_min_max(
            values in prop::collection::vec(-1.0f32..1.0, 32),
            importance in prop::collection::vec(0.01f32..3.0, 32), symmetric: bool, bits in 3u8..=4,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v.powi(3)).collect();
            let scheme = scheme(bits, symmetric);
            let found = squared_error(grid(&values, &importance, scheme), &values, &importance);
            let covering = squared_error(Grid::covering(&values, bits, symmetric), &values, &importance);
            prop_assert!(found <= covering);
        }
    }

    #[test]
    fn the_search_comes_close_to_trying_everything() {
        let mut random = StdRng::seed_from_u64(5);
        for (bits, symmetric) in [(3, true), (3, false), (4, true), (4, false)] {
            let mut ratios: Vec<f64> = (0..40)
                .map(|_| {
                    let values: Vec<f32> = (0..32).map(|_| random.random_range(-1.0f32..1.0).powi(3)).collect();
                    let importance: Vec<f32> = (0..32).map(|_| random.random_range(0.01f32..3.0)).collect();
                    let scheme = scheme(bits, symmetric);
                    let found = squared_error(grid(&values, &importance, scheme), &values, &importance);
                    found / exhaustive(&values, &importance, scheme)
                })
                .collect();
            ratios.sort_by(f64::total_cmp);
            let case = format!("{bits} bits: {ratios:?}");
            assert!(ratios[20] < 1.02 && ratios[39] < 1.25, "{case}");
        }
    }

    #[test]
    fn a_grid_that_fits_exactly_is_found() {
        let values: Vec<f32> = (-8..8).map(|code| 0.25 * code as f32).collect();
        for values in [values.clone(), values.iter().map(|v| -v).collect()] {
            let grid = grid(&values, &[1.0; 16], scheme(4, true));
            assert_eq!(squared_error(grid, &values, &[1.0; 16]), 0.0, "{grid:?}");
        }
        let shifted: Vec<f32> = (-2..14).map(|code| 0.5 * code as f32).collect();
        assert_eq!(squared_error(grid(&shifted, &[1.0; 16], scheme(4, false)), &shifted, &[1.0; 16]), 0.0);
    }

    #[test]
    fn important_values_are_met_better() {
        let values = [1.0f32, 0.37, -0.61, 0.22, -0.18, 0.44, -0.09, 0.53];
        let error_of = |at: usize, importance: f32| {
            let mut importances = [1.0; 8];
            importances[at] = importance;
            let grid = grid(&values, &importances, scheme(3, true));
            (values[at] - grid.value(grid.code(values[at]))).abs()
        };
        for at in 0..8 {
            assert!(error_of(at, 1e4) <= error_of(at, 1.0) && error_of(at, 1e4) < 0.01, "value {at}");
        }
    }

    #[test]
    fn zeros_and_single_values_have_grids() {
        for symmetric in [true, false] {
            assert_eq!(grid(&[0.0; 4], &[1.0; 4], scheme(4, symmetric)).scale(), 1.0);
            for value in [3e-9f32, -0.7, 2e30] {
                let grid = grid(&[value; 4], &[1.0; 4], scheme(4, symmetric));
                assert!((grid.value(grid.code(value)) - value).abs() <= 1e-3 * value.abs(), "{value}: {grid:?}");
            }
        }
    }

    #[test]
    fn unseen_inputs_count_a_little() {
        assert_eq!(from_diagonal([0.0, 4.0, 0.0, 0.0].into_iter(), 4), [0.01, 4.0, 0.01, 0.01]);
        assert_eq!(from_diagonal([0.0, 0.0].into_iter(), 2), [1.0, 1.0]);
    }
}
