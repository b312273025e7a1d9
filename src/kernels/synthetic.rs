//! Matrices of made-up weights, to time kernels on shapes without a model.

use super::Matrix;
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor, Zero};

/// A dense matrix.
pub fn dense(format: DenseFormat, rows: usize, cols: usize) -> Matrix {
    Matrix::from_rows(format, rows, cols, &|row, out| {
        out.iter_mut().enumerate().for_each(|(k, v)| *v = ((row * 31 + k * 17) % 101) as f32 / 101.0 - 0.5);
    })
}

/// A symmetric quantized matrix in groups of `group_size` columns, which divides `cols`.
///
/// # Errors
/// As [`Matrix::from_quantized`].
pub fn quantized(
    (rows, cols): (usize, usize),
    bits: u8,
    group_size: usize,
    activations: ActivationScheme,
) -> Result<Matrix, String> {
    let levels = 1usize << bits;
    let codes = (0..rows * cols).map(|i| (((i * 7919) % levels) as i32 - (levels / 2) as i32) as i8).collect();
    let scales = vec![0.0078125; rows * (cols / group_size)];
    let zero = Zero::Symmetric;
    let weight = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order: None };
    Matrix::from_quantized(&weight, activations)
}

/// Inputs of `tokens` rows of `cols` columns.
pub fn inputs(tokens: usize, cols: usize) -> Vec<f32> {
    (0..tokens * cols).map(|i| (i % 13) as f32 - 6.0).collect()
}
