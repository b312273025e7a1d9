//! Keys and values of one layer, laid out for [`super::attention`].
//!
//! ```text
//! keys    [sequence][kv_head][token / 16][dimension][token % 16]     scores come out 16 tokens at a time
//! values  [sequence][kv_head][token][dimension, padded to 16]
//! ```

use half::f16;

use super::isa::Isa;
use super::vector::LANES;

/// Storage of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// 32-bit.
    F32,
    /// 16-bit IEEE, rounded half to even, widened when read.
    F16,
}

/// Keys and values of one layer, for several sequences of equal capacity.
#[derive(Debug)]
pub struct KeyValues {
    sequences: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    keys: Store,
    values: Store,
}

#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl KeyValues {
    /// Room for `capacity` tokens in each of `sequences` sequences.
    pub fn new(format: KvFormat, sequences: usize, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(LANES);
        let heads = sequences * kv_heads * capacity;
        KeyValues {
            sequences,
            kv_heads,
            head_dim,
            capacity,
            keys: Store::new(format, heads * head_dim),
            values: Store::new(format, heads * head_dim.next_multiple_of(LANES)),
        }
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Tokens that fit in a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Stores the keys and values of one token, each `(kv_heads, head_dim)`.
    ///
    /// # Panics
    /// When the place does not exist or the sizes do not fit.
    pub fn put(&mut self, sequence: usize, token: usize, key: &[f32], value: &[f32]) {
        assert!(sequence < self.sequences && token < self.capacity);
        assert!(key.len() == self.kv_heads * self.head_dim && value.len() == key.len());
        let dim = self.head_dim;
        let padded = self.padded_dim();
        for head in 0..self.kv_heads {
            let first = (sequence * self.kv_heads + head) * self.capacity;
            let keys_at = first * dim + token / LANES * LANES * dim + token % LANES;
            self.keys.scatter(keys_at, &key[head * dim..(head + 1) * dim]);
            self.values.copy((first + token) * padded, &value[head * dim..(head + 1) * dim]);
        }
    }

    /// Keys of tokens `from..from + tokens` of one head, `[token / 16][dimension][16]`, `tokens` rounded up to whole
    /// sixteens; `buffer` receives them where they must be widened.
    ///
    /// # Panics
    /// When `from` is not a multiple of 16, or the tokens do not exist.
    #[inline(always)]
    pub(super) fn keys<'a>(
        &'a self,
        isa: Isa,
        head: Head,
        from: usize,
        tokens: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        assert!(from.is_multiple_of(LANES));
        let at = (self.first_token(head, from, tokens)) * self.head_dim;
        self.keys.read(isa, at, tokens.next_multiple_of(LANES) * self.head_dim, buffer)
    }

    /// Values of tokens `from..from + tokens` of one head, `(tokens, padded_dim)`; `buffer` as in [`KeyValues::keys`].
    ///
    /// # Panics
    /// When the tokens do not exist.
    #[inline(always)]
    pub(super) fn values<'a>(
        &'a self,
        isa: Isa,
        head: Head,
        from: usize,
        tokens: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        let at = self.first_token(head, from, tokens) * self.padded_dim();
        self.values.read(isa, at, tokens * self.padded_dim(), buffer)
    }

    /// Width of a row of values: `head_dim` rounded up to 16.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn first_token(&self, head: Head, from: usize, tokens: usize) -> usize {
        assert!(head.sequence < self.sequences && head.kv_head < self.kv_heads && from + tokens <= self.capacity);
        (head.sequence * self.kv_heads + head.kv_head) * self.capacity + from
    }
}

/// One head of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Sequence.
    pub sequence: usize,
    /// Key and value head.
    pub kv_head: usize,
}

impl Store {
    fn new(format: KvFormat, numbers: usize) -> Self {
        match format {
            KvFormat::F32 => Store::F32(vec![0.0; numbers]),
            KvFormat::F16 => Store::F16(vec![f16::ZERO; numbers]),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Store::F32(numbers) => size_of_val(numbers.as_slice()),
            Store::F16(numbers) => size_of_val(numbers.as_slice()),
        }
    }

    /// Writes `from` to every sixteenth place from `at` on.
    fn scatter(&mut self, at: usize, from: &[f32]) {
        match self {
            Store::F32(to) => to[at..].iter_mut().step_by(LANES).zip(from).for_each(|(to, &v)| *to = v),
            Store::F16(to) => to[at..].iter_mut().step_by(LANES).zip(from).for_each(|(to, &v)| *to = f16::from_f32(v)),
        }
    }

    fn copy(&mut self, at: usize, from: &[f32]) {
        match self {
            Store::F32(to) => to[at..at + from.len()].copy_from_slice(from),
            Store::F16(to) => to[at..at + from.len()].iter_mut().zip(from).for_each(|(to, &v)| *to = f16::from_f32(v)),
        }
    }

    #[inline(always)]
    fn read<'a>(&'a self, isa: Isa, at: usize, count: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        match self {
            Store::F32(from) => &from[at..at + count],
            Store::F16(from) => {
                widen(isa, &from[at..at + count], &mut buffer[..count]);
                &buffer[..count]
            }
        }
    }
}

/// Widens 16-bit numbers, exactly.
///
/// # Panics
/// When the lengths differ or are not whole sixteens, or the processor lacks `isa`.
fn widen(isa: Isa, from: &[f16], to: &mut [f32]) {
    assert!(from.len() == to.len() && from.len().is_multiple_of(LANES));
    assert!(isa.is_available());
    match isa {
        // SAFETY: the processor has AVX2 and F16C, asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { widen_avx2(from, to) },
        // SAFETY: the processor has AVX-512 F, asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { widen_avx512(from, to) },
        _ => to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.to_f32()),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_avx2(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    for (from, to) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: 8 numbers of 16 bits are read and 8 of 32 bits written, unaligned.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    for (from, to) in from.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<LANES>().0) {
        // SAFETY: 16 numbers of 16 bits are read and 16 of 32 bits written, unaligned.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) };
    }
}
