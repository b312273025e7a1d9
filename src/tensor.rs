//! Canonical tensors: the numbers every importer produces and every kernel consumes.
//!
//! A quantized weight is integers with scales per row or per group of columns. The three zero conventions of the
//! field are kept apart so that every format is represented exactly, bit for bit:
//!
//! | convention | weight | codes |
//! |---|---|---|
//! | [`Zero::Symmetric`] | `scale * q` | `-2^(b-1) ..= 2^(b-1)-1` |
//! | [`Zero::Points`] | `scale * (q - zero_point)` | `-2^(b-1) ..= 2^(b-1)-1` |
//! | [`Zero::Offsets`] | `scale * q + offset` | `0 ..= 2^b-1` (GGUF Q4_1, Q2_K, Q4_K, Q5_1, Q5_K; 7 bits at most) |
//!
//! Matrices are row-major `(rows = out_features, cols = in_features)`.

use serde::{Deserialize, Serialize};

/// How many weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// One scale for the tensor.
    Tensor,
    /// One scale for each output row.
    Channel,
    /// One scale for `group_size` consecutive inputs of a row.
    Group,
}

/// Where real zero lies; see the module's table.
#[derive(Debug, Clone, PartialEq)]
pub enum Zero {
    /// Code 0 is real zero.
    Symmetric,
    /// Integer zero point of every (row, group).
    Points(Vec<i8>),
    /// Float offset of every (row, group); codes are unsigned.
    Offsets(Vec<f32>),
}

/// A weight matrix of integers with scales.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Bits of a code, 2 to 8.
    pub bits: u8,
    /// Columns that share a scale: `cols` for per-channel and per-tensor scales. Divides `cols`.
    pub group_size: usize,
    /// One code a byte, `(rows, cols)` row-major.
    pub codes: Vec<i8>,
    /// `(rows, cols / group_size)` row-major.
    pub scales: Vec<f32>,
    /// Zero convention, with values laid out as the scales.
    pub zero: Zero,
    /// Activation order (GPTQ's `g_idx`): stored column `k` multiplies input `input_order[k]`. A permutation of the
    /// columns; `None` when they are stored in order.
    pub input_order: Option<Vec<u32>>,
}

impl QuantizedTensor {
    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.cols / self.group_size
    }

    /// Checks the sizes and ranges that the type promises; the message names no file.
    pub fn validate(&self) -> Result<(), String> {
        if self.group_size == 0 || !self.cols.is_multiple_of(self.group_size) {
            return Err(format!("group_size {} does not divide {} columns", self.group_size, self.cols));
        }
        let codes = self.rows * self.cols;
        let scales = self.rows * self.groups();
        if self.codes.len() != codes {
            return Err(format!("expected {codes} codes, got {}", self.codes.len()));
        }
        if self.scales.len() != scales {
            return Err(format!("expected {scales} scales, got {}", self.scales.len()));
        }
        if self.scales.iter().any(|s| !s.is_finite()) {
            return Err("a scale is NaN or infinite".into());
        }
        if self.bits == 8 && matches!(self.zero, Zero::Offsets(_)) {
            return Err("8 bits with float offsets: unsigned codes have 7 bits at most".into());
        }
        let (low, high) = self.code_range();
        if let Some(code) = self.codes.iter().find(|&&c| i32::from(c) < low || i32::from(c) > high) {
            return Err(format!("code {code} is outside {low}..={high} of {} bits", self.bits));
        }
        let zeros = match &self.zero {
            Zero::Symmetric => scales,
            Zero::Points(points) => points.len(),
            Zero::Offsets(offsets) if offsets.iter().any(|o| !o.is_finite()) => {
                return Err("an offset is NaN or infinite".into());
            }
            Zero::Offsets(offsets) => offsets.len(),
        };
        if zeros != scales {
            return Err(format!("expected {scales} zeros, got {zeros}"));
        }
        self.input_order.as_ref().map_or(Ok(()), |order| check_permutation(order, self.cols))
    }

    /// Smallest and largest code of the convention.
    pub fn code_range(&self) -> (i32, i32) {
        match self.zero {
            Zero::Offsets(_) => (0, (1 << self.bits) - 1),
            _ => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
        }
    }

    /// Writes row `row` as real numbers, by the convention's own formula, in f32; columns in the order of the inputs.
    ///
    /// # Panics
    /// When `row` is outside the matrix or `out` is not `cols` long.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        let Some(order) = &self.input_order else { return self.stored_row_to_f32(row, out) };
        let mut stored = vec![0.0; self.cols];
        self.stored_row_to_f32(row, &mut stored);
        order.iter().zip(stored).for_each(|(&input, value)| out[input as usize] = value);
    }

    /// As [`QuantizedTensor::row_to_f32`], with columns as they are stored.
    fn stored_row_to_f32(&self, row: usize, out: &mut [f32]) {
        let groups = self.groups();
        let codes = &self.codes[row * self.cols..(row + 1) * self.cols];
        for (g, (out, codes)) in
            out.chunks_exact_mut(self.group_size).zip(codes.chunks_exact(self.group_size)).enumerate()
        {
            let at = row * groups + g;
            let scale = self.scales[at];
            match &self.zero {
                Zero::Symmetric => out.iter_mut().zip(codes).for_each(|(o, &q)| *o = scale * f32::from(q)),
                Zero::Points(z) => {
                    let z = i32::from(z[at]);
                    out.iter_mut().zip(codes).for_each(|(o, &q)| *o = scale * (i32::from(q) - z) as f32);
                }
                Zero::Offsets(m) => {
                    out.iter_mut().zip(codes).for_each(|(o, &q)| *o = scale * f32::from(q) + m[at]);
                }
            }
        }
    }

    /// The whole matrix as real numbers, `(rows, cols)` row-major, columns in the order of the inputs.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.row_to_f32(row, out);
        }
        out
    }
}

/// Checks that `order` names each of `cols` inputs once.
fn check_permutation(order: &[u32], cols: usize) -> Result<(), String> {
    if order.len() != cols {
        return Err(format!("expected an order of {cols} inputs, got {}", order.len()));
    }
    let mut seen = vec![false; cols];
    for &input in order {
        match seen.get_mut(input as usize) {
            None => return Err(format!("the order of inputs names {input}, of {cols}")),
            Some(seen) if *seen => return Err(format!("the order of inputs names {input} twice")),
            Some(seen) => *seen = true,
        }
    }
    Ok(())
}

/// What happens to a linear layer's input before the multiplication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationScheme {
    /// Inputs stay floating point (W8A16, W4A16).
    #[default]
    None,
    /// 8 bits, symmetric, `scale = max|x| / 127` per token (row of the input), codes in `-127..=127`.
    DynamicToken,
}

/// Storage and arithmetic of an unquantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenseFormat {
    /// 32-bit weights, 32-bit arithmetic.
    F32,
    /// 16-bit IEEE weights, widened to f32; 32-bit arithmetic.
    F16,
    /// bfloat16 weights; inputs rounded to bfloat16 (half to even), products and sums in f32.
    Bf16,
}

impl DenseFormat {
    /// Bytes of one weight.
    pub fn bytes(self) -> usize {
        match self {
            DenseFormat::F32 => 4,
            DenseFormat::F16 | DenseFormat::Bf16 => 2,
        }
    }
}
