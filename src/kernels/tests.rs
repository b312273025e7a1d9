//! Every kernel on every instruction set of this machine against the scalar definition, and the scalar definition
//! against f64 arithmetic on the dequantized weights.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[cfg(target_arch = "x86_64")]
mod tiles_and_vnni;

use super::{Activations, Isa, Matrix, Pool};
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor, StaticActivations, Zero};

const TOKENS: [usize; 9] = [1, 2, 3, 4, 5, 8, 13, 19, 33];

/// Kinds of input that have broken kernels before.
#[derive(Clone, Copy, Debug)]
enum Inputs {
    Random,
    /// All of the largest magnitude and one sign, so that narrow accumulators would saturate.
    Extreme,
    /// The same below zero.
    ExtremeNegative,
    /// Every second token all zero.
    ZeroTokens,
}

fn inputs(kind: Inputs, tokens: usize, cols: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64((tokens * 131 + cols) as u64);
    let value = |i: usize, random: &mut StdRng| match kind {
        Inputs::Random => random.random_range(-3.0f32..3.0),
        Inputs::Extreme => 5.0,
        Inputs::ExtremeNegative => -5.0,
        Inputs::ZeroTokens if (i / cols).is_multiple_of(2) => 0.0,
        Inputs::ZeroTokens => random.random_range(-1e-3f32..1e-3),
    };
    (0..tokens * cols).map(|i| value(i, &mut random)).collect()
}

fn multiply(matrix: &Matrix, isa: Isa, pool: &Pool, values: &[f32]) -> Vec<f32> {
    let tokens = values.len() / matrix.cols();
    let mut x = Activations::default();
    x.write(tokens, matrix.cols()).copy_from_slice(values);
    let mut y = vec![f32::NAN; tokens * matrix.rows()];
    matrix.multiply_on(isa, pool, &mut x, &mut y);
    y
}

/// `sum |x| * magnitude` for every output: what rounding errors scale with.
fn magnitudes(rows: usize, cols: usize, values: &[f32], magnitude: &[f32]) -> Vec<f32> {
    let dot = |x: &[f32], row: usize| -> f32 {
        let w = &magnitude[row * cols..(row + 1) * cols];
        x.iter().zip(w).map(|(x, w)| x.abs() * w).sum()
    };
    values.chunks_exact(cols).flat_map(|x| (0..rows).map(move |row| dot(x, row))).collect()
}

/// Half a step of 16-bit block fixed point at every input.
fn half_steps(w: &QuantizedTensor, values: &[f32]) -> Vec<f32> {
    let group = if w.group_size == w.cols { 64 } else { w.group_size };
    let block = [64, 32].into_iter().find(|block| group.is_multiple_of(*block)).unwrap_or(16);
    let largest = |block: &[f32]| block.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let half = |block: &[f32]| vec![largest(block) / 65_278.0 * 1.02; block.len()];
    values.chunks_exact(w.cols).flat_map(|x| x.chunks(block).flat_map(half)).collect()
}

fn assert_close(what: &str, got: &[f32], expected: &[f32], bound: &[f32], eps: f32) {
    for (i, ((g, e), b)) in got.iter().zip(expected).zip(bound).enumerate() {
        let allowed = eps * b + f32::MIN_POSITIVE;
        assert!((g - e).abs() <= allowed, "{what}: output {i} is {g}, expected {e} within {allowed}");
    }
}

/// Weights by `f64` from the rows that the matrix gives out.
fn exact(matrix: &Matrix, values: &[f32]) -> Vec<f32> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut weights = vec![0.0; rows * cols];
    weights.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| matrix.row_to_f32(row, out));
    let weights = &weights;
    let dot = |x: &[f32], row: usize| -> f32 {
        let w = &weights[row * cols..(row + 1) * cols];
        x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32
    };
    values.chunks_exact(cols).flat_map(|x| (0..rows).map(move |row| dot(x, row))).collect()
}

/// Errors that a product's outputs may have: those of sums of `cols` products, which grow at most linearly, here with
/// `cols + 8`, and `rounding` of every input.
fn errors(rows: usize, cols: usize, values: &[f32], magnitude: &[f32], rounding: Option<&[f32]>) -> Vec<f32> {
    let eps = f32::EPSILON * (cols + 8) as f32;
    let mut errors = magnitudes(rows, cols, values, magnitude);
    errors.iter_mut().for_each(|error| *error *= eps);
    if let Some(rounding) = rounding {
        errors.iter_mut().zip(magnitudes(rows, cols, rounding, magnitude)).for_each(|(error, r)| *error += r);
    }
    errors
}

