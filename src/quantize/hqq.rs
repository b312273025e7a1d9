//! HQQ, half-quadratic quantization (Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning
//! Models"): the grid of a group is fitted under a norm that large errors hardly move, without calibration data.
//!
//! `Σ |w - s (q - z)|^p` with `p` = 0.7 is lowered through a second variable `e` that stands for the errors:
//! `Σ |e|^p + β/2 Σ (w - s (q - z) - e)²`. In turns codes are rounded, `e` is the error shrunk towards 0,
//! `sign(r) max(|r| - |r|^(p-1) / β, 0)`, and the grid is the least-squares fit to `w - e`; `β` grows by 1 % a round.
//!
//! Differences to the authors' code: zero points here are whole numbers, which a mean over a group hardly ever moves to
//! the next one, so the fit moves the scale too (theirs keeps it and moves a real zero point); errors are measured in
//! steps of the grid, so that the result does not depend on the size of the weights; the round of least norm is kept.

use super::grid::Grid;
use super::rtn::round_groups;
use super::{InputStatistics, Quantizer};
use crate::suite::WeightScheme;
use crate::tensor::QuantizedTensor;

/// Exponent of the norm.
const NORM: f64 = 0.7;
/// Starting weight of the quadratic part, and its growth a round.
const BETA: f64 = 10.0;
const GROWTH: f64 = 1.01;
/// Most rounds.
const ROUNDS: usize = 20;

/// HQQ for scales and whole zero points.
#[derive(Debug, Clone, Copy)]
pub struct Hqq;

impl Quantizer for Hqq {
    fn name(&self) -> &'static str {
        "hqq"
    }

    fn needs_calibration(&self) -> bool {
        false
    }

    fn round(
        &self,
        values: &[f32],
        shape: (usize, usize),
        scheme: WeightScheme,
        _: Option<&InputStatistics>,
    ) -> Result<QuantizedTensor, String> {
        round_groups(values, shape, scheme, &|group, _| solve(group, scheme))
    }
}

/// The grid of `values`; never of a larger norm than that which covers them.
fn solve(values: &[f32], scheme: WeightScheme) -> Grid {
    let mut grid = Grid::covering(values, scheme.bits, scheme.symmetric);
    let mut best = (norm(grid, values), grid);
    let mut beta = BETA;
    for _ in 0..ROUNDS {
        let Some(fitted) = fit(grid, values, beta, scheme.symmetric) else { break };
        grid = fitted.stored();
        let norm = norm(grid, values);
        if norm < best.0 {
            best = (norm, grid);
        }
        beta *= GROWTH;
    }
    best.1
}

/// `Σ |w - ŵ|^p`.
fn norm(grid: Grid, values: &[f32]) -> f64 {
    values.iter().map(|&w| f64::from((w - grid.value(grid.code(w))).abs()).powf(NORM)).sum()
}

/// The least-squares fit of the grid's scale and zero point to `w - e`, codes being those of `grid`; `None` where the
/// codes are all the same and say nothing of a scale.
fn fit(grid: Grid, values: &[f32], beta: f64, symmetric: bool) -> Option<Grid> {
    let scale = f64::from(grid.scale());
    let pairs = values.iter().map(|&w| {
        let code = grid.code(w);
        let error = f64::from(w - grid.value(code)) / scale;
        (f64::from(code), f64::from(w) - scale * shrunk(error, beta))
    });
    let count = values.len() as f64;
    let (codes, targets) = pairs.clone().fold((0.0, 0.0), |(q, v), (code, target)| (q + code, v + target));
    let (mean_code, mean_target) = if symmetric { (0.0, 0.0) } else { (codes / count, targets / count) };
    let (along, square) = pairs.fold((0.0, 0.0), |(along, square), (code, target)| {
        (along + (code - mean_code) * (target - mean_target), square + (code - mean_code).powi(2))
    });
    let fitted = along / square;
    if !(fitted > 0.0 && fitted.is_finite()) {
        return None;
    }
    let zero_point = (mean_code - mean_target / fitted).round_ties_even() as i32;
    Some(grid.with_scale(fitted as f32).with_zero_point(zero_point))
}

