//! Arithmetic on registers alone, as fast as the processor goes: what kernels are measured against.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums in flight: more than the latency of any of these instructions times those that start in a cycle.
const STREAMS: usize = 12;

/// Defines `$name(rounds)`, which does `$each` multiply-adds `STREAMS * rounds` times, and returns how many that is.
macro_rules! peak {
    ($(#[$doc:meta])* $name:ident, $features:literal, $each:literal, $zero:expr, |$sum:ident, $a:ident| $step:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor has the features.
        #[target_feature(enable = $features)]
        pub(in crate::kernels) unsafe fn $name(rounds: usize) -> usize {
            // Not known when this is compiled, so that nothing is calculated beforehand or for two streams at once.
            let $a = black_box($zero);
            let mut sums = black_box([$zero; STREAMS]);
            for _ in 0..rounds {
                for stream in 0..STREAMS {
                    let $sum = sums[stream];
                    sums[stream] = $step;
                }
            }
            black_box(sums);
            $each * STREAMS * rounds
        }
    };
}

peak!(
    /// 32-bit floats.
    f32_avx512, "avx512f", 16, _mm512_setzero_ps(), |sum, a| _mm512_fmadd_ps(a, a, sum)
);
peak!(
    /// Pairs of bfloat16.
    bf16_avx512, "avx512f,avx512bf16", 32, _mm512_setzero_ps(), |sum, a| {
        // SAFETY: both are 512 bits without invalid values.
        let pairs: __m512bh = unsafe { std::mem::transmute(a) };
        _mm512_dpbf16_ps(sum, pairs, pairs)
    }
);
peak!(
    /// Fours of bytes.
    int8_avx512, "avx512f,avx512vnni", 64, _mm512_setzero_si512(), |sum, a| _mm512_dpbusd_epi32(sum, a, a)
);
peak!(
    /// 32-bit floats.
    f32_avx2, "avx2,fma", 8, _mm256_setzero_ps(), |sum, a| _mm256_fmadd_ps(a, a, sum)
);
peak!(
    /// Pairs of bytes into 16 bits, those into 32, and a sum.
    int8_avx2, "avx2", 32, _mm256_setzero_si256(), |sum, a| {
        // Of the sum, so that the product is not the same in every round.
        let pairs = _mm256_maddubs_epi16(a, sum);
        _mm256_add_epi32(_mm256_madd_epi16(pairs, a), sum)
    }
);
