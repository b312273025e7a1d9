//! The walk over rows that all products share, and where their weights come from.

use std::arch::aarch64::*;

use super::arithmetic::Arithmetic;
use crate::kernels::activations::{Bf16Input, FixedInput, FloatInput, IntegerInput};

/// Rows of weights of the panels of a tile.
pub(super) trait Source {
    /// Row `row + LANE` of panel `panel` of the tile; `row` is a multiple of 4.
    ///
    /// # Safety
    /// The row and the panel exist.
    unsafe fn load<const LANE: i32>(&self, panel: usize, row: usize) -> [uint8x16_t; 4];
}

/// Adds the products of `rows` rows of P panels with M rows of inputs, four bytes for each row of weights.
///
/// # Safety
/// The processor has the extension of `A`; the rows and inputs exist.
#[inline(always)]
pub(super) unsafe fn add_rows<A: Arithmetic, const M: usize, const P: usize>(
    sums: &mut [[[A::Sum; 4]; P]; M],
    rows: usize,
    inputs: [*const u8; M],
    source: &impl Source,
) {
    // SAFETY: four rows from `row` on, or what is left of them, exist by the caller's promise.
    unsafe {
        for row in (0..rows / 4 * 4).step_by(4) {
            let inputs = inputs.map(|inputs| vld1q_u8(inputs.add(row * 4)));
            add_row::<A, 0, M, P>(sums, row, inputs, source);
            add_row::<A, 1, M, P>(sums, row, inputs, source);
            add_row::<A, 2, M, P>(sums, row, inputs, source);
            add_row::<A, 3, M, P>(sums, row, inputs, source);
        }
        let (row, left) = (rows / 4 * 4, rows % 4);
        if left > 0 {
            let inputs = inputs.map(|inputs| {
                let mut last = [0; 16];
                inputs.add(row * 4).copy_to_nonoverlapping(last.as_mut_ptr(), left * 4);
                vld1q_u8(last.as_ptr())
            });
            add_row::<A, 0, M, P>(sums, row, inputs, source);
            if left > 1 {
                add_row::<A, 1, M, P>(sums, row, inputs, source);
            }
            if left > 2 {
                add_row::<A, 2, M, P>(sums, row, inputs, source);
            }
        }
    }
}

/// Adds the products of row `row + LANE`.
///
/// # Safety
/// The processor has the extension of `A`, and the row exists.
#[inline(always)]
unsafe fn add_row<A: Arithmetic, const LANE: i32, const M: usize, const P: usize>(
    sums: &mut [[[A::Sum; 4]; P]; M],
    row: usize,
    inputs: [uint8x16_t; M],
    source: &impl Source,
) {
    for p in 0..P {
        // SAFETY: the caller's promise.
        let weights = unsafe { source.load::<LANE>(p, row) };
        for m in 0..M {
            for quarter in 0..4 {
                let sum = &mut sums[m][p][quarter];
                // SAFETY: the caller's promise.
                *sum = unsafe { A::add::<LANE>(*sum, weights[quarter], inputs[m]) };
            }
        }
    }
}

/// What makes codes of loaded bytes.
pub(super) trait Bits: Copy {
    fn of(self, bytes: uint8x16_t) -> uint8x16_t;
}

/// The bytes are the codes.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

impl Bits for Bytes {
    #[inline(always)]
    fn of(self, bytes: uint8x16_t) -> uint8x16_t {
        bytes
    }
}

/// Bytes less 128, as signed numbers: the top bit is flipped.
#[derive(Clone, Copy)]
pub(super) struct FlippedBytes;

impl Bits for FlippedBytes {
    #[inline(always)]
    fn of(self, bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { veorq_u8(bytes, vdupq_n_u8(128)) }
    }
}

/// The low half of every byte.
#[derive(Clone, Copy)]
pub(super) struct LowNibbles;

impl Bits for LowNibbles {
    #[inline(always)]
    fn of(self, bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { vandq_u8(bytes, vdupq_n_u8(15)) }
    }
}

