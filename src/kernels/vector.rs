//! Vector operations of a decoder: norm, activation, rotation, softmax pieces, reductions of logits.
//!
//! Every body is written once, as plain Rust over lanes of [`LANES`] numbers, and compiled once per instruction set by
//! `per_isa!`. Sums run over the same lanes in the same order everywhere and multiply-adds are fused everywhere, so
//! all instruction sets give the same bits; the tests hold that.
//!
//! `exp` is Cody and Waite's argument reduction with the degree-5 polynomial of Cephes `expf` (S. Moshier), within
//! 2 units in the last place.

use super::isa::{Isa, per_isa};

/// Numbers that one step works on: one AVX-512 register, two of AVX2.
pub(super) const LANES: usize = 16;

per_isa! {
    /// Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467): `out = weight * x / sqrt(mean(x^2) + eps)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm(isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}

per_isa! {
    /// [`rms_norm`] in place.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm_in_place(isa, x: &mut [f32], weight: &[f32], eps: f32) = rms_norm_in_place_body
}

per_isa! {
    /// SwiGLU's product (Shazeer 2020, arXiv:2002.05202): `out = gate / (1 + exp(-gate)) * up`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn silu_multiply(isa, gate: &[f32], up: &[f32], out: &mut [f32]) = silu_multiply_body
}

per_isa! {
    /// `x[i][j] -= y[i] * z[j]` of `x`, `(y, z)` row-major; products are rounded before they are subtracted.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn subtract_outer(isa, x: &mut [f32], y: &[f32], z: &[f32]) = subtract_outer_body
}

per_isa! {
    /// `x += y`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add(isa, x: &mut [f32], y: &[f32]) = add_body
}

per_isa! {
    /// `x *= y`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn multiply(isa, x: &mut [f32], y: &[f32]) = multiply_body
}

per_isa! {
    /// Rotates every head of `x` (heads one after the other, each `2 * cos.len()` wide) by the angles of one position:
    /// dimension `i` pairs with `i + head_dim / 2` (Su et al. 2021, arXiv:2104.09864, in the layout of Hugging Face).
    ///
    /// # Panics
    /// When `x` is not whole heads, or `sin` is not as long as `cos`.
    pub fn rotate(isa, x: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_body
}

per_isa! {
    /// `ln(sum(exp(logits)))`: exponentials in f32, their sum in f64. NaN when a logit is.
    pub fn log_sum_exp(isa, logits: &[f32]) -> f64 = log_sum_exp_body
}

per_isa! {
    /// Largest value; negative infinity for an empty slice. NaN is passed over.
    pub fn maximum(isa, x: &[f32]) -> f32 = maximum_body
}

per_isa! {
    /// Largest magnitude; NaN or infinity where a value is; 0 for an empty slice.
    pub(super) fn largest_magnitude(isa, x: &[f32]) -> f32 = largest_magnitude_body
}

per_isa! {
    /// `(ln(sum(exp(b))), KL(softmax(a) || softmax(b)))` over two rows of logits, everything after the logits in f64:
    /// `KL = sum of p_i (a_i - b_i) - lse(a) + lse(b)` with `p = softmax(a)`. NaN when a logit is.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn softmax_divergence(isa, a: &[f32], b: &[f32]) -> (f64, f64) = softmax_divergence_body
}

/// Index of the first largest value; 0 where nothing is larger than anything (an empty slice, all NaN).
pub fn argmax(isa: Isa, x: &[f32]) -> usize {
    let largest = maximum(isa, x);
    x.iter().position(|&v| v == largest).unwrap_or(0)
}

/// `e^x`: 0 below -87.33, no larger than `e^88.37`; NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.37;
    /// Adding it leaves a number rounded half to even in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(LOWEST, HIGHEST);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are n; the shift moves them into the exponent and drops the rest.
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if x < LOWEST { 0.0 } else { y * power }
}

/// `e^x` for `x <= 0`, within 2 units in the last place: 0 below -708; NaN stays NaN. The reduced argument is at most
/// ln 2 / 2, where the Taylor polynomial of degree 13 is exact to rounding.
#[inline(always)]
fn exp_f64(x: f64) -> f64 {
    const LOWEST: f64 = -708.0;
    /// Adding it leaves a number rounded half to even in the low bits of the mantissa.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1/13!, 1/12!, ... 1/2!.
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ];
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let p = TAYLOR[1..].iter().fold(TAYLOR[0], |p, c| p.mul_add(r, *c));
    let y = p.mul_add(r * r, r) + 1.0;
    // The low bits of `shifted` are n; the shift moves them into the exponent and drops the rest.
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    if x < LOWEST { 0.0 } else { y * power }
}

