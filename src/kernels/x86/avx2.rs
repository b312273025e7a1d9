//! AVX2 with FMA and F16C: products in f32. Weights that are not f32 are unpacked to f32 first, a few panels at a
//! time, and the same tile multiplies them all; 16-bit weights of a single token are widened as they stream by.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{call_avx2_tile, with_scratch};
use crate::kernels::activations::FloatInput;
use crate::kernels::matrix::Output;
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Reals, Width, bf16_pairs};

/// Tokens of a tile of one panel: 12 accumulators of the 16 registers.
const TOKENS: usize = 6;
/// Bytes of a stream that are fetched ahead.
pub(super) const PREFETCH_BYTES: usize = 2048;

/// Panels of a tile: enough independent sums to hide the latency of a multiply-add.
fn panels_for(tokens: usize) -> usize {
    match tokens {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// # Safety
/// The processor has the features; `weights` holds P panels of `k * 16` values, `inputs` M tokens of `k`, `stride`
/// apart.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const P: usize>(
    weights: *const f32,
    k: usize,
    inputs: *const f32,
    stride: usize,
    y: &Output,
    token: usize,
    panel: usize,
) {
    let mut sums = [[[_mm256_setzero_ps(); 2]; P]; M];
    // SAFETY: the caller's promise; prefetching past the end is harmless.
    unsafe {
        for k_index in 0..k {
            let mut row = [[_mm256_setzero_ps(); 2]; P];
            for p in 0..P {
                let at = weights.add((p * k + k_index) * LANES);
                row[p] = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
                if M <= 2 {
                    _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(PREFETCH_BYTES));
                }
            }
            for m in 0..M {
                let input = _mm256_set1_ps(*inputs.add(m * stride + k_index));
                for p in 0..P {
                    sums[m][p][0] = _mm256_fmadd_ps(row[p][0], input, sums[m][p][0]);
                    sums[m][p][1] = _mm256_fmadd_ps(row[p][1], input, sums[m][p][1]);
                }
            }
        }
    }
    for m in 0..M {
        for p in 0..P {
            store(y, token + m, panel + p, sums[m][p]);
        }
    }
}

/// Writes the 16 outputs of a token and a panel, fewer in a short last panel.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(y: &Output, token: usize, panel: usize, values: [__m256; 2]) {
    let row = panel * LANES;
    assert!(token < y.tokens && row < y.rows);
    let lanes = LANES.min(y.rows - row);
    // SAFETY: the lanes written are inside the array, and no other thread writes this panel.
    unsafe {
        let out = y.start.add(token * y.rows + row);
        if lanes == LANES {
            _mm256_storeu_ps(out, values[0]);
            _mm256_storeu_ps(out.add(8), values[1]);
        } else {
            let mut all = [0.0f32; LANES];
            _mm256_storeu_ps(all.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(all.as_mut_ptr().add(8), values[1]);
            out.copy_from_nonoverlapping(all.as_ptr(), lanes);
        }
    }
}

/// 16 scales or offsets.
///
/// # Safety
/// `index + 16` is at most the number of values.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_reals(reals: &Reals, index: usize) -> [__m256; 2] {
    // SAFETY: the caller promises 16 values from `index`.
    unsafe {
        match reals {
            Reals::F16(data) => load_f16(data.as_ptr().add(index)),
            Reals::F32(data) => {
                [_mm256_loadu_ps(data.as_ptr().add(index)), _mm256_loadu_ps(data.as_ptr().add(index + 8))]
            }
        }
    }
}

/// # Safety
/// 16 values are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_f16(at: *const u16) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast()))] }
}

/// Multiplies all tokens by `count` panels of f32 weights at `weights`, the first of which is panel `panel`.
///
/// # Safety
/// The processor has AVX2 and FMA; the panels exist and hold `k * 16` values.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_panels(weights: *const f32, k: usize, x: FloatInput<'_>, y: &Output, panel: usize, count: usize) {
    debug_assert!(x.values.len() >= (x.tokens - 1) * x.stride + k);
    for token in (0..x.tokens).step_by(TOKENS) {
        let m = TOKENS.min(x.tokens - token);
        let wide = panels_for(m);
        for p in (0..count).step_by(wide) {
            // SAFETY: tokens and panels exist by the caller's promise.
            unsafe {
                let (weights, inputs) = (weights.add(p * k * LANES), x.values.as_ptr().add(token * x.stride));
                call_avx2_tile!(m, wide.min(count - p), tile(weights, k, inputs, x.stride, y, token, panel + p));
            }
        }
    }
}

