//! Keys and values of one layer, laid out for [`super::Attention`].
//!
//! ```text
//! keys    [sequence][kv_head][token / 16][dimension][token % 16]     scores come out 16 tokens at a time
//! values  [sequence][kv_head][token][dimension, padded to 16]
//! ```
//!
//! In bfloat16 two numbers that are multiplied together lie side by side, as `vdpbf16ps` wants them:
//!
//! ```text
//! keys    [sequence][kv_head][token / 16][dimension / 2][token % 16][dimension % 2]
//! values  [sequence][kv_head][token / 2][dimension, padded to 16][token % 2]
//! ```
//!
//! In 8 bits every head of every token has a scale of its own, for keys and for values: `scale = max|x| / 127`, code =
//! `round_half_even(x / scale)`. A head with a NaN or an infinity reads as NaN.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::activations::Rows;
use super::isa::Isa;
use super::pool::Pool;
use super::rows::SMALL;
use super::sequences::Sequences;
use super::vector::LANES;

mod number;

use number::{Number, widen_keys, widen_pairs, widen_values, widened};

/// Numbers of a token narrowed at a time; even, for pairs.
const PIECE: usize = 512;

/// Storage of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// 32-bit.
    F32,
    /// 16-bit IEEE, rounded half to even, widened when read.
    F16,
    /// bfloat16, rounded half to even. Attention multiplies in bfloat16 then: queries and weights are rounded, too, and
    /// sums are in 32 bits.
    Bf16,
    /// 8-bit codes with a scale for each head of each token, widened when read.
    Int8,
}