/// Sum of lanes, by halving: the same order everywhere.
#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Folds every [`LANES`]th number into a sum by `add(sum, number)` and adds the sums: the same order everywhere.
#[inline(always)]
pub(super) fn sum_by(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum = add(*sum, v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum = add(*sum, v);
    }
    sum_lanes(sums)
}

#[inline(always)]
fn sum_squares(x: &[f32]) -> f32 {
    sum_by(x, |sum, v| v.mul_add(v, sum))
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Magnitudes compare as integers, with infinity and NaN above all numbers.
#[inline(always)]
pub(super) fn largest_magnitude_body(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff)))
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let scale = inverse_rms(x, eps);
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = w * (x * scale);
    }
}

#[inline(always)]
fn rms_norm_in_place_body(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len());
    let scale = inverse_rms(x, eps);
    for (x, &w) in x.iter_mut().zip(weight) {
        *x = w * (*x * scale);
    }
}

#[inline(always)]
fn silu_multiply_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len());
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + exp(-g)) * u;
    }
}

#[inline(always)]
fn subtract_outer_body(x: &mut [f32], y: &[f32], z: &[f32]) {
    assert_eq!(x.len(), y.len() * z.len());
    for (x, &y) in x.chunks_exact_mut(z.len().max(1)).zip(y) {
        x.iter_mut().zip(z).for_each(|(x, z)| *x -= z * y);
    }
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn multiply_body(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    for (x, &y) in x.iter_mut().zip(y) {
        *x *= y;
    }
}

#[inline(always)]
fn rotate_body(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(sin.len() == half && x.len().is_multiple_of(2 * half));
    for head in x.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x.mul_add(c, -(y * s));
            *b = y.mul_add(c, x * s);
        }
    }
}

#[inline(always)]
pub(super) fn maximum_body(x: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &v) in best.iter_mut().zip(chunk) {
            *best = if v > *best { v } else { *best };
        }
    }
    for (best, &v) in best.iter_mut().zip(rest) {
        *best = if v > *best { v } else { *best };
    }
    best.into_iter().fold(f32::NEG_INFINITY, |best, v| if v > best { v } else { best })
}

#[inline(always)]
fn log_sum_exp_body(logits: &[f32]) -> f64 {
    let largest = maximum_body(logits);
    if largest == f32::NEG_INFINITY {
        // Nothing but negative infinities; or NaN, which the sum below must show.
        return if logits.iter().any(|v| v.is_nan()) { f64::NAN } else { f64::NEG_INFINITY };
    }
    let mut sums = [0.0_f64; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(exp(v - largest));
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum += f64::from(exp(v - largest));
    }
    f64::from(largest) + sums.iter().sum::<f64>().ln()
}

