//! Attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245): causal for prefill and decode, or over the
//! whole sequence for encoders. Sequences of different lengths lie one after the other, without padding.
//!
//! Work is cut into tiles of (sequence, key-value head, block of queries, part of the keys). The query heads that
//! share a key-value head are stacked as rows, so keys and values are read once for all of them. Inside a tile, keys
//! are taken [`KEY_BLOCK`] at a time with a running maximum and sum (online softmax: Milakov and Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). Few queries leave too few tiles, so their keys are cut into
//! parts of [`KEY_PART`] whose results are merged. The cut does not depend on the number of threads, and a tile is
//! worked on by one thread: results do not depend on it either. All arithmetic is f32, multiply-adds fused; with keys and
//! values in bfloat16, queries and weights are rounded to it as well, and only sums are f32.

use std::ops::Range;
use std::sync::Mutex;

use super::activations::{Rows, round_to_bf16_body};
use super::isa::{Isa, per_isa};
use super::key_values::{Head, KeyValues};
use super::pool::Pool;
use super::sequences::Sequences;
use super::tile::{Factor, Numbers, product};
use super::vector::{LANES, exp, exp_minus, maximum_body};

/// Keys whose scores are held at once.
const KEY_BLOCK: usize = 128;
/// Keys of a part, where few queries attend to many keys.
const KEY_PART: usize = 512;
/// Rows (queries times the heads that share a key-value head) of a tile.
const TILE_ROWS: usize = 64;
/// Scores below this many are not worth waking the pool.
const SMALL: usize = 1024;

/// Which queries attend to what.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Keys and values, those of the new tokens included.
    pub cache: &'a KeyValues,
    /// Query heads; a multiple of the cache's key-value heads.
    pub heads: usize,
    /// New tokens of each sequence.
    pub new: Sequences<'a>,
    /// What a new token sees.
    pub mask: Mask,
}

/// Which tokens of its sequence a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Itself and the tokens before it.
    Causal {
        /// Position of the first new token, the same in all sequences.
        start: usize,
        /// A token sees itself and the `window - 1` tokens before it; `None` sees all before it.
        window: Option<usize>,
    },
    /// All of them; all are new.
    Whole,
}

/// Memory of attention, kept between calls.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    threads: Vec<Mutex<Scratch>>,
    partial: Vec<f32>,
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    /// Scaled queries, `(rows, head_dim)`.
    queries: Vec<f32>,
    /// Scores, then weights, `(rows, KEY_BLOCK)`.
    scores: Vec<f32>,
    /// Running result per row: padded weighted values, then maximum and sum.
    result: Vec<f32>,
    /// Widened keys and values of a block.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Queries or weights in bfloat16.
    pairs: Vec<u16>,
}

/// One piece of work.
#[derive(Debug, Clone, Copy)]
struct Tile {
    head: Head,
    /// First new token, counted from 0.
    token: usize,
    /// New tokens.
    tokens: usize,
    /// Part of the keys, and how many parts there are.
    part: usize,
    parts: usize,
}