impl KvFormat {
    /// All formats by their names in suites and options.
    pub const NAMED: [(&str, KvFormat); 4] =
        [("f32", KvFormat::F32), ("f16", KvFormat::F16), ("bf16", KvFormat::Bf16), ("int8", KvFormat::Int8)];
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
    /// Two numbers in each word.
    Bf16(Vec<u32>),
    Int8 {
        codes: Vec<i8>,
        /// `[sequence][kv_head][token]`.
        scales: Vec<f32>,
    },
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
    ///
    /// # Panics
    /// When `head_dim` is odd and the format bfloat16.
    pub fn new(format: KvFormat, sequences: usize, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        assert!(format != KvFormat::Bf16 || head_dim.is_multiple_of(2), "pairs of dimensions");
        let shape = Shape { sequences, kv_heads, head_dim, capacity: capacity.next_multiple_of(LANES) };
        let tokens = sequences * kv_heads * shape.capacity;
        let store = |numbers| match format {
            KvFormat::F32 => Store::F32(vec![0.0; numbers]),
            KvFormat::F16 => Store::F16(vec![f16::ZERO; numbers]),
            KvFormat::Bf16 => Store::Bf16(vec![0; numbers / 2]),
            KvFormat::Int8 => Store::Int8 { codes: vec![0; numbers], scales: vec![0.0; tokens] },
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
        self.keys.grow(tokens, self.shape.head_dim);
        self.values.grow(tokens, self.shape.padded_dim());
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
        let shape = self.shape;
        match &mut self.keys {
            Store::F32(to) => shape.append_keys(pool, start, (new, keys), to, &mut []),
            Store::F16(to) => shape.append_keys(pool, start, (new, keys), to, &mut []),
            Store::Bf16(to) => shape.append_key_pairs(pool, start, (new, keys), bytemuck::cast_slice_mut(to)),
            Store::Int8 { codes, scales } => shape.append_keys(pool, start, (new, keys), codes, scales),
        }
        match &mut self.values {
            Store::F32(to) => shape.append_values(pool, start, (new, values), to, &mut []),
            Store::F16(to) => shape.append_values(pool, start, (new, values), to, &mut []),
            Store::Bf16(to) => shape.append_value_pairs(pool, start, (new, values), bytemuck::cast_slice_mut(to)),
            Store::Int8 { codes, scales } => shape.append_values(pool, start, (new, values), codes, scales),
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
        let (first, dim) = (self.shape.first_token(head, from, tokens), self.shape.head_dim);
        let tokens = tokens.next_multiple_of(LANES);
        match &self.keys {
            Store::F32(keys) => &keys[first * dim..][..tokens * dim],
            Store::F16(keys) => widened(isa, &keys[first * dim..][..tokens * dim], buffer),
            Store::Bf16(_) => {
                let to = &mut buffer[..tokens * dim];
                widen_pairs(isa, self.key_pairs(head, from, tokens), LANES, to);
                to
            }
            Store::Int8 { codes, scales } => {
                let keys = &mut buffer[..tokens * dim];
                widen_keys(isa, &codes[first * dim..][..tokens * dim], &scales[first..][..tokens], keys);
                keys
            }
        }
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
        let (first, dim) = (self.shape.first_token(head, from, tokens), self.padded_dim());
        match &self.values {
            Store::F32(values) => &values[first * dim..][..tokens * dim],
            Store::F16(values) => widened(isa, &values[first * dim..][..tokens * dim], buffer),
            Store::Bf16(_) => {
                let to = &mut buffer[..tokens.next_multiple_of(2) * dim];
                widen_pairs(isa, self.value_pairs(head, from, tokens), dim, to);
                &to[..tokens * dim]
            }
            Store::Int8 { codes, scales } => {
                let values = &mut buffer[..tokens * dim];
                widen_values(isa, &codes[first * dim..][..tokens * dim], &scales[first..][..tokens], values);
                values
            }
        }
    }
}

/// Keys or values in bfloat16, two numbers in each word.
impl KeyValues {
    /// Whether keys and values are in bfloat16.
    pub(super) fn is_bf16(&self) -> bool {
        matches!(self.keys, Store::Bf16(_))
    }

    /// As [`KeyValues::keys`], `[token / 16][dimension / 2][16]`; empty in other formats.
    pub(super) fn key_pairs(&self, head: Head, from: usize, tokens: usize) -> &[u32] {
        assert!(from.is_multiple_of(LANES));
        let (first, dim) = (self.shape.first_token(head, from, tokens), self.shape.head_dim);
        match &self.keys {
            Store::Bf16(keys) => &keys[first * dim / 2..][..tokens.next_multiple_of(LANES) * dim / 2],
            _ => &[],
        }
    }

    /// As [`KeyValues::values`], `(tokens / 2, padded_dim)`, the last pair with what was stored before where the tokens are
    /// odd; `from` is even. Empty in other formats.
    pub(super) fn value_pairs(&self, head: Head, from: usize, tokens: usize) -> &[u32] {
        assert!(from.is_multiple_of(2));
        let (first, dim) = (self.shape.first_token(head, from, tokens), self.padded_dim());
        match &self.values {
            Store::Bf16(values) => &values[first * dim / 2..][..tokens.div_ceil(2) * dim],
            _ => &[],
        }
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

    fn append_keys<T: Number>(
        &self,
        pool: &Pool,
        start: usize,
        from: (Sequences<'_>, &[f32]),
        to: &mut [T],
        scales: &mut [f32],
    ) {
        self.append(pool, start, from, (to, self.head_dim), scales, |lane, first, piece, block| {
            let places = block[first * LANES + lane..].iter_mut().step_by(LANES);
            places.zip(piece).for_each(|(to, &number)| *to = number);
        });
    }

    fn append_values<T: Number>(
        &self,
        pool: &Pool,
        start: usize,
        from: (Sequences<'_>, &[f32]),
        to: &mut [T],
        scales: &mut [f32],
    ) {
        let padded = self.padded_dim();
        self.append(pool, start, from, (to, padded), scales, |lane, first, piece, block| {
            block[lane * padded + first..][..piece.len()].copy_from_slice(piece);
        });
    }

    fn append_key_pairs(&self, pool: &Pool, start: usize, from: (Sequences<'_>, &[f32]), to: &mut [bf16]) {
        self.append(pool, start, from, (to, self.head_dim), &mut [], |lane, first, piece, block| {
            let places = block[first * LANES + lane * 2..].chunks_mut(2 * LANES);
            places.zip(piece.as_chunks::<2>().0).for_each(|(to, pair)| to[..2].copy_from_slice(pair));
        });
    }

    fn append_value_pairs(&self, pool: &Pool, start: usize, from: (Sequences<'_>, &[f32]), to: &mut [bf16]) {
        let padded = self.padded_dim();
        self.append(pool, start, from, (to, padded), &mut [], |lane, first, piece, block| {
            let places = block[lane / 2 * 2 * padded + first * 2 + lane % 2..].iter_mut().step_by(2);
            places.zip(piece).for_each(|(to, &number)| *to = number);
        });
    }

    /// Narrows `from` and calls `put(token % 16, first dimension, piece, block)` for each piece, which lies in one head of
    /// one token; a block is what a head has of 16 tokens, `width` numbers for each in `to`. `scales` is empty where numbers
    /// have none. Threads share out the blocks of tokens.
    fn append<T: Number>(
        &self,
        pool: &Pool,
        start: usize,
        (new, from): (Sequences<'_>, &[f32]),
        (to, width): (&mut [T], usize),
        scales: &mut [f32],
        put: impl Fn(usize, usize, &[T], &mut [T]) + Sync,
    ) {
        let (isa, dim, has_scales) = (Isa::active(), self.head_dim, !scales.is_empty());
        let of_token = self.kv_heads * dim;
        // A head with a scale of its own is narrowed alone.
        let at_once = if has_scales { dim } else { of_token };
        let (blocks, scales) = (Rows::new(to, LANES * width), Rows::new(scales, LANES));
        let (first_block, end_block) = (start / LANES, (start + new.longest()).div_ceil(LANES));
        let touched = end_block - first_block;
        pool.split(self.sequences * touched, 1, from.len() >= SMALL, &|share| {
            let mut narrowed = [T::default(); PIECE];
            for index in share {
                let (sequence, block) = (index / touched, first_block + index % touched);
                let place = |head: usize| (sequence * self.kv_heads + head) * (self.capacity / LANES) + block;
                let rows = new.rows(sequence);
                for token in (block * LANES).max(start)..((block + 1) * LANES).min(start + rows.len()) {
                    let row = &from[(rows.start + token - start) * of_token..][..of_token];
                    for (head, part) in row.chunks(at_once).enumerate() {
                        let scale = T::scale(isa, part);
                        if has_scales {
                            // SAFETY: the shares of the threads do not overlap; every block of a head has its own row.
                            let scales = unsafe { scales.row(place(head)) };
                            scales[token % LANES] = scale;
                        }
                        for (i, part) in part.chunks(PIECE).enumerate() {
                            let narrowed = &mut narrowed[..part.len()];
                            T::narrow(isa, part, scale, narrowed);
                            for (head, first, piece) in heads(narrowed, head * at_once + i * PIECE, dim) {
                                // SAFETY: as above.
                                put(token % LANES, first, piece, unsafe { blocks.row(place(head)) });
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Cuts numbers of a token, from number `first` on, into heads of `dim`: head, first dimension, numbers.
fn heads<T>(numbers: &[T], first: usize, dim: usize) -> impl Iterator<Item = (usize, usize, &[T])> {
    let last = first + numbers.len();
    (first / dim..last.div_ceil(dim)).map(move |head| {
        let (from, to) = ((head * dim).max(first), ((head + 1) * dim).min(last));
        (head, from - head * dim, &numbers[from - first..to - first])
    })
}

impl Store {
    fn bytes(&self) -> usize {
        match self {
            Store::F32(numbers) => size_of_val(numbers.as_slice()),
            Store::F16(numbers) => size_of_val(numbers.as_slice()),
            Store::Bf16(numbers) => size_of_val(numbers.as_slice()),
            Store::Int8 { codes, scales } => codes.len() + size_of_val(scales.as_slice()),
        }
    }

    /// Makes room for `width` numbers of each of `tokens` tokens.
    fn grow(&mut self, tokens: usize, width: usize) {
        let numbers = tokens * width;
        match self {
            Store::F32(held) => held.resize(held.len().max(numbers), 0.0),
            Store::F16(held) => held.resize(held.len().max(numbers), f16::ZERO),
            Store::Bf16(held) => held.resize(held.len().max(numbers / 2), 0),
            Store::Int8 { codes, scales } => {
                codes.resize(codes.len().max(numbers), 0);
                scales.resize(scales.len().max(tokens), 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_back_in_the_documented_layout() {
        let (sequences, kv_heads, dim) = (2, 3, 70);
        let number = |sequence: usize, token: usize, i: usize| ((sequence * 31 + token * 7 + i) % 256) as f32 / 8.0;
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::Bf16] {
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
    fn eight_bits_come_back_within_half_a_step_of_their_head() {
        let (kv_heads, dim, tokens) = (2, 70, 18);
        let numbers: Vec<f32> = (0..tokens * kv_heads * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.31).collect();
        let mut exact = KeyValues::new(KvFormat::F32, 1, kv_heads, dim, tokens);
        exact.append(&Pool::new(1), 0, Sequences::equal(1, tokens), &numbers, &numbers);
        let mut damaged = numbers.clone();
        damaged[3 * kv_heads * dim + 5] = f32::INFINITY;
        for isa in Isa::available() {
            let mut cache = KeyValues::new(KvFormat::Int8, 1, kv_heads, dim, tokens);
            cache.append(&Pool::new(2), 0, Sequences::equal(1, tokens), &numbers, &damaged);
            for kv_head in 0..kv_heads {
                let head = Head { sequence: 0, kv_head };
                let (mut a, mut b) = (vec![0.0; 32 * 80], vec![0.0; 32 * 80]);
                let (keys, expected) = (cache.keys(isa, head, 0, 18, &mut a), exact.keys(isa, head, 0, 18, &mut b));
                let half_step = 50.0 * 0.31 / 127.0 * 0.501;
                assert!(keys.iter().zip(expected).all(|(k, e)| (k - e).abs() <= half_step), "{isa}");
                let (values, expected) =
                    (cache.values(isa, head, 0, 18, &mut a), exact.values(isa, head, 0, 18, &mut b));
                for (token, (v, e)) in values.chunks_exact(80).zip(expected.chunks_exact(80)).enumerate() {
                    let lost = token == 3 && kv_head == 0;
                    assert!(v.iter().zip(e).all(|(v, e)| if lost { v.is_nan() } else { (v - e).abs() <= half_step }));
                }
            }
        }
    }

    #[test]
    fn bytes_count_what_is_held() {
        assert_eq!(KeyValues::new(KvFormat::Int8, 1, 3, 64, 512).bytes(), 2 * 3 * 512 * (64 + 4));
        assert_eq!(KeyValues::new(KvFormat::F16, 1, 3, 64, 512).bytes(), 2 * 3 * 64 * 512 * 2);
        assert_eq!(KeyValues::new(KvFormat::F32, 2, 1, 8, 1).bytes(), 2 * 16 * (8 + 16) * 4);
    }
}
