//! Quantized weights: integer inputs (W8A8, W4A8), and floating-point inputs in 16-bit block fixed point (W8A16, W4A16),
//! which are two rows of codes for each token.
//!
//! Exact sums of a unit (a group of weights, or a block of such inputs) come from [`Dots`]; what storage and zero points
//! add to them is taken off, and they are scaled and added up in f32.

use std::arch::aarch64::*;
use std::ops::Range;

use super::arithmetic::{Arithmetic, MixedDot, SignedDot, Widening};
use super::dots::{ByLane, ByPair, Codes, Dots};
use super::tile::{Inputs, call_tile, panels_for};
use super::{Floats, load_reals, load_zeros, store};
use crate::kernels::Isa;
use crate::kernels::activations::{FixedInput, IntegerInput};
use crate::kernels::buffer::with_scratch;
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{IntegerPanels, LANES, PackedZero, Width};

/// Rows of inputs of a tile: 16 sums leave room for the inputs.
const ROWS: usize = 4;

/// `y = x wᵀ`, integers times integers.
///
/// # Safety
/// `isa` is a set of ARM that is available; `x` fits `w`, and `panels` exist.
pub(in crate::kernels) unsafe fn integer(
    isa: Isa,
    w: &IntegerPanels,
    x: IntegerInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    assert!(x.stride >= w.k && x.codes.len() >= x.tokens * x.stride && x.sums.len() >= x.tokens * w.groups);
    // SAFETY: sizes as asserted; the rest is the caller's promise.
    unsafe { products(isa, w, x, x.has_lowest_code, y, panels) };
}

/// `y = x wᵀ`, quantized weights times floating-point inputs.
///
/// # Safety
/// `isa` is a set of ARM that is available; `x` has blocks of `w.input_block()` and fits `w`, and `panels` exist.
pub(in crate::kernels) unsafe fn weight_only(
    isa: Isa,
    w: &IntegerPanels,
    x: FixedInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    assert!(x.stride >= w.k && x.bytes.len() >= 2 * x.tokens * x.stride);
    assert!(x.blocks == w.cols.div_ceil(w.input_block()) && x.scales.len().min(x.sums.len()) >= x.tokens * x.blocks);
    // SAFETY: sizes as asserted; the rest is the caller's promise. Low bytes may be -128.
    unsafe { products(isa, w, x, true, y, panels) };
}

/// What the two forms of inputs do with exact sums.
trait CodedInput: Copy + Into<Inputs> {
    /// Rows of codes of a token.
    const ROWS: usize;

    /// How many units there are, and how many inputs each has.
    fn units(self, w: &IntegerPanels) -> (usize, usize);

    /// Adds the scaled sums of a unit to the totals of the rows where tokens start. `place` is the first row, the first
    /// panel and the unit; `base` is what is added to the codes.
    ///
    /// # Safety
    /// The unit, rows and panels exist.
    unsafe fn add_unit<const M: usize, const P: usize>(
        self,
        w: &IntegerPanels,
        base: i32,
        place: (usize, usize, usize),
        dots: &[[[int32x4_t; 4]; P]; M],
        totals: &mut [[Floats; P]; M],
    );

    /// What the totals of a token are scaled by.
    fn scale(self, token: usize) -> f32;
}

impl CodedInput for IntegerInput<'_> {
    const ROWS: usize = 1;

    fn units(self, w: &IntegerPanels) -> (usize, usize) {
        (w.groups, w.group)
    }

    #[inline(always)]
    unsafe fn add_unit<const M: usize, const P: usize>(
        self,
        w: &IntegerPanels,
        base: i32,
        (token, panel, group): (usize, usize, usize),
        dots: &[[[int32x4_t; 4]; P]; M],
        totals: &mut [[Floats; P]; M],
    ) {
        for p in 0..P {
            let at = ((panel + p) * w.groups + group) * LANES;
            // SAFETY: the caller's promise.
            unsafe {
                let (scales, zeros) = (load_reals(&w.scales, at), load_zeros(w, at, base));
                for m in 0..M {
                    let sum = *self.sums.as_ptr().add((token + m) * w.groups + group);
                    for quarter in 0..4 {
                        let dot = vcvtq_f32_s32(vmlsq_n_s32(dots[m][p][quarter], zeros[quarter], sum));
                        totals[m][p][quarter] = vfmaq_f32(totals[m][p][quarter], scales[quarter], dot);
                    }
                    if let PackedZero::Offsets(offsets) = &w.zero {
                        add_offsets(&mut totals[m][p], load_reals(offsets, at), sum as f32);
                    }
                }
            }
        }
    }

    fn scale(self, token: usize) -> f32 {
        self.scales[token]
    }
}