/// `y = x wᵀ` for f32 weights.
///
/// # Safety
/// The processor has AVX2 and FMA; `weights` holds `cols * 16` values for each of `panels`, `x` rows of `cols`.
#[target_feature(enable = "avx2,fma")]
pub(in crate::kernels) unsafe fn dense_f32(
    weights: &[f32],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    assert!(weights.len() >= panels.end * cols * LANES);
    let wide = panels_for(x.tokens);
    for panel in panels.clone().step_by(wide) {
        // SAFETY: as asserted.
        unsafe {
            let weights = weights.as_ptr().add(panel * cols * LANES);
            multiply_panels(weights, cols, x, y, panel, wide.min(panels.end - panel));
        }
    }
}

/// Multiplies by weights that are first unpacked to f32. `unpack(panel, out)` writes the `k * 16` weights of a panel in
/// the order of f32 panels.
///
/// # Safety
/// The processor has AVX2 and FMA; `unpack` writes no more than it says.
#[target_feature(enable = "avx2,fma")]
unsafe fn unpacked(k: usize, x: FloatInput<'_>, y: &Output, panels: Range<usize>, unpack: &dyn Fn(usize, *mut f32)) {
    // Two panels stay in the second-level cache and still hide most of the latency.
    let wide = panels_for(x.tokens).min(2);
    with_scratch(wide * k * LANES * 4, |scratch| {
        let scratch = scratch.cast::<f32>();
        for first in panels.clone().step_by(wide) {
            let count = wide.min(panels.end - first);
            // SAFETY: the scratch holds `wide` panels.
            unsafe {
                (0..count).for_each(|p| unpack(first + p, scratch.add(p * k * LANES)));
                multiply_panels(scratch, k, x, y, first, count);
            }
        }
    });
}

/// Multiplies one token by P panels whose weights are widened as they stream by and never written back: decode reads
/// every weight once, so scratch memory would only cost. `load(panel, row)` gives the 16 weights of input `row`.
///
/// # Safety
/// The processor has the features; `inputs` holds `k` values, and `load` may be asked for P panels and `k` rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stream_tile<const P: usize>(
    k: usize,
    inputs: *const f32,
    y: &Output,
    panel: usize,
    load: &impl Fn(usize, usize) -> [__m256; 2],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; P];
    for row in 0..k {
        // SAFETY: the caller's promise.
        let input = unsafe { _mm256_set1_ps(*inputs.add(row)) };
        for (p, sum) in sums.iter_mut().enumerate() {
            let weights = load(panel + p, row);
            sum[0] = _mm256_fmadd_ps(weights[0], input, sum[0]);
            sum[1] = _mm256_fmadd_ps(weights[1], input, sum[1]);
        }
    }
    for (p, sum) in sums.into_iter().enumerate() {
        store(y, 0, panel + p, sum);
    }
}

/// [`stream_tile`] over `panels`, four streams at a time.
///
/// # Safety
/// As [`stream_tile`], for all of `panels`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stream(
    k: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
    load: &impl Fn(usize, usize) -> [__m256; 2],
) {
    assert!(x.tokens == 1 && x.values.len() >= k);
    let mut panel = panels.start;
    while panel < panels.end {
        let wide = if panels.end - panel >= 4 { 4 } else { 1 };
        // SAFETY: the panels exist by the caller's promise; the token has `k` inputs.
        unsafe {
            match wide {
                4 => stream_tile::<4>(k, x.values.as_ptr(), y, panel, load),
                _ => stream_tile::<1>(k, x.values.as_ptr(), y, panel, load),
            }
        }
        panel += wide;
    }
}

