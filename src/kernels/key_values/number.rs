//! Numbers of a KV cache: how they are narrowed when stored and widened when read.

use half::{bf16, f16};

use crate::kernels::activations::round_to_bf16;
use crate::kernels::isa::{Isa, per_isa};
use crate::kernels::vector::{LANES, largest_magnitude};

/// A stored number.
pub(super) trait Number: Copy + Default + Send {
    /// What the numbers of a head are divided by.
    fn scale(_: Isa, _: &[f32]) -> f32 {
        1.0
    }

    /// Rounds half to even, after division by `scale`.
    fn narrow(isa: Isa, from: &[f32], scale: f32, to: &mut [Self]);
}

impl Number for f32 {
    fn narrow(_: Isa, from: &[f32], _: f32, to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Number for bf16 {
    fn narrow(isa: Isa, from: &[f32], _: f32, to: &mut [bf16]) {
        round_to_bf16(isa, from, bytemuck::cast_slice_mut(to));
    }
}

per_isa! {
    /// Widens words of two numbers, `lanes` of them in a row: the lower numbers of all words of a row, then the upper.
    pub(super) fn widen_pairs(isa, from: &[u32], lanes: usize, to: &mut [f32]) = widen_pairs_body
}

#[inline(always)]
fn widen_pairs_body(from: &[u32], lanes: usize, to: &mut [f32]) {
    for (from, to) in from.chunks_exact(lanes).zip(to.chunks_exact_mut(2 * lanes)) {
        let (lower, upper) = to.split_at_mut(lanes);
        for ((word, lower), upper) in from.iter().zip(lower).zip(upper) {
            (*lower, *upper) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
        }
    }
}

impl Number for i8 {
    fn scale(isa: Isa, head: &[f32]) -> f32 {
        let largest = largest_magnitude(isa, head);
        if largest.is_finite() { largest / 127.0 } else { f32::NAN }
    }

    fn narrow(isa: Isa, from: &[f32], scale: f32, to: &mut [i8]) {
        narrow_int8(isa, from, scale, to);
    }
}

per_isa! {
    /// Codes of numbers of one scale; 0 where the scale is NaN or so small that its reciprocal overflows.
    fn narrow_int8(isa, from: &[f32], scale: f32, to: &mut [i8]) = narrow_int8_body
}

#[inline(always)]
fn narrow_int8_body(from: &[f32], scale: f32, to: &mut [i8]) {
    let inverse = 1.0 / scale;
    if !inverse.is_finite() {
        to.fill(0);
        return;
    }
    for (to, &from) in to.iter_mut().zip(from) {
        *to = (from * inverse).round_ties_even() as i8;
    }
}

per_isa! {
    /// Widens codes `[token / 16][dimension][16]` with a scale for each token.
    pub(super) fn widen_keys(isa, codes: &[i8], scales: &[f32], to: &mut [f32]) = widen_keys_body
}

#[inline(always)]
fn widen_keys_body(codes: &[i8], scales: &[f32], to: &mut [f32]) {
    let block = codes.len() / scales.len() * LANES;
    let (scales, _) = scales.as_chunks::<LANES>();
    for ((codes, to), scales) in codes.chunks_exact(block).zip(to.chunks_exact_mut(block)).zip(scales) {
        for (codes, to) in codes.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<LANES>().0) {
            for i in 0..LANES {
                to[i] = f32::from(codes[i]) * scales[i];
            }
        }
    }
}

per_isa! {
    /// Widens codes `(tokens, dimensions)` with a scale for each token.
    pub(super) fn widen_values(isa, codes: &[i8], scales: &[f32], to: &mut [f32]) = widen_values_body
}

#[inline(always)]
fn widen_values_body(codes: &[i8], scales: &[f32], to: &mut [f32]) {
    let width = codes.len() / scales.len();
    for ((codes, to), &scale) in codes.chunks_exact(width).zip(to.chunks_exact_mut(width)).zip(scales) {
        for (code, to) in codes.iter().zip(to) {
            *to = f32::from(*code) * scale;
        }
    }
}

impl Number for f16 {
    fn narrow(isa: Isa, from: &[f32], _: f32, to: &mut [f16]) {
        match isa.base() {
            // SAFETY: the processor has F16C, which `is_available` tells.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Vnni if Isa::Avx2.is_available() => unsafe { narrow_f16c(from, to) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::kernels::arm::half::narrow(from, to),
            _ => to.iter_mut().zip(from).for_each(|(to, &from)| *to = f16::from_f32(from)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn narrow_f16c(from: &[f32], to: &mut [f16]) {
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps};
    let (chunks, rest) = from.as_chunks::<8>();
    let (to_chunks, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in chunks.iter().zip(to_chunks) {
        // SAFETY: 8 numbers of 32 bits are read and 8 of 16 bits written, unaligned.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
            _mm_storeu_si128(to.as_mut_ptr().cast(), half);
        }
    }
    to_rest.iter_mut().zip(rest).for_each(|(to, &from)| *to = f16::from_f32(from));
}

/// 16-bit numbers, widened into `buffer`.
pub(super) fn widened<'a>(isa: Isa, from: &[f16], buffer: &'a mut [f32]) -> &'a [f32] {
    let to = &mut buffer[..from.len()];
    widen(isa, from, to);
    to
}

/// Widens 16-bit numbers, exactly.
///
/// # Panics
/// When the lengths differ or are not whole sixteens.
fn widen(isa: Isa, from: &[f16], to: &mut [f32]) {
    assert!(from.len() == to.len() && from.len().is_multiple_of(LANES));
    let base = isa.base();
    match base {
        // SAFETY: the processor has AVX-512 F, which `is_available` tells.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni if base.is_available() => unsafe { widen_avx512(from, to) },
        // SAFETY: the processor has F16C, which `is_available` tells.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if base.is_available() => unsafe { widen_f16c(from, to) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => crate::kernels::arm::half::widen(from, to),
        _ => to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.to_f32()),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16c(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    for (from, to) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: 8 numbers of 16 bits are read and 8 of 32 bits written, unaligned.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    for (from, to) in from.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<LANES>().0) {
        // SAFETY: 16 numbers of 16 bits are read and 16 of 32 bits written, unaligned.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_is_half_to_even_everywhere() {
        let from: Vec<f32> = (0..100).map(|i| 1.0 + i as f32 / 4096.0).chain([65520.0, 1e-8, -0.0]).collect();
        for isa in Isa::available() {
            let mut to = vec![f16::ZERO; from.len()];
            f16::narrow(isa, &from, 1.0, &mut to);
            assert!(to.iter().zip(&from).all(|(to, &from)| *to == f16::from_f32(from)), "{isa}");
        }
    }
}
