//! Input of a matrix product, with the forms that kernels want made once and shared.
//!
//! Integer form: 8-bit codes, as the layer's [`ActivationScheme`] says. The symmetric scheme per token has
//! `code = round_half_even(x * (127 / max|x|))`, so codes lie in `-127..=127` on every instruction set; a token whose
//! largest magnitude is zero (or so small that its reciprocal overflows) has scale 0 and codes 0. In every scheme a token
//! with a NaN or an infinity has scale NaN and codes 0, so that its outputs are NaN.

use super::isa::{Isa, per_isa};
use super::pool::Pool;
use super::vector::largest_magnitude_body;
use crate::tensor::{ActivationScheme, StaticActivations};

mod fixed_point;
#[cfg(test)]
mod tests;
pub(super) mod tiles;

pub(super) use fixed_point::FixedInput;
use fixed_point::FixedPoint;
use tiles::Tiles;

/// Columns to which rows of derived forms are padded (with zeros): a block of the packed integer layouts.
const PAD: usize = 64;
/// Row strides that are a multiple of this many bytes put the rows of a tile into the same cache sets.
const ALIASING_BYTES: usize = 2048;
/// Values below which making a form is not worth waking other threads.
const SPLIT_VALUES: usize = 32 * 1024;

/// `(tokens, features)` row-major inputs. Integer and bfloat16 forms are made on first use after
/// [`Activations::write`] and shared by all matrices that read the same input (q, k, v; gate, up) in the same scheme.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    features: usize,
    values: Vec<f32>,
    padded: Form<f32>,
    bf16: Form<u16>,
    bf16_widened: Form<f32>,
    int8: Form<i8>,
    int8_scheme: Option<ActivationScheme>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    float_sums: Sums<f32>,
    int8_sums: Sums<i32>,
    fixed_point: FixedPoint,
    int8_tiles: Tiles,
    bf16_tiles: Tiles,
    gathered: Option<Box<Gathered>>,
}

/// The inputs with their columns in another order, which has derived forms of its own.
#[derive(Debug, Default)]
struct Gathered {
    made: bool,
    order: Vec<u32>,
    inputs: Activations,
}

/// A derived form: rows of `stride` values, zero from `features` on.
#[derive(Debug, Default)]
struct Form<T> {
    made: bool,
    stride: usize,
    data: Vec<T>,
}

/// Sums over groups of columns, for one group size at a time.
#[derive(Debug, Default)]
struct Sums<T> {
    made_for: Option<usize>,
    data: Vec<T>,
}

/// f32 input of a kernel: rows of `stride` values.
#[derive(Debug, Clone, Copy)]
pub(super) struct FloatInput<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub tokens: usize,
    /// `(tokens, groups)` sums of the inputs of a group; empty unless asked for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // AVX2 reads them.
    pub sums: &'a [f32],
}

/// Input rounded to bfloat16, as bits: rows of `stride` values (even).
#[derive(Debug, Clone, Copy)]
pub(super) struct Bf16Input<'a> {
    pub values: &'a [u16],
    pub stride: usize,
    pub tokens: usize,
    /// The values in tiles, when [`Activations::make_bf16_tiles`] made them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // For AMX.
    pub tiles: &'a [u8],
}

/// Input in 8 bits: rows of `stride` codes.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntegerInput<'a> {
    pub codes: &'a [i8],
    pub stride: usize,
    pub tokens: usize,
    pub scales: &'a [f32],
    /// Code of real zero of every token.
    pub zero_points: &'a [i32],
    /// Whether codes may be -128.
    pub has_lowest_code: bool,
    /// `(tokens, groups)` sums of the codes of a group.
    pub sums: &'a [i32],
    /// The codes in tiles, when [`Activations::make_int8_tiles`] made them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // For AMX.
    pub tiles: &'a [u8],
}

impl<T: Copy + Default> Form<T> {
    /// Sets the size, keeping the memory. Values of earlier contents may remain.
    fn resize(&mut self, tokens: usize, features: usize) {
        let stride = features.next_multiple_of(PAD);
        let aliases = (stride * size_of::<T>()).is_multiple_of(ALIASING_BYTES);
        self.stride = if aliases { stride + PAD } else { stride };
        let len = tokens * self.stride;
        if self.data.len() < len {
            self.data.resize(len, T::default());
        }
    }
}