/// `y = x wᵀ` for IEEE half-precision weights, widened to f32.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `weights` holds `cols * 16` values for each of `panels`, `x` rows of `cols`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn dense_f16(
    weights: &[u16],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    assert!(weights.len() >= panels.end * cols * LANES);
    let load = |panel: usize, row: usize| {
        // SAFETY: row `row` of the panel; prefetching past the end is harmless.
        unsafe {
            let at = weights.as_ptr().add((panel * cols + row) * LANES);
            _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(PREFETCH_BYTES));
            load_f16(at)
        }
    };
    if x.tokens == 1 {
        // SAFETY: the caller's promise; `load` reads rows of existing panels.
        return unsafe { stream(cols, x, y, panels, &load) };
    }
    let unpack = |panel: usize, out: *mut f32| {
        for row in 0..cols {
            // SAFETY: row `row` of the scratch.
            unsafe { write_row(out.add(row * LANES), load(panel, row)) };
        }
    };
    // SAFETY: the caller's promise; `unpack` writes `cols * 16` values.
    unsafe { unpacked(cols, x, y, panels, &unpack) };
}

/// `y = x wᵀ` for bfloat16 weights; `x` has been rounded to bfloat16.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `weights` holds `cols` (rounded up to 32) `* 16` values for each of `panels`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn dense_bf16(
    weights: &[u16],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    let pairs = bf16_pairs(cols);
    assert!(weights.len() >= panels.end * pairs * 2 * LANES && x.stride >= pairs * 2);
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    // A lane holds the inputs of a pair: the even one in its low half, the odd one in its high half.
    let load = |panel: usize, row: usize| {
        let shift = _mm_cvtsi32_si128((16 - row % 2 * 16) as i32);
        // SAFETY: pair `row / 2` of the panel; prefetching past the end is harmless.
        let two = unsafe {
            let at = weights.as_ptr().add((panel * pairs + row / 2) * 2 * LANES);
            _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(PREFETCH_BYTES));
            [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(LANES).cast())]
        };
        two.map(|lanes| _mm256_castsi256_ps(_mm256_and_si256(_mm256_sll_epi32(lanes, shift), high)))
    };
    if x.tokens == 1 {
        // SAFETY: the caller's promise; `load` reads rows of existing panels.
        return unsafe { stream(pairs * 2, x, y, panels, &load) };
    }
    let unpack = |panel: usize, out: *mut f32| {
        for row in 0..pairs * 2 {
            // SAFETY: row `row` of the scratch.
            unsafe { write_row(out.add(row * LANES), load(panel, row)) };
        }
    };
    // SAFETY: the caller's promise; `unpack` writes `pairs * 2 * 16` values.
    unsafe { unpacked(pairs * 2, x, y, panels, &unpack) };
}

/// # Safety
/// 16 values are writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn write_row(out: *mut f32, values: [__m256; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_ps(out, values[0]);
        _mm256_storeu_ps(out.add(8), values[1]);
    }
}

/// `y = x wᵀ`, quantized weights times floating-point inputs.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `x` fits `w`, and `panels` exist.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn weight_only(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.stride >= w.k && x.values.len() >= (x.tokens - 1) * x.stride + w.k);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    if x.tokens == 1 {
        // SAFETY: the panels exist; the token has `w.k` inputs.
        panels.for_each(|panel| unsafe { stream_codes(w, x, y, panel) });
        return;
    }
    // SAFETY: the panel exists, and `out` holds `w.k * 16` values.
    let unpack = |panel: usize, out: *mut f32| unsafe { unpack_codes(w, panel, out) };
    // SAFETY: the caller's promise; `unpack` writes `w.k * 16` values.
    unsafe { unpacked(w.k, x, y, panels, &unpack) };
}

/// Multiplies one token by a panel: codes become floats as they stream by, and a group's sum is scaled once.
///
/// # Safety
/// The panel exists, and the token has `w.k` inputs.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stream_codes(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panel: usize) {
    match w.width {
        // SAFETY: the caller's promise.
        Width::Int4 => unsafe { stream_groups::<true>(w, x, y, panel) },
        // SAFETY: the caller's promise.
        Width::Int8 => unsafe { stream_groups::<false>(w, x, y, panel) },
    }
}

