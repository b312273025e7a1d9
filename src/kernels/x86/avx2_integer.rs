//! AVX2 and AVX-VNNI: integer inputs, exact integer sums (W8A8, W4A8).
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs with saturation at 16 bits. With the magnitude of the
//! weight as the unsigned factor and the input under the weight's sign as the other, a pair is at most
//! `2 * 128 * 127 = 32512`, which fits. Inputs of -128, which some schemes have, would not: such inputs are multiplied in
//! 16 bits instead. Weights of 4 bits stay unsigned as they are stored, and pairs are added in 16 bits over 32 columns before
//! they are widened. AVX-VNNI's `vpdpbusd` takes unsigned weights as they are stored and adds fours of products in 32 bits;
//! what the base adds to the sums comes off with the zero points.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::{PREFETCH_BYTES, load_reals, load_zeros, store};
use super::with_scratch;
use crate::kernels::activations::IntegerInput;
use crate::kernels::matrix::Output;
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// Tokens of a tile: 8 integer accumulators leave room for the weights.
const TOKENS: usize = 4;

/// Calls the instance of a tile for run-time `M <= TOKENS`.
macro_rules! call {
    ($m:expr, $tile:ident $arguments:tt) => {
        match $m {
            1 => $tile::<1> $arguments,
            2 => $tile::<2> $arguments,
            3 => $tile::<3> $arguments,
            _ => $tile::<TOKENS> $arguments,
        }
    };
}

/// `y = x wᵀ`, integers times integers.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and AVX-VNNI if `vnni`; `x` fits `w`, and `panels` exist.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn integer(
    w: &IntegerPanels,
    x: IntegerInput<'_>,
    y: &Output,
    panels: Range<usize>,
    vnni: bool,
) {
    // What turns stored codes into those that are multiplied.
    let nibbles = w.width == Width::Int4;
    let base = if vnni || nibbles { 0 } else { w.base() };
    assert!(x.stride >= w.k && x.codes.len() >= x.tokens * x.stride && x.sums.len() >= x.tokens * w.groups);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    assert!(!nibbles || w.group.is_multiple_of(32), "groups of nibbles are whole thirty-twos");
    with_scratch(w.k * LANES, |scratch| {
        for panel in panels {
            // SAFETY: the panel exists, and the scratch holds one in the int8 layout.
            unsafe {
                let stored = w.codes.as_ptr().add(panel * w.panel_bytes());
                // `flip` takes the base off by flipping the top bit.
                let (codes, flip) = match w.width {
                    Width::Int8 => (stored, base as i8),
                    Width::Int4 => {
                        unpack_nibbles(w, stored, base, scratch);
                        (scratch.cast_const(), 0)
                    }
                };
                for token in (0..x.tokens).step_by(TOKENS) {
                    let place = Place { w, codes, flip, base: w.base() - base, panel, token };
                    let tokens = TOKENS.min(x.tokens - token);
                    match x.has_lowest_code {
                        _ if vnni => call!(tokens, tile_vnni(place, x, y)),
                        _ if nibbles => call!(tokens, tile_of_nibbles(place, x, y)),
                        true => call!(tokens, tile_in_16_bits(place, x, y)),
                        false => call!(tokens, tile_in_8_bits(place, x, y)),
                    }
                }
            }
        }
    });
}

/// Nibbles as bytes, less `base`, in the int8 layout.
///
/// # Safety
/// `codes` is a panel, and `out` holds `w.k * 16` bytes.
#[target_feature(enable = "avx2")]
unsafe fn unpack_nibbles(w: &IntegerPanels, codes: *const u8, base: i32, out: *mut u8) {
    let low = _mm256_set1_epi8(15);
    let base = _mm256_set1_epi8(base as i8);
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

/// A panel in the int8 layout, and the first token that it meets.
#[derive(Clone, Copy)]
struct Place<'a> {
    w: &'a IntegerPanels,
    codes: *const u8,
    /// Bits that are flipped in every code before it is multiplied.
    flip: i8,
    /// What is still added to every code then.
    base: i32,
    panel: usize,
    token: usize,
}

