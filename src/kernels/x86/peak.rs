//! Arithmetic on registers alone, as fast as the processor goes: what kernels are measured against.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::amx::{FULL, Tiles, multiply_tiles, zero_tile};

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
peak!(
    /// Fours of bytes.
    int8_avxvnni, "avx2,avxvnni", 32, _mm256_setzero_si256(), |sum, a| _mm256_dpbusd_avx_epi32(sum, a, a)
);

/// Defines `$name(rounds)`, which multiplies tiles of zeros, `$inputs` of each of 16 tokens, into four tiles of sums
/// `rounds` times, and returns how many multiply-adds that is.
macro_rules! tile_peak {
    ($(#[$doc:meta])* $name:ident, $instruction:tt, $inputs:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor has AMX.
        pub(in crate::kernels) unsafe fn $name(rounds: usize) -> usize {
            // SAFETY: the tiles are configured, and hold zeros.
            unsafe {
                let _tiles = Tiles::configure(&FULL);
                zero_tile!("tmm4");
                zero_tile!("tmm5");
                for _ in 0..rounds {
                    multiply_tiles!($instruction, "tmm0", "tmm4", "tmm5");
                    multiply_tiles!($instruction, "tmm1", "tmm4", "tmm5");
                    multiply_tiles!($instruction, "tmm2", "tmm4", "tmm5");
                    multiply_tiles!($instruction, "tmm3", "tmm4", "tmm5");
                }
            }
            4 * 16 * 16 * $inputs * rounds
        }
    };
}

tile_peak!(
    /// Tiles of bytes.
    int8_amx, "tdpbsud", 64
);
tile_peak!(
    /// Tiles of bfloat16.
    bf16_amx, "tdpbf16ps", 32
);
