//! Packed weights and their multiplication.

use super::activations::Activations;
use super::isa::Isa;
use super::pool::Pool;
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor};

/// A weight matrix `(rows = out_features, cols = in_features)` packed for the kernels of one instruction set family.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Packs a dense matrix from row-major f32 values. `row(i, buffer)` writes row `i`; it is called from several
    /// threads.
    pub fn from_rows(
        format: DenseFormat,
        rows: usize,
        cols: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Matrix {
        let _ = (format, row);
        let _ = Matrix { rows, cols };
        todo!("kernels")
    }

    /// Packs a quantized matrix.
    ///
    /// # Errors
    /// When no kernel runs this scheme exactly; the message says which schemes there are.
    pub fn from_quantized(weight: &QuantizedTensor, activations: ActivationScheme) -> Result<Matrix, String> {
        let _ = (weight, activations);
        todo!("kernels")
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Packed bytes, scales and padding included.
    pub fn bytes(&self) -> usize {
        todo!("kernels")
    }

    /// Name of the kernel that multiplies `tokens` rows: `x86_64-w8a8-avx512vnni`, `x86_64-f16-avx2`.
    pub fn kernel_name(&self, isa: Isa, tokens: usize) -> String {
        let _ = (isa, tokens);
        todo!("kernels")
    }

    /// Writes weight row `row` as f32: embedding lookup. Exactly the values that [`Matrix::multiply`] uses.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        let _ = (row, out);
        todo!("kernels")
    }

    /// `y[t][r] = sum over c of x[t][c] * w[r][c]`, `y` being `(x.tokens(), rows)` row-major and overwritten.
    pub fn multiply(&self, pool: &Pool, x: &mut Activations, y: &mut [f32]) {
        self.multiply_on(Isa::active(), pool, x, y);
    }

    /// As [`Matrix::multiply`] with a given instruction set: for tests, benchmarks and cross checks.
    ///
    /// # Panics
    /// When the processor lacks `isa`, or the sizes do not fit.
    pub fn multiply_on(&self, isa: Isa, pool: &Pool, x: &mut Activations, y: &mut [f32]) {
        let _ = (isa, pool, x, y);
        todo!("kernels")
    }
}