/// The high half of every byte.
#[derive(Clone, Copy)]
pub(super) struct HighNibbles;

impl Bits for HighNibbles {
    #[inline(always)]
    fn of(self, bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { vshrq_n_u8::<4>(bytes) }
    }
}

/// The codes of 64 stored bytes.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(super) unsafe fn load_codes(bits: impl Bits, at: *const u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller's promise.
    [0, 1, 2, 3].map(|quarter| bits.of(unsafe { vld1q_u8(at.add(quarter * 16)) }))
}

/// Rows that are stored as arithmetic wants them, but for `bits`.
pub(super) struct Stored<B> {
    pub start: *const u8,
    pub panel_bytes: usize,
    pub bits: B,
}

impl<B: Bits> Source for Stored<B> {
    #[inline(always)]
    unsafe fn load<const LANE: i32>(&self, panel: usize, row: usize) -> [uint8x16_t; 4] {
        // SAFETY: a row is 64 bytes; it exists by the caller's promise.
        unsafe { load_codes(self.bits, self.start.add(panel * self.panel_bytes + (row + LANE as usize) * 64)) }
    }
}

/// Inputs, a row for each token (two where a number is two bytes of codes).
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    pub start: *const u8,
    /// Bytes from one row to the next.
    pub stride: usize,
    pub count: usize,
}

impl Inputs {
    /// M rows from row `first` on.
    ///
    /// # Safety
    /// The rows exist.
    #[inline(always)]
    pub(super) unsafe fn from<const M: usize>(self, first: usize) -> [*const u8; M] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|m| unsafe { self.start.add((first + m) * self.stride) })
    }
}

impl From<FloatInput<'_>> for Inputs {
    fn from(x: FloatInput<'_>) -> Inputs {
        Inputs { start: x.values.as_ptr().cast(), stride: x.stride * 4, count: x.tokens }
    }
}

impl From<Bf16Input<'_>> for Inputs {
    fn from(x: Bf16Input<'_>) -> Inputs {
        Inputs { start: x.values.as_ptr().cast(), stride: x.stride * 2, count: x.tokens }
    }
}

impl From<IntegerInput<'_>> for Inputs {
    fn from(x: IntegerInput<'_>) -> Inputs {
        Inputs { start: x.codes.as_ptr().cast(), stride: x.stride, count: x.tokens }
    }
}

impl From<FixedInput<'_>> for Inputs {
    fn from(x: FixedInput<'_>) -> Inputs {
        Inputs { start: x.bytes.as_ptr().cast(), stride: x.stride, count: 2 * x.tokens }
    }
}

/// Calls the instance of a tile for run-time `M <= 4` rows of inputs and as many panels as [`panels_for`] says, or one.
macro_rules! call_tile {
    ($m:expr, $p:expr, $tile:ident::<$($type:ty),*> $arguments:tt) => {
        match ($m, $p) {
            (1, 4) => $tile::<$($type,)* 1, 4> $arguments,
            (1, 1) => $tile::<$($type,)* 1, 1> $arguments,
            (2, 2) => $tile::<$($type,)* 2, 2> $arguments,
            (2, 1) => $tile::<$($type,)* 2, 1> $arguments,
            (3, 1) => $tile::<$($type,)* 3, 1> $arguments,
            (4, 1) => $tile::<$($type,)* 4, 1> $arguments,
            (m, p) => unreachable!("no tile of {m} rows by {p} panels"),
        }
    };
}
pub(super) use call_tile;

/// Panels of a tile, of the `left` ones that there are: with few rows of inputs several, because that many sums hide the
/// latency of a multiply-add and that many streams saturate the memory.
pub(super) fn panels_for(inputs: usize, left: usize) -> usize {
    let wide = match inputs {
        1 => 4,
        2 => 2,
        _ => 1,
    };
    if wide <= left { wide } else { 1 }
}
