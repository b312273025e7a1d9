//! AVX-512 VNNI: quantized weights, floating-point inputs (W8A16, W4A16).
//!
//! Inputs come in 16-bit block fixed point (`activations/fixed_point.rs`): `vpdpbusd` multiplies the unsigned weights by
//! the high bytes and by the low bytes of the inputs, the sum of a block is `256 high + low`, less what storage and zero
//! points add to it, exactly; it is scaled by the input's and the weight's scale and added up in f32. A group of weights
//! is whole blocks of inputs, short enough that no sum overflows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{GEMM_PANELS, load_group, load_zeros, prefetch_distance, store, zero_products};
use super::avx512_integer::unpack_nibbles;
use super::{call_small_tile, with_scratch};
use crate::kernels::activations::FixedInput;
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// Tokens of a tile with many tokens: sums of a block and totals share the registers.
const GEMM_TOKENS: usize = 4;

/// `y = x wᵀ`, quantized weights times floating-point inputs.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; `x` has blocks of `w.input_block()` and fits `w`, and `panels` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) unsafe fn weight_only(w: &IntegerPanels, x: FixedInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.stride >= w.k && x.bytes.len() >= 2 * x.tokens * x.stride);
    assert!(x.blocks == w.cols.div_ceil(w.input_block()) && x.scales.len().min(x.sums.len()) >= x.tokens * x.blocks);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    // SAFETY: sizes as asserted.
    unsafe {
        match w.width {
            _ if x.tokens <= GEMV_TOKENS => gemv(w, x, y, panels),
            Width::Int8 => gemm(w, w.codes.as_ptr(), 0, x, y, panels),
            Width::Int4 => with_scratch(GEMM_PANELS * w.k * LANES, |scratch| {
                for first in panels.clone().step_by(GEMM_PANELS) {
                    let count = GEMM_PANELS.min(panels.end - first);
                    (0..count).for_each(|p| unpack_nibbles(w, first + p, scratch.add(p * w.k * LANES)));
                    gemm(w, scratch, first, x, y, first..first + count);
                }
            }),
        }
    }
}

/// Few tokens: every weight is read once.
///
/// # Safety
/// As [`weight_only`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn gemv(w: &IntegerPanels, x: FixedInput<'_>, y: &Output, panels: Range<usize>) {
    // Two sums and a total for each token and panel.
    let wide = [4, 4, 3, 2][x.tokens - 1];
    for panel in panels.clone().step_by(wide) {
        let p = wide.min(panels.end - panel);
        // SAFETY: the caller's promise.
        unsafe {
            match w.width {
                Width::Int8 => call_small_tile!(x.tokens, p, tile_int8(w, x, y, panel)),
                Width::Int4 => call_small_tile!(x.tokens, p, tile_int4(w, x, y, panel)),
            }
        }
    }
}

/// Sums of a block with the high and with the low bytes of the inputs.
#[derive(Clone, Copy)]
struct Sums<const M: usize, const P: usize> {
    high: [[__m512i; P]; M],
    low: [[__m512i; P]; M],
}

impl<const M: usize, const P: usize> Sums<M, P> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        Sums { high: [[_mm512_setzero_si512(); P]; M], low: [[_mm512_setzero_si512(); P]; M] }
    }

    /// Adds the products of 64 weights of each panel and the four inputs at `at` of each token.
    ///
    /// # Safety
    /// M tokens have four inputs at `at`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn add(&mut self, weights: [__m512i; P], x: FixedInput<'_>, at: usize) {
        for m in 0..M {
            // SAFETY: the caller's promise.
            let (high, low) = unsafe {
                let high = x.bytes.as_ptr().add(2 * m * x.stride + at);
                (four(high), four(high.add(x.stride)))
            };
            for p in 0..P {
                self.high[m][p] = _mm512_dpbusd_epi32(self.high[m][p], weights[p], high);
                self.low[m][p] = _mm512_dpbusd_epi32(self.low[m][p], weights[p], low);
            }
        }
    }
}

