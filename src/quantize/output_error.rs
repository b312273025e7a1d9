//! Error of a quantized layer's output over the calibration inputs:
//! `E|(W - Q) x|^2 / E|W x|^2 = tr(D H Dᵀ) / tr(W H Wᵀ)` with `D = W - Q` and `H = E[x xᵀ]`.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::Array2;
use rayon::prelude::*;

use super::{InputStatistics, SLAB_ROWS};
use crate::tensor::QuantizedTensor;

/// The relative output error of `tensor` as a stand-in for `weight` (rows, cols), row-major; 0 where both are 0.
pub(super) fn relative(weight: &[f32], tensor: &QuantizedTensor, statistics: &InputStatistics) -> f64 {
    let (of_error, of_output) = output_energies(weight, tensor, statistics);
    if of_error == 0.0 { 0.0 } else { of_error / of_output }
}

/// `E|(W - Q) x|^2` and `E|W x|^2` of `tensor` as a stand-in for `weight` (rows, cols), row-major.
///
/// # Panics
/// When weight, tensor and statistics do not fit each other.
pub fn output_energies(weight: &[f32], tensor: &QuantizedTensor, statistics: &InputStatistics) -> (f64, f64) {
    let of_error: f64 = row_errors(weight, tensor, statistics).iter().sum();
    let of_output: f64 = row_energies(weight, &statistics.hessian).iter().sum();
    (of_error, of_output)
}

/// `E|(W - Q) x|^2` of every row.
pub(super) fn row_errors(weight: &[f32], tensor: &QuantizedTensor, statistics: &InputStatistics) -> Vec<f64> {
    row_energies(&difference(weight, tensor), &statistics.hessian)
}

/// `W - Q`, row-major.
fn difference(weight: &[f32], tensor: &QuantizedTensor) -> Vec<f32> {
    let mut out = vec![0.0; weight.len()];
    let cols = tensor.cols;
    out.par_chunks_exact_mut(cols).zip(weight.par_chunks_exact(cols)).enumerate().for_each(|(row, (out, weight))| {
        tensor.row_to_f32(row, out);
        out.iter_mut().zip(weight).for_each(|(out, &w)| *out = w - *out);
    });
    out
}

/// `m H mᵀ = 2 m L mᵀ - m D mᵀ` of every row `m` of `matrix`, with `L` the lower triangle of H and `D` its diagonal:
/// products in f32, the final sum of a row in f64.
fn row_energies(matrix: &[f32], hessian: &Array2<f64>) -> Vec<f64> {
    let cols = hessian.ncols();
    let diagonal: Vec<f64> = hessian.diag().to_vec();
    let hessian = hessian.mapv(|value| value as f32);
    // A symmetric matrix is its own transpose, so the layout does not matter.
    let hessian = MatRef::from_row_major_slice(hessian.as_slice_memory_order().unwrap_or_default(), cols, cols);
    let slab_energies = |slab: &[f32]| {
        let rows = slab.len() / cols;
        let mut product = vec![0.0f32; slab.len()];
        matmul(
            MatMut::from_row_major_slice_mut(&mut product, rows, cols),
            BlockStructure::Rectangular,
            Accum::Replace,
            MatRef::from_row_major_slice(slab, rows, cols),
            BlockStructure::Rectangular,
            hessian,
            BlockStructure::TriangularLower,
            1.0,
            Par::Seq,
        );
        let energy = |(product, row): (&[f32], &[f32])| -> f64 {
            let terms = product.iter().zip(row).zip(&diagonal);
            terms.map(|((&p, &m), d)| (2.0 * f64::from(p) - d * f64::from(m)) * f64::from(m)).sum()
        };
        product.chunks_exact(cols).zip(slab.chunks_exact(cols)).map(energy).collect::<Vec<f64>>()
    };
    matrix.par_chunks(SLAB_ROWS * cols).flat_map_iter(slab_energies).collect()
}
