//! Matrices of made-up weights, to time kernels on shapes without a model.

use std::time::Instant;

use super::{Activations, Matrix, Pool};
use crate::stats::quantile;
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

/// Seconds that one of `matrices`, all of one shape, takes to multiply `tokens` rows: the median pass over all of them.
///
/// # Panics
/// When there is no matrix.
pub fn product_seconds(matrices: &[Matrix], pool: &Pool, tokens: usize) -> f64 {
    const LEAST_SECONDS: f64 = 0.1;
    const LEAST_PASSES: usize = 5;
    let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
    let mut x = Activations::with_capacity(tokens, cols);
    let mut y = vec![0.0; tokens * rows];
    let inputs = inputs(tokens, cols);
    let mut pass = || {
        let mut seconds = 0.0;
        for matrix in matrices {
            // Written anew, so that their 8-bit form is made anew.
            x.write(tokens, cols).copy_from_slice(&inputs);
            let start = Instant::now();
            matrix.multiply(pool, &mut x, &mut y);
            seconds += start.elapsed().as_secs_f64();
        }
        seconds
    };
    pass();
    let mut passes = Vec::new();
    while passes.len() < LEAST_PASSES || passes.iter().sum::<f64>() < LEAST_SECONDS {
        passes.push(pass());
    }
    quantile(&passes, 0.5).unwrap_or(f64::NAN) / matrices.len() as f64
}
