//! Inputs in 8 bits, a token at a time; see the page above for the schemes.

use crate::kernels::isa::{Isa, per_isa};
use crate::kernels::vector::largest_magnitude_body;
use crate::tensor::{ActivationScheme, StaticActivations};

/// Quantizes one token; returns its scale and zero point.
pub(super) fn quantize(isa: Isa, scheme: ActivationScheme, values: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let numbers = match scheme {
        ActivationScheme::None => unreachable!("floating-point inputs have no codes"),
        ActivationScheme::DynamicToken => return (quantize_token(isa, values, codes), 0),
        ActivationScheme::DynamicTokenAsymmetric { min_scale } => asymmetric(isa, values, min_scale),
        ActivationScheme::Static(numbers) => numbers,
    };
    (quantize_affine(isa, values, numbers, codes), i32::from(numbers.zero_point))
}

per_isa! {
    /// Scale and zero point of one token in the asymmetric scheme.
    fn asymmetric(isa, values: &[f32], min_scale: f32) -> StaticActivations = asymmetric_body
}

#[inline(always)]
fn asymmetric_body(values: &[f32], min_scale: f32) -> StaticActivations {
    let (low, high) = values.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let scale = ((high - low) / 255.0).max(min_scale);
    let zero_point = (-128.0 - (low / scale).round_ties_even()).clamp(-128.0, 127.0);
    StaticActivations { scale, zero_point: zero_point as i8, low: i8::MIN, high: i8::MAX }
}

per_isa! {
    /// Quantizes one token with the given numbers and returns its scale: theirs, or NaN where a value is not finite.
    fn quantize_affine(isa, values: &[f32], numbers: StaticActivations, codes: &mut [i8]) -> f32 = quantize_affine_body
}

#[inline(always)]
fn quantize_affine_body(values: &[f32], numbers: StaticActivations, codes: &mut [i8]) -> f32 {
    let inverse = 1.0 / numbers.scale;
    let zero_point = i32::from(numbers.zero_point);
    // The bounds are whole numbers, so that values may be clamped before they are rounded.
    let low = (i32::from(numbers.low) - zero_point) as f32;
    let high = (i32::from(numbers.high) - zero_point) as f32;
    // Bits of the largest magnitude: all of NaN are larger than those of infinity.
    let mut largest = 0u32;
    for (code, value) in codes.iter_mut().zip(values) {
        largest = largest.max(value.abs().to_bits());
        // As in `quantize_token`.
        let rounded = (value * inverse).max(low).min(high) + 12_582_912.0;
        *code = (rounded.to_bits() as i32 - 0x4b40_0000 + zero_point) as i8;
    }
    if largest >= f32::INFINITY.to_bits() || !numbers.scale.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    numbers.scale
}

per_isa! {
    /// Quantizes one token in the symmetric scheme and returns its scale; see the module's page.
    pub(super) fn quantize_token(isa, values: &[f32], codes: &mut [i8]) -> f32 = quantize_token_body
}

#[inline(always)]
fn quantize_token_body(values: &[f32], codes: &mut [i8]) -> f32 {
    let largest = largest_magnitude_body(values);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    if !inverse.is_finite() {
        codes.fill(0);
        return 0.0;
    }
    for (code, value) in codes.iter_mut().zip(values) {
        // |value * inverse| exceeds 127 by rounding errors only, so the rounded value fits; adding 1.5 * 2^23 rounds
        // to an integer, half to even, and leaves it in the low bits.
        let rounded = value * inverse + 12_582_912.0;
        *code = (rounded.to_bits() as i32 - 0x4b40_0000) as i8;
    }
    largest / 127.0
}

per_isa! {
    /// Sums of the codes of every `group` columns (the last group may be shorter).
    pub(super) fn sum_groups(isa, codes: &[i8], group: usize, sums: &mut [i32]) = sum_groups_body
}

#[inline(always)]
fn sum_groups_body(codes: &[i8], group: usize, sums: &mut [i32]) {
    for (sum, group) in sums.iter_mut().zip(codes.chunks(group)) {
        *sum = group.iter().map(|&code| i32::from(code)).sum();
    }
}
