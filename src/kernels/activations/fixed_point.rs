//! Inputs in 16-bit block fixed point: how integer kernels multiply quantized weights by floating-point inputs.
//!
//! The inputs of a block share a scale `s = max|x| / 32639`, and `v = round_half_even(x / s)` is split into two signed
//! bytes, `v = 256 high + low`, so that two products of bytes make one of 16 bits: exact integer sums on the instructions
//! that multiply bytes, four times as fast as 32-bit floats. An input is off by at most `s / 2`, `2^-16` of its block's
//! largest: less than rounding that one to IEEE half precision does. A block of zeros (or of numbers so small that the
//! reciprocal of the scale overflows) has scale 0; one with a NaN or an infinity has scale NaN, so that outputs are NaN.

use super::{Activations, Fill, Form, InputForm, Rows, each_token};
use crate::kernels::isa::{Isa, per_isa};
use crate::kernels::pool::Pool;
use crate::kernels::vector::largest_magnitude_body;

/// Largest magnitude: `127 * 256 + 127`, so that both bytes stay inside theirs.
const LARGEST: f32 = 32_639.0;

/// The form of all tokens, for one length of blocks at a time.
#[derive(Debug, Default)]
pub(super) struct FixedPoint {
    /// Two rows for each token: high bytes, low bytes.
    bytes: Form<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// Input in 16-bit block fixed point.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct FixedInput<'a> {
    /// High bytes of token `t` in row `2 t`, low bytes in row `2 t + 1`; zero from the last input on.
    pub bytes: &'a [i8],
    pub stride: usize,
    pub tokens: usize,
    /// Blocks of a token.
    pub blocks: usize,
    /// `(tokens, blocks)` scales.
    pub scales: &'a [f32],
    /// `(tokens, blocks)` sums of `v`.
    pub sums: &'a [i32],
}

impl Activations {
    /// Makes the form in blocks of `block` columns (the last may be shorter).
    pub(super) fn make_fixed_point(&mut self, isa: Isa, pool: &Pool, block: usize, fill: Fill<'_>) {
        let (tokens, features, form) = (self.tokens, self.features, &mut self.fixed_point);
        let blocks = features.div_ceil(block);
        form.bytes.resize(2 * tokens, features);
        form.scales.resize(tokens * blocks, 0.0);
        form.sums.resize(tokens * blocks, 0);
        let bytes = Rows::new(&mut form.bytes.data, 2 * form.bytes.stride);
        let (scales, sums) = (Rows::new(&mut form.scales, blocks), Rows::new(&mut form.sums, blocks));
        each_token(pool, &mut self.values, (tokens, features), &|t, values| {
            fill(t, values);
            // SAFETY: each token is worked on by one thread only.
            let (bytes, scales, sums) = unsafe { (bytes.row(t), scales.row(t), sums.row(t)) };
            let (high, low) = bytes.split_at_mut(bytes.len() / 2);
            quantize(isa, values, block, (&mut *high, &mut *low), scales, sums);
            high[features..].fill(0);
            low[features..].fill(0);
        });
    }

    /// [`InputForm::FixedPoint`], in blocks of `block` columns.
    ///
    /// # Panics
    /// When it was not made.
    pub(in crate::kernels) fn fixed_point(&self, block: usize) -> FixedInput<'_> {
        self.check_made(InputForm::FixedPoint { block });
        let FixedPoint { bytes, scales, sums } = &self.fixed_point;
        let blocks = self.features.div_ceil(block);
        FixedInput { bytes: &bytes.data, stride: bytes.stride, tokens: self.tokens, blocks, scales, sums }
    }
}

per_isa! {
    /// Quantizes one token; see the module's page.
    fn quantize(isa, values: &[f32], block: usize, bytes: (&mut [i8], &mut [i8]), scales: &mut [f32], sums: &mut [i32])
        = quantize_body
}

#[inline(always)]
fn quantize_body(values: &[f32], block: usize, bytes: (&mut [i8], &mut [i8]), scales: &mut [f32], sums: &mut [i32]) {
    let (high, low) = bytes;
    for (i, values) in values.chunks(block).enumerate() {
        let at = i * block..i * block + values.len();
        (scales[i], sums[i]) = quantize_block(values, &mut high[at.clone()], &mut low[at]);
    }
}

/// Quantizes one block; returns its scale and the sum of its `v`.
#[inline(always)]
fn quantize_block(values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, i32) {
    let largest = largest_magnitude_body(values);
    let inverse = LARGEST / largest;
    if !largest.is_finite() || !inverse.is_finite() {
        high.fill(0);
        low.fill(0);
        return (if largest.is_finite() { 0.0 } else { f32::NAN }, 0);
    }
    let mut sum = 0;
    for ((value, high), low) in values.iter().zip(high).zip(low) {
        // |value * inverse| exceeds the largest by rounding errors only; adding 1.5 * 2^23 rounds to an integer, half to
        // even, and leaves it in the low bits.
        let v = (value * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
        *high = ((v + 128) >> 8) as i8;
        *low = v as i8;
        sum += v;
    }
    (largest / LARGEST, sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantized(isa: Isa, values: &[f32], block: usize) -> (Vec<i32>, Vec<f32>, Vec<i32>) {
        let mut x = Activations::default();
        x.write(1, values.len()).copy_from_slice(values);
        x.make(isa, &Pool::new(1), InputForm::FixedPoint { block });
        let form = x.fixed_point(block);
        let (high, low) = form.bytes.split_at(form.stride);
        assert!(high[values.len()..].iter().chain(&low[values.len()..form.stride]).all(|&byte| byte == 0));
        let whole = high.iter().zip(low).take(values.len()).map(|(&h, &l)| 256 * i32::from(h) + i32::from(l));
        (whole.collect(), form.scales.to_vec(), form.sums.to_vec())
    }

    #[test]
    fn known_answers() {
        // 32639 / 65278 * {1, 3, -1, 255} = 0.5, 1.5, -0.5, 127.5, rounded half to even.
        let (v, scales, sums) = quantized(Isa::Scalar, &[65_278.0, 1.0, 3.0, -1.0, 255.0, -65_278.0], 4);
        assert_eq!(v, [32_639, 0, 2, 0, 128, -32_639]);
        assert_eq!((scales, sums), (vec![2.0, 2.0], vec![32_641, 128 - 32_639]));
        let (v, scales, _) = quantized(Isa::Scalar, &[0.0, -0.0, 1e-41, 0.0, f32::NAN, 1.0, f32::INFINITY, 1.0], 2);
        assert_eq!(v, [0; 8]);
        assert_eq!(scales[..2], [0.0, 0.0]);
        assert!(scales[2].is_nan() && scales[3].is_nan());
    }

    proptest! {
        #[test]
        fn values_come_back_within_half_a_step(
            values in prop::collection::vec(-1e3f32..1e3, 1..200), block in prop::sample::select(vec![16usize, 32, 64]),
        ) {
            let (v, scales, sums) = quantized(Isa::Scalar, &values, block);
            for (i, (&v, &value)) in v.iter().zip(&values).enumerate() {
                let error = (f64::from(v) * f64::from(scales[i / block]) - f64::from(value)).abs();
                prop_assert!(error <= 0.51 * f64::from(scales[i / block]), "{v} for {value}");
            }
            prop_assert!(v.chunks(block).map(|v| v.iter().sum::<i32>()).eq(sums.iter().copied()));
            for isa in Isa::available() {
                prop_assert_eq!(&quantized(isa, &values, block), &(v.clone(), scales.clone(), sums.clone()));
            }
        }
    }
}
