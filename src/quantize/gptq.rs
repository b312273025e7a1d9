//! GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are quantized one after the other, and the error of each is
//! made up for by the columns that are still free, so that the layer's *output* over the calibration inputs stays close:
//! it lowers `tr((W - Q) H (W - Q)ᵀ)` with `H = E[x xᵀ]`.
//!
//! Differences to the authors' code, each for a reason:
//! - the factor of the inverse comes from one reversed Cholesky factorization ([`super::inverse_factor`]);
//! - a group's scale is taken from its columns as they are when the group begins, updates of the same block included
//!   (the authors' code reads columns that lack the updates of the running block);
//! - columns are taken in a group-aware order (GAR, arXiv 2505.14638): inside a group by falling diagonal of H, groups
//!   by their largest diagonal. Groups stay whole, so the artefact needs no `g_idx` and no gather at run time;
//! - columns whose input was always 0 are rounded to nearest instead of being set to 0: a calibration text that never
//!   uses an input does not prove that no text does. Damping makes their diagonal positive;
//! - it runs row slab by row slab, as rows do not depend on each other;
//! - with asymmetric calibration (GPTAQ, arXiv 2504.02692) the layer shall put out for its inputs x, which quantized
//!   layers before it have changed, what the unquantized one puts out for the unchanged `x̃`:
//!   `E|Q x - W x̃|² = tr((Q - W*) H (Q - W*)ᵀ) + const` with `W* = W + W E[(x̃ - x) xᵀ] H⁻¹`, so `W*` is quantized instead
//!   of W, with the damped H; the paper reaches the same objective column by column;
//! - a row whose output rounding to nearest leaves closer is rounded to nearest, so that the loss is never above that of
//!   [`super::Rtn`].

use std::borrow::Cow;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::feedback::Feedback;
use super::grid::Grid;
use super::observer::{grid, importance, shared_grid};
use super::output_error::row_errors;
use super::rtn::{Rtn, assemble};
use super::{InputStatistics, Quantizer, SLAB_ROWS, group_size};
use crate::kernels::{Isa, vector};
use crate::suite::WeightScheme;
use crate::tensor::{QuantizedTensor, Zero};

/// Columns whose feedback to later columns is applied at once, as a matrix product.
const BLOCK_COLS: usize = 128;

/// GPTQ with group-aware order and 1 % damping.
#[derive(Debug, Clone, Copy)]
pub struct Gptq;

impl Quantizer for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn needs_calibration(&self) -> bool {
        true
    }

    fn prepare(&self, group_size: usize, statistics: &InputStatistics) -> Result<(), String> {
        statistics.prepare_feedback(group_size)
    }

    fn round(
        &self,
        values: &[f32],
        (rows, cols): (usize, usize),
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<QuantizedTensor, String> {
        let statistics = statistics.ok_or("gptq needs calibration statistics")?;
        let feedback = statistics.feedback(group_size(scheme, cols)?)?;
        let rounded = Rtn.round(values, (rows, cols), scheme, Some(statistics))?;
        let target = match &statistics.drift {
            Some(drift) => Cow::Owned(feedback.target(values, drift)),
            None => Cow::Borrowed(values),
        };
        let mut learned = learn(&target, (rows, cols), scheme, statistics, &feedback)?;
        keep_better_rows(&mut learned, &rounded, &target, statistics);
        Ok(learned)
    }
}

/// The algorithm as published, but for the differences above.
fn learn(
    values: &[f32],
    (rows, cols): (usize, usize),
    scheme: WeightScheme,
    statistics: &InputStatistics,
    feedback: &Feedback,
) -> Result<QuantizedTensor, String> {
    let importance = importance(scheme, Some(statistics), cols)?;
    let plan = Plan {
        feedback,
        shared: shared_grid(values, &importance, scheme),
        importance: feedback.order.iter().map(|&column| importance[column]).collect(),
        group_size: group_size(scheme, cols)?,
        scheme,
    };

    let mut codes = vec![0i8; rows * cols];
    let grids: Vec<Grid> = codes
        .par_chunks_mut(SLAB_ROWS * cols)
        .zip(values.par_chunks(SLAB_ROWS * cols))
        .flat_map_iter(|(codes, values)| Slab::new(&plan, values, codes).quantize())
        .collect();
    assemble(rows, cols, scheme, codes, &grids)
}