impl Activations {
    /// Room for `max_tokens * max_features` values, so that later calls do not allocate.
    pub fn with_capacity(max_tokens: usize, max_features: usize) -> Self {
        Activations { values: Vec::with_capacity(max_tokens * max_features), ..Activations::default() }
    }

    /// Resizes to `(tokens, features)`, drops the derived forms and lends the values to be written. What they held
    /// before is unspecified.
    pub fn write(&mut self, tokens: usize, features: usize) -> &mut [f32] {
        self.tokens = tokens;
        self.features = features;
        let len = tokens * features;
        if self.values.len() < len {
            self.values.resize(len, 0.0);
        }
        self.change()
    }

    /// Drops the derived forms and lends the values to be changed in place.
    pub fn change(&mut self) -> &mut [f32] {
        self.padded.made = false;
        self.bf16.made = false;
        self.bf16_widened.made = false;
        self.int8_scheme = None;
        self.fixed_point.made_for = None;
        self.float_sums.made_for = None;
        self.int8_sums.made_for = None;
        self.int8_tiles.forget();
        self.bf16_tiles.forget();
        if let Some(gathered) = &mut self.gathered {
            gathered.made = false;
        }
        &mut self.values[..self.tokens * self.features]
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The values, `(tokens, features)` row-major.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.tokens * self.features]
    }

    /// The inputs with column `order[k]` at `k`: for matrices whose columns are stored in another order. Made once for
    /// matrices that share it, as those that read the same input do.
    pub(super) fn gathered(&mut self, pool: &Pool, order: &[u32]) -> &mut Activations {
        assert_eq!(order.len(), self.features);
        let gathered = self.gathered.get_or_insert_default();
        if !gathered.made || gathered.order != order {
            let features = self.features;
            let rows = Rows::new(gathered.inputs.write(self.tokens, features), features);
            let values = &self.values;
            pool.split(self.tokens, 1, self.tokens * features >= SPLIT_VALUES, &|tokens| {
                for t in tokens {
                    let from = &values[t * features..(t + 1) * features];
                    // SAFETY: each token is written by one thread only.
                    let row = unsafe { rows.row(t) };
                    row.iter_mut().zip(order).for_each(|(value, &input)| *value = from[input as usize]);
                }
            });
            gathered.order.clear();
            gathered.order.extend_from_slice(order);
            gathered.made = true;
        }
        &mut gathered.inputs
    }

    /// The values as f32; `padded` asks for rows that are zero up to a multiple of 64 columns, `sums_of` for sums over
    /// groups of that many columns.
    pub(super) fn float(&mut self, pool: &Pool, padded: bool, sums_of: Option<usize>) -> FloatInput<'_> {
        if let Some(group) = sums_of {
            self.make_float_sums(group);
        }
        let row_bytes = self.features * size_of::<f32>();
        let aliases = self.tokens > 1 && row_bytes.is_multiple_of(ALIASING_BYTES);
        let copy = aliases || (padded && !self.features.is_multiple_of(PAD));
        if copy && !self.padded.made {
            self.padded.resize(self.tokens, self.features);
            let (features, stride) = (self.features, self.padded.stride);
            let rows = Rows::new(&mut self.padded.data, stride);
            let values = &self.values;
            pool.split(self.tokens, 1, self.tokens * features >= SPLIT_VALUES, &|tokens| {
                for t in tokens {
                    // SAFETY: each token is written by one thread only.
                    let row = unsafe { rows.row(t) };
                    row[..features].copy_from_slice(&values[t * features..(t + 1) * features]);
                    row[features..].fill(0.0);
                }
            });
            self.padded.made = true;
        }
        let sums = if sums_of.is_some() { &self.float_sums.data[..] } else { &[] };
        if copy {
            FloatInput { values: &self.padded.data, stride: self.padded.stride, tokens: self.tokens, sums }
        } else {
            FloatInput { values: &self.values, stride: self.features, tokens: self.tokens, sums }
        }
    }

    /// The values rounded to bfloat16 (half to even).
    pub(super) fn bf16(&mut self, pool: &Pool) -> Bf16Input<'_> {
        if !self.bf16.made {
            self.bf16.resize(self.tokens, self.features);
            let (features, stride) = (self.features, self.bf16.stride);
            let rows = Rows::new(&mut self.bf16.data, stride);
            let values = &self.values;
            pool.split(self.tokens, 1, self.tokens * features >= SPLIT_VALUES, &|tokens| {
                for t in tokens {
                    // SAFETY: each token is written by one thread only.
                    let row = unsafe { rows.row(t) };
                    round_to_bf16(Isa::active(), &values[t * features..(t + 1) * features], &mut row[..features]);
                    row[features..].fill(0);
                }
            });
            self.bf16.made = true;
        }
        Bf16Input {
            values: &self.bf16.data,
            stride: self.bf16.stride,
            tokens: self.tokens,
            tiles: self.bf16_tiles.bytes(),
        }
    }

    /// The values rounded to bfloat16 and widened to f32 again, for processors without bfloat16 arithmetic.
    pub(super) fn bf16_widened(&mut self, pool: &Pool) -> FloatInput<'_> {
        self.bf16(pool);
        if !self.bf16_widened.made {
            self.bf16_widened.resize(self.tokens, self.features);
            let (from, stride) = (self.bf16.stride, self.bf16_widened.stride);
            for t in 0..self.tokens {
                let (padded, row) = (self.features.next_multiple_of(PAD), &mut self.bf16_widened.data[t * stride..]);
                for (wide, &bits) in row[..padded].iter_mut().zip(&self.bf16.data[t * from..]) {
                    *wide = f32::from_bits(u32::from(bits) << 16);
                }
            }
            self.bf16_widened.made = true;
        }
        let Form { data, stride, .. } = &self.bf16_widened;
        FloatInput { values: data, stride: *stride, tokens: self.tokens, sums: &[] }
    }

    /// The values in 8 bits, with sums of codes over groups of `group` columns (the last group may be shorter).
    pub(super) fn int8(&mut self, pool: &Pool, scheme: ActivationScheme, group: usize) -> IntegerInput<'_> {
        if self.int8_scheme != Some(scheme) {
            self.int8.resize(self.tokens, self.features);
            self.scales.resize(self.tokens, 0.0);
            self.zero_points.resize(self.tokens, 0);
            let (features, stride) = (self.features, self.int8.stride);
            let rows = Rows::new(&mut self.int8.data, stride);
            let scales = Rows::new(&mut self.scales, 1);
            let zero_points = Rows::new(&mut self.zero_points, 1);
            let values = &self.values;
            pool.split(self.tokens, 1, self.tokens * features >= SPLIT_VALUES, &|tokens| {
                for t in tokens {
                    // SAFETY: each token is written by one thread only.
                    let (row, scale, zero_point) = unsafe { (rows.row(t), scales.row(t), zero_points.row(t)) };
                    let values = &values[t * features..(t + 1) * features];
                    (scale[0], zero_point[0]) = quantize(Isa::active(), scheme, values, &mut row[..features]);
                    row[features..].fill(0);
                }
            });
            self.int8_scheme = Some(scheme);
            self.int8_sums.made_for = None;
            self.int8_tiles.forget();
        }
        if self.int8_sums.made_for != Some(group) {
            let sums = &mut self.int8_sums.data;
            sums.clear();
            for row in self.int8.data.chunks_exact(self.int8.stride).take(self.tokens) {
                sum_groups_int8(Isa::active(), &row[..self.features], group, sums);
            }
            self.int8_sums.made_for = Some(group);
        }
        IntegerInput {
            codes: &self.int8.data,
            stride: self.int8.stride,
            tokens: self.tokens,
            scales: &self.scales,
            zero_points: &self.zero_points,
            has_lowest_code: scheme.has_lowest_code(),
            sums: &self.int8_sums.data,
            tiles: self.int8_tiles.bytes(),
        }
    }

    fn make_float_sums(&mut self, group: usize) {
        if self.float_sums.made_for == Some(group) {
            return;
        }
        let sums = &mut self.float_sums.data;
        sums.clear();
        for row in self.values[..self.tokens * self.features].chunks_exact(self.features) {
            sums.extend(row.chunks(group).map(|group| group.iter().sum::<f32>()));
        }
        self.float_sums.made_for = Some(group);
    }
}

