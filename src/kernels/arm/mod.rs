//! Kernels of aarch64.
//!
//! NEON is part of every such processor, so nothing here needs a target feature. Instructions of later extensions have
//! no stable intrinsics (Rust 1.95); they are single lines of assembly that name their extension, and only kernels of
//! an instruction set that has it reach them.
//!
//! A row of a panel is 16 lanes of 32 bits: four registers. Inputs come four bytes at a time (one f32, two bfloat16 or
//! four codes) and are multiplied out of their register by lane, so that a product is the same walk over rows for all
//! formats: [`tile::add_rows`] with an [`arithmetic::Arithmetic`] and a source of weights.

#![allow(clippy::needless_range_loop)] // One index walks several arrays of registers.

mod arithmetic;
mod dense;
mod dots;
pub(super) mod half;
mod integer;
pub(super) mod peak;
mod tile;

use std::arch::aarch64::*;

use super::matrix::Output;
use super::packed::{IntegerPanels, LANES, PackedZero, Reals};

pub(super) use dense::{dense, dense_bf16};
pub(super) use integer::{integer, weight_only};

/// 16 lanes of f32.
type Floats = [float32x4_t; 4];

/// 16 scales or offsets.
///
/// # Safety
/// `index + 16` is at most the number of values.
#[inline(always)]
unsafe fn load_reals(reals: &Reals, index: usize) -> Floats {
    // SAFETY: the caller promises 16 values from `index`.
    unsafe {
        match reals {
            Reals::F16(data) => half::load(data.as_ptr().add(index)),
            Reals::F32(data) => load(data.as_ptr().add(index)),
        }
    }
}

/// `base + zero point` of 16 lanes.
///
/// # Safety
/// `index + 16` is at most the number of zero points.
#[inline(always)]
unsafe fn load_zeros(w: &IntegerPanels, index: usize, base: i32) -> [int32x4_t; 4] {
    // SAFETY: the caller promises 16 points from `index`.
    unsafe {
        let base = vdupq_n_s32(base);
        let PackedZero::Points(points) = &w.zero else { return [base; 4] };
        let points = vld1q_s8(points.as_ptr().add(index));
        let (low, high) = (vmovl_s8(vget_low_s8(points)), vmovl_high_s8(points));
        [
            vaddw_s16(base, vget_low_s16(low)),
            vaddw_high_s16(base, low),
            vaddw_s16(base, vget_low_s16(high)),
            vaddw_high_s16(base, high),
        ]
    }
}

/// # Safety
/// 16 values are readable.
#[inline(always)]
unsafe fn load(at: *const f32) -> Floats {
    // SAFETY: the caller's promise.
    unsafe { [0, 1, 2, 3].map(|quarter| vld1q_f32(at.add(quarter * 4))) }
}

/// # Safety
/// 16 values are writable.
#[inline(always)]
unsafe fn write(out: *mut f32, values: Floats) {
    for (quarter, values) in values.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(out.add(quarter * 4), values) };
    }
}

/// Writes the 16 outputs of a token and a panel, fewer in a short last panel.
#[inline(always)]
fn store(y: &Output, token: usize, panel: usize, values: Floats) {
    let row = panel * LANES;
    assert!(token < y.tokens && row < y.rows);
    let lanes = LANES.min(y.rows - row);
    // SAFETY: the lanes written are inside the array, and no other thread writes this panel.
    unsafe {
        let out = y.start.add(token * y.rows + row);
        if lanes == LANES {
            write(out, values);
        } else {
            let mut all = [0.0f32; LANES];
            write(all.as_mut_ptr(), values);
            out.copy_from_nonoverlapping(all.as_ptr(), lanes);
        }
    }
}