/// Takes the rows of `rounded`, rounded to nearest, that leave the output closer: a greedy choice of codes promises no
/// better, though it nearly always is.
fn keep_better_rows(
    learned: &mut QuantizedTensor,
    rounded: &QuantizedTensor,
    values: &[f32],
    statistics: &InputStatistics,
) {
    let [of_learned, of_rounded] = [&*learned, rounded].map(|tensor| row_errors(values, tensor, statistics));
    let (cols, groups) = (learned.cols, learned.groups());
    for row in (0..learned.rows).filter(|&row| of_rounded[row] < of_learned[row]) {
        let (codes, scales) = (row * cols..(row + 1) * cols, row * groups..(row + 1) * groups);
        learned.codes[codes.clone()].copy_from_slice(&rounded.codes[codes]);
        learned.scales[scales.clone()].copy_from_slice(&rounded.scales[scales.clone()]);
        if let (Zero::Points(learned), Zero::Points(rounded)) = (&mut learned.zero, &rounded.zero) {
            learned[scales.clone()].copy_from_slice(&rounded[scales]);
        }
    }
}

/// What all slabs share.
struct Plan<'a> {
    feedback: &'a Feedback,
    /// The grid of all groups, for one scale per tensor.
    shared: Option<Grid>,
    /// By position: what the error of a column counts where a group's grid is chosen.
    importance: Vec<f32>,
    group_size: usize,
    scheme: WeightScheme,
}

/// Some rows of the weight with their columns in the plan's order.
struct Slab<'a> {
    plan: &'a Plan<'a>,
    rows: usize,
    cols: usize,
    /// `(rows, cols)`: what is still to be quantized, errors of earlier columns made up for.
    weights: Vec<f32>,
    /// `(rows, BLOCK_COLS)`: errors of the running block, each divided by its diagonal of U.
    errors: Vec<f32>,
    /// `(rows, cols)` in the original order.
    codes: &'a mut [i8],
    /// `(rows, groups)` in the original order.
    grids: Vec<Grid>,
}

impl<'a> Slab<'a> {
    fn new(plan: &'a Plan<'a>, values: &[f32], codes: &'a mut [i8]) -> Self {
        let order = &plan.feedback.order;
        let (rows, cols) = (values.len() / order.len(), order.len());
        let weights = values.chunks_exact(cols).flat_map(|row| order.iter().map(|&col| row[col])).collect();
        let grids = vec![Grid::covering(&[], plan.scheme.bits, true); values.len() / plan.group_size];
        Slab { plan, rows, cols, weights, errors: vec![0.0; rows * BLOCK_COLS], codes, grids }
    }

    /// Fills the codes and returns the grids.
    fn quantize(mut self) -> Vec<Grid> {
        for (start, end) in blocks(self.cols, self.plan.group_size) {
            self.quantize_block(start, end);
            self.update_later_columns(start, end);
        }
        self.grids
    }

    /// Quantizes columns `start..end` and corrects the later ones among them, all rows side by side: those of one row alone
    /// wait for each other.
    fn quantize_block(&mut self, start: usize, end: usize) {
        let Plan { feedback: Feedback { order, upper }, group_size, .. } = self.plan;
        let (isa, rows, cols) = (Isa::active(), self.rows, self.cols);
        // (columns, rows): a step works on columns.
        let of_block = |column: usize| self.weights[column..].iter().step_by(cols).copied();
        let mut columns: Vec<f32> = (start..end).flat_map(of_block).collect();
        let mut errors = vec![0.0; rows];
        for position in start..end {
            let (columns, column) = (&mut columns[(position - start) * rows..], order[position]);
            if position.is_multiple_of(*group_size) {
                self.choose_grids(position, columns);
            }
            let (weights, later) = columns.split_at_mut(rows);
            for (row, (&weight, error)) in weights.iter().zip(&mut errors).enumerate() {
                let grid = self.grids[(row * cols + column) / group_size];
                let code = grid.code(weight);
                self.codes[row * cols + column] = code;
                *error = (weight - grid.value(code)) / upper[(position, position)];
                self.errors[row * BLOCK_COLS + position - start] = *error;
            }
            let feedback = upper.row(position);
            let feedback = feedback.as_slice().unwrap_or_default();
            vector::subtract_outer(isa, later, &feedback[position + 1..end], &errors);
        }
    }

