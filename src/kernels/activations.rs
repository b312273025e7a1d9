//! Input of a matrix product, with the forms that kernels want made once and shared.
//!
//! Integer form: 8-bit codes, as the layer's [`ActivationScheme`] says. The symmetric scheme per token has
//! `code = round_half_even(x * (127 / max|x|))`, so codes lie in `-127..=127` on every instruction set; a token whose
//! largest magnitude is zero (or so small that its reciprocal overflows) has scale 0 and codes 0. In every scheme a token
//! with a NaN or an infinity has scale NaN and codes 0, so that its outputs are NaN.
//!
//! A form is made a token at a time. Who writes the inputs by way of [`InputRows`] has it made while the token's values are
//! in the nearest cache; otherwise the first product that reads them makes it.

use super::isa::{Isa, per_isa};
use super::matrix::Matrix;
use super::pool::Pool;
use super::rows::for_rows;
use crate::tensor::ActivationScheme;

mod fixed_point;
mod int8;
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

/// `(tokens, features)` row-major inputs. Derived forms are made on first use after [`Activations::write`] and shared by
/// all matrices that read the same input (q, k, v; gate, up) in the same form.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    features: usize,
    values: Vec<f32>,
    /// The forms that hold these values; at most one of each kind.
    made: Vec<InputForm>,
    padded: Form<f32>,
    float_sums: Vec<f32>,
    bf16: Form<u16>,
    bf16_widened: Form<f32>,
    int8: Form<i8>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    int8_sums: Vec<i32>,
    fixed_point: FixedPoint,
    int8_tiles: Tiles,
    bf16_tiles: Tiles,
    gathered: Option<Box<Gathered>>,
}

/// A form of the inputs that a kernel takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum InputForm {
    /// As they are: `padded` for rows that are zero up to a multiple of 64 columns, with sums over groups of `sums_of`
    /// columns.
    Float {
        /// Zero up to whole blocks.
        padded: bool,
        /// Columns of a group.
        sums_of: Option<usize>,
    },
    /// Rounded to bfloat16 (half to even).
    Bf16 {
        /// In tiles, too.
        tiles: bool,
    },
    /// Rounded to bfloat16 and widened to f32 again, for processors without bfloat16 arithmetic.
    Bf16Widened,
    /// 16-bit fixed point in blocks of so many columns (the last may be shorter).
    FixedPoint {
        /// Columns of a block.
        block: usize,
    },
    /// 8-bit codes.
    Int8 {
        /// How values become codes.
        scheme: ActivationScheme,
        /// Columns whose codes are summed (the last group may be shorter).
        group: usize,
        /// In tiles, too.
        tiles: bool,
    },
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
    stride: usize,
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
    /// The values in tiles, where asked for.
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
    /// The codes in tiles, where asked for.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // For AMX.
    pub tiles: &'a [u8],
}

/// Writes or changes the values of one token.
type Fill<'f> = &'f (dyn Fn(usize, &mut [f32]) + Sync);

impl Activations {
    /// Room for `max_tokens * max_features` values, so that later calls do not allocate.
    pub fn with_capacity(max_tokens: usize, max_features: usize) -> Self {
        Activations { values: Vec::with_capacity(max_tokens * max_features), ..Activations::default() }
    }

    /// Resizes to `(tokens, features)`, drops the derived forms and lends the values to be written. What they held
    /// before is unspecified.
    pub fn write(&mut self, tokens: usize, features: usize) -> &mut [f32] {
        self.resize(tokens, features);
        self.change()
    }

    /// Drops the derived forms and lends the values to be changed in place.
    pub fn change(&mut self) -> &mut [f32] {
        self.made.clear();
        if let Some(gathered) = &mut self.gathered {
            gathered.made = false;
        }
        &mut self.values[..self.tokens * self.features]
    }

