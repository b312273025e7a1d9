//! AVX-512: quantized weights, floating-point inputs (W8A16, W4A16).
//!
//! Codes become exact f32 integers (code less zero point), are multiplied and summed in f32, and each group's sum is
//! scaled once. A byte becomes a float by placing it in the mantissa of `2^23` and subtracting `2^23 + 128 + zero
//! point`; a nibble by a table of 16 floats, whose index `vpermps` takes from the low four bits of each dword, so that
//! shifting alone walks through the packed layout.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{load_group, load_reals, prefetch_distance, store, unpacked};
use super::call_small_tile;
use crate::kernels::activations::FloatInput;
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// `2^23`: floats from here on are integers, the low bits of their mantissas.
const TWO_23: f32 = 8_388_608.0;

/// `y = x wᵀ`, quantized weights times floating-point inputs.
///
/// # Safety
/// The processor has AVX-512 F and BW; `x` fits `w`, and `panels` exist.
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::kernels) unsafe fn weight_only(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.stride >= w.k && x.values.len() >= (x.tokens - 1) * x.stride + w.k);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    if x.tokens > GEMV_TOKENS {
        let unpack = |panel: usize, out: *mut f32| {
            // SAFETY: the panel exists, and `out` holds `w.k * 16` values.
            unsafe {
                match w.width {
                    Width::Int8 => unpack_int8(w, panel, out),
                    Width::Int4 => unpack_int4(w, panel, out),
                }
            }
        };
        // SAFETY: the caller's promise; `unpack` writes `w.k * 16` values.
        unsafe { unpacked(w.k, x, y, panels, &unpack) };
        return;
    }
    let wide = if x.tokens <= 2 { 4 } else { 2 };
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

/// Zero points of a group as floats; zeros where there are none.
///
/// # Safety
/// `index + 16` is at most the number of zero points.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_points(w: &IntegerPanels, index: usize) -> __m512 {
    match &w.zero {
        // SAFETY: the caller promises 16 points from `index`.
        PackedZero::Points(points) => unsafe {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(points.as_ptr().add(index).cast())))
        },
        _ => _mm512_setzero_ps(),
    }
}

/// Offsets of a group; zeros where there are none.
///
/// # Safety
/// `index + 16` is at most the number of offsets.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_offsets(w: &IntegerPanels, index: usize) -> __m512 {
    match &w.zero {
        // SAFETY: the caller promises 16 offsets from `index`.
        PackedZero::Offsets(offsets) => unsafe { load_reals(offsets, index) },
        _ => _mm512_setzero_ps(),
    }
}

/// Controls that move byte `0..4` of every dword to its lowest place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn byte_controls() -> [__m512i; 4] {
    let lanes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    [0, 1, 2, 3].map(|byte| _mm512_add_epi8(lanes, _mm512_set1_epi8(byte)))
}

/// The byte that `control` selects from every dword, as the float `2^23 + byte`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn byte_to_float(codes: __m512i, control: __m512i) -> __m512 {
    let two_23 = _mm512_castps_si512(_mm512_set1_ps(TWO_23));
    _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(two_23, 0x1111_1111_1111_1111, codes, control))
}

/// # Safety
/// The processor has the features; P panels exist from `panel` on, `x` has M tokens.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile_int8<const M: usize, const P: usize>(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panel: usize) {
    let controls = byte_controls();
    let zero = _mm512_set1_ps(TWO_23 + w.base() as f32);
    let panel_bytes = w.panel_bytes();
    let ahead = prefetch_distance(P, panel_bytes);
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: rows of existing groups, panels and tokens; prefetching past the end is harmless.
    unsafe {
        let mut weights = w.codes.as_ptr().add(panel * panel_bytes);
        let mut inputs = x.values.as_ptr();
        for group in 0..w.groups {
            let mut sums = [[_mm512_setzero_ps(); P]; M];
            let mut zeros = [_mm512_setzero_ps(); P];
            for p in 0..P {
                zeros[p] = _mm512_add_ps(zero, load_points(w, ((panel + p) * w.groups + group) * LANES));
            }
            for _ in 0..w.group / 4 {
                for p in 0..P {
                    let at = weights.add(p * panel_bytes);
                    let codes = _mm512_loadu_si512(at.cast());
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                    for byte in 0..4 {
                        let code = _mm512_sub_ps(byte_to_float(codes, controls[byte]), zeros[p]);
                        for m in 0..M {
                            let input = _mm512_set1_ps(*inputs.add(m * x.stride + byte));
                            sums[m][p] = _mm512_fmadd_ps(code, input, sums[m][p]);
                        }
                    }
                }
                weights = weights.add(64);
                inputs = inputs.add(4);
            }
            totals = end_group(w, x, panel, group, sums, totals);
        }
    }
    finish(y, panel, &totals);
}