    /// Chooses the grids of the group that begins at `position`. `columns` are the weights from there to the end of the block,
    /// `(columns, rows)`; a group that reaches further has not changed there yet.
    fn choose_grids(&mut self, position: usize, columns: &[f32]) {
        let Plan { feedback, shared, importance, group_size, scheme } = self.plan;
        let importance = &importance[position..][..*group_size];
        let mut group = Vec::with_capacity(*group_size);
        for row in 0..self.rows {
            let weights = &self.weights[row * self.cols + position..][..*group_size];
            group.clear();
            group.extend(columns.chunks_exact(self.rows).take(*group_size).map(|column| column[row]));
            group.extend_from_slice(&weights[group.len()..]);
            self.grids[(row * self.cols + feedback.order[position]) / group_size] =
                shared.unwrap_or_else(|| grid(&group, importance, *scheme));
        }
    }

    /// `W[:, end..] -= E U[start..end, end..]`.
    fn update_later_columns(&mut self, start: usize, end: usize) {
        let (cols, later) = (self.cols, self.cols - end);
        let feedback = self.plan.feedback.upper().submatrix(start, end, end - start, later);
        let errors = MatRef::from_row_major_slice(&self.errors, self.rows, BLOCK_COLS).subcols(0, end - start);
        let weights = MatMut::from_row_major_slice_mut(&mut self.weights, self.rows, cols);
        matmul(weights.subcols_mut(end, later), Accum::Add, errors, feedback, -1.0, Par::Seq);
    }
}