    /// As [`Activations::write`], a row at a time, for products with `reader`.
    pub fn write_for(&mut self, tokens: usize, reader: &Matrix) -> InputRows<'_> {
        self.resize(tokens, reader.cols());
        self.change_for(Some(reader))
    }

    /// As [`Activations::change`], a row at a time, for products with `reader`, if there are any.
    pub fn change_for(&mut self, reader: Option<&Matrix>) -> InputRows<'_> {
        let form = reader.and_then(|reader| reader.own_input_form(Isa::active(), self.tokens));
        InputRows { inputs: self, form }
    }

    /// Exchanges the values for others of so many tokens, without a copy; `values` gets those that were here.
    pub fn exchange(&mut self, tokens: usize, values: &mut Vec<f32>) {
        let held = self.tokens * self.features;
        std::mem::swap(&mut self.values, values);
        values.truncate(held);
        (self.tokens, self.features) = (tokens, self.values.len() / tokens.max(1));
        self.change();
    }

    fn resize(&mut self, tokens: usize, features: usize) {
        (self.tokens, self.features) = (tokens, features);
        let len = tokens * features;
        if self.values.len() < len {
            self.values.resize(len, 0.0);
        }
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
            let (values, features) = (&self.values, self.features);
            gathered.inputs.write(self.tokens, features);
            each_token(pool, &mut gathered.inputs.values, (self.tokens, features), &|t, row| {
                let from = &values[t * features..(t + 1) * features];
                row.iter_mut().zip(order).for_each(|(value, &input)| *value = from[input as usize]);
            });
            gathered.order.clear();
            gathered.order.extend_from_slice(order);
            gathered.made = true;
        }
        &mut gathered.inputs
    }

    /// Makes a form where it is not there yet.
    pub(super) fn make(&mut self, isa: Isa, pool: &Pool, form: InputForm) {
        if !self.made.contains(&form) {
            self.make_while(isa, pool, form, &|_, _| {});
        }
    }

    /// Makes a form of what `fill` leaves in the rows.
    fn make_while(&mut self, isa: Isa, pool: &Pool, form: InputForm, fill: Fill<'_>) {
        // Forms of a kind share their memory.
        self.made.retain(|made| std::mem::discriminant(made) != std::mem::discriminant(&form));
        match form {
            InputForm::Float { padded, sums_of } => self.make_float(pool, (padded, sums_of), fill),
            InputForm::Bf16 { tiles } => self.make_bf16(isa, pool, tiles, fill),
            InputForm::Bf16Widened => self.make_bf16_widened(pool, fill),
            InputForm::FixedPoint { block } => self.make_fixed_point(isa, pool, block, fill),
            InputForm::Int8 { scheme, group, tiles } => self.make_int8(isa, pool, (scheme, group), tiles, fill),
        }
        self.made.push(form);
    }

    /// Whether rows of f32 are copied: the kernel wants padding that they lack, or they would lie in the same cache sets.
    fn copies_floats(&self, padded: bool) -> bool {
        let aliases = self.tokens > 1 && (self.features * size_of::<f32>()).is_multiple_of(ALIASING_BYTES);
        aliases || (padded && !self.features.is_multiple_of(PAD))
    }

    fn make_float(&mut self, pool: &Pool, (padded, sums_of): (bool, Option<usize>), fill: Fill<'_>) {
        let (shape, copies) = ((self.tokens, self.features), self.copies_floats(padded));
        self.padded.resize(if copies { self.tokens } else { 0 }, self.features);
        let groups = sums_of.map_or(0, |group| self.features.div_ceil(group));
        self.float_sums.resize(self.tokens * groups, 0.0);
        let (rows, sums) = (self.padded.rows(), Rows::new(&mut self.float_sums, groups));
        each_token(pool, &mut self.values, shape, &|t, values| {
            fill(t, values);
            if copies {
                // SAFETY: each token is worked on by one thread only.
                let row = unsafe { rows.row(t) };
                row[..values.len()].copy_from_slice(values);
                row[values.len()..].fill(0.0);
            }
            if let Some(group) = sums_of {
                // SAFETY: as above.
                let sums = unsafe { sums.row(t) };
                sums.iter_mut().zip(values.chunks(group)).for_each(|(sum, group)| *sum = group.iter().sum());
            }
        });
    }

    fn make_bf16(&mut self, isa: Isa, pool: &Pool, tiles: bool, fill: Fill<'_>) {
        self.bf16.resize(self.tokens, self.features);
        let rows = self.bf16.rows();
        each_token(pool, &mut self.values, (self.tokens, self.features), &|t, values| {
            fill(t, values);
            // SAFETY: each token is worked on by one thread only.
            let row = unsafe { rows.row(t) };
            round_to_bf16(isa, values, &mut row[..values.len()]);
            row[values.len()..].fill(0);
        });
        if tiles {
            self.make_bf16_tiles(pool);
        }
    }

    fn make_bf16_widened(&mut self, pool: &Pool, fill: Fill<'_>) {
        self.bf16_widened.resize(self.tokens, self.features);
        let rows = self.bf16_widened.rows();
        each_token(pool, &mut self.values, (self.tokens, self.features), &|t, values| {
            fill(t, values);
            // SAFETY: each token is worked on by one thread only.
            let row = unsafe { rows.row(t) };
            let widened = values.iter().map(|&value| f32::from_bits(u32::from(bf16_bits(value)) << 16));
            row.iter_mut().zip(widened).for_each(|(row, widened)| *row = widened);
            row[values.len()..].fill(0.0);
        });
    }

    fn make_int8(
        &mut self,
        isa: Isa,
        pool: &Pool,
        (scheme, group): (ActivationScheme, usize),
        tiles: bool,
        fill: Fill<'_>,
    ) {
        let groups = self.features.div_ceil(group);
        self.int8.resize(self.tokens, self.features);
        self.scales.resize(self.tokens, 0.0);
        self.zero_points.resize(self.tokens, 0);
        self.int8_sums.resize(self.tokens * groups, 0);
        let (rows, sums) = (self.int8.rows(), Rows::new(&mut self.int8_sums, groups));
        let (scales, zero_points) = (Rows::new(&mut self.scales, 1), Rows::new(&mut self.zero_points, 1));
        each_token(pool, &mut self.values, (self.tokens, self.features), &|t, values| {
            fill(t, values);
            // SAFETY: each token is worked on by one thread only.
            let (row, scale, zero_point) = unsafe { (rows.row(t), scales.row(t), zero_points.row(t)) };
            let (codes, padding) = row.split_at_mut(values.len());
            (scale[0], zero_point[0]) = int8::quantize(isa, scheme, values, codes);
            padding.fill(0);
            // SAFETY: as above.
            int8::sum_groups(isa, codes, group, unsafe { sums.row(t) });
        });
        if tiles {
            self.make_int8_tiles(pool, group);
        }
    }

    /// Stops where `form` was not made.
    fn check_made(&self, form: InputForm) {
        assert!(self.made.contains(&form), "the inputs were not made into {form:?}");
    }

    /// [`InputForm::Float`] or [`InputForm::Bf16Widened`].
    ///
    /// # Panics
    /// When it was not made.
    pub(super) fn float(&self, form: InputForm) -> FloatInput<'_> {
        self.check_made(form);
        let copied = match form {
            InputForm::Bf16Widened => Some(&self.bf16_widened),
            InputForm::Float { padded, .. } if self.copies_floats(padded) => Some(&self.padded),
            _ => None,
        };
        let (values, stride) = copied.map_or((&self.values, self.features), |form| (&form.data, form.stride));
        let sums = if matches!(form, InputForm::Float { sums_of: Some(_), .. }) { &self.float_sums[..] } else { &[] };
        FloatInput { values, stride, tokens: self.tokens, sums }
    }

    /// [`InputForm::Bf16`].
    ///
    /// # Panics
    /// When it was not made.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
    pub(super) fn bf16(&self, form: InputForm) -> Bf16Input<'_> {
        self.check_made(form);
        let tiles = if form == (InputForm::Bf16 { tiles: true }) { self.bf16_tiles.bytes() } else { &[] };
        Bf16Input { values: &self.bf16.data, stride: self.bf16.stride, tokens: self.tokens, tiles }
    }

    /// [`InputForm::Int8`].
    ///
    /// # Panics
    /// When it was not made.
    pub(super) fn int8(&self, form: InputForm) -> IntegerInput<'_> {
        self.check_made(form);
        let (has_lowest_code, tiles) = match form {
            InputForm::Int8 { scheme, tiles, .. } => (scheme.has_lowest_code(), tiles),
            _ => unreachable!("{form:?} has no codes"),
        };
        IntegerInput {
            codes: &self.int8.data,
            stride: self.int8.stride,
            tokens: self.tokens,
            scales: &self.scales,
            zero_points: &self.zero_points,
            has_lowest_code,
            sums: &self.int8_sums,
            tiles: if tiles { self.int8_tiles.bytes() } else { &[] },
        }
    }
}

