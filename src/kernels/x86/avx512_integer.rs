//! AVX-512 VNNI: integer inputs, exact integer sums, scales per channel or per group (W8A8, W4A8).
//!
//! `vpdpbusd` multiplies unsigned weights `u` by signed inputs; the sum of a group starts at
//! `-(base + zero point) * sum of inputs`, so that it ends as the sum of `(code - zero point) * input`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{GEMM_PANELS, integer_channel, load_group, load_zeros, prefetch_distance, store, zero_products};
use super::{call_small_tile, with_scratch};
use crate::kernels::activations::IntegerInput;
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// Tokens of a tile of grouped sums: integer and real accumulators share the registers.
const GROUPED_TOKENS: usize = 4;

/// `y = x wᵀ`, integers times integers.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; `x` fits `w`, and `panels` exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) unsafe fn integer(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.stride >= w.k && x.codes.len() >= x.tokens * x.stride && x.sums.len() >= x.tokens * w.groups);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    // SAFETY: sizes as asserted.
    unsafe {
        match w.width {
            Width::Int8 if w.groups == 1 => integer_channel(w, w.codes.as_ptr(), 0, x, y, panels),
            Width::Int8 => int8_groups(w, w.codes.as_ptr(), 0, x, y, panels),
            Width::Int4 if x.tokens <= GEMV_TOKENS => int4_gemv(w, x, y, panels),
            Width::Int4 => int4_gemm(w, x, y, panels),
        }
    }
}

/// Panels of a tile of few tokens: enough streams, as far as the registers go.
fn panels_for(tokens: usize) -> usize {
    if tokens <= 2 { 4 } else { 3 }
}

/// # Safety
/// As [`integer`]; `weights` is panel `first` in the int8 layout.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_groups(
    w: &IntegerPanels,
    weights: *const u8,
    first: usize,
    x: IntegerInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    let wide = panels_for(x.tokens);
    for panel in panels.clone().step_by(wide) {
        for token in (0..x.tokens).step_by(GROUPED_TOKENS) {
            let (m, p) = (GROUPED_TOKENS.min(x.tokens - token), wide.min(panels.end - panel));
            // SAFETY: tokens and panels are inside what the caller promises.
            unsafe {
                call_small_tile!(
                    m,
                    p,
                    tile_int8_groups(w, weights.add((panel - first) * w.k * LANES), x, y, token, panel)
                )
            };
        }
    }
}

/// # Safety
/// The processor has the features; P panels follow `weights`, and M tokens exist from `token` on.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_int8_groups<const M: usize, const P: usize>(
    w: &IntegerPanels,
    weights: *const u8,
    x: IntegerInput<'_>,
    y: &Output,
    token: usize,
    panel: usize,
) {
    let panel_bytes = w.k * LANES;
    let ahead = prefetch_distance(P, panel_bytes);
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: rows of existing groups, panels and tokens; prefetching past the end is harmless.
    unsafe {
        let mut weights = weights;
        let sums = x.sums.as_ptr().add(token * w.groups);
        let mut inputs = x.codes.as_ptr().add(token * x.stride);
        for group in 0..w.groups {
            let mut dots = begin_group::<M, P>(w, sums, panel, group);
            for _ in 0..w.group / 4 {
                let mut row = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    let at = weights.add(p * panel_bytes);
                    row[p] = _mm512_loadu_si512(at.cast());
                    if M < GROUPED_TOKENS {
                        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                    }
                }
                for m in 0..M {
                    let input = _mm512_set1_epi32(inputs.add(m * x.stride).cast::<i32>().read_unaligned());
                    for p in 0..P {
                        dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], row[p], input);
                    }
                }
                weights = weights.add(64);
                inputs = inputs.add(4);
            }
            totals = end_group(w, sums, panel, group, dots, totals);
        }
    }
    finish(x, y, token, panel, &totals);
}

/// Sums of a group at its start: what zero points and unsigned storage will add to them, negated.
///
/// # Safety
/// The group, the M tokens and the P panels exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn begin_group<const M: usize, const P: usize>(
    w: &IntegerPanels,
    sums: *const i32,
    panel: usize,
    group: usize,
) -> [[__m512i; P]; M] {
    let mut dots = [[_mm512_setzero_si512(); P]; M];
    // SAFETY: the caller's promise.
    unsafe {
        let zeros = load_zeros::<P>(w, panel, group);
        for m in 0..M {
            dots[m] = zero_products(w, zeros, (*sums.add(m * w.groups + group)).wrapping_neg());
        }
    }
    dots
}