/// The error that the norm rather keeps than pays for: `r` shrunk towards 0.
fn shrunk(r: f64, beta: f64) -> f64 {
    if r == 0.0 { 0.0 } else { r.signum() * (r.abs() - r.abs().powf(NORM - 1.0) / beta).max(0.0) }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::quantize::Rtn;
    use crate::suite::Observer;
    use crate::tensor::Granularity;

    fn scheme(bits: u8, symmetric: bool) -> WeightScheme {
        let (granularity, group_size) = (Granularity::Group, Some(32));
        WeightScheme { bits, granularity, group_size, symmetric, observer: Observer::MinMax }
    }

    /// Weights of a bell shape with some outliers.
    fn weights(rows: usize, cols: usize) -> Array2<f32> {
        let mut random = StdRng::seed_from_u64(3);
        Array2::from_shape_simple_fn((rows, cols), || {
            let bell: f32 = (0..6).map(|_| random.random_range(-0.02f32..0.02)).sum();
            if random.random_range(0..50) == 0 { 3.0 * bell } else { bell }
        })
    }

    /// The same iteration written out for one symmetric group, in f64.
    fn by_definition(values: &[f32], bits: u8) -> f64 {
        let (low, high) = (-f64::from(1 << (bits - 1)), f64::from((1 << (bits - 1)) - 1));
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let as_stored = |scale: f64| f64::from(half::f16::from_f32(scale as f32).to_f32());
        let error = |w: f32, s: f64| {
            let q = (f64::from(w) / s).round_ties_even().clamp(low, high);
            (q, f64::from(w) - s * q)
        };
        let mut scale = as_stored(2.0 * f64::from(largest) / (high - low));
        let mut beta = 10.0;
        let mut tried = vec![scale];
        for _ in 0..20 {
            let (mut along, mut square) = (0.0, 0.0);
            for &w in values {
                let (q, r) = error(w, scale);
                let steps = r / scale;
                let kept = (steps.abs() - steps.abs().powf(-0.3) / beta).max(0.0) * steps.signum();
                along += q * (f64::from(w) - scale * if steps == 0.0 { 0.0 } else { kept });
                square += q * q;
            }
            scale = as_stored(along / square);
            tried.push(scale);
            beta *= 1.01;
        }
        let norm = |s: f64| values.iter().map(|&w| error(w, s).1.abs().powf(0.7)).sum::<f64>();
        tried.into_iter().min_by(|&a, &b| norm(a).total_cmp(&norm(b))).unwrap()
    }

    #[test]
    fn scales_are_those_of_the_definition() {
        let weight = weights(8, 64);
        for bits in [2, 3, 4] {
            let tensor = Hqq.quantize(weight.view(), scheme(bits, true), None).unwrap().tensor;
            let values = weight.as_slice().unwrap();
            let expected: Vec<f64> = values.chunks(32).map(|group| by_definition(group, bits)).collect();
            let differing =
                tensor.scales.iter().zip(&expected).filter(|(s, e)| (f64::from(**s) / **e - 1.0).abs() > 1e-6).count();
            assert_eq!(differing, 0, "{bits} bits");
        }
    }

    #[test]
    fn the_norm_is_below_that_of_min_max_and_codes_are_in_range() {
        let weight = weights(16, 64);
        let norm =
            |real: Vec<f32>| -> f64 { weight.iter().zip(real).map(|(w, r)| f64::from((w - r).abs()).powf(NORM)).sum() };
        for (bits, symmetric) in [(2, true), (3, false), (4, true), (4, false)] {
            let fitted = Hqq.quantize(weight.view(), scheme(bits, symmetric), None).unwrap().tensor;
            fitted.validate().unwrap();
            let covering = Rtn.quantize(weight.view(), scheme(bits, symmetric), None).unwrap().tensor;
            let (fitted, covering) = (norm(fitted.to_f32()), norm(covering.to_f32()));
            assert!(fitted < 0.97 * covering, "{bits} bits: {fitted} {covering}");
        }
    }

    #[test]
    fn zeros_constants_and_bad_values() {
        let zeros = Hqq.quantize(Array2::zeros((2, 32)).view(), scheme(4, false), None).unwrap().tensor;
        assert!(zeros.to_f32().iter().all(|&value| value == 0.0));
        let constant = Array2::from_elem((1, 32), -0.3f32);
        for symmetric in [true, false] {
            let tensor = Hqq.quantize(constant.view(), scheme(4, symmetric), None).unwrap().tensor;
            assert!(tensor.to_f32().iter().all(|value| (value + 0.3).abs() < 1e-3));
        }
        let mut bad = Array2::from_elem((1, 32), 0.5f32);
        bad[(0, 7)] = f32::NAN;
        assert!(Hqq.quantize(bad.view(), scheme(4, true), None).unwrap_err().contains("weight (0, 7) is NaN"));
    }
}
