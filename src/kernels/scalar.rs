//! The definition of every product, in plain Rust; also what runs where no other kernel does.
//!
//! With integer inputs: `y = x_scale * sum over groups of (scale * dot)`, where `dot` is the exact integer sum of
//! `(code - zero_point) * x_code`; a group with an offset adds `offset * sum of x_code`. Groups are added in order with
//! fused multiply-adds, so that every instruction set gives the same bits. Zero points of the inputs then take off
//! `x_scale * x_zero_point * sum of the row's weights` ([`subtract_zero_points`], which every instruction set uses).
//! With floating-point inputs: `y = sum of x * weight` in f32, in order.

use std::ops::Range;

use super::activations::{FloatInput, IntegerInput};
use super::matrix::Output;
use super::packed::{DensePanels, IntegerPanels, LANES, PackedZero};

/// Rows of the weight that a range of panels holds.
fn rows_of(panels: Range<usize>, rows: usize) -> Range<usize> {
    (panels.start * LANES).min(rows)..(panels.end * LANES).min(rows)
}

/// `y[t][row] = sum of x[t] * weight(row)` for the rows of some panels.
fn float_product(cols: usize, rows: Range<usize>, x: FloatInput<'_>, y: &Output, weight: impl Fn(usize, usize) -> f32) {
    let mut weights = vec![0.0; cols];
    for row in rows {
        weights.iter_mut().enumerate().for_each(|(k, w)| *w = weight(row, k));
        for t in 0..x.tokens {
            let values = &x.values[t * x.stride..][..cols];
            let sum = values.iter().zip(&weights).fold(0.0, |sum, (x, w)| sum + x * w);
            y.set(t, row, sum);
        }
    }
}

pub(super) fn dense(w: &DensePanels, cols: usize, x: FloatInput<'_>, y: &Output, panels: Range<usize>) {
    float_product(cols, rows_of(panels, y.rows), x, y, |row, k| w.weight(cols, row, k));
}

pub(super) fn weight_only(w: &IntegerPanels, x: FloatInput<'_>, y: &Output, panels: Range<usize>) {
    float_product(w.cols, rows_of(panels, w.rows), x, y, |row, k| w.weight(row, k));
}

pub(super) fn integer(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    let mut weights = vec![0; w.cols];
    for row in rows_of(panels, w.rows) {
        weights.iter_mut().enumerate().for_each(|(k, c)| *c = w.centred(row, k));
        for t in 0..x.tokens {
            let codes = &x.codes[t * x.stride..][..w.cols];
            let mut sum = 0.0f32;
            for (group, (codes, weights)) in codes.chunks(w.group).zip(weights.chunks(w.group)).enumerate() {
                let dot: i32 = codes.iter().zip(weights).map(|(&x, &w)| i32::from(x) * w).sum();
                let at = w.real_at(row, group);
                sum = w.scales.get(at).mul_add(dot as f32, sum);
                if let PackedZero::Offsets(offsets) = &w.zero {
                    sum = offsets.get(at).mul_add(x.sums[t * w.groups + group] as f32, sum);
                }
            }
            y.set(t, row, sum * x.scales[t]);
        }
    }
}

/// Takes the zero points of the inputs off what [`integer`] made of their codes; `row_sums` are the sums of the weights
/// of all rows.
pub(super) fn subtract_zero_points(row_sums: &[f32], x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    let rows = rows_of(panels, row_sums.len());
    for t in 0..x.tokens {
        let shift = -(x.scales[t] * x.zero_points[t] as f32);
        for row in rows.clone() {
            y.add(t, row, shift * row_sums[row]);
        }
    }
}
