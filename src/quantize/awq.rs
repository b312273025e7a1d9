//! AWQ (Lin et al. 2023, arXiv 2306.00978): input channels are rescaled so that weights which meet large inputs are
//! rounded finely ([`super::rescaling`]), then the range of every group is narrowed where clipping its largest weights
//! costs the output less than the finer steps gain, and the rest is rounding to nearest.
//!
//! As in the authors' code ranges from all down to half of the values are tried, in steps of a twentieth, and a group is
//! judged by its own part of the layer's output, `(w - q) H_g (w - q)ᵀ` with `H_g` the group's square of `E[x xᵀ]`:
//! here over all calibration tokens, there over a sample.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::grid::Grid;
use super::rtn::assemble;
use super::{InputStatistics, Quantizer, Rescaling, SLAB_ROWS, group_size};
use crate::suite::WeightScheme;
use crate::tensor::{Granularity, QuantizedTensor};

/// Ranges tried, as shares of a group's own.
const SHARES: [f32; 10] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55];

/// AWQ with scale and clip search.
#[derive(Debug, Clone, Copy)]
pub struct Awq;

impl Quantizer for Awq {
    fn name(&self) -> &'static str {
        "awq"
    }

    fn needs_calibration(&self) -> bool {
        true
    }

    fn rescaling(&self) -> Option<Rescaling> {
        Some(Rescaling::Awq)
    }

    /// The part after rescaling: `weight` and `statistics` are rescaled.
    fn round(
        &self,
        values: &[f32],
        (rows, cols): (usize, usize),
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<QuantizedTensor, String> {
        let statistics = statistics.ok_or("awq needs calibration statistics")?;
        if scheme.granularity == Granularity::Tensor {
            return Err("awq clips rows or groups; use granularity \"channel\" or \"group\"".into());
        }
        let group_size = group_size(scheme, cols)?;
        let hessian: Vec<f32> = statistics.hessian.iter().map(|&value| value as f32).collect();

        let mut codes = vec![0i8; rows * cols];
        let grids: Vec<Grid> = codes
            .par_chunks_mut(SLAB_ROWS * cols)
            .zip(values.par_chunks(SLAB_ROWS * cols))
            .flat_map_iter(|(codes, values)| {
                let grids = clipped_grids(values, &hessian, cols, group_size, scheme);
                let of_groups = codes.chunks_exact_mut(group_size).zip(values.chunks_exact(group_size)).zip(&grids);
                of_groups.for_each(|((codes, group), grid)| {
                    codes.iter_mut().zip(group).for_each(|(code, &value)| *code = grid.code(value));
                });
                grids
            })
            .collect();
        assemble(rows, cols, scheme, codes, &grids)
    }
}

/// The grid of least output error of every (row, group) of a slab of rows, `values` `(rows, cols)`.
fn clipped_grids(values: &[f32], hessian: &[f32], cols: usize, group_size: usize, scheme: WeightScheme) -> Vec<Grid> {
    let (rows, groups) = (values.len() / cols, cols / group_size);
    let hessian = MatRef::from_row_major_slice(hessian, cols, cols);
    let (mut errors, mut products) = (vec![0.0f32; rows * group_size], vec![0.0f32; rows * group_size]);
    let unclipped = |group: &[f32]| (f64::INFINITY, clipped(group, 1.0, scheme));
    let mut best: Vec<(f64, Grid)> = values.chunks_exact(group_size).map(unclipped).collect();
    for (at, share) in (0..groups).flat_map(|at| SHARES.map(|share| (at, share))) {
        let start = at * group_size;
        let group = |row: usize| &values[row * cols + start..][..group_size];
        let grids: Vec<Grid> = (0..rows).map(|row| clipped(group(row), share, scheme)).collect();
        for (row, errors) in errors.chunks_exact_mut(group_size).enumerate() {
            let error = |value: f32| value - grids[row].value(grids[row].code(value));
            errors.iter_mut().zip(group(row)).for_each(|(to, &value)| *to = error(value));
        }
        matmul(
            MatMut::from_row_major_slice_mut(&mut products, rows, group_size),
            Accum::Replace,
            MatRef::from_row_major_slice(&errors, rows, group_size),
            hessian.submatrix(start, start, group_size, group_size),
            1.0,
            Par::Seq,
        );
        let pairs = errors.chunks_exact(group_size).zip(products.chunks_exact(group_size));
        for (row, ((error, product), grid)) in pairs.zip(grids).enumerate() {
            let loss: f64 = error.iter().zip(product).map(|(&e, &p)| f64::from(e) * f64::from(p)).sum();
            let best = &mut best[row * groups + at];
            if loss < best.0 {
                *best = (loss, grid);
            }
        }
    }
    best.into_iter().map(|(_, grid)| grid).collect()
}