/// Rows of inputs that are about to be written for a product; see [`Activations::write_for`].
#[derive(Debug)]
pub struct InputRows<'a> {
    inputs: &'a mut Activations,
    /// `None` where there is no product, or it reads the columns in another order.
    form: Option<InputForm>,
}

impl InputRows<'_> {
    /// Columns.
    pub fn features(&self) -> usize {
        self.inputs.features
    }

    /// Has `fill(token, row)` write or change every row, on the pool's threads, and makes the form that the product reads.
    pub fn fill(self, pool: &Pool, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let InputRows { inputs, form } = self;
        inputs.change();
        match form {
            Some(form) => inputs.make_while(Isa::active(), pool, form, fill),
            None => each_token(pool, &mut inputs.values, (inputs.tokens, inputs.features), fill),
        }
    }
}

/// Gives each of `tokens` rows of `features` values to `task(token, row)`, rows shared out over the threads.
fn each_token(
    pool: &Pool,
    values: &mut [f32],
    (tokens, features): (usize, usize),
    task: &(impl Fn(usize, &mut [f32]) + Sync + ?Sized),
) {
    for_rows(pool, tokens, [&mut values[..tokens * features]], |token, [row]| task(token, row));
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

    fn rows(&mut self) -> Rows<T> {
        Rows::new(&mut self.data, self.stride)
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
