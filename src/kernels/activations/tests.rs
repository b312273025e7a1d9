//! Inputs as the kernels take them, against their definitions.

use proptest::prelude::*;

use super::int8::{quantize, quantize_token};
use super::*;
use crate::tensor::StaticActivations;

/// The inputs in 8 bits.
fn int8<'x>(x: &'x mut Activations, pool: &Pool, scheme: ActivationScheme, group: usize) -> IntegerInput<'x> {
    let form = InputForm::Int8 { scheme, group, tiles: false };
    x.make(Isa::active(), pool, form);
    x.int8(form)
}

const SYMMETRIC: ActivationScheme = ActivationScheme::DynamicToken;

fn quantize_symmetric(values: &[f32]) -> (f32, Vec<i8>) {
    let mut codes = vec![99; values.len()];
    let scale = quantize_token(Isa::Scalar, values, &mut codes);
    (scale, codes)
}

#[test]
fn special_tokens() {
    assert_eq!(quantize_symmetric(&[0.0, -0.0, 0.0]), (0.0, vec![0, 0, 0]));
    assert_eq!(quantize_symmetric(&[1e-40, 0.0]), (0.0, vec![0, 0]));
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (scale, codes) = quantize_symmetric(&[1.0, bad]);
        assert!(scale.is_nan());
        assert_eq!(codes, [0, 0]);
    }
    // Half to even: 127 / 254 * {1, 3, 5} = 0.5, 1.5, 2.5.
    assert_eq!(quantize_symmetric(&[254.0, 1.0, 3.0, 5.0, -1.0, -3.0]).1, [127, 0, 2, 2, 0, -2]);
    assert_eq!(quantize_symmetric(&[f32::MAX, -f32::MAX]).1, [127, -127]);
}

#[test]
fn affine_codes_by_their_formula_at_ties_and_bounds() {
    let numbers = StaticActivations::new(0.5, 131, (0, 255)).expect("8 bits");
    assert_eq!(numbers, StaticActivations { scale: 0.5, zero_point: 3, low: -128, high: 127 });
    let values = [0.0, 0.25, 0.75, -0.25, -0.75, 62.0, 62.3, 1e30, -65.5, -66.0, -1e30];
    let mut codes = vec![0; values.len()];
    assert_eq!(quantize(Isa::Scalar, ActivationScheme::Static(numbers), &values, &mut codes), (0.5, 3));
    assert_eq!(codes, [3, 3, 5, 3, 1, 127, 127, 127, -128, -128, -128]);

    let reduced = StaticActivations::new(1.0, 64, (0, 127)).expect("7 bits");
    quantize(Isa::Scalar, ActivationScheme::Static(reduced), &values, &mut codes);
    assert_eq!((codes[0], codes[7], codes[10], reduced.low), (64, 127, 0, 0));

    let scheme = ActivationScheme::DynamicTokenAsymmetric { min_scale: 0.01 };
    let mut codes = vec![0; 4];
    // 255 steps of 2, zero 50 steps above the smallest code.
    assert_eq!(quantize(Isa::Scalar, scheme, &[-100.0, 410.0, 0.0, 3.0], &mut codes), (2.0, -78));
    assert_eq!(codes, [-128, 127, -78, -76]);
    assert_eq!(quantize(Isa::Scalar, scheme, &[0.0; 4], &mut codes), (0.01, -128));
    assert_eq!(codes, [-128; 4]);
    assert_eq!(quantize(Isa::Scalar, scheme, &[-5.1, -2.0, -0.02, 0.0], &mut codes).1, 127);
    assert!(quantize(Isa::Scalar, scheme, &[-3e38, 3e38, 0.0, 0.0], &mut codes).0.is_nan());

    for (scale, zero_point, range) in [
        (0.0, 0, (-128, 127)),
        (f32::NAN, 0, (-128, 127)),
        (1e-45, 0, (-128, 127)),
        (1.0, 256, (0, 255)),
        (1.0, 0, (0, 256)),
        (1.0, 3, (3, 3)),
    ] {
        assert!(StaticActivations::new(scale, zero_point, range).is_err(), "{scale} {zero_point} {range:?}");
    }
}

#[test]
fn codes_are_made_anew_for_another_scheme() {
    let pool = Pool::new(1);
    let mut x = Activations::default();
    x.write(1, 4).copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
    let scheme = |scale| ActivationScheme::Static(StaticActivations { scale, zero_point: 1, low: -128, high: 127 });
    assert_eq!(int8(&mut x, &pool, scheme(1.0), 4).sums, [14]);
    let other = int8(&mut x, &pool, scheme(0.5), 4);
    assert_eq!((&other.codes[..4], other.sums, other.scales), (&[3, 5, 7, 9][..], &[24][..], &[0.5][..]));
    assert_eq!(int8(&mut x, &pool, SYMMETRIC, 4).zero_points, [0]);
}

#[test]
fn bf16_rounds_as_the_half_crate() {
    for value in [0.0, 1.0, -1.0, 1.003_906_2, 1.011_718_8, f32::MAX, f32::INFINITY, 1e-40, -3.3e-39] {
        assert_eq!(bf16_bits(value), half::bf16::from_f32(value).to_bits(), "{value}");
    }
    assert!(half::bf16::from_bits(bf16_bits(f32::from_bits(0x7f80_0001))).is_nan());
}