/// Checks all instruction sets and thread counts: the same bits as the definition, or within `errors` of it.
fn check(what: &str, matrix: &Matrix, values: &[f32], errors: Option<&[f32]>) {
    check_on(&Isa::available(), what, matrix, values, errors);
}

/// As [`check`], for the given instruction sets.
fn check_on(isas: &[Isa], what: &str, matrix: &Matrix, values: &[f32], errors: Option<&[f32]>) {
    let scalar = multiply(matrix, Isa::Scalar, &Pool::new(1), values);
    for &isa in isas {
        let one = multiply(matrix, isa, &Pool::new(1), values);
        let what = format!("{what} on {isa}");
        match errors {
            None => assert_eq!(one, scalar, "{what}"),
            Some(errors) => assert_close(&what, &one, &scalar, errors, 1.0),
        }
        for threads in [2, 3] {
            assert_eq!(multiply(matrix, isa, &Pool::new(threads), values), one, "{what}, {threads} threads");
        }
    }
}

fn random_weights(rows: usize, cols: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64((rows * 7 + cols) as u64);
    (0..rows * cols).map(|_| random.random_range(-1.0f32..1.0)).collect()
}

fn dense(format: DenseFormat, rows: usize, cols: usize, weights: &[f32]) -> Matrix {
    Matrix::from_rows(format, rows, cols, &|row, out| out.copy_from_slice(&weights[row * cols..(row + 1) * cols]))
}

const DENSE: [DenseFormat; 3] = [DenseFormat::F32, DenseFormat::F16, DenseFormat::Bf16];

#[test]
fn dense_formats_on_every_isa() {
    for format in DENSE {
        for (rows, cols) in [(1, 1), (15, 33), (17, 100), (33, 576), (64, 512), (100, 96)] {
            let weights = random_weights(rows, cols);
            let matrix = dense(format, rows, cols, &weights);
            let magnitude: Vec<f32> = weights.iter().map(|w| w.abs() * 1.01).collect();
            for tokens in TOKENS {
                let values = inputs(Inputs::Random, tokens, cols);
                let errors = errors(rows, cols, &values, &magnitude, None);
                check(&format!("{format:?} {rows}x{cols}, {tokens} tokens"), &matrix, &values, Some(&errors));
            }
        }
    }
}

