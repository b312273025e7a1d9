//! What the machine can do at most, measured: reading memory, and multiplying and adding on registers.
//!
//! Both are the best of several repetitions: a limit is what was reached once. Sources of the model: Williams, Waterman
//! and Patterson 2009, "Roofline" (CACM 52:4).

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::buffer::AlignedBuffer;
use super::isa::{Isa, per_isa};
use super::matrix::{Matrix, has_bf16};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// bfloat16, added in 32 bits.
    Bf16,
    /// Bytes, added in 32 bits.
    Int8,
}

impl Arithmetic {
    /// All kinds.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8];

    /// What the kernel of this name multiplies, and how many products it needs for each weight: two of bytes where inputs
    /// are 16-bit fixed point.
    pub fn of(kernel: &str) -> (Arithmetic, usize) {
        match kernel {
            _ if kernel.contains("a8") => (Arithmetic::Int8, 1),
            _ if kernel.contains("a16-avx512vnni") || kernel.contains("a16-neon") => (Arithmetic::Int8, 2),
            _ if ["avx512bf16", "bf16-amx", "neon-bf16"].iter().any(|n| kernel.contains(n)) => (Arithmetic::Bf16, 1),
            _ => (Arithmetic::F32, 1),
        }
    }
}

/// What bounds the time of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Reading the weights.
    Reading,
    /// Multiplying and adding.
    Arithmetic,
}

impl Resource {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Reading => "reading",
            Resource::Arithmetic => "arithmetic",
        }
    }
}

/// The least time that a pass can take, and why.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// What bounds it.
    pub by: Resource,
    /// The time.
    pub seconds: f64,
}

/// Limits of this machine for one model.
#[derive(Debug, Clone)]
pub struct Limits {
    isa: Isa,
    /// Bytes a second.
    bandwidth: f64,
    peaks: [(Arithmetic, Option<f64>); 3],
}

impl Limits {
    /// Measures them, reading for weights of `bytes` bytes.
    pub fn measure(isa: Isa, pool: &Pool, bytes: usize) -> Limits {
        let peaks = Arithmetic::ALL.map(|arithmetic| (arithmetic, multiply_add_rate(isa, pool, arithmetic)));
        Limits { isa, bandwidth: read_bandwidth(isa, pool, bytes), peaks }
    }

