//! Proof of import: what an imported checkpoint says, what was read from it, and what the kernels make of it agree,
//! layer by layer.
//!
//! Three calculations of the same products on probe inputs are compared, for one row of inputs (decode) and for several
//! (prefill), since those are different kernels:
//!
//! 1. *formula*: the checkpoint's own fake-quantized arithmetic: weights dequantized by the format's formula, inputs
//!    quantized and dequantized by the activation scheme, products added in 64 bits;
//! 2. *integers*: the imported, packed integers under the scalar definition of the kernels;
//! 3. *kernel*: the kernel that is timed.
//!
//! A mismatch is the largest difference of an output, relative to the sum of the magnitudes of its products, so that
//! cancellation does not hide or inflate it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{Error, Result};
use crate::kernels::{Activations, Isa, Matrix, Pool};
use crate::network::Architecture;
use crate::results::{LayerProof, ProductProof};
use crate::tensor::{ActivationScheme, QuantizedTensor, Zero};

/// Rows of probe inputs: decode, and more rows than a decode kernel takes.
const PROBES: [usize; 2] = [1, 8];
/// Largest mismatch that rounding in 32 bits explains: `2^-24` for each of some rounded steps of the longest sums.
const TOLERANCE: f64 = 2e-5;
/// The same where a kernel may take floating-point inputs in 16 bits with a scale for at most 64 of them: `2^-16` of the
/// largest for each.
const TOLERANCE_16_BIT_INPUTS: f64 = 1e-3;
const SEED: u64 = 0x5EED;

/// Proves every linear layer of `checkpoint`, the head included, on `threads` threads.
///
/// # Errors
/// A weight that the packed integers do not reproduce, a product beyond rounding, a layer that the checkpoint declares
/// quantized but that holds floating-point weights, or one without a kernel.
pub(super) fn prove(checkpoint: &Checkpoint, threads: usize) -> Result<Vec<LayerProof>> {
    let architecture = Architecture::of(checkpoint)?;
    let pool = Pool::new(threads);
    let head = architecture.head().map(str::to_owned);
    let names = architecture.block_weights().into_iter().chain(head);
    names.map(|name| prove_layer(checkpoint, &name, &pool)).collect()
}

fn prove_layer(checkpoint: &Checkpoint, name: &str, pool: &Pool) -> Result<LayerProof> {
    let fault = |problem: String| Error::input(format!("{}: tensor \"{name}\"", checkpoint.path().display()), problem);
    if let Some(rows) = checkpoint.dense_rows(name) {
        return Ok(LayerProof { tensor: name.into(), stored_as: rows.stored_as().into(), products: None });
    }
    let StoredTensor::Quantized(tensor, activations) = checkpoint.tensor(name)? else {
        return Err(fault("expected a matrix".into()));
    };
    checkpoint.release(name);
    let packed = Matrix::from_quantized(&tensor, activations).map_err(fault)?;
    let differing = weights_that_differ(&tensor, &packed);
    if differing > 0 {
        return Err(fault(format!("{differing} packed weights differ from the format's formula; this is a defect")));
    }
    let products = PROBES.map(|tokens| compare_products(&tensor, activations, &packed, tokens, pool));
    let kernels = kernel_tolerance(activations);
    if let Some(bad) = products.iter().find(|p| !(p.integers <= TOLERANCE && p.kernel <= kernels)) {
        return Err(fault(format!(
            "products of {} differ by {:.1e} (integers) and {:.1e} (kernel) of their magnitude, more than the {TOLERANCE:.0e} \
             and {kernels:.0e} that rounding explains; this is a defect",
            bad.kernel_name, bad.integers, bad.kernel
        )));
    }
    Ok(LayerProof { tensor: name.into(), stored_as: scheme_name(&tensor, activations), products: Some(products) })
}

/// Largest mismatch of a kernel against the scalar definition.
fn kernel_tolerance(activations: ActivationScheme) -> f64 {
    if activations == ActivationScheme::None { TOLERANCE_16_BIT_INPUTS } else { TOLERANCE }
}

/// Weights of the packed matrix that are not exactly those of the formula.
fn weights_that_differ(tensor: &QuantizedTensor, packed: &Matrix) -> usize {
    let differing = |row: usize| {
        let (mut formula, mut imported) = (vec![0.0; tensor.cols], vec![0.0; tensor.cols]);
        tensor.row_to_f32(row, &mut formula);
        packed.row_to_f32(row, &mut imported);
        formula.iter().zip(&imported).filter(|(a, b)| a != b).count()
    };
    (0..tensor.rows).into_par_iter().map(differing).sum()
}

fn compare_products(
    tensor: &QuantizedTensor,
    activations: ActivationScheme,
    packed: &Matrix,
    tokens: usize,
    pool: &Pool,
) -> ProductProof {
    // Static numbers fit inputs of their own size; most probes stay inside their range.
    let size = if let ActivationScheme::Static(numbers) = activations { 64.0 * numbers.scale } else { 1.0 };
    let inputs: Vec<f32> = probe_inputs(tokens, tensor.cols).into_iter().map(|x| size * x).collect();
    let quantized: Vec<f64> = inputs.chunks_exact(tensor.cols).flat_map(|row| activations.rounded(row)).collect();
    let run = |isa: Isa| {
        let mut x = Activations::default();
        x.write(tokens, tensor.cols).copy_from_slice(&inputs);
        let mut y = vec![0.0; tokens * tensor.rows];
        packed.multiply_on(isa, pool, &mut x, &mut y);
        y
    };
    let (integers, kernel) = (run(Isa::Scalar), run(Isa::active()));
    let mismatch_of_row = |row: usize| {
        let mut weights = vec![0.0; tensor.cols];
        tensor.row_to_f32(row, &mut weights);
        let mut largest = (0.0f64, 0.0f64);
        for (token, x) in quantized.chunks_exact(tensor.cols).enumerate() {
            let products = || x.iter().zip(&weights).map(|(x, &w)| x * f64::from(w));
            let (formula, magnitude) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let at = token * tensor.rows + row;
            let (integers, kernel) = (f64::from(integers[at]), f64::from(kernel[at]));
            let relative =
                |difference: f64| if magnitude > 0.0 { difference.abs() / magnitude } else { difference.abs() };
            largest = (larger(largest.0, relative(integers - formula)), larger(largest.1, relative(kernel - integers)));
        }
        largest
    };
    let (integers, kernel) = (0..tensor.rows)
        .into_par_iter()
        .map(mismatch_of_row)
        .reduce(|| (0.0, 0.0), |a, b| (larger(a.0, b.0), larger(a.1, b.1)));
    ProductProof { tokens, kernel_name: packed.kernel_name(Isa::active(), tokens), integers, kernel }
}