impl CodedInput for FixedInput<'_> {
    const ROWS: usize = 2;

    fn units(self, w: &IntegerPanels) -> (usize, usize) {
        (self.blocks, w.input_block())
    }

    #[inline(always)]
    unsafe fn add_unit<const M: usize, const P: usize>(
        self,
        w: &IntegerPanels,
        base: i32,
        (row, panel, block): (usize, usize, usize),
        dots: &[[[int32x4_t; 4]; P]; M],
        totals: &mut [[Floats; P]; M],
    ) {
        let group = block * w.input_block() / w.group;
        for p in 0..P {
            let at = ((panel + p) * w.groups + group) * LANES;
            // SAFETY: the caller's promise.
            unsafe {
                let (scales, zeros) = (load_reals(&w.scales, at), load_zeros(w, at, base));
                for high in (0..M).step_by(2) {
                    let of_token = (row + high) / 2 * self.blocks + block;
                    let (scale, sum) = (*self.scales.as_ptr().add(of_token), *self.sums.as_ptr().add(of_token));
                    let totals = &mut totals[high][p];
                    for quarter in 0..4 {
                        let dot = vshlq_n_s32::<8>(dots[high][p][quarter]);
                        let dot = vaddq_s32(dot, dots[high + 1][p][quarter]);
                        let dot = vcvtq_f32_s32(vmlsq_n_s32(dot, zeros[quarter], sum));
                        totals[quarter] = vfmaq_f32(totals[quarter], vmulq_n_f32(scales[quarter], scale), dot);
                    }
                    if let PackedZero::Offsets(offsets) = &w.zero {
                        add_offsets(totals, load_reals(offsets, at), sum as f32 * scale);
                    }
                }
            }
        }
    }

    fn scale(self, _: usize) -> f32 {
        1.0 // Every block has its own.
    }
}

/// Adds what offsets contribute to a sum over inputs that are `sum` together.
#[inline(always)]
fn add_offsets(totals: &mut Floats, offsets: Floats, sum: f32) {
    for (total, offset) in totals.iter_mut().zip(offsets) {
        // SAFETY: NEON is part of aarch64.
        *total = unsafe { vfmaq_n_f32(*total, offset, sum) };
    }
}

/// Picks the instructions. `lowest` says whether inputs may be -128.
///
/// # Safety
/// `isa` is a set of ARM that is available; `x` fits `w`, and `panels` exist.
unsafe fn products<X: CodedInput>(isa: Isa, w: &IntegerPanels, x: X, lowest: bool, y: &Output, panels: Range<usize>) {
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            Isa::NeonI8mm => run::<MixedDot, ByPair, X>(w, x, y, panels),
            Isa::NeonDotprod => run::<SignedDot, ByLane<SignedDot>, X>(w, x, y, panels),
            // Nibbles times -128 do not come near the end of 16 bits.
            _ if lowest && w.width == Width::Int8 => {
                run::<Widening<true>, ByLane<Widening<true>>, X>(w, x, y, panels);
            }
            _ => run::<Widening<false>, ByLane<Widening<false>>, X>(w, x, y, panels),
        }
    }
}

/// Reads stored panels by lane for up to 4 tokens, with `A`; for more, unpacks each once and reads it by `Many`.
///
/// # Safety
/// The processor has the instructions; `x` fits `w`, and `panels` exist.
unsafe fn run<A: Arithmetic<Sum = int32x4_t>, Many: Dots, X: CodedInput>(
    w: &IntegerPanels,
    x: X,
    y: &Output,
    panels: Range<usize>,
) {
    if y.tokens > GEMV_TOKENS {
        with_scratch(w.k * LANES, |scratch| {
            for panel in panels {
                // SAFETY: the scratch holds the bytes of a panel.
                unsafe { multiply::<Many, X>(w, Many::unpacked(w, panel, scratch), x, y, panel, 1) };
            }
        });
        return;
    }
    let mut panel = panels.start;
    while panel < panels.end {
        let p = panels_for((y.tokens * X::ROWS).min(ROWS), panels.end - panel);
        // SAFETY: the caller's promise.
        unsafe { multiply::<ByLane<A>, X>(w, ByLane::<A>::stored(w, panel), x, y, panel, p) };
        panel += p;
    }
}

/// All tokens times `p` panels from `panel` on. One panel, or as many as [`panels_for`] all rows.
///
/// # Safety
/// As [`run`]; `codes` are those of the panels.
unsafe fn multiply<K: Dots, X: CodedInput>(w: &IntegerPanels, codes: Codes, x: X, y: &Output, panel: usize, p: usize) {
    let rows = y.tokens * X::ROWS;
    for row in (0..rows).step_by(ROWS) {
        // SAFETY: the caller's promise.
        unsafe { call_tile!(ROWS.min(rows - row), p, tile::<K, X>(w, codes, x, row, y, panel)) };
    }
}

/// M rows of inputs from `row` on times P panels from `panel` on.
///
/// # Safety
/// As [`multiply`].
unsafe fn tile<K: Dots, X: CodedInput, const M: usize, const P: usize>(
    w: &IntegerPanels,
    codes: Codes,
    x: X,
    row: usize,
    y: &Output,
    panel: usize,
) {
    // SAFETY: NEON is part of aarch64.
    let mut totals = [[[unsafe { vdupq_n_f32(0.0) }; 4]; P]; M];
    let (units, length) = x.units(w);
    // SAFETY: the caller's promise.
    unsafe {
        let inputs: Inputs = x.into();
        let inputs = inputs.from::<M>(row);
        for unit in 0..units {
            let dots = K::dots::<M, P>(codes, inputs, unit * length, length);
            x.add_unit(w, codes.base, (row, panel, unit), &dots, &mut totals);
        }
    }
    for m in (0..M).step_by(X::ROWS) {
        let token = (row + m) / X::ROWS;
        let scale = x.scale(token);
        for p in 0..P {
            // SAFETY: NEON is part of aarch64.
            store(y, token, panel + p, totals[m][p].map(|total| unsafe { vmulq_n_f32(total, scale) }));
        }
    }
}