/// [`stream_codes`] for nibbles or bytes.
///
/// # Safety
/// As [`stream_codes`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stream_groups<const NIBBLES: bool>(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panel: usize) {
    let mask = _mm256_set1_epi32(if NIBBLES { 15 } else { 255 });
    let mut total = [_mm256_setzero_ps(); 2];
    // SAFETY: rows of an existing panel and inputs of the token; prefetching past the end is harmless.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        for group in 0..w.groups {
            let at = (panel * w.groups + group) * LANES;
            let zero = load_zeros(w, at, w.base());
            let mut sums = [[_mm256_setzero_ps(); 2]; 4];
            for row in group * w.group / 4..(group + 1) * w.group / 4 {
                let (from, high) = if NIBBLES {
                    (row / 16 * (BLOCK * LANES / 2) + row % 8 * 64, row % 16 >= 8)
                } else {
                    (row * 64, false)
                };
                let from = codes.add(from);
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(PREFETCH_BYTES).cast());
                for half in 0..2 {
                    let mut four = _mm256_loadu_si256(from.add(half * 32).cast());
                    if high {
                        four = _mm256_srli_epi32::<4>(four);
                    }
                    let bytes = [
                        four,
                        _mm256_srli_epi32::<8>(four),
                        _mm256_srli_epi32::<16>(four),
                        _mm256_srli_epi32::<24>(four),
                    ];
                    for k in 0..4 {
                        let code = _mm256_sub_epi32(_mm256_and_si256(bytes[k], mask), zero[half]);
                        let input = _mm256_set1_ps(*x.values.as_ptr().add(row * 4 + k));
                        sums[k][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), input, sums[k][half]);
                    }
                }
            }
            let scale = load_reals(&w.scales, at);
            for half in 0..2 {
                let even = _mm256_add_ps(sums[0][half], sums[2][half]);
                let odd = _mm256_add_ps(sums[1][half], sums[3][half]);
                total[half] = _mm256_fmadd_ps(_mm256_add_ps(even, odd), scale[half], total[half]);
            }
            if let PackedZero::Offsets(offsets) = &w.zero {
                let (offset, sum) = (load_reals(offsets, at), _mm256_set1_ps(x.sums[group]));
                total = [_mm256_fmadd_ps(offset[0], sum, total[0]), _mm256_fmadd_ps(offset[1], sum, total[1])];
            }
        }
    }
    store(y, 0, panel, total);
}

/// Unpacks a panel to real weights in the order of f32 panels, zeros behind the last group.
///
/// # Safety
/// The panel exists, and `out` holds `w.k * 16` values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_codes(w: &IntegerPanels, panel: usize, out: *mut f32) {
    let byte = _mm256_set1_epi32(if w.width == Width::Int4 { 15 } else { 255 });
    // SAFETY: rows of an existing panel; the output has as many.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        for group in 0..w.groups {
            let at = (panel * w.groups + group) * LANES;
            let scale = load_reals(&w.scales, at);
            let zero = load_zeros(w, at, w.base());
            let offset = match &w.zero {
                PackedZero::Offsets(offsets) => load_reals(offsets, at),
                _ => [_mm256_setzero_ps(); 2],
            };
            for row in group * w.group / 4..(group + 1) * w.group / 4 {
                // Four inputs of 16 lanes: bytes, or nibbles of the block's low or high half.
                let (from, nibble) = match w.width {
                    Width::Int8 => (row * 64, 0),
                    Width::Int4 => (row / 16 * (BLOCK * LANES / 2) + row % 8 * 64, row % 16 / 8 * 4),
                };
                _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(from + PREFETCH_BYTES).cast());
                for half in 0..2 {
                    let four = _mm256_loadu_si256(codes.add(from + half * 32).cast());
                    for k in 0..4 {
                        let shift = _mm_cvtsi32_si128((k * 8 + nibble) as i32);
                        let code = _mm256_and_si256(_mm256_srl_epi32(four, shift), byte);
                        let code = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero[half]));
                        let weight = _mm256_add_ps(_mm256_mul_ps(code, scale[half]), offset[half]);
                        _mm256_storeu_ps(out.add((row * 4 + k) * LANES + half * 8), weight);
                    }
                }
            }
        }
        let written = w.groups * w.group;
        out.add(written * LANES).write_bytes(0, (w.k - written) * LANES);
    }
}

/// `base + zero point` of 16 lanes.
///
/// # Safety
/// `index + 16` is at most the number of zero points.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_zeros(w: &IntegerPanels, index: usize, base: i32) -> [__m256i; 2] {
    let base = _mm256_set1_epi32(base);
    match &w.zero {
        // SAFETY: the caller's promise.
        PackedZero::Points(points) => unsafe {
            let points = _mm_loadu_si128(points.as_ptr().add(index).cast());
            [
                _mm256_add_epi32(base, _mm256_cvtepi8_epi32(points)),
                _mm256_add_epi32(base, _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(points))),
            ]
        },
        _ => [base; 2],
    }
}