    /// Bytes that all threads together read a second.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth
    }

    /// Multiply-adds a second; `None` where they are not measured.
    pub fn peak(&self, arithmetic: Arithmetic) -> Option<f64> {
        self.peaks.iter().find(|(of, _)| *of == arithmetic).and_then(|(_, peak)| *peak)
    }

    /// The least time of multiplying each matrix with its number of rows, all weights and `more_bytes` (keys and values)
    /// being read once; `None` where the arithmetic of a kernel is not measured.
    pub fn bound<'a>(&self, products: impl Iterator<Item = (&'a Matrix, usize)>, more_bytes: f64) -> Option<Bound> {
        let (mut bytes, mut arithmetic) = (more_bytes, 0.0);
        for (matrix, rows) in products {
            let (numbers, products) = Arithmetic::of(&matrix.kernel_name(self.isa, rows));
            bytes += matrix.bytes() as f64;
            arithmetic += (matrix.rows() * matrix.cols() * rows * products) as f64 / self.peak(numbers)?;
        }
        let reading = bytes / self.bandwidth;
        Some(if reading > arithmetic {
            Bound { by: Resource::Reading, seconds: reading }
        } else {
            Bound { by: Resource::Arithmetic, seconds: arithmetic }
        })
    }
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
        if !isa.runs() {
            return None;
        }
        // SAFETY: the instruction set is available, and with it the features of each.
        unsafe {
            match (isa.base(), arithmetic) {
                (_, Arithmetic::Int8) if isa == Isa::Amx => Some(peak::int8_amx(rounds)),
                (_, Arithmetic::Bf16) if isa == Isa::Amx => Some(peak::bf16_amx(rounds)),
                (_, Arithmetic::Int8) if isa == Isa::AvxVnni => Some(peak::int8_avxvnni(rounds)),
                (Isa::Avx512Vnni, Arithmetic::F32) => Some(peak::f32_avx512(rounds)),
                (Isa::Avx512Vnni, Arithmetic::Bf16) if has_bf16(Isa::Avx512Vnni) => Some(peak::bf16_avx512(rounds)),
                (Isa::Avx512Vnni, Arithmetic::Int8) => Some(peak::int8_avx512(rounds)),
                (Isa::Avx2, Arithmetic::F32) => Some(peak::f32_avx2(rounds)),
                (Isa::Avx2, Arithmetic::Int8) => Some(peak::int8_avx2(rounds)),
                _ => None,
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use super::arm::peak;
        if !isa.is_available() {
            return None;
        }
        // SAFETY: the instruction set is available, and with it the features of each.
        unsafe {
            match (isa, arithmetic) {
                (Isa::NeonI8mm, Arithmetic::Int8) => Some(peak::int8_i8mm(rounds)),
                (Isa::NeonDotprod, Arithmetic::Int8) => Some(peak::int8_dotprod(rounds)),
                (Isa::Neon, Arithmetic::Int8) => Some(peak::int8(rounds)),
                (isa, Arithmetic::Bf16) if has_bf16(isa) => Some(peak::bf16(rounds)),
                (isa, Arithmetic::F32) if isa.base() == Isa::Neon => Some(peak::f32(rounds)),
                _ => None,
            }
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
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
    use super::super::synthetic;
    use super::*;
    use crate::tensor::{ActivationScheme, DenseFormat};

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
    fn a_pass_is_bound_by_what_takes_longer() {
        let matrix = synthetic::dense(DenseFormat::F32, 64, 64);
        let peaks = [(Arithmetic::F32, Some(1e9)), (Arithmetic::Bf16, None), (Arithmetic::Int8, None)];
        let limits = Limits { isa: Isa::Scalar, bandwidth: 1e9, peaks };
        let bound = |rows, more| limits.bound([(&matrix, rows)].into_iter(), more).unwrap();
        // 4096 weights: 16384 bytes, 4096 multiply-adds a row.
        assert_eq!(bound(1, 0.0), Bound { by: Resource::Reading, seconds: 16384e-9 });
        assert_eq!(bound(1, 1000.0), Bound { by: Resource::Reading, seconds: 17384e-9 });
        assert_eq!(bound(8, 0.0), Bound { by: Resource::Arithmetic, seconds: 8.0 * 4096e-9 });
        let codes = synthetic::quantized((64, 64), 8, 64, ActivationScheme::DynamicToken).unwrap();
        assert_eq!(limits.bound([(&codes, 8)].into_iter(), 0.0), None, "not measured, rather than a guess");
    }

    #[test]
    fn kernels_are_measured_against_their_own_arithmetic() {
        let dense = |format| synthetic::dense(format, 32, 64);
        let int4 = |activations| synthetic::quantized((32, 64), 4, 32, activations).unwrap();
        for (matrix, isa, expected) in [
            (dense(DenseFormat::F32), Isa::Avx512Vnni, (Arithmetic::F32, 1)),
            (dense(DenseFormat::F16), Isa::Avx2, (Arithmetic::F32, 1)),
            (int4(ActivationScheme::DynamicToken), Isa::Avx2, (Arithmetic::Int8, 1)),
            (int4(ActivationScheme::DynamicToken), Isa::Avx512Vnni, (Arithmetic::Int8, 1)),
            (int4(ActivationScheme::None), Isa::Avx512Vnni, (Arithmetic::Int8, 2)),
            (int4(ActivationScheme::DynamicToken), Isa::Amx, (Arithmetic::Int8, 1)),
            (dense(DenseFormat::Bf16), Isa::Amx, (Arithmetic::Bf16, 1)),
            (int4(ActivationScheme::None), Isa::Avx2, (Arithmetic::F32, 1)),
            (dense(DenseFormat::F16), Isa::NeonI8mm, (Arithmetic::F32, 1)),
            (int4(ActivationScheme::DynamicToken), Isa::Neon, (Arithmetic::Int8, 1)),
            (int4(ActivationScheme::None), Isa::NeonDotprod, (Arithmetic::Int8, 2)),
        ] {
            let name = matrix.kernel_name(isa, 512);
            assert_eq!(Arithmetic::of(&name), expected, "{name}");
        }
        let bf16 = dense(DenseFormat::Bf16).kernel_name(Isa::Avx512Vnni, 512);
        assert_eq!(Arithmetic::of(&bf16) == (Arithmetic::Bf16, 1), bf16.contains("avx512bf16"), "{bf16}");
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
