//! Keys and values of one layer, laid out for [`super::Attention`].
//!
//! ```text
//! keys    [sequence][kv_head][token / 16][dimension][token % 16]     scores come out 16 tokens at a time
//! values  [sequence][kv_head][token][dimension, padded to 16]
//! ```

use half::f16;

use super::activations::Rows;
use super::isa::Isa;
use super::pool::Pool;
use super::sequences::Sequences;
use super::vector::LANES;

/// Numbers below which storing them is not worth waking other threads.
const SMALL: usize = 16 * 1024;
/// Dimensions narrowed at a time.
const PIECE: usize = 64;

/// Storage of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// 32-bit.
    F32,
    /// 16-bit IEEE, rounded half to even, widened when read.
    F16,
}

/// Keys and values of one layer, for several sequences of equal capacity (their lengths may differ).
#[derive(Debug)]
pub struct KeyValues {
    shape: Shape,
    keys: Store,
    values: Store,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    sequences: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
}

#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// One head of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Sequence.
    pub sequence: usize,
    /// Key and value head.
    pub kv_head: usize,
}

impl KeyValues {
    /// Room for `capacity` tokens in each of `sequences` sequences.
    pub fn new(format: KvFormat, sequences: usize, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let shape = Shape { sequences, kv_heads, head_dim, capacity: capacity.next_multiple_of(LANES) };
        let tokens = sequences * kv_heads * shape.capacity;
        let store = |numbers| match format {
            KvFormat::F32 => Store::F32(vec![0.0; numbers]),
            KvFormat::F16 => Store::F16(vec![f16::ZERO; numbers]),
        };
        KeyValues { shape, keys: store(tokens * head_dim), values: store(tokens * shape.padded_dim()) }
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.shape.sequences
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Tokens that fit in a sequence: the number asked for, rounded up to 16.
    pub fn capacity(&self) -> usize {
        self.shape.capacity
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Width of a row of values: `head_dim` rounded up to 16.
    pub(super) fn padded_dim(&self) -> usize {
        self.shape.padded_dim()
    }

    /// Makes room for `capacity` tokens in each of `sequences` sequences; keeps the memory where it is enough, but not
    /// what it holds.
    pub fn reshape(&mut self, sequences: usize, capacity: usize) {
        self.shape = Shape { sequences, capacity: capacity.next_multiple_of(LANES), ..self.shape };
        let tokens = sequences * self.shape.kv_heads * self.shape.capacity;
        self.keys.grow(tokens * self.shape.head_dim);
        self.values.grow(tokens * self.shape.padded_dim());
    }

    /// Stores the keys and values of the new tokens of all sequences, from position `start` on in each: `keys` and
    /// `values` are `(tokens, kv_heads * head_dim)` row-major.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn append(&mut self, pool: &Pool, start: usize, new: Sequences<'_>, keys: &[f32], values: &[f32]) {
        let Shape { sequences, kv_heads, head_dim, capacity } = self.shape;
        let numbers = new.tokens() * kv_heads * head_dim;
        assert!(keys.len() == numbers && values.len() == numbers && new.count() == sequences);
        assert!(start + new.longest() <= capacity, "{capacity} tokens are all that fit");
        match &mut self.keys {
            Store::F32(to) => self.shape.append_keys(pool, start, new, keys, to),
            Store::F16(to) => self.shape.append_keys(pool, start, new, keys, to),
        }
        match &mut self.values {
            Store::F32(to) => self.shape.append_values(pool, start, new, values, to),
            Store::F16(to) => self.shape.append_values(pool, start, new, values, to),
        }
    }

    /// Keys of tokens `from..from + tokens` of one head, `[token / 16][dimension][16]`, `tokens` rounded up to whole
    /// sixteens; `buffer` receives them where they must be widened.
    ///
    /// # Panics
    /// When `from` is not a multiple of 16, or the tokens do not exist.
    pub(super) fn keys<'a>(
        &'a self,
        isa: Isa,
        head: Head,
        from: usize,
        tokens: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        assert!(from.is_multiple_of(LANES));
        let at = self.shape.first_token(head, from, tokens) * self.shape.head_dim;
        self.keys.read(isa, at, tokens.next_multiple_of(LANES) * self.shape.head_dim, buffer)
    }

