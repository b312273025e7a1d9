//! GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): `x * Phi(x)`, exact or in its tanh form.
//!
//! The exact form takes the complementary error function from Abramowitz and Stegun, formula 7.1.26, whose absolute
//! error is below 1.5e-7: `gelu(x) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2))`, without cancellation for negative `x`.

use super::isa::per_isa;
use super::vector::exp;

/// Which GELU a network was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x * Phi(x)`, `Phi` being the normal distribution function.
    Erf,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Tanh,
}

per_isa! {
    /// `x = gelu(x + bias)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub(super) fn bias_gelu(isa, x: &mut [f32], bias: &[f32], gelu: Gelu) = bias_gelu_body
}

#[inline(always)]
fn bias_gelu_body(x: &mut [f32], bias: &[f32], gelu: Gelu) {
    assert_eq!(x.len(), bias.len());
    match gelu {
        Gelu::Erf => x.iter_mut().zip(bias).for_each(|(x, &b)| *x = gelu_erf(*x + b)),
        Gelu::Tanh => x.iter_mut().zip(bias).for_each(|(x, &b)| *x = gelu_tanh(*x + b)),
    }
}

#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / magnitude.mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut p = 1.061_405_4_f32;
    p = p.mul_add(t, -1.453_152);
    p = p.mul_add(t, 1.421_413_8);
    p = p.mul_add(t, -0.284_496_74);
    p = p.mul_add(t, 0.254_829_6);
    let tail = p * t * exp(-0.5 * x * x);
    (0.5 * magnitude).mul_add(-tail, if x < 0.0 { 0.0 } else { x })
}

/// The tanh form by the logistic function, `(1 + tanh(z / 2)) / 2 = 1 / (1 + exp(-z))`, whose exponential never overflows.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_8_OVER_PI: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
    let z = SQRT_8_OVER_PI * x * (0.044_715 * x).mul_add(x, 1.0);
    let e = exp(-z.abs());
    x * (if x < 0.0 { e } else { 1.0 } / (1.0 + e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    /// `erf` by its Taylor series, where it converges fast, in f64.
    fn erf(x: f64) -> f64 {
        let mut term = x;
        let sum: f64 = (0..200)
            .map(|n| {
                let summand = term / f64::from(2 * n + 1);
                term *= -x * x / f64::from(n + 1);
                summand
            })
            .sum();
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn both_forms_follow_their_formulas_on_every_instruction_set() {
        let inputs: Vec<f32> = (-4999..5000).map(|i| i as f32 / 1000.0).collect();
        let bias: Vec<f32> = (0..inputs.len()).map(|i| (i % 3) as f32 / 10.0).collect();
        let exact_erf = |x: f64| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
        let exact_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        for (gelu, exact) in [(Gelu::Erf, &exact_erf as &dyn Fn(f64) -> f64), (Gelu::Tanh, &exact_tanh)] {
            let run = |isa| {
                let mut out = inputs.clone();
                bias_gelu(isa, &mut out, &bias, gelu);
                out
            };
            let scalar = run(Isa::Scalar);
            for isa in Isa::available() {
                assert_eq!(run(isa), scalar, "{isa} differs from scalar");
            }
            for ((&got, &x), &b) in scalar.iter().zip(&inputs).zip(&bias) {
                let exact = exact(f64::from(x + b));
                assert!((f64::from(got) - exact).abs() < 6e-7, "{gelu:?} at {x} + {b}: {got} against {exact}");
            }
        }
    }

    #[test]
    fn far_out_it_is_the_identity_or_zero_and_nan_stays() {
        for gelu in [Gelu::Erf, Gelu::Tanh] {
            let mut x = [100.0, -100.0, 1e30, -1e30, f32::NAN];
            bias_gelu(Isa::active(), &mut x, &[0.0; 5], gelu);
            assert_eq!(x[..3], [100.0, 0.0, 1e30]);
            assert!(x[3] == 0.0 && x[4].is_nan(), "{x:?}");
        }
    }
}