/// Rows of an array that several threads write, each its own.
pub(super) struct Rows<T> {
    start: *mut T,
    rows: usize,
    stride: usize,
}

// SAFETY: rows are disjoint and `Rows::row` asks its callers to use each from one thread only.
unsafe impl<T: Send> Sync for Rows<T> {}

impl<T> Rows<T> {
    pub(super) fn new(data: &mut [T], stride: usize) -> Self {
        Rows { start: data.as_mut_ptr(), rows: data.len() / stride.max(1), stride }
    }

    /// # Safety
    /// No two uses of the same row may overlap, and the array must not be touched otherwise meanwhile.
    #[allow(clippy::mut_from_ref)] // Disjoint rows are the caller's promise.
    pub(super) unsafe fn row(&self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        // SAFETY: the row is inside the array (asserted) and used by one caller only (this function's contract).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.stride) }
    }
}

/// Quantizes one token; returns its scale and zero point.
fn quantize(isa: Isa, scheme: ActivationScheme, values: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let numbers = match scheme {
        ActivationScheme::None => unreachable!("floating-point inputs have no codes"),
        ActivationScheme::DynamicToken => return (quantize_token(isa, values, codes), 0),
        ActivationScheme::DynamicTokenAsymmetric { min_scale } => asymmetric(isa, values, min_scale),
        ActivationScheme::Static(numbers) => numbers,
    };
    (quantize_affine(isa, values, numbers, codes), i32::from(numbers.zero_point))
}