#[inline(always)]
fn softmax_divergence_body(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let (top_a, top_b) = (f64::from(maximum_body(a)), f64::from(maximum_body(b)));
    let (mut sum_a, mut sum_b, mut cross) = ([0.0_f64; LANES], [0.0_f64; LANES], [0.0_f64; LANES]);
    let mut add = |lane: usize, a: f32, b: f32| {
        let (a, b) = (f64::from(a), f64::from(b));
        let weight = exp_f64(a - top_a);
        sum_a[lane] += weight;
        sum_b[lane] += exp_f64(b - top_b);
        cross[lane] = weight.mul_add(a - b, cross[lane]);
    };
    let (chunks_a, rest_a) = a.as_chunks::<LANES>();
    let (chunks_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in chunks_a.iter().zip(chunks_b) {
        for lane in 0..LANES {
            add(lane, a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        add(lane, a, b);
    }
    let total = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
    let (total_a, log_sum_b) = (total(sum_a), top_b + total(sum_b).ln());
    (log_sum_b, total(cross) / total_a - (top_a + total_a.ln()) + log_sum_b)
}

/// Replaces `x` by `exp(x - largest)` and returns the sum.
#[inline(always)]
pub(super) fn exp_minus(x: &mut [f32], largest: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *v = exp(*v - largest);
            *sum += *v;
        }
    }
    for (sum, v) in sums.iter_mut().zip(rest) {
        *v = exp(*v - largest);
        *sum += *v;
    }
    sum_lanes(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instruction sets of this processor.
    fn available() -> Vec<Isa> {
        Isa::available()
    }

    /// Numbers that look random and are the same every time.
    fn numbers(n: usize, scale: f32) -> Vec<f32> {
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * scale).collect()
    }

    /// Lengths around the lanes.
    const LENGTHS: [usize; 6] = [1, 15, 16, 33, 64, 577];

    fn same_on_all(run: impl Fn(Isa) -> Vec<f32>) -> Vec<f32> {
        let scalar = run(Isa::Scalar);
        for isa in available() {
            assert_eq!(run(isa), scalar, "{isa} differs from scalar");
        }
        scalar
    }

    fn assert_close(got: &[f32], expected: impl Iterator<Item = f64>, relative: f64) {
        for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
            let bound = relative * expected.abs().max(1e-6);
            assert!((f64::from(got) - expected).abs() <= bound, "at {i}: {got} against {expected}");
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in 0..2_000_000 {
            let x = -87.0 + 175.0 * (i as f32 / 2_000_000.0);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / (exact * f64::from(f32::EPSILON)));
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!((exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn divergence_agrees_with_the_library_in_f64_on_every_instruction_set() {
        let mut worst = 0.0_f64;
        for i in 0..1_000_000 {
            let x = -700.0 * (i as f64 / 1_000_000.0).powi(2);
            worst = worst.max((exp_f64(x) - x.exp()).abs() / (x.exp() * f64::EPSILON));
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!((exp_f64(0.0), exp_f64(-800.0), exp_f64(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
        for n in LENGTHS {
            let a = numbers(n, 12.0);
            let b: Vec<f32> = a.iter().zip(numbers(n + 3, 0.5)).map(|(a, noise)| a + noise).collect();
            let lse = |x: &[f32]| x.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
            let (lse_a, lse_b) = (lse(&a), lse(&b));
            let kl = |(&a, &b): (&f32, &f32)| {
                let (log_p, log_q) = (f64::from(a) - lse_a, f64::from(b) - lse_b);
                log_p.exp() * (log_p - log_q)
            };
            let exact = a.iter().zip(&b).map(kl).sum::<f64>();
            let (got_lse, got) = softmax_divergence(Isa::Scalar, &a, &b);
            assert!((got - exact).abs() < 1e-12 && (got_lse - lse_b).abs() < 1e-12, "{n}: {got} against {exact}");
            for isa in available() {
                assert_eq!(softmax_divergence(isa, &a, &b), (got_lse, got), "{isa}");
            }
        }
        assert!(softmax_divergence(Isa::active(), &[f32::NAN, 0.0], &[0.0, 0.0]).1.is_nan());
    }

    #[test]
    fn rms_norm_by_its_formula() {
        for n in LENGTHS {
            let (x, w) = (numbers(n, 3.0), numbers(n + 7, 1.0)[7..].to_vec());
            let got = same_on_all(|isa| {
                let mut out = vec![0.0; n];
                rms_norm(isa, &x, &w, 1e-5, &mut out);
                let mut in_place = x.clone();
                rms_norm_in_place(isa, &mut in_place, &w, 1e-5);
                assert_eq!(in_place, out);
                out
            });
            let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
            let scale = 1.0 / (mean + 1e-5).sqrt();
            assert_close(&got, x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w) * scale), 1e-6);
        }
    }

    #[test]
    fn silu_by_its_formula_even_far_out() {
        for n in LENGTHS {
            let (mut gate, up) = (numbers(n, 20.0), numbers(n, 2.0));
            gate[0] = -300.0;
            let got = same_on_all(|isa| {
                let mut out = vec![0.0; n];
                silu_multiply(isa, &gate, &up, &mut out);
                out
            });
            let exact =
                gate.iter().zip(&up).map(|(&g, &u)| f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u));
            assert_close(&got, exact, 1e-6);
        }
    }

    #[test]
    fn rotation_turns_pairs_and_keeps_their_length() {
        for half in [1, 4, 16, 32, 48] {
            let angles = numbers(half, 3.0);
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            let x = numbers(2 * half * 3, 1.0);
            let got = same_on_all(|isa| {
                let mut y = x.clone();
                rotate(isa, &mut y, &cos, &sin);
                y
            });
            for (h, head) in x.chunks(2 * half).enumerate() {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    let y = &got[h * 2 * half..];
                    assert!((y[i] - (a * cos[i] - b * sin[i])).abs() < 1e-6);
                    assert!((y[i + half] - (b * cos[i] + a * sin[i])).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn log_sum_exp_is_exact_to_seven_digits_and_shows_nan() {
        for n in LENGTHS {
            let x = numbers(n, 30.0);
            let exact = x.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
            let scalar = log_sum_exp(Isa::Scalar, &x);
            assert!((scalar - exact).abs() < 3e-7, "{scalar} against {exact}");
            for isa in available() {
                assert_eq!(log_sum_exp(isa, &x).to_bits(), scalar.to_bits(), "{isa}");
            }
        }
        assert!(log_sum_exp(Isa::Scalar, &[1.0, f32::NAN]).is_nan());
        assert!(log_sum_exp(Isa::Scalar, &[f32::NAN]).is_nan());
        assert!((log_sum_exp(Isa::Scalar, &[1e4, 1e4]) - (1e4 + 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        for isa in available() {
            assert_eq!(argmax(isa, &[0.0, 5.0, 5.0, -1.0]), 1);
            let mut x = numbers(577, 1.0);
            x[570] = 2.0;
            assert_eq!(argmax(isa, &x), 570);
            assert_eq!(argmax(isa, &[f32::NAN, 1.0]), 1);
            assert_eq!(argmax(isa, &[]), 0);
        }
    }

    #[test]
    fn softmax_weights_sum_to_the_returned_sum() {
        for n in LENGTHS {
            let x = numbers(n, 4.0);
            let mut e = x.clone();
            let sum = exp_minus(&mut e, 4.0);
            assert_close(&e, x.iter().map(|&v| (f64::from(v) - 4.0).exp()), 1e-6);
            assert!((f64::from(sum) - e.iter().map(|&v| f64::from(v)).sum::<f64>()).abs() < 1e-5 * f64::from(sum));
        }
    }

    #[test]
    fn add_adds_and_multiply_multiplies() {
        for n in LENGTHS {
            let (x, y) = (numbers(n, 1.0), numbers(n + 3, 1.0)[3..].to_vec());
            let in_place = |run: fn(Isa, &mut [f32], &[f32])| {
                same_on_all(|isa| {
                    let mut out = x.clone();
                    run(isa, &mut out, &y);
                    out
                })
            };
            assert_eq!(in_place(add), x.iter().zip(&y).map(|(a, b)| a + b).collect::<Vec<_>>());
            assert_eq!(in_place(multiply), x.iter().zip(&y).map(|(a, b)| a * b).collect::<Vec<_>>());
        }
    }
}