impl Attention<'_> {
    /// Computes `softmax(q k / sqrt(head_dim)) v` for every query head.
    ///
    /// `queries` and `out` are `(new tokens, heads * head_dim)` row-major, sequence after sequence.
    ///
    /// # Panics
    /// When the sizes do not fit, or the processor lacks `isa`.
    pub fn run(&self, isa: Isa, pool: &Pool, queries: &[f32], scratch: &mut AttentionScratch, out: &mut [f32]) {
        let width = self.heads * self.cache.head_dim();
        let rows = self.new.tokens();
        assert!(queries.len() == rows * width && out.len() == queries.len());
        assert!(self.heads.is_multiple_of(self.cache.kv_heads()) && self.heads > 0);
        assert!(self.new.count() == self.cache.sequences() && self.keys() <= self.cache.capacity());
        if rows == 0 {
            return;
        }

        let parts = self.parts();
        let tiles = self.cache.sequences() * self.cache.kv_heads() * self.query_blocks() * parts;
        let result = self.tile_rows() * self.result_width();
        if parts > 1 {
            scratch.partial.resize(tiles * result, 0.0);
        }
        scratch.threads.resize_with(scratch.threads.len().max(pool.threads()), Mutex::default);

        // Queries of a key-value head lie side by side: a row of `outputs` belongs to one token and one such head.
        let outputs = Rows::new(out, self.group() * self.cache.head_dim());
        let partial = Rows::new(&mut scratch.partial, result);
        let threads = &scratch.threads;
        let work = |thread: usize, index: usize| {
            // The longest tiles come first, so that threads finish together.
            let tile = self.tile(tiles - 1 - index);
            let mut scratch = threads[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            attend(isa, isa, self, &tile, queries, &mut scratch, &outputs);
            if parts > 1 {
                // SAFETY: `index` is given to one thread only, and every index has its own row.
                let part = unsafe { partial.row(tiles - 1 - index) };
                part[..scratch.result.len()].copy_from_slice(&scratch.result);
            }
        };
        if pool.threads() == 1 || tiles == 1 || rows * self.heads * self.keys() < SMALL {
            (0..tiles).for_each(|index| work(0, index));
        } else {
            pool.each(tiles, &work);
        }
        if parts > 1 {
            self.merge(&mut scratch.partial, result, parts, &outputs);
        }
    }

    /// Query heads of a key-value head.
    fn group(&self) -> usize {
        self.heads / self.cache.kv_heads()
    }

    /// Keys of the longest sequence.
    fn keys(&self) -> usize {
        match self.mask {
            Mask::Causal { start, .. } => start + self.new.longest(),
            Mask::Whole => self.new.longest(),
        }
    }

    /// Query tokens of a tile in the longest sequence.
    fn block_tokens(&self) -> usize {
        (TILE_ROWS / self.group()).clamp(1, self.new.longest())
    }

    fn query_blocks(&self) -> usize {
        self.new.longest().div_ceil(self.block_tokens())
    }

    fn tile_rows(&self) -> usize {
        self.block_tokens() * self.group()
    }

    /// Numbers of a row's running result: weighted values, padded, then maximum and sum.
    fn result_width(&self) -> usize {
        self.cache.padded_dim() + 2
    }

    fn parts(&self) -> usize {
        if self.query_blocks() > 1 { 1 } else { self.keys().div_ceil(KEY_PART) }
    }

    /// Tile `index`; later tiles see more keys. A tile behind the end of a short sequence has no tokens.
    fn tile(&self, index: usize) -> Tile {
        let parts = self.parts();
        let (index, part) = (index / parts, index % parts);
        let heads = self.cache.sequences() * self.cache.kv_heads();
        let (block, head) = (index / heads, index % heads);
        let (sequence, kv_head) = (head / self.cache.kv_heads(), head % self.cache.kv_heads());
        let token = block * self.block_tokens();
        Tile {
            head: Head { sequence, kv_head },
            token,
            tokens: self.block_tokens().min(self.new.rows(sequence).len().saturating_sub(token)),
            part,
            parts,
        }
    }

    /// Positions of the keys that new token `token` of a sequence sees.
    fn visible(&self, sequence: usize, token: usize) -> Range<usize> {
        match self.mask {
            Mask::Causal { start, window } => {
                let end = start + token + 1;
                window.map_or(0, |window| end.saturating_sub(window))..end
            }
            Mask::Whole => 0..self.new.rows(sequence).len(),
        }
    }

    /// Writes finished rows to their place in `out`.
    #[inline(always)]
    fn store(&self, tile: &Tile, result: &[f32], outputs: &Rows<f32>) {
        let (group, dim, width) = (self.group(), self.cache.head_dim(), self.result_width());
        let first = self.new.rows(tile.head.sequence).start + tile.token;
        for token in 0..tile.tokens {
            let row = first + token;
            // SAFETY: tiles have different tokens, sequences or key-value heads, and a tile is one thread's at a time.
            let out = unsafe { outputs.row(row * self.cache.kv_heads() + tile.head.kv_head) };
            for (h, out) in out.chunks_exact_mut(dim).enumerate() {
                let row = &result[(token * group + h) * width..][..width];
                let scale = 1.0 / row[width - 1];
                out.iter_mut().zip(row).for_each(|(out, &v)| *out = v * scale);
            }
        }
    }

    /// Merges the parts of every tile into its first part, in order, and stores it.
    fn merge(&self, partial: &mut [f32], result: usize, parts: usize, outputs: &Rows<f32>) {
        let width = self.result_width();
        for (index, parts_of_tile) in partial.chunks_exact_mut(result * parts).enumerate() {
            let (first, others) = parts_of_tile.split_at_mut(result);
            for other in others.chunks_exact(result) {
                for (row, other) in first.chunks_exact_mut(width).zip(other.chunks_exact(width)) {
                    merge_row(row, other);
                }
            }
            self.store(&self.tile(index * parts), first, outputs);
        }
    }
}