/// # Safety
/// The processor has the features; P panels exist from `panel` on, `x` has M tokens.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile_int4<const M: usize, const P: usize>(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panel: usize) {
    let table = nibble_table(w);
    let has_points = matches!(w.zero, PackedZero::Points(_));
    let panel_bytes = w.panel_bytes();
    let ahead = prefetch_distance(P, panel_bytes);
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    let mut points = [_mm512_setzero_ps(); P];
    let (mut group, mut left) = (0, 0);
    let halves = if w.groups == 1 { w.k / 32 } else { w.cols / 32 };
    for half in 0..halves {
        // SAFETY: rows of existing groups, panels and tokens; prefetching past the end is harmless.
        unsafe {
            if left == 0 {
                left = w.group;
                sums = [[_mm512_setzero_ps(); P]; M];
                for p in 0..P {
                    points[p] = load_points(w, ((panel + p) * w.groups + group) * LANES);
                }
            }
            let weights = w.codes.as_ptr().add(panel * panel_bytes + half / 2 * (BLOCK * LANES / 2));
            let inputs = x.values.as_ptr().add(half * 32);
            let shift = _mm_cvtsi32_si128((half % 2 * 4) as i32);
            for row in 0..8 {
                let mut codes = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    let at = weights.add(p * panel_bytes + row * 64);
                    codes[p] = _mm512_srl_epi32(_mm512_loadu_si512(at.cast()), shift);
                    if half % 2 == 0 {
                        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                    }
                }
                for byte in 0..4 {
                    for p in 0..P {
                        let mut code = _mm512_permutexvar_ps(codes[p], table);
                        codes[p] = _mm512_srli_epi32::<8>(codes[p]);
                        if has_points {
                            code = _mm512_sub_ps(code, points[p]);
                        }
                        for m in 0..M {
                            let input = _mm512_set1_ps(*inputs.add(m * x.stride + row * 4 + byte));
                            sums[m][p] = _mm512_fmadd_ps(code, input, sums[m][p]);
                        }
                    }
                }
            }
            left -= 32;
            if left == 0 {
                totals = end_group(w, x, panel, group, sums, totals);
                group += 1;
            }
        }
    }
    finish(y, panel, &totals);
}

/// The float of every nibble, less the base.
#[inline]
#[target_feature(enable = "avx512f")]
fn nibble_table(w: &IntegerPanels) -> __m512 {
    let nibbles = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
    _mm512_sub_ps(nibbles, _mm512_set1_ps(w.base() as f32))
}

/// The totals with the scaled sums of a group.
///
/// # Safety
/// The group, the M tokens and the P panels exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn end_group<const M: usize, const P: usize>(
    w: &IntegerPanels,
    x: FloatInput<'_>,
    panel: usize,
    group: usize,
    sums: [[__m512; P]; M],
    mut totals: [[__m512; P]; M],
) -> [[__m512; P]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = load_group::<P>(&w.scales, w.groups, panel, group);
        for m in 0..M {
            for p in 0..P {
                totals[m][p] = _mm512_fmadd_ps(scales[p], sums[m][p], totals[m][p]);
            }
        }
        if let PackedZero::Offsets(offsets) = &w.zero {
            let offsets = load_group::<P>(offsets, w.groups, panel, group);
            for m in 0..M {
                let sum = _mm512_set1_ps(*x.sums.get_unchecked(m * w.groups + group));
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
fn finish<const M: usize, const P: usize>(y: &Output, panel: usize, totals: &[[__m512; P]; M]) {
    for m in 0..M {
        for p in 0..P {
            store(y, m, panel + p, totals[m][p]);
        }
    }
}

/// Unpacks a panel to real weights in the order of f32 panels.
///
/// # Safety
/// The panel exists, and `out` holds `w.k * 16` values.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_int8(w: &IntegerPanels, panel: usize, out: *mut f32) {
    let controls = byte_controls();
    // SAFETY: rows of an existing panel; the output has as many.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        for group in 0..w.groups {
            let at = (panel * w.groups + group) * LANES;
            let (scale, offset) = (load_reals(&w.scales, at), load_offsets(w, at));
            let zero = _mm512_add_ps(_mm512_set1_ps(TWO_23 + w.base() as f32), load_points(w, at));
            for row in group * w.group / 4..(group + 1) * w.group / 4 {
                let four = _mm512_loadu_si512(codes.add(row * 64).cast());
                for byte in 0..4 {
                    let code = _mm512_sub_ps(byte_to_float(four, controls[byte]), zero);
                    let weight = _mm512_add_ps(_mm512_mul_ps(code, scale), offset);
                    _mm512_storeu_ps(out.add((row * 4 + byte) * LANES), weight);
                }
            }
        }
        clear_padding(w, out);
    }
}

/// Unpacks a panel to real weights in the order of f32 panels.
///
/// # Safety
/// The panel exists, and `out` holds `w.k * 16` values.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_int4(w: &IntegerPanels, panel: usize, out: *mut f32) {
    let table = nibble_table(w);
    let halves = if w.groups == 1 { w.k / 32 } else { w.cols / 32 };
    // SAFETY: rows of an existing panel; the output has as many.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        for half in 0..halves {
            let at = (panel * w.groups + half * 32 / w.group) * LANES;
            let (scale, points, offset) = (load_reals(&w.scales, at), load_points(w, at), load_offsets(w, at));
            let shift = _mm_cvtsi32_si128((half % 2 * 4) as i32);
            for row in 0..8 {
                let four = _mm512_loadu_si512(codes.add((half / 2 * 8 + row) * 64).cast());
                let mut four = _mm512_srl_epi32(four, shift);
                for byte in 0..4 {
                    let code = _mm512_sub_ps(_mm512_permutexvar_ps(four, table), points);
                    let weight = _mm512_add_ps(_mm512_mul_ps(code, scale), offset);
                    _mm512_storeu_ps(out.add((half * 32 + row * 4 + byte) * LANES), weight);
                    four = _mm512_srli_epi32::<8>(four);
                }
            }
        }
        clear_padding(w, out);
    }
}

/// Zeroes the rows behind the last group, which `unpack_*` leaves as they were: they meet zero inputs, but scratch may
/// hold a NaN.
///
/// # Safety
/// `out` holds `w.k * 16` values.
unsafe fn clear_padding(w: &IntegerPanels, out: *mut f32) {
    let written = w.groups * w.group;
    // SAFETY: `written` is at most `w.k`.
    unsafe { out.add(written * LANES).write_bytes(0, (w.k - written) * LANES) };
}
