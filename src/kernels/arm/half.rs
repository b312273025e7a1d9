//! IEEE half precision: converted by instructions that every NEON has.

use std::arch::aarch64::*;

use half::f16;

use super::{Floats, write};

/// 16 values, widened.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(super) unsafe fn load(at: *const u16) -> Floats {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (vreinterpretq_f16_u16(vld1q_u16(at)), vreinterpretq_f16_u16(vld1q_u16(at.add(8))));
        [
            vcvt_f32_f16(vget_low_f16(low)),
            vcvt_high_f32_f16(low),
            vcvt_f32_f16(vget_low_f16(high)),
            vcvt_high_f32_f16(high),
        ]
    }
}

/// Widens whole sixteens, exactly.
///
/// # Panics
/// When `to` is shorter than `from`.
pub(in crate::kernels) fn widen(from: &[f16], to: &mut [f32]) {
    assert!(from.len() <= to.len());
    for (from, to) in from.as_chunks::<16>().0.iter().zip(to.as_chunks_mut::<16>().0) {
        // SAFETY: 16 values are read and written.
        unsafe { write(to.as_mut_ptr(), load(from.as_ptr().cast())) };
    }
}

/// Rounds half to even.
///
/// # Panics
/// When `to` is shorter than `from`.
pub(in crate::kernels) fn narrow(from: &[f32], to: &mut [f16]) {
    assert!(from.len() <= to.len());
    let (chunks, rest) = from.as_chunks::<4>();
    let (to_chunks, to_rest) = to[..from.len()].as_chunks_mut::<4>();
    for (from, to) in chunks.iter().zip(to_chunks) {
        // SAFETY: 4 values are read and written.
        unsafe {
            let half = vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from.as_ptr())));
            vst1_u16(to.as_mut_ptr().cast(), half);
        }
    }
    to_rest.iter_mut().zip(rest).for_each(|(to, &from)| *to = f16::from_f32(from));
}