/// The grid of a share of the range of `values`.
fn clipped(values: &[f32], share: f32, scheme: WeightScheme) -> Grid {
    let (min, max) = values.iter().fold((0.0f32, 0.0f32), |(min, max), &v| (min.min(v), max.max(v)));
    Grid::spanning(share * min, share * max, scheme.bits, scheme.symmetric)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::quantize::rescaling::layer_for_tests;
    use crate::quantize::{Rtn, StatisticsAccumulator};
    use crate::suite::Observer;

    fn layer(rows: usize, cols: usize, seed: u64) -> (Array2<f32>, InputStatistics) {
        let (weight, tokens) = layer_for_tests(rows, cols, seed);
        let mut accumulator = StatisticsAccumulator::new(cols);
        accumulator.add(&tokens);
        (weight, accumulator.finish().unwrap())
    }

    fn scheme(bits: u8, group_size: Option<usize>, symmetric: bool) -> WeightScheme {
        let granularity = if group_size.is_some() { Granularity::Group } else { Granularity::Channel };
        WeightScheme { bits, granularity, group_size, symmetric, observer: Observer::MinMax }
    }

    /// Every share of every group tried one by one, its loss written out in f64.
    fn by_definition(weight: &Array2<f32>, hessian: &Array2<f64>, scheme: WeightScheme) -> Vec<f32> {
        let group_size = scheme.group_size.unwrap_or(weight.ncols());
        let mut scales = Vec::new();
        for row in weight.rows() {
            for start in (0..weight.ncols()).step_by(group_size) {
                let loss = |grid: &Grid| -> f64 {
                    let error = |k: usize| f64::from(row[start + k] - grid.value(grid.code(row[start + k])));
                    let pairs = (0..group_size).flat_map(|i| (0..group_size).map(move |j| (i, j)));
                    pairs.map(|(i, j)| error(i) * hessian[(start + i, start + j)] * error(j)).sum()
                };
                let grids = (0..10).map(|step| {
                    let share = 1.0 - 0.05 * step as f32;
                    let range: Vec<f32> = (0..group_size).map(|k| row[start + k] * share).collect();
                    Grid::covering(&range, scheme.bits, scheme.symmetric)
                });
                scales.push(grids.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap().scale());
            }
        }
        scales
    }

    #[test]
    fn ranges_are_those_of_the_definition() {
        for (bits, group_size, symmetric) in [(4, Some(16), true), (3, Some(32), false), (2, None, true)] {
            let (weight, statistics) = layer(70, 64, u64::from(bits));
            let scheme = scheme(bits, group_size, symmetric);
            let tensor = Awq.quantize(weight.view(), scheme, Some(&statistics)).unwrap().tensor;
            tensor.validate().unwrap();
            let expected = by_definition(&weight, &statistics.hessian, scheme);
            let differing = tensor.scales.iter().zip(&expected).filter(|(a, b)| (**a / **b - 1.0).abs() > 1e-3).count();
            assert_eq!(differing, 0, "{bits} bits: {differing} of {} ranges differ", expected.len());
        }
    }

    #[test]
    fn clipping_brings_the_output_closer_than_rounding() {
        let (weight, statistics) = layer(80, 128, 7);
        let error = |quantizer: &dyn Quantizer| {
            quantizer.quantize(weight.view(), scheme(3, Some(32), true), Some(&statistics)).unwrap().output_error
        };
        let (clipped, rounded) = (error(&Awq).unwrap(), error(&Rtn).unwrap());
        assert!(clipped < 0.95 * rounded, "AWQ {clipped}, RTN {rounded}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (weight, statistics) = layer(4, 32, 5);
        let whole = WeightScheme { granularity: Granularity::Tensor, ..scheme(4, None, true) };
        assert!(Awq.quantize(weight.view(), whole, Some(&statistics)).unwrap_err().contains("clips rows or groups"));
        let none = Awq.quantize(weight.view(), scheme(4, None, true), None);
        assert_eq!(none.unwrap_err(), "awq needs calibration statistics");
        let mut bad = weight.clone();
        bad[(2, 3)] = f32::NEG_INFINITY;
        let message = Awq.quantize(bad.view(), scheme(4, None, true), Some(&statistics)).unwrap_err();
        assert!(message.contains("weight (2, 3) is -inf"), "{message}");
    }
}
