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

impl Zero {
    /// The convention of integer zero points: symmetric where all of them are 0.
    pub fn of_points(points: Vec<i8>) -> Zero {
        if points.iter().all(|&point| point == 0) { Zero::Symmetric } else { Zero::Points(points) }
    }
}

/// Largest scale: the farthest code is 255 from its zero, so every weight is finite, also with the largest offset added.
const LARGEST_SCALE: f32 = f32::MAX / 512.0;
/// Largest float offset.
const LARGEST_OFFSET: f32 = f32::MAX / 2.0;

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
        if let Some(scale) = self.scales.iter().find(|s| s.abs() > LARGEST_SCALE) {
            return Err(format!("a scale of {scale:e} makes weights infinite, expected at most {LARGEST_SCALE:e}"));
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
            Zero::Offsets(offsets) if offsets.iter().any(|o| o.abs() > LARGEST_OFFSET) => {
                return Err(format!("an offset makes weights infinite, expected at most {LARGEST_OFFSET:e}"));
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

    /// Sum of the weights of every row, each group's codes summed as integers, groups in f64.
    pub fn row_sums(&self) -> Vec<f32> {
        let groups = self.groups();
        let sum_of = |(group, codes): (usize, &[i8])| {
            let (codes, count) = (codes.iter().map(|&q| i64::from(q)).sum::<i64>(), self.group_size as i64);
            let scale = f64::from(self.scales[group]);
            match &self.zero {
                Zero::Symmetric => scale * codes as f64,
                Zero::Points(z) => scale * (codes - i64::from(z[group]) * count) as f64,
                Zero::Offsets(m) => scale * codes as f64 + f64::from(m[group]) * count as f64,
            }
        };
        let sums: Vec<f64> = self.codes.chunks_exact(self.group_size).enumerate().map(sum_of).collect();
        sums.chunks_exact(groups).map(|row| row.iter().sum::<f64>() as f32).collect()
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
///
/// Codes are signed bytes everywhere; schemes that are published with unsigned codes are shifted, so that one kernel
/// serves all. `x` stands for `scale * (code - zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationScheme {
    /// Inputs stay floating point (W8A16, W4A16).
    #[default]
    None,
    /// 8 bits, symmetric, `scale = max|x| / 127` per token (row of the input), codes in `-127..=127`.
    DynamicToken,
    /// 8 bits, asymmetric per token, over the range of the token with zero:
    /// `scale = max((max - min) / 255, min_scale)`, `zero_point = clamp(-128 - round(min / scale))`, codes as for
    /// [`ActivationScheme::Static`], in `-128..=127`. So do torchao's `int8 dynamic activation` layers.
    DynamicTokenAsymmetric {
        /// Smallest scale: the `eps` of the format.
        min_scale: f32,
    },
    /// 8 bits, one scale and zero point for all inputs of the layer.
    Static(StaticActivations),
}

/// Numbers of static 8-bit inputs: `code = clamp(round(x * (1 / scale)) + zero_point, low, high)`, in f32, half to even.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StaticActivations {
    /// Scale, with a finite reciprocal.
    pub scale: f32,
    /// The code of real zero.
    pub zero_point: i8,
    /// Smallest code.
    pub low: i8,
    /// Largest code.
    pub high: i8,
}

impl StaticActivations {
    /// Checks the numbers as they are published, with codes from `low` to `high` (`0..=255`, `0..=127`, `-128..=127`),
    /// and shifts codes that do not fit a signed byte by 128.
    ///
    /// # Errors
    /// A scale that is no positive number, a range that is no 8-bit range, a zero point outside the range.
    pub fn new(scale: f32, zero_point: i64, (low, high): (i64, i64)) -> Result<Self, String> {
        let shift = if high > 127 { 128 } else { 0 };
        let byte = |code: i64| code.checked_sub(shift).and_then(|code| i8::try_from(code).ok());
        let (Some(least), Some(most)) = (byte(low), byte(high)) else {
            return Err(format!("input codes {low}..={high} do not fit 8 bits"));
        };
        if low >= high {
            return Err(format!("input codes {low}..={high} are no range"));
        }
        if !(scale > 0.0 && scale.is_finite() && scale.recip().is_finite()) {
            return Err(format!("input scale {scale} is not a positive number"));
        }
        match byte(zero_point).filter(|z| (least..=most).contains(z)) {
            Some(zero_point) => Ok(StaticActivations { scale, zero_point, low: least, high: most }),
            None => Err(format!("input zero point {zero_point} is outside {low}..={high}")),
        }
    }

    /// A row of inputs after quantization and dequantization.
    fn rounded(self, row: &[f32]) -> Vec<f64> {
        let StaticActivations { scale, zero_point, low, high } = self;
        let inverse = 1.0 / scale;
        let zero_point = f64::from(zero_point);
        let code = |x: f32| f64::from((x * inverse).round_ties_even()) + zero_point;
        row.iter().map(|&x| (code(x).clamp(low.into(), high.into()) - zero_point) * f64::from(scale)).collect()
    }
}

impl ActivationScheme {
    /// A row of inputs after quantization and dequantization, by the scheme's definition.
    pub fn rounded(self, row: &[f32]) -> Vec<f64> {
        match self {
            ActivationScheme::None => row.iter().map(|&x| f64::from(x)).collect(),
            ActivationScheme::DynamicToken => {
                let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let (scale, inverse) = (largest / 127.0, 127.0 / largest);
                if !inverse.is_finite() {
                    return vec![0.0; row.len()];
                }
                row.iter().map(|&x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
            }
            ActivationScheme::DynamicTokenAsymmetric { min_scale } => {
                let (low, high) = row.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
                let scale = ((high - low) / 255.0).max(min_scale);
                let zero_point = (-128.0 - (low / scale).round_ties_even()).clamp(-128.0, 127.0) as i8;
                StaticActivations { scale, zero_point, low: -128, high: 127 }.rounded(row)
            }
            ActivationScheme::Static(numbers) => numbers.rounded(row),
        }
    }

    /// Whether real zero may have another code than 0.
    pub fn has_zero_points(self) -> bool {
        match self {
            ActivationScheme::None | ActivationScheme::DynamicToken => false,
            ActivationScheme::DynamicTokenAsymmetric { .. } => true,
            ActivationScheme::Static(numbers) => numbers.zero_point != 0,
        }
    }

    /// Whether the code -128 may occur.
    pub fn has_lowest_code(self) -> bool {
        match self {
            ActivationScheme::None | ActivationScheme::DynamicToken => false,
            ActivationScheme::DynamicTokenAsymmetric { .. } => true,
            ActivationScheme::Static(numbers) => numbers.low == i8::MIN,
        }
    }
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

    /// Its name in suites.
    pub fn name(self) -> &'static str {
        match self {
            DenseFormat::F32 => "f32",
            DenseFormat::F16 => "f16",
            DenseFormat::Bf16 => "bf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the farthest codes with `scale` and `zero`.
    fn farthest(bits: u8, scale: f32, zero: Zero) -> QuantizedTensor {
        let mut tensor = QuantizedTensor {
            rows: 1,
            cols: 2,
            bits,
            group_size: 2,
            codes: Vec::new(),
            scales: vec![scale],
            zero,
            input_order: None,
        };
        let (low, high) = tensor.code_range();
        tensor.codes = vec![low as i8, high as i8];
        tensor
    }

    #[test]
    fn weights_are_finite_for_every_scale_that_is_taken() {
        for zero in [Zero::Symmetric, Zero::Points(vec![-128]), Zero::Points(vec![127])] {
            for scale in [LARGEST_SCALE, -LARGEST_SCALE] {
                let tensor = farthest(8, scale, zero.clone());
                tensor.validate().unwrap();
                assert!(tensor.to_f32().iter().all(|weight| weight.is_finite()));
            }
            let message = farthest(8, 2.0 * LARGEST_SCALE, zero).validate().unwrap_err();
            assert!(message.contains("makes weights infinite"), "{message}");
        }
        for offset in [LARGEST_OFFSET, -LARGEST_OFFSET] {
            let tensor = farthest(7, LARGEST_SCALE, Zero::Offsets(vec![offset]));
            tensor.validate().unwrap();
            assert!(tensor.to_f32().iter().all(|weight| weight.is_finite()));
            let message = farthest(7, 1.0, Zero::Offsets(vec![1.5 * offset])).validate().unwrap_err();
            assert!(message.contains("makes weights infinite"), "{message}");
        }
    }
}