per_isa! {
    /// Scale and zero point of one token in the asymmetric scheme.
    fn asymmetric(isa, values: &[f32], min_scale: f32) -> StaticActivations = asymmetric_body
}

#[inline(always)]
fn asymmetric_body(values: &[f32], min_scale: f32) -> StaticActivations {
    let (low, high) = values.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let scale = ((high - low) / 255.0).max(min_scale);
    let zero_point = (-128.0 - (low / scale).round_ties_even()).clamp(-128.0, 127.0);
    StaticActivations { scale, zero_point: zero_point as i8, low: i8::MIN, high: i8::MAX }
}

per_isa! {
    /// Quantizes one token with the given numbers and returns its scale: theirs, or NaN where a value is not finite.
    fn quantize_affine(isa, values: &[f32], numbers: StaticActivations, codes: &mut [i8]) -> f32 = quantize_affine_body
}

#[inline(always)]
fn quantize_affine_body(values: &[f32], numbers: StaticActivations, codes: &mut [i8]) -> f32 {
    if !largest_magnitude_body(values).is_finite() || !numbers.scale.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    let inverse = 1.0 / numbers.scale;
    let zero_point = i32::from(numbers.zero_point);
    // The bounds are whole numbers, so that values may be clamped before they are rounded.
    let low = (i32::from(numbers.low) - zero_point) as f32;
    let high = (i32::from(numbers.high) - zero_point) as f32;
    for (code, value) in codes.iter_mut().zip(values) {
        // As in `quantize_token`.
        let rounded = (value * inverse).max(low).min(high) + 12_582_912.0;
        *code = (rounded.to_bits() as i32 - 0x4b40_0000 + zero_point) as i8;
    }
    numbers.scale
}

per_isa! {
    /// Quantizes one token in the symmetric scheme and returns its scale; see the module's page.
    fn quantize_token(isa, values: &[f32], codes: &mut [i8]) -> f32 = quantize_token_body
}

#[inline(always)]
fn quantize_token_body(values: &[f32], codes: &mut [i8]) -> f32 {
    let largest = largest_magnitude_body(values);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    if !inverse.is_finite() {
        codes.fill(0);
        return 0.0;
    }
    for (code, value) in codes.iter_mut().zip(values) {
        // |value * inverse| exceeds 127 by rounding errors only, so the rounded value fits; adding 1.5 * 2^23 rounds
        // to an integer, half to even, and leaves it in the low bits.
        let rounded = value * inverse + 12_582_912.0;
        *code = (rounded.to_bits() as i32 - 0x4b40_0000) as i8;
    }
    largest / 127.0
}

per_isa! {
    /// Rounds to bfloat16, half to even, as bits; NaN stays NaN.
    pub(super) fn round_to_bf16(isa, values: &[f32], out: &mut [u16]) = round_to_bf16_body
}

#[inline(always)]
pub(super) fn round_to_bf16_body(values: &[f32], out: &mut [u16]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = bf16_bits(*value);
    }
}

/// bfloat16 nearest to `value`, half to even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet_nan } else { rounded }) as u16
}

per_isa! {
    fn sum_groups_int8(isa, codes: &[i8], group: usize, sums: &mut Vec<i32>) = sum_groups_int8_body
}

#[inline(always)]
fn sum_groups_int8_body(codes: &[i8], group: usize, sums: &mut Vec<i32>) {
    for group in codes.chunks(group) {
        let mut sum = 0i32;
        for &code in group {
            sum += i32::from(code);
        }
        sums.push(sum);
    }
}