    /// Values of tokens `from..from + tokens` of one head, `(tokens, padded_dim)`; `buffer` as in [`KeyValues::keys`].
    ///
    /// # Panics
    /// When the tokens do not exist.
    pub(super) fn values<'a>(
        &'a self,
        isa: Isa,
        head: Head,
        from: usize,
        tokens: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        let at = self.shape.first_token(head, from, tokens) * self.padded_dim();
        self.values.read(isa, at, tokens * self.padded_dim(), buffer)
    }
}

impl Shape {
    fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn first_token(&self, head: Head, from: usize, tokens: usize) -> usize {
        assert!(head.sequence < self.sequences && head.kv_head < self.kv_heads && from + tokens <= self.capacity);
        (head.sequence * self.kv_heads + head.kv_head) * self.capacity + from
    }

    fn append_keys<T: Number>(&self, pool: &Pool, start: usize, new: Sequences<'_>, from: &[f32], to: &mut [T]) {
        let dim = self.head_dim;
        self.append(pool, start, (new, from), to, self.capacity * dim, |token, first, piece, head| {
            let at = token / LANES * LANES * dim + first * LANES + token % LANES;
            head[at..].iter_mut().step_by(LANES).zip(piece).for_each(|(to, &number)| *to = number);
        });
    }

    fn append_values<T: Number>(&self, pool: &Pool, start: usize, new: Sequences<'_>, from: &[f32], to: &mut [T]) {
        let padded = self.padded_dim();
        self.append(pool, start, (new, from), to, self.capacity * padded, |token, first, piece, head| {
            head[token * padded + first..][..piece.len()].copy_from_slice(piece);
        });
    }

    /// Narrows `from` in pieces and calls `put(token, first dimension, piece, numbers of the head)` for each; `stride`
    /// is the size of a head in `to`.
    fn append<T: Number>(
        &self,
        pool: &Pool,
        start: usize,
        (new, from): (Sequences<'_>, &[f32]),
        to: &mut [T],
        stride: usize,
        put: impl Fn(usize, usize, &[T], &mut [T]) + Sync,
    ) {
        let isa = Isa::active();
        let heads = Rows::new(to, stride);
        pool.split(self.sequences * self.kv_heads, 1, from.len() >= SMALL, &|share| {
            let mut piece = [T::default(); PIECE];
            for index in share {
                let (sequence, kv_head) = (index / self.kv_heads, index % self.kv_heads);
                // SAFETY: the shares of the threads do not overlap, and each head has a row of its own.
                let head = unsafe { heads.row(index) };
                for (token, row) in new.rows(sequence).enumerate() {
                    let from = &from[(row * self.kv_heads + kv_head) * self.head_dim..][..self.head_dim];
                    for (i, from) in from.chunks(PIECE).enumerate() {
                        T::narrow(isa, from, &mut piece[..from.len()]);
                        put(start + token, i * PIECE, &piece[..from.len()], head);
                    }
                }
            }
        });
    }
}

impl Store {
    fn bytes(&self) -> usize {
        match self {
            Store::F32(numbers) => size_of_val(numbers.as_slice()),
            Store::F16(numbers) => size_of_val(numbers.as_slice()),
        }
    }

