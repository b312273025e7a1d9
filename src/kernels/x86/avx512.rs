//! AVX-512: products whose sums run over all inputs at once (dense formats, integers with scales per channel).
//!
//! In all of them 64 bytes of a panel meet 4 bytes of a token: 16 x one f32, 16 x two bfloat16, 16 x four integers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{call_tile, with_scratch};
use crate::kernels::activations::{Bf16Input, FloatInput, IntegerInput};
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{IntegerPanels, LANES, PackedZero, Reals, bf16_pairs};

/// Panels of a tile with few tokens: as many concurrent streams.
pub(super) const GEMV_PANELS: usize = 4;
/// Panels and tokens of a tile with many tokens: 24 accumulators.
pub(super) const GEMM_PANELS: usize = 3;
const GEMM_TOKENS: usize = 8;

/// How far ahead of a tile of few tokens its P panels are fetched: the next P panels, as long as they fit the
/// second-level cache, so that no fetch is wasted at a panel's end; else a little further in the same panels.
#[inline]
pub(super) fn prefetch_distance(panels: usize, panel_bytes: usize) -> usize {
    let next = panels * panel_bytes;
    if next <= 128 << 10 { next } else { 2048 }
}

/// Weights and inputs of a sum over all inputs.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    /// Panel 0; panels follow each other `panel_bytes` apart.
    pub weights: *const u8,
    pub panel_bytes: usize,
    /// 64-byte rows of a panel, and 4-byte pieces of a token.
    pub steps: usize,
    /// Token 0; tokens follow each other `token_bytes` apart.
    pub inputs: *const u8,
    pub token_bytes: usize,
    pub tokens: usize,
}

/// Where the sums of a product go. A trait and not a closure, so that a tile's sums stay in registers.
pub(super) trait Emit<Sum> {
    /// Takes the sums of a panel and M tokens that follow each other.
    ///
    /// # Safety
    /// The processor has AVX-512F; the panel exists.
    unsafe fn emit<const M: usize>(&self, token: usize, panel: usize, sums: [Sum; M]);
}

/// Sums that are the product's outputs.
struct Outputs<'a> {
    y: &'a Output,
    /// Panel of the matrix that the product counts as panel 0.
    first: usize,
}

impl Emit<__m512> for Outputs<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn emit<const M: usize>(&self, token: usize, panel: usize, sums: [__m512; M]) {
        store_column(self.y, token, self.first + panel, sums);
    }
}

/// Sums of stored codes times inputs, with one scale per channel.
pub(super) struct Channels<'a> {
    pub w: &'a IntegerPanels,
    pub x: IntegerInput<'a>,
    pub y: &'a Output,
    /// Panel of the matrix that the product counts as panel 0.
    pub first: usize,
}

impl Emit<__m512i> for Channels<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn emit<const M: usize>(&self, token: usize, panel: usize, sums: [__m512i; M]) {
        let Channels { w, x, y, first } = self;
        let panel = first + panel;
        let (input_sums, input_scales) = (&x.sums[token..token + M], &x.scales[token..token + M]);
        // SAFETY: there are 16 scales, points and offsets for each panel.
        unsafe {
            let zeros = load_zeros::<1>(w, panel, 0);
            let scale = load_reals(&w.scales, panel * LANES);
            let mut values = [_mm512_setzero_ps(); M];
            for m in 0..M {
                let [zero] = zero_products(w, zeros, input_sums[m]);
                values[m] = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[m], zero)));
            }
            if let PackedZero::Offsets(offsets) = &w.zero {
                let offset = load_reals(offsets, panel * LANES);
                for m in 0..M {
                    values[m] = _mm512_fmadd_ps(offset, _mm512_set1_ps(input_sums[m] as f32), values[m]);
                }
            }
            for m in 0..M {
                values[m] = _mm512_mul_ps(values[m], _mm512_set1_ps(input_scales[m]));
            }
            store_column(y, token, panel, values);
        }
    }
}

