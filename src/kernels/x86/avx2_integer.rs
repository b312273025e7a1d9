//! AVX2: integer inputs, exact integer sums (W8A8, W4A8).
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs with saturation at 16 bits. With the magnitude of the
//! weight as the unsigned factor and the input under the weight's sign as the other, a pair is at most
//! `2 * 128 * 127 = 32512`, which fits. Inputs of -128, which some schemes have, would not: such inputs are multiplied in
//! 16 bits instead.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::{PREFETCH_BYTES, load_reals, load_zeros, store};
use super::{call_tile, with_scratch};
use crate::kernels::activations::IntegerInput;
use crate::kernels::matrix::Output;
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// Tokens of a tile: 8 integer accumulators leave room for the weights.
const TOKENS: usize = 4;

/// `y = x wᵀ`, integers times integers.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `x` fits `w`, and `panels` exist.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn integer(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.stride >= w.k && x.codes.len() >= x.tokens * x.stride && x.sums.len() >= x.tokens * w.groups);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    with_scratch(w.k * LANES, |scratch| {
        for panel in panels {
            // SAFETY: the panel exists, and the scratch holds one in the int8 layout.
            unsafe {
                let stored = w.codes.as_ptr().add(panel * w.panel_bytes());
                // `flip` turns stored codes into signed ones: it takes the base off by flipping the top bit.
                let (codes, flip) = match w.width {
                    Width::Int8 => (stored, w.base() as i8),
                    Width::Int4 => {
                        unpack_nibbles(w, stored, scratch);
                        (scratch.cast_const(), 0)
                    }
                };
                for token in (0..x.tokens).step_by(TOKENS) {
                    call_tile!(@rows TOKENS.min(x.tokens - token), x.has_lowest_code,
                        tile(w, codes, flip, x, y, token, panel),
                        [1 false] [2 false] [3 false] [4 false] [1 true] [2 true] [3 true] [4 true]);
                }
            }
        }
    });
}

/// Nibbles as signed bytes, less the base, in the int8 layout.
///
/// # Safety
/// `codes` is a panel, and `out` holds `w.k * 16` bytes.
#[target_feature(enable = "avx2")]
unsafe fn unpack_nibbles(w: &IntegerPanels, codes: *const u8, out: *mut u8) {
    let low = _mm256_set1_epi8(15);
    let base = _mm256_set1_epi8(w.base() as i8);
    // SAFETY: 8 rows of nibbles for each block become 16 rows of bytes.
    unsafe {
        for block in 0..w.k / BLOCK {
            for piece in 0..16 {
                let at = codes.add(block * 512 + piece * 32);
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(PREFETCH_BYTES).cast());
                let pairs = _mm256_loadu_si256(at.cast());
                let out = out.add(block * 1024 + piece * 32);
                let first = _mm256_and_si256(pairs, low);
                let second = _mm256_and_si256(_mm256_srli_epi32::<4>(pairs), low);
                _mm256_storeu_si256(out.cast(), _mm256_sub_epi8(first, base));
                _mm256_storeu_si256(out.add(512).cast(), _mm256_sub_epi8(second, base));
            }
        }
    }
}

/// Dot products of four consecutive weights of 8 lanes with four inputs, which may be -128.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_in_16_bits(weights: __m256i, inputs: __m256i) -> __m256i {
    let even = |bytes| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
    let odd = |bytes| _mm256_srai_epi16::<8>(bytes);
    let first = _mm256_madd_epi16(even(weights), even(inputs));
    _mm256_add_epi32(first, _mm256_madd_epi16(odd(weights), odd(inputs)))
}

/// Dot products of four consecutive weights of 8 lanes with four inputs, none of them -128.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_in_8_bits(weights: __m256i, inputs: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// M tokens times the panel at `codes`; `LOWEST` says whether inputs may be -128.
///
/// # Safety
/// The processor has the features; `codes` is a panel in the int8 layout, and M tokens exist from `token` on.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize, const LOWEST: bool>(
    w: &IntegerPanels,
    codes: *const u8,
    flip: i8,
    x: IntegerInput<'_>,
    y: &Output,
    token: usize,
    panel: usize,
) {
    let flip = _mm256_set1_epi8(flip);
    let mut totals = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: rows of existing groups and tokens; prefetching past the end is harmless.
    unsafe {
        let mut codes = codes;
        let mut inputs = x.codes.as_ptr().add(token * x.stride);
        let sums = x.sums.as_ptr().add(token * w.groups);
        for group in 0..w.groups {
            let mut dots = [[_mm256_setzero_si256(); 2]; M];
            for _ in 0..w.group / 4 {
                let row = [_mm256_loadu_si256(codes.cast()), _mm256_loadu_si256(codes.add(32).cast())];
                if M == 1 {
                    _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(PREFETCH_BYTES).cast());
                }
                let row = [_mm256_xor_si256(row[0], flip), _mm256_xor_si256(row[1], flip)];
                for m in 0..M {
                    let input = _mm256_set1_epi32(inputs.add(m * x.stride).cast::<i32>().read_unaligned());
                    for half in 0..2 {
                        let dot =
                            if LOWEST { dot_in_16_bits(row[half], input) } else { dot_in_8_bits(row[half], input) };
                        dots[m][half] = _mm256_add_epi32(dots[m][half], dot);
                    }
                }
                codes = codes.add(64);
                inputs = inputs.add(4);
            }
            let at = (panel * w.groups + group) * LANES;
            let (scale, points) = (load_reals(&w.scales, at), load_zeros(w, at, 0));
            for m in 0..M {
                let sum = *sums.add(m * w.groups + group);
                for half in 0..2 {
                    let correction = _mm256_mullo_epi32(points[half], _mm256_set1_epi32(sum));
                    let dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots[m][half], correction));
                    totals[m][half] = _mm256_fmadd_ps(scale[half], dot, totals[m][half]);
                }
            }
            if let PackedZero::Offsets(offsets) = &w.zero {
                let offset = load_reals(offsets, at);
                for m in 0..M {
                    let sum = _mm256_set1_ps(*sums.add(m * w.groups + group) as f32);
                    for half in 0..2 {
                        totals[m][half] = _mm256_fmadd_ps(offset[half], sum, totals[m][half]);
                    }
                }
            }
        }
    }
    for m in 0..M {
        let scale = _mm256_set1_ps(x.scales[token + m]);
        let [low, high] = totals[m];
        store(y, token + m, panel, [_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale)]);
    }
}
