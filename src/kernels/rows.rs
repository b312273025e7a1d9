//! Vector operations over the rows of a batch, rows shared out over the pool.
//!
//! A row is worked on by one thread with the operations of [`super::vector`], so results do not depend on the number
//! of threads.

use super::activations::{InputRows, Rows};
use super::gelu::{self, Gelu};
use super::isa::Isa;
use super::layer_norm::{self, LayerNorm};
use super::pool::Pool;
use super::vector;

/// Below this many numbers waking the pool costs more than it saves.
pub(super) const SMALL: usize = 16 * 1024;

/// Runs `task(row, [the row of every buffer])` for every row of `0..rows`; each buffer holds `rows` rows of its own
/// width.
///
/// # Panics
/// When a buffer is not whole rows.
pub fn for_rows<const N: usize>(
    pool: &Pool,
    rows: usize,
    buffers: [&mut [f32]; N],
    task: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    if rows == 0 {
        return;
    }
    let numbers: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    let parts = buffers.map(|buffer| {
        assert!(buffer.len().is_multiple_of(rows), "a buffer of {} is not {rows} rows", buffer.len());
        Rows::new(buffer, buffer.len() / rows)
    });
    pool.split(rows, 1, rows > 1 && numbers >= SMALL, &|share| {
        for row in share {
            // SAFETY: the shares of the threads do not overlap, and the buffers stay borrowed until `split` returns.
            task(row, parts.each_ref().map(|part| unsafe { part.row(row) }));
        }
    });
}

/// RMSNorm of every row of `x`, `weight.len()` wide, into `out`.
///
/// # Panics
/// When the sizes do not fit.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: InputRows<'_>) {
    let (isa, width) = (Isa::active(), weight.len());
    out.fill(pool, &|row, out| vector::rms_norm(isa, &x[row * width..][..width], weight, eps, out));
}

/// RMSNorm of every row of `x` in place: the heads of queries or keys.
///
/// # Panics
/// When `x` is not whole rows of `weight.len()`.
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], weight: &[f32], eps: f32) {
    let (isa, rows) = (Isa::active(), x.len() / weight.len());
    for_rows(pool, rows, [x], |_, [x]| vector::rms_norm_in_place(isa, x, weight, eps));
}

/// `x += delta`, then the RMSNorm of every row of `x` into `out`.
///
/// # Panics
/// When the sizes do not fit.
pub fn add_rms_norm(pool: &Pool, x: &mut [f32], delta: &[f32], weight: &[f32], eps: f32, out: InputRows<'_>) {
    let (isa, width) = (Isa::active(), weight.len());
    let rows = Rows::new(x, width);
    out.fill(pool, &|row, out| {
        // SAFETY: `fill` calls this once for every row, and `x` stays borrowed until it returns.
        let x = unsafe { rows.row(row) };
        vector::add(isa, x, &delta[row * width..][..width]);
        vector::rms_norm(isa, x, weight, eps, out);
    });
}

/// Layer norm of every row of `x` in place.
///
/// # Panics
/// When the sizes do not fit.
pub fn layer_norm(pool: &Pool, x: InputRows<'_>, norm: &LayerNorm) {
    let isa = Isa::active();
    x.fill(pool, &|_, x| layer_norm::layer_norm(isa, x, norm));
}

/// `x += delta + bias`, then the layer norm of every row of `x` in place.
///
/// # Panics
/// When the sizes do not fit.
pub fn add_layer_norm(pool: &Pool, x: InputRows<'_>, delta: &[f32], bias: &[f32], norm: &LayerNorm) {
    let (isa, width) = (Isa::active(), bias.len());
    x.fill(pool, &|row, x| layer_norm::add_layer_norm(isa, x, &delta[row * width..][..width], bias, norm));
}

/// `x = gelu(x + bias)`, then times `scale` where there is one, for every row of `x`.
///
/// # Panics
/// When the sizes do not fit.
pub fn bias_gelu(pool: &Pool, x: InputRows<'_>, bias: &[f32], gelu: Gelu, scale: Option<&[f32]>) {
    let isa = Isa::active();
    x.fill(pool, &|_, x| {
        gelu::bias_gelu(isa, x, bias, gelu);
        if let Some(scale) = scale {
            vector::multiply(isa, x, scale);
        }
    });
}

/// `out = x * scale` for every row of `x`.
///
/// # Panics
/// When the sizes do not fit.
pub fn scale(pool: &Pool, x: &[f32], scale: &[f32], out: InputRows<'_>) {
    let isa = Isa::active();
    out.fill(pool, &|row, out| {
        out.copy_from_slice(&x[row * scale.len()..][..scale.len()]);
        vector::multiply(isa, out, scale);
    });
}

/// `x += delta`.
///
/// # Panics
/// When the sizes differ.
pub fn add(pool: &Pool, x: &mut [f32], delta: &[f32], width: usize) {
    let isa = Isa::active();
    for_rows(pool, delta.len() / width, [x], |row, [x]| vector::add(isa, x, &delta[row * width..][..width]));
}

/// Adds `bias` to every row of `x`.
///
/// # Panics
/// When `x` is not whole rows of `bias.len()`.
pub fn add_bias(pool: &Pool, x: &mut [f32], bias: &[f32]) {
    let (isa, rows) = (Isa::active(), x.len() / bias.len());
    for_rows(pool, rows, [x], |_, [x]| vector::add(isa, x, bias));
}

/// `out = silu(gate) * up`.
///
/// # Panics
/// When the sizes do not fit.
pub fn silu_multiply(pool: &Pool, gate: &[f32], up: &[f32], out: InputRows<'_>) {
    let (isa, width) = (Isa::active(), out.features());
    out.fill(pool, &|row, out| {
        let at = row * width;
        vector::silu_multiply(isa, &gate[at..at + width], &up[at..at + width], out);
    });
}