/// Makes a function that sums the products of a group: M tokens by 16 weights, `steps` times four columns. `$step` adds the
/// products of four weights and inputs to `dots`.
macro_rules! group {
    ($group:ident, $features:literal, |$dots:ident, $weights:ident, $inputs:ident| $step:expr) => {
        /// # Safety
        /// The processor has the features; `codes` and M rows of `inputs`, `stride` bytes apart, hold the columns.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $group<const M: usize>(
            mut codes: *const u8,
            mut inputs: *const i8,
            stride: usize,
            steps: usize,
            flip: __m256i,
        ) -> [[__m256i; 2]; M] {
            let mut sums = [[_mm256_setzero_si256(); 2]; M];
            for _ in 0..steps {
                // SAFETY: the columns exist; prefetching past the end is harmless.
                unsafe {
                    let row = [_mm256_loadu_si256(codes.cast()), _mm256_loadu_si256(codes.add(32).cast())];
                    if M == 1 {
                        _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(PREFETCH_BYTES).cast());
                    }
                    let row = [_mm256_xor_si256(row[0], flip), _mm256_xor_si256(row[1], flip)];
                    for m in 0..M {
                        let $inputs = _mm256_set1_epi32(inputs.add(m * stride).cast::<i32>().read_unaligned());
                        for half in 0..2 {
                            let ($dots, $weights) = (sums[m][half], row[half]);
                            sums[m][half] = $step;
                        }
                    }
                    codes = codes.add(64);
                    inputs = inputs.add(4);
                }
            }
            sums
        }
    };
}

group!(group_in_8_bits, "avx2", |dots, weights, inputs| _mm256_add_epi32(dots, dot_in_8_bits(weights, inputs)));
group!(group_in_16_bits, "avx2", |dots, weights, inputs| _mm256_add_epi32(dots, dot_in_16_bits(weights, inputs)));
group!(group_vnni, "avx2,avxvnni", |dots, weights, inputs| _mm256_dpbusd_avx_epi32(dots, weights, inputs));
group!(pairs_of_nibbles, "avx2", |dots, weights, inputs| {
    _mm256_add_epi16(dots, _mm256_maddubs_epi16(weights, inputs))
});

/// As the other groups, for weights of 4 bits without a sign: sums of pairs over 32 columns fit in 16 bits, since
/// `8 * 2 * 15 * 128 = 30720`, and are widened once.
///
/// # Safety
/// As for the other groups; `steps` is a multiple of 8 (groups are of 32 columns), and codes are at most 15.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group_of_nibbles<const M: usize>(
    codes: *const u8,
    inputs: *const i8,
    stride: usize,
    steps: usize,
    flip: __m256i,
) -> [[__m256i; 2]; M] {
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for eight in 0..steps / 8 {
        // SAFETY: these columns are among the group's.
        let pairs =
            unsafe { pairs_of_nibbles::<M>(codes.add(eight * 8 * 64), inputs.add(eight * 32), stride, 8, flip) };
        for (sums, pairs) in sums.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
            *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(*pairs, _mm256_set1_epi16(1)));
        }
    }
    sums
}

/// Makes a tile of M tokens by a panel from a function that sums the products of a group.
macro_rules! tile {
    ($tile:ident, $features:literal, $group:ident) => {
        /// # Safety
        /// The processor has the features; `at.codes` is a panel in the int8 layout, and M tokens exist.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const M: usize>(at: Place<'_>, x: IntegerInput<'_>, y: &Output) {
            let Place { w, codes, panel, token, .. } = at;
            let flip = _mm256_set1_epi8(at.flip);
            let mut totals = [[_mm256_setzero_ps(); 2]; M];
            // SAFETY: rows of existing groups and tokens.
            unsafe {
                let inputs = x.codes.as_ptr().add(token * x.stride);
                let sums = x.sums.as_ptr().add(token * w.groups);
                for group in 0..w.groups {
                    let (codes, inputs) = (codes.add(group * w.group * LANES), inputs.add(group * w.group));
                    let dots = $group::<M>(codes, inputs, x.stride, w.group / 4, flip);
                    let reals = (panel * w.groups + group) * LANES;
                    let (scale, points) = (load_reals(&w.scales, reals), load_zeros(w, reals, at.base));
                    for m in 0..M {
                        let sum = *sums.add(m * w.groups + group);
                        for half in 0..2 {
                            let correction = _mm256_mullo_epi32(points[half], _mm256_set1_epi32(sum));
                            let dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots[m][half], correction));
                            totals[m][half] = _mm256_fmadd_ps(scale[half], dot, totals[m][half]);
                        }
                    }
                    if let PackedZero::Offsets(offsets) = &w.zero {
                        let offset = load_reals(offsets, reals);
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
    };
}

tile!(tile_in_8_bits, "avx2,fma,f16c", group_in_8_bits);
tile!(tile_in_16_bits, "avx2,fma,f16c", group_in_16_bits);
tile!(tile_vnni, "avx2,fma,f16c,avxvnni", group_vnni);
tile!(tile_of_nibbles, "avx2,fma,f16c", group_of_nibbles);
