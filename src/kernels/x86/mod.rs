//! Kernels of x86-64.
//!
//! A kernel is a tile of M tokens by P panels held in registers, instantiated for every M and P that occurs; drivers
//! walk the panels of a thread and, inside, the tokens. With few tokens a tile takes several panels at once, because
//! one sequential stream does not saturate the memory.

#![allow(clippy::needless_range_loop)] // One index walks several arrays of registers.

pub(super) mod amx;
pub(super) mod amx_integer;
pub(super) mod amx_pairs;
pub(super) mod avx2;
pub(super) mod avx2_integer;
pub(super) mod avx512;
pub(super) mod avx512_integer;
pub(super) mod avx512_weight_only;
#[cfg(all(test, target_os = "linux"))]
pub(super) mod emulate;
pub(super) mod peak;

use std::ops::Range;

use super::Isa;
use super::activations::FloatInput;
use super::buffer::with_scratch;
use super::matrix::Output;
use super::packed::DensePanels;

/// Calls the instance of a tile for run-time `M <= 8` and `P <= 3`, or `M <= 4` and `P = 4`.
macro_rules! call_tile {
    ($m:expr, $p:expr, $tile:ident $arguments:tt) => {
        $crate::kernels::x86::call_tile!(@rows $m, $p, $tile $arguments,
            [1 1] [1 2] [1 3] [1 4] [2 1] [2 2] [2 3] [2 4] [3 1] [3 2] [3 3] [3 4] [4 1] [4 2] [4 3] [4 4]
            [5 1] [5 2] [5 3] [6 1] [6 2] [6 3] [7 1] [7 2] [7 3] [8 1] [8 2] [8 3])
    };
    (@rows $m:expr, $p:expr, $tile:ident $arguments:tt, $([$M:literal $P:literal])*) => {
        match ($m, $p) {
            $(($M, $P) => $tile::<$M, $P> $arguments,)*
            (m, p) => unreachable!("no tile of {m} tokens by {p} panels"),
        }
    };
}
pub(super) use call_tile;

/// Calls the instance of a tile for run-time `M <= 4` and `P <= 4`.
macro_rules! call_small_tile {
    ($m:expr, $p:expr, $tile:ident $arguments:tt) => {
        $crate::kernels::x86::call_tile!(@rows $m, $p, $tile $arguments,
            [1 1] [1 2] [1 3] [1 4] [2 1] [2 2] [2 3] [2 4] [3 1] [3 2] [3 3] [4 1] [4 2] [4 3])
    };
}
pub(super) use call_small_tile;

/// Calls the instance of an AVX2 tile for run-time `M <= 6` and P as far as 16 registers go.
macro_rules! call_avx2_tile {
    ($m:expr, $p:expr, $tile:ident $arguments:tt) => {
        $crate::kernels::x86::call_tile!(@rows $m, $p, $tile $arguments,
            [1 1] [1 2] [1 3] [1 4] [2 1] [2 2] [3 1] [4 1] [5 1] [6 1])
    };
}
pub(super) use call_avx2_tile;

/// `y = x wᵀ` for dense weights and f32 inputs (rounded to bfloat16 for such weights).
///
/// # Safety
/// `isa` is available and not scalar; the weights were packed for `cols` columns, which `x` has, and `panels` exist.
pub(super) unsafe fn dense(
    isa: Isa,
    w: &DensePanels,
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (w, isa) {
            (DensePanels::F32(w), Isa::Avx512Vnni) => avx512::dense_f32(w, cols, x, y, panels),
            (DensePanels::F16(w), Isa::Avx512Vnni) => avx512::dense_f16(w, cols, x, y, panels),
            (DensePanels::F32(w), _) => avx2::dense_f32(w, cols, x, y, panels),
            (DensePanels::F16(w), _) => avx2::dense_f16(w, cols, x, y, panels),
            (DensePanels::Bf16(w), _) => avx2::dense_bf16(w, cols, x, y, panels),
        }
    }
}