/// The larger of two, NaN before all: `f64::max` would lose it.
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Inputs like a layer's: mostly small, of both signs, a few much larger.
fn probe_inputs(tokens: usize, features: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(SEED);
    (0..tokens * features)
        .map(|at| {
            let value = random.random_range(-1.0f32..1.0);
            if at % 61 == 0 { 20.0 * value } else { value * value * value }
        })
        .collect()
}

/// `4 bits, groups of 64, symmetric; inputs 8 bits per token`.
fn scheme_name(tensor: &QuantizedTensor, activations: ActivationScheme) -> String {
    let scales = if tensor.group_size == tensor.cols {
        "one scale a row".to_owned()
    } else {
        format!("groups of {}", tensor.group_size)
    };
    let zero = match tensor.zero {
        Zero::Symmetric => "symmetric",
        Zero::Points(_) => "zero points",
        Zero::Offsets(_) => "offsets",
    };
    let inputs = match activations {
        ActivationScheme::None => "float",
        ActivationScheme::DynamicToken => "8 bits per token",
        ActivationScheme::DynamicTokenAsymmetric { .. } => "8 bits asymmetric per token",
        ActivationScheme::Static(_) => "8 bits static",
    };
    let order = if tensor.input_order.is_some() { ", activation order" } else { "" };
    format!("{} bits, {scales}, {zero}{order}; inputs {inputs}", tensor.bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::StaticActivations;

    fn weight(bits: u8, group_size: usize, zero: Zero) -> QuantizedTensor {
        let (rows, cols) = (37, 128);
        let (codes, scales) = (vec![], vec![]);
        let mut tensor = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order: None };
        let (low, high) = tensor.code_range();
        let mut random = StdRng::seed_from_u64(3);
        tensor.codes = (0..rows * cols).map(|_| random.random_range(low..=high) as i8).collect();
        tensor.scales = (0..rows * cols / group_size).map(|_| random.random_range(0.01f32..0.1)).collect();
        tensor
    }

    #[test]
    fn sound_imports_are_within_rounding_and_damaged_ones_are_not() {
        let pool = Pool::new(2);
        let points = Zero::Points((0..37 * 2).map(|at| (at % 16) as i8 - 8).collect());
        let numbers = StaticActivations { scale: 0.07, zero_point: -23, low: -128, high: 127 };
        for (sound, activations) in [
            (weight(8, 128, Zero::Symmetric), ActivationScheme::Static(numbers)),
            (weight(4, 64, points.clone()), ActivationScheme::DynamicTokenAsymmetric { min_scale: f32::EPSILON }),
            (weight(8, 128, Zero::Symmetric), ActivationScheme::DynamicToken),
            (weight(8, 32, Zero::Symmetric), ActivationScheme::None),
            (weight(4, 64, points), ActivationScheme::DynamicToken),
            (weight(4, 32, Zero::Symmetric), ActivationScheme::None),
        ] {
            let packed = Matrix::from_quantized(&sound, activations).unwrap();
            assert_eq!(weights_that_differ(&sound, &packed), 0);
            for tokens in PROBES {
                let proof = compare_products(&sound, activations, &packed, tokens, &pool);
                assert!(proof.integers < TOLERANCE && proof.kernel < kernel_tolerance(activations), "{proof:?}");
            }
            // A weight whose scales were lost on the way.
            let mut damaged = sound.clone();
            damaged.scales.iter_mut().for_each(|scale| *scale *= 1.001);
            assert!(weights_that_differ(&damaged, &packed) > 0);
            assert!(compare_products(&damaged, activations, &packed, 1, &pool).integers > TOLERANCE);
            // Inputs quantized by another scheme than the kernel's.
            let other = match activations {
                ActivationScheme::None => ActivationScheme::DynamicToken,
                _ => ActivationScheme::None,
            };
            assert!(compare_products(&sound, other, &packed, 1, &pool).integers > TOLERANCE);
        }
    }

    #[test]
    fn every_layer_of_a_torchao_model_is_proven() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torchao/published");
        let proofs = prove(&Checkpoint::open(std::path::Path::new(folder)).unwrap(), 2).unwrap();
        let (head, blocks) = proofs.split_last().unwrap();
        assert_eq!((blocks.len(), head.stored_as.as_str()), (7, "bf16"));
        for proof in blocks {
            assert_eq!(proof.stored_as, "4 bits, one scale a row, symmetric; inputs 8 bits asymmetric per token");
            assert!(proof.products.is_some());
        }
    }

    #[test]
    fn a_mismatch_that_is_no_number_is_the_largest() {
        assert!(larger(0.5, f64::NAN).is_nan());
        assert!(larger(f64::NAN, 0.5).is_nan());
        assert!(larger(larger(0.1, f64::NAN), 0.5).is_nan());
    }
}
