//! Multiply-adds of a register of weights with four bytes of input.
//!
//! | type | instructions | extension |
//! |---|---|---|
//! | [`F32`] | `fmla` | |
//! | [`Bf16`] | `bfdot` | BF16 |
//! | [`Widening`] | `smull`, `smull2`, `addp`, `sadalp` | |
//! | [`SignedDot`] | `sdot` | DotProd |
//! | [`MixedDot`] | `usdot` | I8MM |

use std::arch::aarch64::*;
use std::arch::asm;

/// One way to multiply and add.
pub(super) trait Arithmetic {
    /// Four sums of 32 bits.
    type Sum: Copy;
    /// Whether codes of weights must be signed; else they must be unsigned.
    const SIGNED: bool;

    fn zero() -> Self::Sum;

    /// `sum` with the products of `weights`, four bytes in each of four lanes, and bytes `4 * LANE..4 * LANE + 4` of
    /// `inputs`.
    ///
    /// # Safety
    /// The processor has the extension.
    unsafe fn add<const LANE: i32>(sum: Self::Sum, weights: uint8x16_t, inputs: uint8x16_t) -> Self::Sum;
}

/// One f32.
pub(super) struct F32;

impl Arithmetic for F32 {
    type Sum = float32x4_t;
    const SIGNED: bool = true;

    #[inline(always)]
    fn zero() -> float32x4_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn add<const LANE: i32>(sum: float32x4_t, weights: uint8x16_t, inputs: uint8x16_t) -> float32x4_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { vfmaq_laneq_f32::<LANE>(sum, vreinterpretq_f32_u8(weights), vreinterpretq_f32_u8(inputs)) }
    }
}

/// Two bfloat16. The instruction rounds sums to odd and takes denormal numbers as zero.
pub(super) struct Bf16;

impl Arithmetic for Bf16 {
    type Sum = float32x4_t;
    const SIGNED: bool = true;

    #[inline(always)]
    fn zero() -> float32x4_t {
        F32::zero()
    }

    #[inline(always)]
    unsafe fn add<const LANE: i32>(mut sum: float32x4_t, weights: uint8x16_t, inputs: uint8x16_t) -> float32x4_t {
        // SAFETY: registers only; the processor has the extension by the caller's promise.
        unsafe {
            asm!(
                ".arch_extension bf16",
                "bfdot {sum:v}.4s, {weights:v}.8h, {inputs:v}.2h[{lane}]",
                sum = inout(vreg) sum,
                weights = in(vreg) weights,
                inputs = in(vreg) inputs,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
}

/// Four signed bytes, multiplied in 16 bits. A sum of two products is at most `2 * 128 * 127` and stays in 16 bits
/// unless both inputs and both weights are -128: with `LOWEST`, inputs may be, and pairs are added in 32 bits.
pub(super) struct Widening<const LOWEST: bool>;

impl<const LOWEST: bool> Arithmetic for Widening<LOWEST> {
    type Sum = int32x4_t;
    const SIGNED: bool = true;

    #[inline(always)]
    fn zero() -> int32x4_t {
        // SAFETY: NEON is part of aarch64.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn add<const LANE: i32>(sum: int32x4_t, weights: uint8x16_t, inputs: uint8x16_t) -> int32x4_t {
        // SAFETY: NEON is part of aarch64.
        unsafe {
            let weights = vreinterpretq_s8_u8(weights);
            let inputs = vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_u8(inputs)));
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(inputs));
            let high = vmull_high_s8(weights, inputs);
            if LOWEST {
                vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
            } else {
                vpadalq_s16(sum, vpaddq_s16(low, high))
            }
        }
    }
}

/// Defines a dot product of four bytes.
macro_rules! dot {
    ($(#[$doc:meta])* $name:ident, signed: $signed:literal, $extension:literal, $instruction:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Arithmetic for $name {
            type Sum = int32x4_t;
            const SIGNED: bool = $signed;

            #[inline(always)]
            fn zero() -> int32x4_t {
                // SAFETY: NEON is part of aarch64.
                unsafe { vdupq_n_s32(0) }
            }

            #[inline(always)]
            unsafe fn add<const LANE: i32>(
                mut sum: int32x4_t,
                weights: uint8x16_t,
                inputs: uint8x16_t,
            ) -> int32x4_t {
                // SAFETY: registers only; the processor has the extension by the caller's promise.
                unsafe {
                    asm!(
                        concat!(".arch_extension ", $extension),
                        concat!($instruction, " {sum:v}.4s, {weights:v}.16b, {inputs:v}.4b[{lane}]"),
                        sum = inout(vreg) sum,
                        weights = in(vreg) weights,
                        inputs = in(vreg) inputs,
                        lane = const LANE,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                sum
            }
        }
    };
}

dot!(
    /// Four signed bytes of weights and of inputs.
    SignedDot, signed: true, "dotprod", "sdot"
);
dot!(
    /// Four unsigned bytes of weights and signed bytes of inputs.
    MixedDot, signed: false, "i8mm", "usdot"
);