/// Blocks of at most [`BLOCK_COLS`] positions in which no group begins late: a block holds whole groups, or a group
/// holds whole blocks, so that every group's columns are up to date when its scale is taken.
fn blocks(cols: usize, group_size: usize) -> Vec<(usize, usize)> {
    let span = group_size * (BLOCK_COLS / group_size).max(1);
    let mut blocks = Vec::new();
    for span_start in (0..cols).step_by(span) {
        let span_end = cols.min(span_start + span);
        blocks.extend((span_start..span_end).step_by(BLOCK_COLS).map(|at| (at, span_end.min(at + BLOCK_COLS))));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::feedback::column_order;
    use super::*;
    use crate::quantize::StatisticsAccumulator;
    use crate::suite::Observer;
    use crate::tensor::Granularity;

    /// Weights, and statistics of correlated inputs of unequal size, as in a trained network.
    fn layer(rows: usize, cols: usize, seed: u64) -> (Array2<f32>, InputStatistics) {
        let mut random = StdRng::seed_from_u64(seed);
        let weight = Array2::from_shape_simple_fn((rows, cols), || random.random_range(-1.0f32..1.0).powi(3));
        let mixing = Array2::from_shape_simple_fn((cols, cols), || random.random_range(-1.0f32..1.0));
        let sizes: Vec<f32> = (0..cols).map(|_| random.random_range(-1.5f32..1.5).exp()).collect();
        let sources = Array2::from_shape_simple_fn((3 * cols, cols), || random.random_range(-1.0f32..1.0));
        let inputs = (sources.dot(&mixing) * 0.3 + &sources) * &ndarray::Array1::from(sizes);
        let mut accumulator = StatisticsAccumulator::new(cols);
        accumulator.add(inputs.as_slice().unwrap());
        (weight, accumulator.finish().unwrap())
    }

    fn scheme(bits: u8, group: Option<usize>, symmetric: bool) -> WeightScheme {
        let granularity = if group.is_some() { Granularity::Group } else { Granularity::Channel };
        WeightScheme { bits, granularity, group_size: group, symmetric, observer: Observer::MinMax }
    }

    /// GPTQ by its definition, all in f64: quantize a column, update all later ones with the explicit inverse, remove
    /// the column from the inverse by Gaussian elimination. No blocks, no Cholesky factor, no reversal.
    fn by_definition(weight: &Array2<f32>, statistics: &InputStatistics, scheme: WeightScheme) -> Vec<i8> {
        let (rows, cols) = weight.dim();
        let group_size = group_size(scheme, cols).unwrap();
        let order = column_order(&statistics.hessian, group_size);
        let mut hessian = Array2::from_shape_fn((cols, cols), |(i, j)| statistics.hessian[(order[i], order[j])]);
        let damping = 0.01 * hessian.diag().sum() / cols as f64;
        hessian.diag_mut().mapv_inplace(|v| v + damping);
        let mut inverse = gauss_jordan(hessian);
        let mut left = Array2::from_shape_fn((rows, cols), |(r, c)| f64::from(weight[(r, order[c])]));
        let mut codes = vec![0i8; rows * cols];
        let mut grids = vec![Grid::covering(&[], scheme.bits, true); rows];
        for c in 0..cols {
            for r in 0..rows {
                if c % group_size == 0 {
                    let group: Vec<f32> = (c..c + group_size).map(|j| left[(r, j)] as f32).collect();
                    grids[r] = Grid::covering(&group, scheme.bits, scheme.symmetric);
                }
                let code = grids[r].code(left[(r, c)] as f32);
                codes[r * cols + order[c]] = code;
                let error = (left[(r, c)] - f64::from(grids[r].value(code))) / inverse[(c, c)];
                for j in c + 1..cols {
                    left[(r, j)] -= error * inverse[(c, j)];
                }
            }
            let row = inverse.row(c).to_owned();
            for (i, j) in (c + 1..cols).flat_map(|i| (c + 1..cols).map(move |j| (i, j))) {
                inverse[(i, j)] -= row[i] * row[j] / row[c];
            }
        }
        codes
    }

    fn gauss_jordan(mut matrix: Array2<f64>) -> Array2<f64> {
        let n = matrix.nrows();
        let mut inverse = Array2::<f64>::eye(n);
        for c in 0..n {
            let pivot = matrix[(c, c)];
            matrix.row_mut(c).mapv_inplace(|v| v / pivot);
            inverse.row_mut(c).mapv_inplace(|v| v / pivot);
            for r in (0..n).filter(|&r| r != c) {
                let factor = matrix[(r, c)];
                let (from, from_inverse) = (matrix.row(c).to_owned(), inverse.row(c).to_owned());
                matrix.row_mut(r).scaled_add(-factor, &from);
                inverse.row_mut(r).scaled_add(-factor, &from_inverse);
            }
        }
        inverse
    }

    #[test]
    fn codes_are_those_of_the_definition() {
        for (case, (cols, scheme)) in [
            (64, scheme(4, Some(16), true)),
            (144, scheme(4, Some(48), false)),
            (288, scheme(4, Some(32), true)),
            (192, scheme(3, None, true)),
            (160, scheme(8, None, false)),
            (384, scheme(2, Some(192), false)),
        ]
        .into_iter()
        .enumerate()
        {
            let (weight, statistics) = layer(6, cols, case as u64);
            let feedback = statistics.feedback(group_size(scheme, cols).unwrap()).unwrap();
            let tensor = learn(weight.as_slice().unwrap(), weight.dim(), scheme, &statistics, &feedback).unwrap();
            tensor.validate().unwrap();
            let expected = by_definition(&weight, &statistics, scheme);
            let differing = tensor.codes.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "case {case}: {differing} of {} codes differ", expected.len());
        }
    }

    #[test]
    fn the_output_error_is_that_of_the_statistics_and_below_that_of_rounding() {
        for (bits, group, symmetric) in [(4, Some(32), true), (4, Some(64), false), (3, None, true), (8, None, true)] {
            let scheme = scheme(bits, group, symmetric);
            let (weight, statistics) = layer(80, 128, u64::from(bits));
            let learned = Gptq.quantize(weight.view(), scheme, Some(&statistics)).unwrap();
            let rounded = Rtn.quantize(weight.view(), scheme, Some(&statistics)).unwrap();
            let energy = |m: &Array2<f64>| (&m.dot(&statistics.hessian) * m).sum();
            let weight = weight.mapv(f64::from);
            for quantized in [&learned, &rounded] {
                let real = Array2::from_shape_vec((80, 128), quantized.tensor.to_f32()).unwrap().mapv(f64::from);
                let exact = energy(&(&weight - &real)) / energy(&weight);
                assert!((quantized.output_error.unwrap() / exact - 1.0).abs() < 1e-4);
            }
            let (learned, rounded) = (learned.output_error.unwrap(), rounded.output_error.unwrap());
            assert!(learned < 0.9 * rounded, "{bits} bits: GPTQ {learned}, RTN {rounded}");
        }
    }

    proptest! {
        #[test]
        fn no_row_is_worse_than_rounded_to_nearest(seed in 0u64..1000, bits in 2u8..=8, group in 2usize..=16, symmetric: bool) {
            let (weight, statistics) = layer(24, 3 * group, seed);
            let scheme = scheme(bits, Some(group), symmetric);
            let [learned, rounded] = [&Gptq as &dyn Quantizer, &Rtn]
                .map(|method| method.quantize(weight.view(), scheme, Some(&statistics)).unwrap().tensor);
            let values = weight.as_slice().unwrap();
            let [learned, rounded] = [learned, rounded].map(|tensor| row_errors(values, &tensor, &statistics));
            prop_assert!(learned.iter().zip(&rounded).all(|(learned, rounded)| learned <= rounded));
        }
    }

    #[test]
    fn a_search_for_scales_brings_the_output_closer() {
        for (bits, group, symmetric) in [(4, Some(32), true), (4, Some(32), false), (3, None, true)] {
            let (weight, statistics) = layer(80, 128, u64::from(bits));
            let error = |quantizer: &dyn Quantizer, observer| {
                let scheme = WeightScheme { observer, ..scheme(bits, group, symmetric) };
                let quantized = quantizer.quantize(weight.view(), scheme, Some(&statistics)).unwrap();
                quantized.tensor.validate().unwrap();
                quantized.output_error.unwrap()
            };
            for quantizer in [&Gptq as &dyn Quantizer, &Rtn] {
                let [covering, mse, imatrix] =
                    [Observer::MinMax, Observer::Mse, Observer::ImatrixMse].map(|observer| error(quantizer, observer));
                let case = format!("{} {bits} bits: {covering}, {mse}, {imatrix}", quantizer.name());
                assert!(mse < covering && imatrix < covering, "{case}");
            }
            assert!(error(&Gptq, Observer::ImatrixMse) < error(&Rtn, Observer::ImatrixMse));
        }
    }

    #[test]
    fn independent_inputs_give_rounding_to_nearest() {
        let (weight, _) = layer(5, 64, 3);
        let statistics = InputStatistics::new(Array2::eye(64) * 2.0, 64);
        let scheme = scheme(4, Some(16), false);
        let learned = Gptq.quantize(weight.view(), scheme, Some(&statistics)).unwrap();
        assert_eq!(learned, Rtn.quantize(weight.view(), scheme, Some(&statistics)).unwrap());
    }

    #[test]
    fn columns_never_seen_are_rounded_to_nearest() {
        let (weight, mut statistics) = layer(4, 32, 9);
        statistics.hessian.row_mut(5).fill(0.0);
        statistics.hessian.column_mut(5).fill(0.0);
        let scheme = scheme(8, None, true);
        let tensor = Gptq.quantize(weight.view(), scheme, Some(&statistics)).unwrap().tensor;
        let real = tensor.to_f32();
        for row in 0..4 {
            assert!((real[row * 32 + 5] - weight[(row, 5)]).abs() <= tensor.scales[row] * 0.501);
        }
        statistics.hessian.fill(0.0);
        let unseen = Gptq.quantize(weight.view(), scheme, Some(&statistics)).unwrap();
        assert_eq!(unseen.tensor, Rtn.quantize(weight.view(), scheme, None).unwrap().tensor);
        assert_eq!(unseen.output_error, Some(0.0));
    }

    #[test]
    fn the_number_of_threads_and_what_was_prepared_change_no_bit() {
        let (weight, statistics) = layer(150, 384, 4);
        let quantize = |threads, prepare| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let statistics = statistics.clone();
            pool.install(|| {
                if prepare {
                    Gptq.prepare(32, &statistics).unwrap();
                }
                Gptq.quantize(weight.view(), scheme(4, Some(32), true), Some(&statistics)).unwrap()
            })
        };
        let expected = quantize(1, false);
        for (threads, prepare) in [(3, false), (1, true), (2, true), (3, true), (8, true)] {
            assert_eq!(quantize(threads, prepare), expected, "{threads} threads");
        }
    }

    #[test]
    fn asymmetric_calibration_quantizes_what_comes_closest_to_the_unquantized_outputs() {
        let (rows, cols, tokens) = (24, 48, 400);
        let (weight, _) = layer(rows, cols, 11);
        let mut random = StdRng::seed_from_u64(12);
        let original = Array2::from_shape_simple_fn((tokens, cols), || random.random_range(-1.0f64..1.0));
        // Quantized layers before have turned a third of every input into its neighbour.
        let mixing = Array2::from_shape_fn((cols, cols), |(i, j)| match (j + cols - i) % cols {
            0 => 0.7,
            1 => 0.3,
            _ => 0.0,
        });
        let inputs = original.dot(&mixing);
        let mean = |a: &Array2<f64>, b: &Array2<f64>| a.t().dot(b) / tokens as f64;
        let mut statistics = InputStatistics::new(mean(&inputs, &inputs), tokens);
        let scheme = scheme(8, Some(16), true);
        let error = |statistics: &InputStatistics| {
            let tensor = Gptq.quantize(weight.view(), scheme, Some(statistics)).unwrap().tensor;
            let found = Array2::from_shape_vec((rows, cols), tensor.to_f32()).unwrap().mapv(f64::from);
            (inputs.dot(&found.t()) - original.dot(&weight.mapv(f64::from).t())).mapv(|e| e * e).sum()
        };
        let symmetric = error(&statistics);
        statistics.drift = Some(mean(&(&original - &inputs), &inputs));
        let asymmetric = error(&statistics);
        // What least squares leaves with the same damping; 8 bits add less than half of it.
        let mut damped = statistics.hessian.clone();
        let damping = 0.01 * damped.diag().mean().unwrap();
        damped.diag_mut().mapv_inplace(|v| v + damping);
        let weight = weight.mapv(f64::from);
        let solution = &weight + &weight.dot(statistics.drift.as_ref().unwrap()).dot(&gauss_jordan(damped));
        let least = (inputs.dot(&solution.t()) - original.dot(&weight.t())).mapv(|e| e * e).sum();
        assert!(asymmetric < 1.5 * least, "{asymmetric}, least squares {least}");
        assert!(asymmetric < 0.2 * symmetric, "{asymmetric}, symmetric {symmetric}");
    }

    #[test]
    fn missing_and_unfit_statistics_are_refused() {
        let (weight, mut statistics) = layer(4, 32, 5);
        let scheme = scheme(4, None, true);
        assert!(Gptq.quantize(weight.view(), scheme, None).unwrap_err().contains("needs calibration"));
        let (_, other) = layer(4, 16, 5);
        assert!(Gptq.quantize(weight.view(), scheme, Some(&other)).unwrap_err().contains("do not fit"));
        statistics.hessian[(1, 2)] = f64::NAN;
        assert!(Gptq.quantize(weight.view(), scheme, Some(&statistics)).unwrap_err().contains("NaN"));
    }

    #[test]
    fn groups_stay_whole_in_the_blocks() {
        assert_eq!(blocks(288, 96), [(0, 96), (96, 192), (192, 288)]);
        assert_eq!(blocks(288, 32), [(0, 128), (128, 256), (256, 288)]);
        assert_eq!(blocks(384, 192), [(0, 128), (128, 192), (192, 320), (320, 384)]);
    }
}