/// Four bytes in every lane.
///
/// # Safety
/// Four bytes lie at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four(at: *const i8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// # Safety
/// The processor has the features; P panels exist from `panel` on, `x` has M tokens.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_int8<const M: usize, const P: usize>(w: &IntegerPanels, x: FixedInput<'_>, y: &Output, panel: usize) {
    let (panel_bytes, block) = (w.panel_bytes(), w.input_block());
    let ahead = prefetch_distance(P, panel_bytes);
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: rows of existing blocks, panels and tokens; prefetching past the end is harmless.
    unsafe {
        let mut weights = w.codes.as_ptr().add(panel * panel_bytes);
        for index in 0..x.blocks {
            let mut sums = Sums::<M, P>::zero();
            for row in 0..block / 4 {
                let mut codes = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    let at = weights.add(p * panel_bytes);
                    codes[p] = _mm512_loadu_si512(at.cast());
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                }
                sums.add(codes, x, index * block + row * 4);
                weights = weights.add(64);
            }
            totals = end_block(w, x, (0, panel, index), sums, totals);
        }
    }
    finish(y, 0, panel, &totals);
}

/// # Safety
/// The processor has the features; P panels exist from `panel` on, `x` has M tokens.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_int4<const M: usize, const P: usize>(w: &IntegerPanels, x: FixedInput<'_>, y: &Output, panel: usize) {
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    let halves = w.input_block() / 32;
    for index in 0..x.blocks {
        let mut sums = Sums::<M, P>::zero();
        // SAFETY: the caller's promise; a block is one or both halves of a block of the layout.
        unsafe {
            for half in index * halves..(index + 1) * halves {
                if half % 2 == 0 {
                    add_half::<M, P, 0>(w, x, panel, half, &mut sums);
                } else {
                    add_half::<M, P, 4>(w, x, panel, half, &mut sums);
                }
            }
            totals = end_block(w, x, (0, panel, index), sums, totals);
        }
    }
    finish(y, 0, panel, &totals);
}

/// Adds 32 inputs, half a block of the layout: the low nibbles (`SHIFT` 0) or the high ones (4).
///
/// # Safety
/// As [`tile_int4`]; the half exists.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_half<const M: usize, const P: usize, const SHIFT: u32>(
    w: &IntegerPanels,
    x: FixedInput<'_>,
    panel: usize,
    half: usize,
    sums: &mut Sums<M, P>,
) {
    let panel_bytes = w.panel_bytes();
    let ahead = prefetch_distance(P, panel_bytes);
    let nibble = _mm512_set1_epi8(15);
    // SAFETY: rows of an existing half, panels and tokens; prefetching past the end is harmless.
    unsafe {
        let weights = w.codes.as_ptr().add(panel * panel_bytes + half / 2 * (BLOCK * LANES / 2));
        for row in 0..8 {
            let mut codes = [_mm512_setzero_si512(); P];
            for p in 0..P {
                let at = weights.add(p * panel_bytes + row * 64);
                // Bits that cross bytes in the shift are masked away.
                codes[p] = _mm512_and_si512(_mm512_srli_epi32::<SHIFT>(_mm512_loadu_si512(at.cast())), nibble);
                if SHIFT == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                }
            }
            sums.add(codes, x, half * 32 + row * 4);
        }
    }
}

/// The totals with the scaled sums of block `index`; `place` is the first token, the first panel and the block.
///
/// # Safety
/// The block, the M tokens and the P panels exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn end_block<const M: usize, const P: usize>(
    w: &IntegerPanels,
    x: FixedInput<'_>,
    (token, panel, index): (usize, usize, usize),
    sums: Sums<M, P>,
    mut totals: [[__m512; P]; M],
) -> [[__m512; P]; M] {
    let group = index * w.input_block() / w.group;
    // SAFETY: the caller's promise.
    unsafe {
        let zeros = load_zeros::<P>(w, panel, group);
        let scales = load_group::<P>(&w.scales, w.groups, panel, group);
        let offsets = match &w.zero {
            PackedZero::Offsets(offsets) => Some(load_group::<P>(offsets, w.groups, panel, group)),
            _ => None,
        };
        for m in 0..M {
            let at = (token + m) * x.blocks + index;
            let (scale, sum) = (_mm512_set1_ps(*x.scales.as_ptr().add(at)), *x.sums.as_ptr().add(at));
            let added = zero_products(w, zeros, sum);
            for p in 0..P {
                let dot = _mm512_add_epi32(_mm512_slli_epi32::<8>(sums.high[m][p]), sums.low[m][p]);
                let dot = _mm512_sub_epi32(dot, added[p]);
                let factor = _mm512_mul_ps(scales[p], scale);
                totals[m][p] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot), totals[m][p]);
            }
            if let Some(offsets) = offsets {
                let sum = _mm512_mul_ps(_mm512_set1_ps(sum as f32), scale);
                for p in 0..P {
                    totals[m][p] = _mm512_fmadd_ps(offsets[p], sum, totals[m][p]);
                }
            }
        }
    }
    totals
}