/// Adds a part's running result to a row's: both are scaled to the larger maximum.
fn merge_row(row: &mut [f32], other: &[f32]) {
    let (values, end) = row.split_at_mut(other.len() - 2);
    let (other_values, other_end) = other.split_at(other.len() - 2);
    let largest = end[0].max(other_end[0]);
    let (scale, other_scale) = (rescale(end[0], largest), rescale(other_end[0], largest));
    for (v, &other) in values.iter_mut().zip(other_values) {
        *v = v.mul_add(scale, other * other_scale);
    }
    end[1] = end[1].mul_add(scale, other_end[1] * other_scale);
    end[0] = largest;
}

/// `exp(old - new)`, 0 where nothing was seen yet.
#[inline(always)]
fn rescale(old: f32, new: f32) -> f32 {
    if old == f32::NEG_INFINITY { 0.0 } else { exp(old - new) }
}

per_isa! {
    /// Runs one tile; its rows are stored, or left in `scratch.result` where they are a part. `own` is the instruction set
    /// again, for the body.
    fn attend(
        isa, own: Isa, attention: &Attention<'_>, tile: &Tile, queries: &[f32], scratch: &mut Scratch, outputs: &Rows<f32>
    ) = attend_body
}

#[inline(always)]
fn attend_body(
    isa: Isa,
    attention: &Attention<'_>,
    tile: &Tile,
    queries: &[f32],
    scratch: &mut Scratch,
    outputs: &Rows<f32>,
) {
    let cache = attention.cache;
    let (group, dim, padded) = (attention.group(), cache.head_dim(), cache.padded_dim());
    let (rows, width) = (tile.tokens * group, attention.result_width());
    let Scratch { queries: scaled, scores, result, keys, values, pairs } = scratch;
    gather(attention, tile, queries, scaled);
    let in_pairs = cache.is_bf16() && Numbers::bf16_pairs(isa);
    let numbers = if in_pairs { Numbers::Bf16Pairs } else { Numbers::F32 };
    if cache.is_bf16() {
        pairs.resize(rows * dim.max(KEY_BLOCK), 0);
        round(scaled, &mut pairs[..rows * dim], in_pairs);
    }
    scores.resize(rows * KEY_BLOCK, 0.0);
    keys.resize(KEY_BLOCK * dim, 0.0);
    values.resize(KEY_BLOCK * padded, 0.0);
    result.clear();
    result.resize(rows * width, 0.0);
    for row in result.chunks_exact_mut(width) {
        row[padded] = f32::NEG_INFINITY;
    }

    if tile.tokens == 0 {
        return;
    }
    let visible = |token: usize| attention.visible(tile.head.sequence, tile.token + token);
    let mut seen = visible(0).start / LANES * LANES..visible(tile.tokens - 1).end;
    if tile.parts > 1 {
        seen.start = seen.start.max(tile.part * KEY_PART);
        seen.end = seen.end.min((tile.part + 1) * KEY_PART);
    }
    for from in seen.clone().step_by(KEY_BLOCK) {
        let count = KEY_BLOCK.min(seen.end - from);
        let blocks = count.div_ceil(LANES);
        let (keys, inner) = match in_pairs {
            true => (bytemuck::cast_slice(cache.key_pairs(tile.head, from, count)), dim / 2),
            false => (cache.keys(isa, tile.head, from, count, keys), dim),
        };
        let keys = Factor { numbers: keys, row: LANES, block: inner * LANES };
        product(isa, numbers, (rows, inner, blocks), (scaled, inner), keys, (scores, KEY_BLOCK), false);
        for (r, scores) in scores.chunks_exact_mut(KEY_BLOCK).take(rows).enumerate() {
            let visible = visible(r / group);
            let visible = visible.start.clamp(from, from + count) - from..visible.end.clamp(from, from + count) - from;
            soften(&mut scores[..blocks * LANES], visible, &mut result[r * width..][..width]);
        }
        if cache.is_bf16() {
            round(scores, &mut pairs[..rows * KEY_BLOCK], in_pairs);
        }
        let (values, inner, stride) = match in_pairs {
            true => {
                let values = bytemuck::cast_slice(cache.value_pairs(tile.head, from, count));
                (values, count.div_ceil(2), KEY_BLOCK / 2)
            }
            false => (cache.values(isa, tile.head, from, count, values), count, KEY_BLOCK),
        };
        let values = Factor { numbers: values, row: padded, block: LANES };
        product(isa, numbers, (rows, inner, padded / LANES), (scores, stride), values, (result, width), true);
    }
    if tile.parts == 1 {
        attention.store(tile, result, outputs);
    }
}