/// Makes a tile and the driver over its panels and tokens.
macro_rules! sums {
    ($tile:ident, $run:ident, $features:literal, $sum:ty, $zero:ident, |$acc:ident, $w:ident, $x:ident| $step:expr) => {
        /// # Safety
        /// The processor has the features; `s` describes valid memory for M tokens from `token`, P panels from `panel`.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const M: usize, const P: usize>(s: Stream, token: usize, panel: usize, emit: &impl Emit<$sum>) {
            let mut sums = [[$zero(); P]; M];
            let ahead = prefetch_distance(P, s.panel_bytes);
            // SAFETY: all reads lie inside the panels and tokens that the caller promises; prefetching past the end
            // is harmless.
            unsafe {
                let mut weights = s.weights.add(panel * s.panel_bytes);
                let mut inputs = s.inputs.add(token * s.token_bytes);
                for _ in 0..s.steps {
                    let mut row = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        let at = weights.add(p * s.panel_bytes);
                        row[p] = _mm512_loadu_si512(at.cast());
                        if M <= GEMV_TOKENS {
                            _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                        }
                    }
                    for m in 0..M {
                        let $x = _mm512_set1_epi32(inputs.add(m * s.token_bytes).cast::<i32>().read_unaligned());
                        for p in 0..P {
                            let ($acc, $w) = (sums[m][p], row[p]);
                            sums[m][p] = $step;
                        }
                    }
                    weights = weights.add(64);
                    inputs = inputs.add(4);
                }
            }
            for p in 0..P {
                let mut column = [$zero(); M];
                for m in 0..M {
                    column[m] = sums[m][p];
                }
                // SAFETY: the panel exists.
                unsafe { emit.emit(token, panel + p, column) };
            }
        }

        /// # Safety
        /// The processor has the features; `s` describes valid memory for all its tokens and `panels`.
        #[target_feature(enable = $features)]
        unsafe fn $run(s: Stream, panels: Range<usize>, emit: &impl Emit<$sum>) {
            let few = s.tokens <= GEMV_TOKENS;
            let (wide, tall) = if few { (GEMV_PANELS, GEMV_TOKENS) } else { (GEMM_PANELS, GEMM_TOKENS) };
            for panel in panels.clone().step_by(wide) {
                for token in (0..s.tokens).step_by(tall) {
                    let (m, p) = (tall.min(s.tokens - token), wide.min(panels.end - panel));
                    // SAFETY: tokens and panels are inside what the caller promises.
                    unsafe { call_tile!(m, p, $tile(s, token, panel, emit)) };
                }
            }
        }
    };
}

sums!(tile_f32, run_f32, "avx512f", __m512, _mm512_setzero_ps, |sum, w, x| _mm512_fmadd_ps(
    _mm512_castsi512_ps(w),
    _mm512_castsi512_ps(x),
    sum
));
sums!(tile_bf16, run_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps, |sum, w, x| _mm512_dpbf16_ps(
    sum,
    std::mem::transmute::<__m512i, __m512bh>(w),
    std::mem::transmute::<__m512i, __m512bh>(x)
));
sums!(tile_int8, run_int8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512, |sum, w, x| _mm512_dpbusd_epi32(
    sum, w, x
));

/// Writes the 16 outputs of a token and a panel, fewer in a short last panel.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(y: &Output, token: usize, panel: usize, values: __m512) {
    store_column(y, token, panel, [values]);
}

/// [`store`] for M tokens that follow each other.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_column<const M: usize>(y: &Output, token: usize, panel: usize, values: [__m512; M]) {
    let row = panel * LANES;
    assert!(token + M <= y.tokens && row < y.rows);
    let lanes = LANES.min(y.rows - row);
    // SAFETY: the tokens and the first `lanes` rows are inside the array, and no other thread writes this panel.
    unsafe {
        let start = y.start.add(token * y.rows + row);
        if lanes == LANES {
            for m in 0..M {
                _mm512_storeu_ps(start.add(m * y.rows), values[m]);
            }
        } else {
            let mask = (0xffff_u32 >> (LANES - lanes)) as __mmask16;
            for m in 0..M {
                _mm512_mask_storeu_ps(start.add(m * y.rows), mask, values[m]);
            }
        }
    }
}