#[test]
fn write_drops_derived_forms() {
    let pool = Pool::new(2);
    let mut x = Activations::with_capacity(2, 100);
    x.write(2, 100).fill(1.0);
    assert!(int8(&mut x, &pool, SYMMETRIC, 100).sums.iter().all(|&s| s == 12700));
    x.write(2, 100).fill(-2.0);
    let int8 = int8(&mut x, &pool, SYMMETRIC, 50);
    assert_eq!(int8.sums, [-6350; 4]);
    assert_eq!((int8.tokens, int8.stride), (2, 128));
    assert!(int8.codes[100..128].iter().all(|&c| c == 0));
    let form = InputForm::Float { padded: true, sums_of: Some(50) };
    x.make(Isa::active(), &pool, form);
    assert_eq!(x.float(form).sums, [-100.0; 4]);
}

#[test]
#[should_panic(expected = "were not made")]
fn a_form_that_was_not_made_is_not_lent() {
    let mut x = Activations::default();
    x.write(1, 64).fill(1.0);
    let form = InputForm::FixedPoint { block: 32 };
    x.make(Isa::active(), &Pool::new(1), form);
    x.change().fill(2.0);
    _ = x.fixed_point(32);
}

#[test]
fn rows_that_are_filled_for_a_product_have_its_form() {
    use crate::kernels::Matrix;
    use crate::kernels::synthetic;
    use crate::tensor::DenseFormat;
    let schemes = [ActivationScheme::None, SYMMETRIC, ActivationScheme::DynamicTokenAsymmetric { min_scale: 1e-6 }];
    let quantized = schemes.map(|scheme| synthetic::quantized((32, 128), 4, 32, scheme).unwrap());
    let dense = [DenseFormat::F32, DenseFormat::F16, DenseFormat::Bf16]
        .map(|format| Matrix::from_rows(format, 32, 128, &|row, out| out.fill(row as f32 / 7.0)));
    for matrix in quantized.iter().chain(&dense) {
        for tokens in [1, 3, 200] {
            let value = |t: usize, i: usize| ((t * 31 + i * 17) % 101) as f32 / 10.0 - 5.0;
            let row = |t: usize, row: &mut [f32]| row.iter_mut().enumerate().for_each(|(i, v)| *v = value(t, i));
            let pool = Pool::new(2);
            let (mut filled, mut written) = (Activations::default(), Activations::default());
            filled.write_for(tokens, matrix).fill(&pool, &row);
            written.write(tokens, 128).chunks_exact_mut(128).enumerate().for_each(|(t, v)| row(t, v));
            assert_eq!(filled.made.len(), 1);
            let product = |x: &mut Activations| {
                let mut y = vec![f32::NAN; tokens * 32];
                matrix.multiply(&pool, x, &mut y);
                y
            };
            let first = product(&mut filled);
            assert_eq!(first, product(&mut written));
            assert_eq!(filled.made.len(), 1, "the product made another form");
            // What is changed is made anew.
            filled.change_for(Some(matrix)).fill(&pool, &|_, row| row.iter_mut().for_each(|v| *v = -*v));
            assert!(product(&mut filled).iter().zip(&first).any(|(a, b)| a != b));
        }
    }
}

proptest! {
    #[test]
    fn codes_are_the_rounded_quotients_on_every_isa(values in prop::collection::vec(-1e3f32..1e3, 1..200)) {
        let (scale, codes) = quantize_symmetric(&values);
        for (value, &code) in values.iter().zip(&codes) {
            prop_assert!(code > -128);
            prop_assert!((value - scale * f32::from(code)).abs() <= scale * 0.5001);
        }
        for isa in Isa::available() {
            let mut other = vec![0; values.len()];
            prop_assert_eq!(quantize_token(isa, &values, &mut other), scale);
            prop_assert_eq!(&other, &codes);
            let numbers = StaticActivations { scale: 3.7, zero_point: -20, low: -128, high: 127 };
            for scheme in [
                ActivationScheme::Static(numbers),
                ActivationScheme::DynamicTokenAsymmetric { min_scale: f32::EPSILON },
            ] {
                let mut affine = vec![0; values.len()];
                let found = quantize(Isa::Scalar, scheme, &values, &mut affine);
                prop_assert_eq!(quantize(isa, scheme, &values, &mut other), found);
                prop_assert_eq!(&other, &affine);
            }
        }
    }

    #[test]
    fn threads_do_not_change_forms(tokens in 1usize..9) {
        let mut forms = vec![];
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let mut x = Activations::default();
            let n = tokens * 5000;
            x.write(tokens, 5000).iter_mut().enumerate().for_each(|(i, v)| *v = ((i * 7919) % n) as f32 - 1000.0);
            let form = InputForm::Bf16 { tiles: false };
            x.make(Isa::active(), &pool, form);
            let bf16 = x.bf16(form).values.to_vec();
            let int8 = int8(&mut x, &pool, SYMMETRIC, 5000);
            forms.push((bf16, int8.codes.to_vec(), int8.scales.to_vec()));
        }
        prop_assert_eq!(&forms[0], &forms[1]);
        prop_assert_eq!(&forms[0], &forms[2]);
    }
}