    fn grow(&mut self, numbers: usize) {
        match self {
            Store::F32(held) => held.resize(held.len().max(numbers), 0.0),
            Store::F16(held) => held.resize(held.len().max(numbers), f16::ZERO),
        }
    }

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

/// A stored number.
trait Number: Copy + Default + Send {
    /// Rounds half to even.
    fn narrow(isa: Isa, from: &[f32], to: &mut [Self]);
}

impl Number for f32 {
    fn narrow(_: Isa, from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Number for f16 {
    fn narrow(isa: Isa, from: &[f32], to: &mut [f16]) {
        match isa.base() {
            // SAFETY: the processor has F16C, which `is_available` tells.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Vnni if Isa::Avx2.is_available() => unsafe { narrow_f16c(from, to) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::arm::half::narrow(from, to),
            _ => to.iter_mut().zip(from).for_each(|(to, &from)| *to = f16::from_f32(from)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn narrow_f16c(from: &[f32], to: &mut [f16]) {
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps};
    let (chunks, rest) = from.as_chunks::<8>();
    let (to_chunks, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in chunks.iter().zip(to_chunks) {
        // SAFETY: 8 numbers of 32 bits are read and 8 of 16 bits written, unaligned.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
            _mm_storeu_si128(to.as_mut_ptr().cast(), half);
        }
    }
    to_rest.iter_mut().zip(rest).for_each(|(to, &from)| *to = f16::from_f32(from));
}

/// Widens 16-bit numbers, exactly.
///
/// # Panics
/// When the lengths differ or are not whole sixteens.
fn widen(isa: Isa, from: &[f16], to: &mut [f32]) {
    assert!(from.len() == to.len() && from.len().is_multiple_of(LANES));
    let base = isa.base();
    match base {
        // SAFETY: the processor has AVX-512 F, which `is_available` tells.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni if base.is_available() => unsafe { widen_avx512(from, to) },
        // SAFETY: the processor has F16C, which `is_available` tells.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if base.is_available() => unsafe { widen_f16c(from, to) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => super::arm::half::widen(from, to),
        _ => to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.to_f32()),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16c(from: &[f16], to: &mut [f32]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_back_in_the_documented_layout() {
        let (sequences, kv_heads, dim) = (2, 3, 70);
        let number = |sequence: usize, token: usize, i: usize| ((sequence * 31 + token * 7 + i) % 256) as f32 / 8.0;
        for format in [KvFormat::F32, KvFormat::F16] {
            for isa in Isa::available() {
                let mut cache = KeyValues::new(format, sequences, kv_heads, dim, 20);
                for (start, tokens) in [(0, 17), (17, 1)] {
                    let rows = (0..sequences * tokens).flat_map(|row| {
                        (0..kv_heads * dim).map(move |i| number(row / tokens, start + row % tokens, i))
                    });
                    let keys: Vec<f32> = rows.collect();
                    let values: Vec<f32> = keys.iter().map(|k| -k).collect();
                    cache.append(&Pool::new(2), start, Sequences::equal(sequences, tokens), &keys, &values);
                }
                let mut buffer = vec![0.0; 32 * 80];
                for (sequence, kv_head) in [(0, 0), (0, 2), (1, 1)] {
                    let head = Head { sequence, kv_head };
                    let keys = cache.keys(isa, head, 0, 18, &mut buffer).to_vec();
                    let values = cache.values(isa, head, 0, 18, &mut buffer);
                    for token in 0..18 {
                        for i in 0..dim {
                            let expected = number(sequence, token, kv_head * dim + i);
                            assert_eq!(keys[(token / 16 * dim + i) * 16 + token % 16], expected);
                            assert_eq!(values[token * 80 + i], -expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_count_what_is_held() {
        assert_eq!(KeyValues::new(KvFormat::F16, 1, 3, 64, 512).bytes(), 2 * 3 * 64 * 512 * 2);
        assert_eq!(KeyValues::new(KvFormat::F32, 2, 1, 8, 1).bytes(), 2 * 16 * (8 + 16) * 4);
    }

    #[test]
    fn narrowing_is_half_to_even_everywhere() {
        let from: Vec<f32> = (0..100).map(|i| 1.0 + i as f32 / 4096.0).chain([65520.0, 1e-8, -0.0]).collect();
        for isa in Isa::available() {
            let mut to = vec![f16::ZERO; from.len()];
            f16::narrow(isa, &from, &mut to);
            assert!(to.iter().zip(&from).all(|(to, &from)| *to == f16::from_f32(from)), "{isa}");
        }
    }
}