/// The totals with the scaled sums of a group.
///
/// # Safety
/// The group, the M tokens and the P panels exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn end_group<const M: usize, const P: usize>(
    w: &IntegerPanels,
    sums: *const i32,
    panel: usize,
    group: usize,
    dots: [[__m512i; P]; M],
    mut totals: [[__m512; P]; M],
) -> [[__m512; P]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = load_group::<P>(&w.scales, w.groups, panel, group);
        for m in 0..M {
            for p in 0..P {
                totals[m][p] = _mm512_fmadd_ps(scales[p], _mm512_cvtepi32_ps(dots[m][p]), totals[m][p]);
            }
        }
        if let PackedZero::Offsets(offsets) = &w.zero {
            let offsets = load_group::<P>(offsets, w.groups, panel, group);
            for m in 0..M {
                let sum = _mm512_set1_ps(*sums.add(m * w.groups + group) as f32);
                for p in 0..P {
                    totals[m][p] = _mm512_fmadd_ps(offsets[p], sum, totals[m][p]);
                }
            }
        }
    }
    totals
}

/// Scales the totals by their tokens' scales and writes them.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish<const M: usize, const P: usize>(
    x: IntegerInput<'_>,
    y: &Output,
    token: usize,
    panel: usize,
    totals: &[[__m512; P]; M],
) {
    for m in 0..M {
        let scale = _mm512_set1_ps(x.scales[token + m]);
        for p in 0..P {
            store(y, token + m, panel + p, _mm512_mul_ps(totals[m][p], scale));
        }
    }
}

/// Few tokens: nibbles are taken apart in registers.
///
/// # Safety
/// As [`integer`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int4_gemv(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    let wide = panels_for(x.tokens);
    for panel in panels.clone().step_by(wide) {
        let p = wide.min(panels.end - panel);
        // SAFETY: the caller's promise.
        unsafe { call_small_tile!(x.tokens, p, tile_int4(w, x, y, panel)) };
    }
}

/// # Safety
/// The processor has the features; P panels exist from `panel` on, `x` has M tokens.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_int4<const M: usize, const P: usize>(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panel: usize) {
    let panel_bytes = w.panel_bytes();
    let ahead = prefetch_distance(P, panel_bytes);
    let sums = x.sums.as_ptr();
    let low = _mm512_set1_epi8(15);
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    let (mut group, mut left) = (0, w.group);
    let halves = if w.groups == 1 { w.k / 32 } else { w.cols / 32 };
    // SAFETY: rows of existing groups, panels and tokens; prefetching past the end is harmless.
    unsafe {
        let mut dots = begin_group::<M, P>(w, sums, panel, 0);
        for half in 0..halves {
            let weights = w.codes.as_ptr().add(panel * panel_bytes + half / 2 * (BLOCK * LANES / 2));
            let inputs = x.codes.as_ptr().add(half * 32);
            let shift = _mm_cvtsi32_si128((half % 2 * 4) as i32);
            for row in 0..8 {
                let mut codes = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    let at = weights.add(p * panel_bytes + row * 64);
                    // Bits that cross bytes in the shift are masked away.
                    codes[p] = _mm512_and_si512(_mm512_srl_epi32(_mm512_loadu_si512(at.cast()), shift), low);
                    if half % 2 == 0 {
                        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                    }
                }
                for m in 0..M {
                    let input = inputs.add(m * x.stride + row * 4);
                    let input = _mm512_set1_epi32(input.cast::<i32>().read_unaligned());
                    for p in 0..P {
                        dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], codes[p], input);
                    }
                }
            }
            left -= 32;
            if left == 0 {
                totals = end_group(w, sums, panel, group, dots, totals);
                group += 1;
                left = w.group;
                if group < w.groups {
                    dots = begin_group(w, sums, panel, group);
                }
            }
        }
    }
    finish(x, y, 0, panel, &totals);
}

/// Many tokens: a few panels are unpacked to the int8 layout and shared by all tokens.
///
/// # Safety
/// As [`integer`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int4_gemm(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    with_scratch(GEMM_PANELS * w.k * LANES, |scratch| {
        for first in panels.clone().step_by(GEMM_PANELS) {
            let count = GEMM_PANELS.min(panels.end - first);
            // SAFETY: the scratch holds `GEMM_PANELS` panels; the rest is the caller's promise.
            unsafe {
                for p in 0..count {
                    unpack_nibbles(w, first + p, scratch.add(p * w.k * LANES));
                }
                if w.groups == 1 {
                    integer_channel(w, scratch, first, x, y, first..first + count);
                } else {
                    int8_groups(w, scratch, first, x, y, first..first + count);
                }
            }
        }
    });
}

/// # Safety
/// The panel exists, and `out` holds `w.k * 16` bytes.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn unpack_nibbles(w: &IntegerPanels, panel: usize, out: *mut u8) {
    let low = _mm512_set1_epi8(15);
    // SAFETY: 8 rows of nibbles for each block become 16 rows of bytes.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        for block in 0..w.k / BLOCK {
            for row in 0..8 {
                let pairs = _mm512_loadu_si512(codes.add((block * 8 + row) * 64).cast());
                let out = out.add((block * 16 + row) * 64);
                _mm512_storeu_si512(out.cast(), _mm512_and_si512(pairs, low));
                _mm512_storeu_si512(out.add(8 * 64).cast(), _mm512_and_si512(_mm512_srli_epi32::<4>(pairs), low));
            }
        }
    }
}