/// Rounds numbers to bfloat16 (half to even), by way of `bits`: in place, or packed in pairs at their start.
#[inline(always)]
fn round(numbers: &mut [f32], bits: &mut [u16], in_pairs: bool) {
    round_to_bf16_body(&numbers[..bits.len()], bits);
    if in_pairs {
        bytemuck::cast_slice_mut::<f32, u16>(numbers)[..bits.len()].copy_from_slice(bits);
    } else {
        numbers.iter_mut().zip(bits).for_each(|(number, bits)| *number = f32::from_bits(u32::from(*bits) << 16));
    }
}

/// Copies the queries of a tile, stacked `(token, head of the group)` and scaled by `1 / sqrt(head_dim)`.
#[inline(always)]
fn gather(attention: &Attention<'_>, tile: &Tile, queries: &[f32], scaled: &mut Vec<f32>) {
    let (group, dim) = (attention.group(), attention.cache.head_dim());
    let scale = 1.0 / (dim as f32).sqrt();
    scaled.resize(tile.tokens * group * dim, 0.0);
    let first = attention.new.rows(tile.head.sequence).start + tile.token;
    for (token, scaled) in scaled.chunks_exact_mut(group * dim).enumerate() {
        let at = ((first + token) * attention.heads + tile.head.kv_head * group) * dim;
        scaled.iter_mut().zip(&queries[at..]).for_each(|(scaled, &q)| *scaled = q * scale);
    }
}

