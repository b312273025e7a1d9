//! What the machine can do at most, measured: reading memory, and multiplying and adding on registers.
//!
//! Both are the best of several repetitions: a limit is what was reached once. Sources of the model: Williams, Waterman
//! and Patterson 2009, "Roofline" (CACM 52:4).

use std::hint::black_box;
use std::time::Instant;

use super::buffer::AlignedBuffer;
use super::isa::{Isa, per_isa};
#[cfg(target_arch = "x86_64")]
use super::matrix::has_avx512_bf16;
use super::pool::Pool;
use super::vector::LANES;

/// Places that a thread reads from at once: one sequential stream does not saturate the memory.
const STREAMS: usize = 4;
const REPETITIONS: usize = 7;

per_isa! {
    fn sum(isa, x: &[f32]) -> f32 = sum_body
}

#[inline(always)]
fn sum_body(x: &[f32]) -> f32 {
    let mut sums = [[0.0f32; LANES]; STREAMS];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let length = chunks.len() / STREAMS;
    let (streams, last) = chunks.split_at(length * STREAMS);
    for at in 0..length {
        for (stream, sums) in sums.iter_mut().enumerate() {
            sums.iter_mut().zip(&streams[stream * length + at]).for_each(|(sum, v)| *sum += v);
        }
    }
    sums.as_flattened().iter().chain(last.as_flattened()).chain(rest).sum()
}

/// Bytes a second that all threads together read out of `bytes` bytes, each its own share again and again: of the cache
/// that holds them, or of memory.
pub fn read_bandwidth(isa: Isa, pool: &Pool, bytes: usize) -> f64 {
    let mut data = AlignedBuffer::zeroed((bytes / size_of::<f32>()).max(pool.threads()));
    // Written, so that the pages are there.
    data.fill(0.25f32);
    // So many passes that the start of a region does not count.
    let passes = (1 << 25) / data.len().max(1) + 1;
    let seconds = best(|| {
        pool.run(&|thread| {
            let share = &data[pool.share(thread, data.len(), 1)];
            (0..passes).for_each(|_| _ = black_box(sum(isa, black_box(share))));
        });
    });
    (data.bytes() * passes) as f64 / seconds
}

/// Numbers that are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// bfloat16, added in 32 bits.
    Bf16,
    /// Bytes, added in 32 bits.
    Int8,
}

/// Multiply-adds a second that all threads together do on registers; `None` where the instruction set has no such
/// instruction.
pub fn multiply_add_rate(isa: Isa, pool: &Pool, arithmetic: Arithmetic) -> Option<f64> {
    const ROUNDS: usize = 1 << 20;
    let each = multiply_adds(isa, arithmetic, 1)?;
    let seconds = best(|| pool.run(&|_| _ = multiply_adds(isa, arithmetic, ROUNDS)));
    Some((each * ROUNDS * pool.threads()) as f64 / seconds)
}

/// Does `rounds` rounds and returns how many multiply-adds that was.
fn multiply_adds(isa: Isa, arithmetic: Arithmetic, rounds: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::peak;
        if !isa.base().is_available() {
            return None;
        }
        // SAFETY: the instruction set is available, and with it the features of each.
        unsafe {
            match (isa.base(), arithmetic) {
                (Isa::Avx512Vnni, Arithmetic::F32) => Some(peak::f32_avx512(rounds)),
                (Isa::Avx512Vnni, Arithmetic::Bf16) if has_avx512_bf16() => Some(peak::bf16_avx512(rounds)),
                (Isa::Avx512Vnni, Arithmetic::Int8) => Some(peak::int8_avx512(rounds)),
                (Isa::Avx2, Arithmetic::F32) => Some(peak::f32_avx2(rounds)),
                (Isa::Avx2, Arithmetic::Int8) => Some(peak::int8_avx2(rounds)),
                _ => None,
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        _ = (isa, arithmetic, rounds);
        None
    }
}

fn best(mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..REPETITIONS).map(time).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_do_the_work_that_they_count() {
        for isa in Isa::available() {
            let x: Vec<f32> = (0..1000).map(|i| (i % 7) as f32).collect();
            assert_eq!(sum(isa, &x), x.iter().sum::<f32>(), "{isa}");
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let done = |rounds| multiply_adds(isa, arithmetic, rounds);
                assert_eq!(done(3), done(1).map(|once| 3 * once), "{isa} {arithmetic:?}");
            }
        }
    }

    #[test]
    fn limits_are_positive_numbers() {
        let pool = Pool::new(2);
        let read = read_bandwidth(Isa::active(), &pool, 1 << 16);
        let [f32, int8] = [Arithmetic::F32, Arithmetic::Int8].map(|a| multiply_add_rate(Isa::active(), &pool, a));
        for limit in [Some(read), f32, int8].into_iter().flatten() {
            assert!(limit.is_finite() && limit > 1e6, "{limit}");
        }
        assert_eq!(multiply_add_rate(Isa::Scalar, &pool, Arithmetic::F32), None, "not measured, rather than a guess");
    }
}