#[inline]
#[target_feature(enable = "avx512f")]
fn finish<const M: usize, const P: usize>(y: &Output, token: usize, panel: usize, totals: &[[__m512; P]; M]) {
    for m in 0..M {
        for p in 0..P {
            store(y, token + m, panel + p, totals[m][p]);
        }
    }
}

/// Many tokens.
///
/// # Safety
/// As [`weight_only`]; `weights` is panel `first` in the int8 layout.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn gemm(
    w: &IntegerPanels,
    weights: *const u8,
    first: usize,
    x: FixedInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    for panel in panels.clone().step_by(GEMM_PANELS) {
        for token in (0..x.tokens).step_by(GEMM_TOKENS) {
            let (m, p) = (GEMM_TOKENS.min(x.tokens - token), GEMM_PANELS.min(panels.end - panel));
            // SAFETY: tokens and panels are inside what the caller promises.
            unsafe {
                let weights = weights.add((panel - first) * w.k * LANES);
                call_small_tile!(m, p, tile_many(w, weights, x, y, token, panel));
            }
        }
    }
}

/// # Safety
/// The processor has the features; P panels of the int8 layout follow `weights`, and M tokens exist from `token` on.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_many<const M: usize, const P: usize>(
    w: &IntegerPanels,
    weights: *const u8,
    x: FixedInput<'_>,
    y: &Output,
    token: usize,
    panel: usize,
) {
    let (panel_bytes, block) = (w.k * LANES, w.input_block());
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    for index in 0..x.blocks {
        // SAFETY: rows of existing blocks, panels and tokens.
        unsafe {
            let weights = weights.add(index * block * LANES);
            let high = x.bytes.as_ptr().add(2 * token * x.stride + index * block);
            // The high bytes' sum, shifted into place, is where the low bytes' starts: half as many registers.
            let mut dots = [[_mm512_setzero_si512(); P]; M];
            dots = add_bytes(weights, panel_bytes, block, high, x.stride, dots);
            for m in 0..M {
                for p in 0..P {
                    dots[m][p] = _mm512_slli_epi32::<8>(dots[m][p]);
                }
            }
            dots = add_bytes(weights, panel_bytes, block, high.add(x.stride), x.stride, dots);
            let sums = Sums { high: [[_mm512_setzero_si512(); P]; M], low: dots };
            totals = end_block(w, x, (token, panel, index), sums, totals);
        }
    }
    finish(y, token, panel, &totals);
}

/// The sums with the products of a block of weights and the bytes at `inputs`, of every second row.
///
/// # Safety
/// A block of weights and of each token's bytes lies where the pointers say.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_bytes<const M: usize, const P: usize>(
    weights: *const u8,
    panel_bytes: usize,
    block: usize,
    inputs: *const i8,
    stride: usize,
    mut dots: [[__m512i; P]; M],
) -> [[__m512i; P]; M] {
    for row in 0..block / 4 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut codes = [_mm512_setzero_si512(); P];
            for p in 0..P {
                codes[p] = _mm512_loadu_si512(weights.add(p * panel_bytes + row * 64).cast());
            }
            for m in 0..M {
                let input = four(inputs.add(2 * m * stride + row * 4));
                for p in 0..P {
                    dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], codes[p], input);
                }
            }
        }
    }
    dots
}