/// 16 scales or offsets.
///
/// # Safety
/// `index + 16` is at most the number of values.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load_reals(reals: &Reals, index: usize) -> __m512 {
    // SAFETY: the caller promises 16 values from `index`.
    unsafe {
        match reals {
            Reals::F16(data) => _mm512_cvtph_ps(_mm256_loadu_si256(data.as_ptr().add(index).cast())),
            Reals::F32(data) => _mm512_loadu_ps(data.as_ptr().add(index)),
        }
    }
}

/// Scales or offsets of P panels from `panel` on, for one group.
///
/// # Safety
/// The panels and the group exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load_group<const P: usize>(
    reals: &Reals,
    groups: usize,
    panel: usize,
    group: usize,
) -> [__m512; P] {
    let mut loaded = [_mm512_setzero_ps(); P];
    for p in 0..P {
        // SAFETY: the caller's promise.
        loaded[p] = unsafe { load_reals(reals, ((panel + p) * groups + group) * LANES) };
    }
    loaded
}

/// What stands for a zero weight in stored codes, `base + zero point`, of P panels from `panel` on, for one group.
///
/// # Safety
/// The panels and the group exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load_zeros<const P: usize>(w: &IntegerPanels, panel: usize, group: usize) -> [__m512i; P] {
    let mut zeros = [_mm512_set1_epi32(w.base()); P];
    if let PackedZero::Points(points) = &w.zero {
        for p in 0..P {
            let at = ((panel + p) * w.groups + group) * LANES;
            // SAFETY: the caller's promise.
            let points = unsafe { _mm_loadu_si128(points.as_ptr().add(at).cast()) };
            zeros[p] = _mm512_add_epi32(zeros[p], _mm512_cvtepi8_epi32(points));
        }
    }
    zeros
}

/// What storage and zero points add to the sum of a group: `zeros`, as [`load_zeros`] has them, times the sum of its
/// inputs.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn zero_products<const P: usize>(w: &IntegerPanels, zeros: [__m512i; P], inputs: i32) -> [__m512i; P] {
    match &w.zero {
        PackedZero::Points(_) => zeros.map(|zero| _mm512_mullo_epi32(zero, _mm512_set1_epi32(inputs))),
        _ => [_mm512_set1_epi32(w.base() * inputs); P],
    }
}

/// `y = x wᵀ` for f32 weights.
///
/// # Safety
/// The processor has AVX-512F; `weights` holds `cols * 16` values for each of `panels`, `x` rows of `cols`.
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) unsafe fn dense_f32(
    weights: &[f32],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    debug_assert!(weights.len() >= panels.end * cols * LANES);
    let stream = float_stream(weights.as_ptr(), cols, cols, x);
    // SAFETY: the caller's promise.
    unsafe { run_f32(stream, panels, &Outputs { y, first: 0 }) };
}

/// Stream of `k` inputs over f32 panels of `panel_k` inputs.
pub(super) fn float_stream(weights: *const f32, panel_k: usize, k: usize, x: FloatInput<'_>) -> Stream {
    debug_assert!(x.values.len() >= (x.tokens - 1) * x.stride + k);
    Stream {
        weights: weights.cast(),
        panel_bytes: panel_k * LANES * 4,
        steps: k,
        inputs: x.values.as_ptr().cast(),
        token_bytes: x.stride * 4,
        tokens: x.tokens,
    }
}

/// `y = x wᵀ` for bfloat16 weights and inputs, accumulated in f32.
///
/// # Safety
/// The processor has AVX-512F and BF16; `weights` holds `cols` (rounded up to 32) `* 16` values for each of `panels`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::kernels) unsafe fn dense_bf16(
    weights: &[u16],
    cols: usize,
    x: Bf16Input<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    let pairs = bf16_pairs(cols);
    debug_assert!(weights.len() >= panels.end * pairs * 2 * LANES && x.values.len() >= x.tokens * x.stride);
    let stream = Stream {
        weights: weights.as_ptr().cast(),
        panel_bytes: pairs * 64,
        steps: pairs,
        inputs: x.values.as_ptr().cast(),
        token_bytes: x.stride * 2,
        tokens: x.tokens,
    };
    // SAFETY: the caller's promise; rows of `x` are padded with zeros to multiples of 64.
    unsafe { run_bf16(stream, panels, &Outputs { y, first: 0 }) };
}

