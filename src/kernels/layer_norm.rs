//! Layer normalization (Ba et al. 2016, arXiv:1607.06450): `weight * (x - mean) / sqrt(variance + eps) + bias`.
//!
//! Mean and variance are two passes over a row that lies in the first cache level. Sums run over lanes in the same
//! order on every instruction set, so that all give the same bits.

use super::isa::per_isa;
use super::vector::sum_by;

/// Numbers of a layer norm.
#[derive(Debug)]
pub struct LayerNorm {
    /// Factor of every feature.
    pub weight: Vec<f32>,
    /// Summand of every feature.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

per_isa! {
    /// Normalizes `x` in place.
    ///
    /// # Panics
    /// When the lengths differ.
    pub(super) fn layer_norm(isa, x: &mut [f32], norm: &LayerNorm) = layer_norm_body
}

per_isa! {
    /// `x += delta + bias`, then normalizes `x`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub(super) fn add_layer_norm(isa, x: &mut [f32], delta: &[f32], bias: &[f32], norm: &LayerNorm) = add_layer_norm_body
}

#[inline(always)]
fn layer_norm_body(x: &mut [f32], norm: &LayerNorm) {
    assert!(x.len() == norm.weight.len() && x.len() == norm.bias.len());
    let count = x.len() as f32;
    let mean = sum_by(x, |sum, v| sum + v) / count;
    let variance = sum_by(x, |sum, v| sum + (v - mean) * (v - mean)) / count;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for ((x, &w), &b) in x.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *x = ((*x - mean) * scale).mul_add(w, b);
    }
}

#[inline(always)]
fn add_layer_norm_body(x: &mut [f32], delta: &[f32], bias: &[f32], norm: &LayerNorm) {
    assert!(x.len() == delta.len() && x.len() == bias.len());
    for ((x, &d), &b) in x.iter_mut().zip(delta).zip(bias) {
        *x += d + b;
    }
    layer_norm_body(x, norm);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[test]
    fn follows_its_formula_on_every_instruction_set() {
        for n in [1, 15, 16, 33, 384] {
            let at = |i: usize, step: usize| ((i * step) % 101) as f32 / 25.0 - 2.0;
            let [x, delta, bias, weight, shift] = [7, 13, 29, 31, 37].map(|s| (0..n).map(|i| at(i, s)).collect());
            let (x, delta, bias): (Vec<f32>, Vec<f32>, Vec<f32>) = (x, delta, bias);
            let norm = LayerNorm { weight, bias: shift, eps: 1e-6 };
            let run = |isa| {
                let mut out = x.clone();
                add_layer_norm(isa, &mut out, &delta, &bias, &norm);
                out
            };
            let scalar = run(Isa::Scalar);
            for isa in Isa::available() {
                assert_eq!(run(isa), scalar, "{isa} differs from scalar");
            }
            let sums: Vec<f64> = (0..n).map(|i| f64::from(x[i]) + f64::from(delta[i]) + f64::from(bias[i])).collect();
            let mean = sums.iter().sum::<f64>() / n as f64;
            let variance = sums.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let exact =
                    (sums[i] - mean) / (variance + 1e-6).sqrt() * f64::from(norm.weight[i]) + f64::from(norm.bias[i]);
                assert!((f64::from(scalar[i]) - exact).abs() < 5e-6, "{n} at {i}: {} against {exact}", scalar[i]);
            }
        }
    }
}