#[test]
fn dense_scalar_is_the_sum_of_products() {
    for format in DENSE {
        let (rows, cols) = (19, 45);
        let weights = random_weights(rows, cols);
        let matrix = dense(format, rows, cols, &weights);
        let values: Vec<f32> = inputs(Inputs::Random, 3, cols);
        let values: Vec<f32> = match format {
            DenseFormat::Bf16 => values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
            _ => values,
        };
        let bound = magnitudes(rows, cols, &values, &vec![1.0; rows * cols]);
        let scalar = multiply(&matrix, Isa::Scalar, &Pool::new(1), &values);
        assert_close("scalar", &scalar, &exact(&matrix, &values), &bound, 1e-6);
        let mut row = vec![0.0; cols];
        matrix.row_to_f32(18, &mut row);
        let expected: Vec<f32> = weights[18 * cols..]
            .iter()
            .map(|&w| match format {
                DenseFormat::F32 => w,
                DenseFormat::F16 => half::f16::from_f32(w).to_f32(),
                DenseFormat::Bf16 => half::bf16::from_f32(w).to_f32(),
            })
            .collect();
        assert_eq!(row, expected);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Convention {
    Symmetric,
    Points,
    Offsets,
}

/// A tensor of random (or extreme) codes. `short_scales` makes all scales and offsets exact in 16 bits.
fn tensor(
    (rows, cols): (usize, usize),
    bits: u8,
    group_size: usize,
    convention: Convention,
    extreme: bool,
    short_scales: bool,
) -> QuantizedTensor {
    let mut random = StdRng::seed_from_u64((rows * 31 + cols + usize::from(bits)) as u64);
    let len = rows * (cols / group_size);
    let mut real = |low: f32, high: f32| {
        let value = random.random_range(low..high);
        if short_scales { half::f16::from_f32(value).to_f32() } else { value }
    };
    let scales = (0..len).map(|i| real(0.01, 0.02) * if i % 5 == 4 { -1.0 } else { 1.0 }).collect();
    let offsets = (0..len).map(|_| real(-0.2, 0.1)).collect();
    let (low, high) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
    let zero = match convention {
        Convention::Symmetric => Zero::Symmetric,
        Convention::Points => Zero::Points((0..len).map(|_| random.random_range(low..=high) as i8).collect()),
        Convention::Offsets => Zero::Offsets(offsets),
    };
    let (low, high) = if convention == Convention::Offsets { (0, (1 << bits) - 1) } else { (low, high) };
    let code = |i: usize, random: &mut StdRng| match (extreme, i / cols % 2) {
        (true, 0) => low,
        (true, _) => high,
        (false, _) => random.random_range(low..=high),
    };
    let codes = (0..rows * cols).map(|i| code(i, &mut random) as i8).collect();
    QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order: None }
}

/// `|scale * code| + |offset or scale * zero point|` of every weight.
fn magnitude_of(w: &QuantizedTensor) -> Vec<f32> {
    let at = |i: usize| i / w.cols * w.groups() + i % w.cols / w.group_size;
    let offset = |i: usize| match &w.zero {
        Zero::Symmetric => 0.0,
        Zero::Points(points) => (w.scales[at(i)] * f32::from(points[at(i)])).abs(),
        Zero::Offsets(offsets) => offsets[at(i)].abs(),
    };
    (0..w.codes.len()).map(|i| (w.scales[at(i)] * f32::from(w.codes[i])).abs() + offset(i)).collect()
}

const SCHEMES: [ActivationScheme; 4] = [
    ActivationScheme::None,
    ActivationScheme::DynamicToken,
    ActivationScheme::DynamicTokenAsymmetric { min_scale: f32::EPSILON },
    ActivationScheme::Static(StaticActivations { scale: 0.021, zero_point: 17, low: -128, high: 127 }),
];

fn check_quantized(w: &QuantizedTensor, tokens: &[usize], kind: Inputs) {
    for scheme in SCHEMES {
        let matrix = Matrix::from_quantized(w, scheme).expect("supported");
        for &tokens in tokens {
            let values = inputs(kind, tokens, w.cols);
            let what = format!(
                "{} bits {:?}, {}x{} group {}, {scheme:?}, {tokens} tokens {kind:?}",
                w.bits,
                matrix.kernel_name(Isa::active(), tokens),
                w.rows,
                w.cols,
                w.group_size
            );
            let errors = (scheme == ActivationScheme::None)
                .then(|| errors(w.rows, w.cols, &values, &magnitude_of(w), Some(&half_steps(w, &values))));
            check(&what, &matrix, &values, errors.as_deref());
        }
    }
}

#[test]
fn int8_on_every_isa() {
    for (bits, convention) in [(8, Convention::Symmetric), (8, Convention::Points), (5, Convention::Offsets)] {
        for (rows, cols, group) in
            [(1, 32, 32), (15, 64, 16), (17, 100, 100), (33, 576, 64), (100, 576, 576), (49, 96, 48), (32, 512, 128)]
        {
            let w = tensor((rows, cols), bits, group, convention, false, group == 64);
            check_quantized(&w, &TOKENS, Inputs::Random);
        }
    }
}

#[test]
fn int4_on_every_isa() {
    for convention in [Convention::Symmetric, Convention::Points, Convention::Offsets] {
        for (rows, cols, group) in [
            (1, 32, 32),
            (15, 64, 32),
            (17, 100, 100),
            (33, 576, 64),
            (100, 576, 576),
            (49, 96, 32),
            (65, 192, 96),
            (32, 512, 128),
        ] {
            let w = tensor((rows, cols), 4, group, convention, false, group == 32);
            check_quantized(&w, &TOKENS, Inputs::Random);
        }
    }
}

#[test]
fn groups_of_16_on_every_isa() {
    for convention in [Convention::Symmetric, Convention::Points, Convention::Offsets] {
        for bits in [2, 4, 6] {
            let w = tensor((33, 272), bits, 16, convention, false, bits == 4);
            check_quantized(&w, &TOKENS, Inputs::Random);
        }
    }
}

#[test]
fn all_token_counts() {
    let all: Vec<usize> = (1..=19).collect();
    for bits in [4, 8] {
        check_quantized(&tensor((50, 128), bits, 128, Convention::Symmetric, false, true), &all, Inputs::Random);
        check_quantized(&tensor((50, 128), bits, 32, Convention::Points, false, true), &all, Inputs::Random);
    }
}

#[test]
fn nothing_saturates() {
    for (bits, convention) in [
        (8, Convention::Symmetric),
        (8, Convention::Points),
        (7, Convention::Offsets),
        (4, Convention::Symmetric),
        (4, Convention::Points),
        (4, Convention::Offsets),
    ] {
        for group in [64, 1536] {
            for kind in [Inputs::Extreme, Inputs::ExtremeNegative] {
                check_quantized(&tensor((34, 1536), bits, group, convention, true, true), &[1, 3, 9], kind);
            }
        }
    }
}

#[test]
fn zero_tokens_give_zeros() {
    for bits in [4, 8] {
        check_quantized(
            &tensor((20, 64), bits, 32, Convention::Symmetric, false, true),
            &[1, 4, 7],
            Inputs::ZeroTokens,
        );
    }
}

#[test]
fn nan_inputs_give_nan_outputs() {
    for bits in [4, 8] {
        for scheme in SCHEMES {
            let w = tensor((20, 64), bits, 32, Convention::Symmetric, false, true);
            let matrix = Matrix::from_quantized(&w, scheme).expect("supported");
            for isa in Isa::available() {
                let mut values = inputs(Inputs::Random, 6, 64);
                values[2 * 64 + 5] = f32::NAN;
                let y = multiply(&matrix, isa, &Pool::new(1), &values);
                for (token, y) in y.chunks_exact(20).enumerate() {
                    assert!(y.iter().all(|y| y.is_nan() == (token == 2)), "{bits} bits {scheme:?} {isa}");
                }
            }
        }
    }
}

#[test]
fn weights_come_out_as_the_canonical_tensor_has_them() {
    for (bits, group, convention) in [
        (2, 32, Convention::Symmetric),
        (3, 96, Convention::Points),
        (4, 32, Convention::Offsets),
        (4, 16, Convention::Offsets),
        (5, 16, Convention::Symmetric),
        (7, 96, Convention::Offsets),
        (8, 96, Convention::Points),
    ] {
        for short in [true, false] {
            let w = tensor((21, 96), bits, group, convention, false, short);
            let matrix = Matrix::from_quantized(&w, ActivationScheme::None).expect("supported");
            let (mut expected, mut got) = (vec![0.0; 96], vec![0.0; 96]);
            for row in 0..21 {
                w.row_to_f32(row, &mut expected);
                matrix.row_to_f32(row, &mut got);
                assert_eq!(got, expected, "{bits} bits group {group} {convention:?}");
            }
        }
    }
}

#[test]
fn quantized_scalar_is_the_sum_of_products() {
    for (bits, convention) in [(8, Convention::Points), (4, Convention::Offsets), (5, Convention::Offsets)] {
        let w = tensor((20, 192), bits, 64, convention, false, false);
        // Inputs that 8 bits hold exactly, so that all activation schemes must give the float result.
        let mut values: Vec<f32> = (0..2 * 192).map(|i| ((i * 37) % 255) as f32 - 127.0).collect();
        values[..2].copy_from_slice(&[127.0, -128.0]);
        values[192..194].copy_from_slice(&[127.0, -128.0]);
        let whole = StaticActivations::new(1.0, 128, (0, 255)).expect("8 bits");
        for scheme in [SCHEMES[0], SCHEMES[2], ActivationScheme::Static(whole)] {
            let matrix = Matrix::from_quantized(&w, scheme).expect("supported");
            let bound = magnitudes(20, 192, &values, &magnitude_of(&w));
            let scalar = multiply(&matrix, Isa::Scalar, &Pool::new(1), &values);
            assert_close("scalar", &scalar, &exact(&matrix, &values), &bound, 1e-5);
        }
        let shifted = StaticActivations::new(1.0, 100, (0, 255)).expect("8 bits");
        let range = |v: &f32| v.clamp(-100.0, 155.0);
        for (scheme, values) in [
            (SCHEMES[1], values.iter().map(|v| v.max(-127.0)).collect::<Vec<f32>>()),
            (ActivationScheme::Static(shifted), values.iter().map(range).collect()),
        ] {
            let matrix = Matrix::from_quantized(&w, scheme).expect("supported");
            let bound = magnitudes(20, 192, &values, &magnitude_of(&w));
            let scalar = multiply(&matrix, Isa::Scalar, &Pool::new(1), &values);
            assert_close("scalar", &scalar, &exact(&matrix, &values), &bound, 1e-5);
        }
    }
}

#[test]
fn sixteen_bit_scales_take_half_the_room() {
    let bytes = |short| {
        let w = tensor((32, 256), 4, 32, Convention::Symmetric, false, short);
        Matrix::from_quantized(&w, ActivationScheme::None).expect("supported").bytes()
    };
    assert_eq!(bytes(true), 32 * 128 + 32 * 8 * 2);
    assert_eq!(bytes(false), 32 * 128 + 32 * 8 * 4);
}

#[test]
fn schemes_without_a_kernel_are_refused() {
    for (bits, group) in [(4, 8), (8, 8)] {
        let w = tensor((16, 64), bits, group, Convention::Symmetric, false, false);
        let message = Matrix::from_quantized(&w, ActivationScheme::None).expect_err("refused");
        assert!(message.contains("groups of a multiple of 16"), "{message}");
    }
    let mut w = tensor((16, 64), 7, 32, Convention::Offsets, false, false);
    w.bits = 8;
    let message = Matrix::from_quantized(&w, ActivationScheme::None).expect_err("refused");
    assert!(message.contains("7 bits at most"), "{message}");
}

/// A permutation of `cols` inputs that is not its own inverse.
fn shuffled(cols: usize, seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut order: Vec<u32> = (0..cols as u32).collect();
    (1..cols).for_each(|at| order.swap(at, random.random_range(0..=at)));
    order
}

#[test]
fn inputs_are_gathered_into_the_stored_order_on_every_isa() {
    for (bits, convention) in
        [(4, Convention::Symmetric), (4, Convention::Points), (4, Convention::Offsets), (8, Convention::Points)]
    {
        let (rows, cols) = (37, 192);
        let plain = tensor((rows, cols), bits, 32, convention, false, true);
        let mut ordered = plain.clone();
        let order = shuffled(cols, u64::from(bits));
        ordered.input_order = Some(order.clone());
        let stored_weights = plain.to_f32();
        let weights = ordered.to_f32();
        for (i, &value) in stored_weights.iter().enumerate() {
            assert_eq!(weights[i / cols * cols + order[i % cols] as usize], value);
        }
        for scheme in SCHEMES {
            let matrix = Matrix::from_quantized(&ordered, scheme).expect("supported");
            let stored = Matrix::from_quantized(&plain, scheme).expect("supported");
            assert_eq!(matrix.bytes(), stored.bytes() + 4 * cols);
            let mut row = vec![0.0; cols];
            matrix.row_to_f32(rows - 1, &mut row);
            assert_eq!(row, weights[(rows - 1) * cols..]);
            for tokens in [1, 3, 9, 200] {
                let values = inputs(Inputs::Random, tokens, cols);
                let gathered: Vec<f32> =
                    values.chunks_exact(cols).flat_map(|x| order.iter().map(|&input| x[input as usize])).collect();
                for isa in Isa::available() {
                    let y = multiply(&matrix, isa, &Pool::new(2), &values);
                    assert_eq!(y, multiply(&stored, isa, &Pool::new(1), &gathered), "{bits} bits {scheme:?} on {isa}");
                    if scheme == ActivationScheme::None {
                        let steps = half_steps(&plain, &gathered);
                        let errors = errors(rows, cols, &gathered, &magnitude_of(&plain), Some(&steps));
                        assert_close("dense product", &y, &exact(&matrix, &values), &errors, 1.0);
                    }
                }
            }
        }
    }
}

#[test]
fn matrices_of_different_orders_share_their_inputs() {
    let plain = tensor((20, 128), 4, 32, Convention::Symmetric, false, true);
    let orders = [Some(shuffled(128, 1)), Some(shuffled(128, 2)), None, Some(shuffled(128, 1))];
    let pool = Pool::new(1);
    let mut shared = Activations::default();
    for tokens in [3, 2] {
        let values = inputs(Inputs::Random, tokens, 128);
        shared.write(tokens, 128).copy_from_slice(&values);
        for order in &orders {
            let w = QuantizedTensor { input_order: order.clone(), ..plain.clone() };
            let matrix = Matrix::from_quantized(&w, ActivationScheme::DynamicToken).expect("supported");
            let mut y = vec![f32::NAN; tokens * 20];
            matrix.multiply(&pool, &mut shared, &mut y);
            assert_eq!(y, multiply(&matrix, Isa::active(), &pool, &values));
        }
    }
}

#[test]
fn an_order_that_is_no_permutation_is_refused() {
    let plain = tensor((2, 64), 4, 32, Convention::Symmetric, false, true);
    let twice = (0..64).map(|k| k / 2 * 2).collect();
    for (order, expected) in
        [((0..63).collect(), "64 inputs, got 63"), ((1..65).collect(), "names 64"), (twice, "twice")]
    {
        let w = QuantizedTensor { input_order: Some(order), ..plain.clone() };
        let message = Matrix::from_quantized(&w, ActivationScheme::None).expect_err("refused");
        assert!(message.contains(expected), "{message}");
    }
}