/// `y = x wᵀ` for int8-layout codes (`weights` from panel `first` on) with one scale per channel.
///
/// # Safety
/// The processor has AVX-512F and VNNI; `weights` holds `w.k * 16` codes for each of `panels`.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn integer_channel(
    w: &IntegerPanels,
    weights: *const u8,
    first: usize,
    x: IntegerInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    debug_assert!(x.codes.len() >= x.tokens * x.stride && x.stride >= w.k && w.groups == 1);
    let stream = Stream {
        weights,
        panel_bytes: w.k * LANES,
        steps: w.k / 4,
        inputs: x.codes.as_ptr().cast(),
        token_bytes: x.stride,
        tokens: x.tokens,
    };
    let shifted = panels.start - first..panels.end - first;
    // SAFETY: the caller's promise.
    unsafe { run_int8(stream, shifted, &Channels { w, x, y, first }) };
}

/// Multiplies by weights that are first unpacked to f32, a few panels at a time. `unpack(panel, out)` writes the
/// `k * 16` weights of a panel in the order of f32 panels.
///
/// # Safety
/// The processor has AVX-512F; `unpack` writes no more than it says.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn unpacked(
    k: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
    unpack: &dyn Fn(usize, *mut f32),
) {
    with_scratch(GEMM_PANELS * k * LANES * 4, |scratch| {
        let scratch = scratch.cast::<f32>();
        for first in panels.clone().step_by(GEMM_PANELS) {
            let count = GEMM_PANELS.min(panels.end - first);
            // SAFETY: the scratch holds `GEMM_PANELS` panels.
            unsafe {
                (0..count).for_each(|p| unpack(first + p, scratch.add(p * k * LANES)));
                let stream = float_stream(scratch, k, k, x);
                run_f32(stream, 0..count, &Outputs { y, first });
            }
        }
    });
}

/// `y = x wᵀ` for IEEE half-precision weights, widened to f32.
///
/// # Safety
/// The processor has AVX-512F; `weights` holds `cols * 16` values for each of `panels`, `x` rows of `cols`.
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) unsafe fn dense_f16(
    weights: &[u16],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    debug_assert!(weights.len() >= panels.end * cols * LANES);
    if x.tokens <= GEMV_TOKENS {
        for panel in panels.clone().step_by(GEMV_PANELS) {
            let count = GEMV_PANELS.min(panels.end - panel);
            // SAFETY: the caller's promise.
            unsafe { call_tile!(x.tokens, count, tile_f16(weights, cols, x, y, panel)) };
        }
        return;
    }
    let unpack = |panel: usize, out: *mut f32| {
        for row in 0..cols {
            // SAFETY: row `row` of the panel, and of the scratch.
            unsafe {
                let row_bits = _mm256_loadu_si256(weights.as_ptr().add((panel * cols + row) * LANES).cast());
                _mm512_storeu_ps(out.add(row * LANES), _mm512_cvtph_ps(row_bits));
            }
        }
    };
    // SAFETY: the caller's promise; `unpack` writes `cols * 16` values.
    unsafe { unpacked(cols, x, y, panels, &unpack) };
}

/// # Safety
/// The processor has AVX-512F; P panels from `panel` exist, `x` has M tokens.
#[target_feature(enable = "avx512f")]
unsafe fn tile_f16<const M: usize, const P: usize>(
    weights: &[u16],
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panel: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    let ahead = prefetch_distance(P, cols * LANES * 2);
    // SAFETY: rows below `cols` of existing panels and tokens; prefetching past the end is harmless.
    unsafe {
        let weights = weights.as_ptr().add(panel * cols * LANES);
        for k in 0..cols {
            let mut row = [_mm512_setzero_ps(); P];
            for p in 0..P {
                let at = weights.add((p * cols + k) * LANES);
                row[p] = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
                _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(ahead));
            }
            for m in 0..M {
                let input = _mm512_set1_ps(*x.values.as_ptr().add(m * x.stride + k));
                for p in 0..P {
                    sums[m][p] = _mm512_fmadd_ps(row[p], input, sums[m][p]);
                }
            }
        }
    }
    for m in 0..M {
        for p in 0..P {
            store(y, m, panel + p, sums[m][p]);
        }
    }
}
