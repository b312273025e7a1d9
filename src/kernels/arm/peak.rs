//! Arithmetic on registers alone, as fast as the processor goes: what kernels are measured against.

use std::arch::aarch64::*;
use std::hint::black_box;

use super::arithmetic::{Arithmetic, Bf16, F32, SignedDot, Widening};
use super::dots::add_pair;

/// Sums in flight: more than the latency of any of these instructions times those that start in a cycle.
const STREAMS: usize = 24;

/// Does `each` multiply-adds `STREAMS * rounds` times by `add`, and returns how many that is.
#[inline(always)]
fn peak<S: Copy>(rounds: usize, each: usize, zero: S, add: impl Fn(S, uint8x16_t) -> S) -> usize {
    // SAFETY: NEON is part of aarch64. Not known when this is compiled, so that nothing is calculated beforehand.
    let a = black_box(unsafe { vdupq_n_u8(0) });
    let mut sums = black_box([zero; STREAMS]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = add(*sum, a);
        }
    }
    black_box(sums);
    each * STREAMS * rounds
}

/// 32-bit floats.
pub(in crate::kernels) fn f32(rounds: usize) -> usize {
    // SAFETY: NEON is part of aarch64.
    peak(rounds, 4, F32::zero(), |sum, a| unsafe { F32::add::<0>(sum, a, a) })
}

/// Pairs of bfloat16.
///
/// # Safety
/// The processor has BF16.
pub(in crate::kernels) unsafe fn bf16(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    peak(rounds, 8, Bf16::zero(), |sum, a| unsafe { Bf16::add::<0>(sum, a, a) })
}

/// Bytes, widened.
pub(in crate::kernels) fn int8(rounds: usize) -> usize {
    // Of the sum, so that the product is not the same in every round.
    // SAFETY: NEON is part of aarch64.
    peak(rounds, 16, Widening::<false>::zero(), |sum, a| unsafe {
        Widening::<false>::add::<0>(sum, vreinterpretq_u8_s32(sum), a)
    })
}

/// Fours of bytes.
///
/// # Safety
/// The processor has DotProd.
pub(in crate::kernels) unsafe fn int8_dotprod(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    peak(rounds, 16, SignedDot::zero(), |sum, a| unsafe { SignedDot::add::<0>(sum, a, a) })
}

/// Matrices of bytes.
///
/// # Safety
/// The processor has I8MM.
pub(in crate::kernels) unsafe fn int8_i8mm(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    peak(rounds, 32, SignedDot::zero(), |sum, a| unsafe { add_pair(sum, a, a) })
}