/// Turns a row's scores into weights under the new maximum, 0 where not visible, and rescales its running result. Scores
/// are whole sixteens: those behind the last key are invisible too.
#[inline(always)]
fn soften(scores: &mut [f32], visible: Range<usize>, result: &mut [f32]) {
    if visible.is_empty() {
        scores.fill(0.0);
        return;
    }
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    let (values, end) = result.split_at_mut(result.len() - 2);
    let largest = maximum_body(scores).max(end[0]);
    if largest > end[0] {
        let scale = rescale(end[0], largest);
        values.iter_mut().for_each(|v| *v *= scale);
        end[1] *= scale;
        end[0] = largest;
    }
    end[1] += exp_minus(scores, largest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KvFormat;

    /// A case with random-looking queries and a filled cache.
    struct Case {
        cache: KeyValues,
        heads: usize,
        start: usize,
        length: usize,
        window: Option<usize>,
        queries: Vec<f32>,
        /// `(sequence, token)` to `(kv_heads * head_dim)`, as stored.
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * 2.0).collect()
    }

    fn case(
        format: KvFormat,
        sequences: usize,
        heads: (usize, usize),
        dim: usize,
        start: usize,
        length: usize,
    ) -> Case {
        let (heads, kv_heads) = heads;
        let tokens = start + length;
        let width = kv_heads * dim;
        let mut cache = KeyValues::new(format, sequences, kv_heads, dim, tokens + 5);
        // Halves of whole numbers, so that 16-bit storage is exact and both formats have the same answer.
        let halves = |n, seed| numbers(n, seed).iter().map(|v| (v * 64.0).round() / 64.0).collect::<Vec<f32>>();
        let (keys, values) = (halves(sequences * tokens * width, 1), halves(sequences * tokens * width, 2));
        cache.append(&Pool::new(1), 0, Sequences::equal(sequences, tokens), &keys, &values);
        let queries = numbers(sequences * length * heads * dim, 3);
        Case { cache, heads, start, length, window: None, queries, keys, values }
    }

    impl Case {
        fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
            let Case { cache, heads, start, length, window, .. } = self;
            let new = Sequences::equal(cache.sequences(), *length);
            let mask = Mask::Causal { start: *start, window: *window };
            let attention = Attention { cache, heads: *heads, new, mask };
            let mut out = vec![f32::NAN; self.queries.len()];
            let mut scratch = AttentionScratch::default();
            attention.run(isa, &Pool::new(threads), &self.queries, &mut scratch, &mut out);
            out
        }

        /// The definition, in f64.
        fn exact(&self) -> Vec<f64> {
            let (kv_heads, dim) = (self.cache.kv_heads(), self.cache.head_dim());
            let (tokens, group) = (self.start + self.length, self.heads / kv_heads);
            let mut out = Vec::new();
            for row in 0..self.cache.sequences() * self.length {
                let (sequence, position) = (row / self.length, self.start + row % self.length);
                let lowest = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
                for h in 0..self.heads {
                    let q = &self.queries[(row * self.heads + h) * dim..][..dim];
                    let of = |x: &[f32], t: usize, i: usize| {
                        f64::from(x[((sequence * tokens + t) * kv_heads + h / group) * dim + i])
                    };
                    let weights: Vec<f64> = (lowest..=position)
                        .map(|t| (0..dim).map(|i| f64::from(q[i]) * of(&self.keys, t, i)).sum::<f64>())
                        .map(|score| (score / (dim as f64).sqrt()).exp())
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for i in 0..dim {
                        let value = weights.iter().zip(lowest..).map(|(w, t)| w * of(&self.values, t, i)).sum::<f64>();
                        out.push(value / sum);
                    }
                }
            }
            out
        }

        fn assert_exact(&self, name: &str) {
            let exact = self.exact();
            let scalar = self.run(Isa::Scalar, 1);
            for (i, (&got, exact)) in scalar.iter().zip(exact).enumerate() {
                assert!((f64::from(got) - exact).abs() < 3e-6, "{name} at {i}: {got} against {exact}");
            }
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    assert_eq!(self.run(isa, threads), scalar, "{name}: {isa} on {threads} threads");
                }
            }
        }
    }

    #[test]
    fn prefill_and_decode_follow_the_definition() {
        for format in [KvFormat::F32, KvFormat::F16] {
            for (heads, dim) in [((1, 1), 16), ((9, 3), 64), ((4, 4), 8), ((6, 2), 80)] {
                for (sequences, start, length) in [(1, 0, 1), (2, 0, 17), (1, 33, 5), (3, 130, 1), (1, 0, 150)] {
                    let case = case(format, sequences, heads, dim, start, length);
                    case.assert_exact(&format!("{format:?} {heads:?} {dim} {sequences} {start} {length}"));
                }
            }
        }
    }

    #[test]
    fn bfloat16_is_the_definition_on_rounded_numbers() {
        for (heads, dim) in [((9, 3), 64), ((4, 4), 8), ((6, 2), 34)] {
            for (sequences, start, length) in [(1, 0, 1), (2, 0, 17), (1, 33, 5), (1, 600, 1), (1, 0, 151)] {
                let name = format!("{heads:?} {dim} {sequences} {start} {length}");
                let mut case = case(KvFormat::Bf16, sequences, heads, dim, start, length);
                // Scaled queries that bfloat16 holds, so that only weights are rounded: by half of 2^-8 at most, and the
                // sum that they are divided by is of those before rounding. Values are at most 2.
                let scale = (dim as f32).sqrt();
                let rounded = |q: f32| half::bf16::from_f32(q / scale).to_f32() * scale;
                case.queries.iter_mut().for_each(|q| *q = rounded(*q));
                let exact = case.exact();
                for isa in Isa::available() {
                    let got = case.run(isa, 1);
                    for (i, (&got, exact)) in got.iter().zip(&exact).enumerate() {
                        let error = (f64::from(got) - exact).abs();
                        assert!(error < 2.0 * 2f64.powi(-8), "{name} on {isa} at {i}: {got} against {exact}");
                    }
                    for threads in [2, 3] {
                        assert_eq!(case.run(isa, threads), got, "{name}: {isa} on {threads} threads");
                    }
                }
            }
        }
    }

    #[test]
    fn long_caches_are_cut_and_merged() {
        for (start, length) in [(511, 1), (512, 1), (1200, 3)] {
            case(KvFormat::F16, 2, (3, 1), 16, start, length).assert_exact(&format!("{start} {length}"));
        }
    }

    #[test]
    fn a_window_hides_what_lies_before_it() {
        for (start, length, window) in [(0, 40, 1), (0, 70, 16), (600, 1, 20), (700, 2, 130), (0, 200, 500)] {
            let mut case = case(KvFormat::F32, 1, (4, 2), 16, start, length);
            case.window = Some(window);
            case.assert_exact(&format!("{start} {length} window {window}"));
        }
    }

    #[test]
    fn whole_sequences_of_different_lengths_are_each_as_if_alone() {
        let (heads, dim, lengths) = (3, 20, [1, 70, 0, 16, 150]);
        let ends: Vec<usize> = lengths.iter().scan(0, |end, n| Some(*end + n).inspect(|e| *end = *e)).collect();
        let new = Sequences::packed(&ends);
        let width = heads * dim;
        let [queries, keys, values] = [1, 2, 3].map(|seed| numbers(new.tokens() * width, seed));
        let mut cache = KeyValues::new(KvFormat::F32, 1, heads, dim, 1);
        cache.reshape(lengths.len(), new.longest());
        cache.append(&Pool::new(2), 0, new, &keys, &values);
        let attention = Attention { cache: &cache, heads, new, mask: Mask::Whole };
        let run = |isa: Isa, threads| {
            let mut out = vec![f32::NAN; queries.len()];
            attention.run(isa, &Pool::new(threads), &queries, &mut AttentionScratch::default(), &mut out);
            out
        };
        let scalar = run(Isa::Scalar, 1);
        for isa in Isa::available() {
            assert_eq!(run(isa, 2), scalar, "{isa}");
        }
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        for rows in (0..lengths.len()).map(|sequence| new.rows(sequence)) {
            for (row, h) in rows.clone().flat_map(|row| (0..heads).map(move |h| (row, h))) {
                let at = |row: usize| row * width + h * dim..row * width + (h + 1) * dim;
                let score = |key: usize| dot(&queries[at(row)], &keys[at(key)]) / (dim as f64).sqrt();
                let weights: Vec<f64> = rows.clone().map(|key| score(key).exp()).collect();
                for i in 0..dim {
                    let value = |key: usize| f64::from(values[at(key)][i]);
                    let exact: f64 = rows.clone().zip(&weights).map(|(key, weight)| weight * value(key)).sum();
                    let got = f64::from(scalar[at(row)][i]);
                    assert!((got - exact / weights.iter().sum::<f64>()).abs() < 3e-6, "row {row} head {h}: {got}");
                }
            }
        }
    }

    #[test]
    fn scores_far_apart_do_not_overflow() {
        let mut case = case(KvFormat::F32, 1, (2, 1), 16, 0, 140);
        case.queries.iter_mut().for_each(|q| *q *= 200.0);
        let out = case.run(Isa::active(), 1);
        assert!(out.iter().all(|v| v.is_finite()));
    }
}
