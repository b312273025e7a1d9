//! Rescaling of input channels: weights that read channel `k` are multiplied by a factor `t_k` and the channel is divided
//! by it, so that the layer's output stays the same while its rounding errors move to where they do less harm.
//!
//! All linear layers that share an input share the factors, and whoever puts out the input is divided by them once and
//! for all: a norm's weight, or the rows of a linear layer. Nothing is left to do at run time. Factors are chosen among
//! candidates by the error of the layers' outputs over a sample of calibration inputs, with weights, and inputs where
//! their scheme says so, rounded to nearest. "No change" is always a candidate.
//!
//! Factors of channel k, for exponents α from 0 to 1:
//! - AWQ (Lin et al. 2023, arXiv 2306.00978, equation 5): `mean|x_k|^α`;
//! - SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, equation 4): `max|x_k|^α / max|W_k|^(1 - α)`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{Magnitudes, Quantizer, Rtn};
use crate::suite::{InputScheme, Observer, Smooth, WeightScheme};

/// Exponents tried: multiples of `1 / EXPONENTS`.
const EXPONENTS: u8 = 20;
/// Smallest magnitude of a channel, as a share of the mean: a channel never seen must not get a factor of 0.
const FLOOR: f64 = 1e-4;

/// Which factors are tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rescaling {
    /// AWQ's.
    Awq,
    /// SmoothQuant's.
    Smooth(Smooth),
}

/// A linear layer among those that share an input.
#[derive(Debug, Clone)]
pub struct Consumer<'a> {
    /// `(out_features, in_features)`.
    pub weight: ArrayView2<'a, f32>,
    /// How it will be quantized.
    pub scheme: WeightScheme,
    /// What happens to its input.
    pub inputs: InputScheme,
}

impl Rescaling {
    /// The best factors for the layers that share an input of those `magnitudes`, one for each channel of whoever puts it
    /// out; input `k` comes from channel `producer[k]`. All factors are above 0.
    ///
    /// # Errors
    /// Weights that cannot be quantized.
    pub fn search(
        self,
        consumers: &[Consumer<'_>],
        magnitudes: &Magnitudes,
        producer: &[usize],
    ) -> Result<Vec<f32>, String> {
        let outputs: Vec<Vec<f32>> = consumers.iter().map(|layer| product(&magnitudes.sample, layer.weight)).collect();
        let candidates = self.candidates(consumers, magnitudes, producer);
        let error = |factors: &Vec<f32>| -> Result<f64, String> {
            let of_inputs: Vec<f32> = producer.iter().map(|&channel| factors[channel]).collect();
            let errors = consumers.iter().zip(&outputs);
            errors.map(|(layer, output)| output_error(layer, output, magnitudes, &of_inputs)).sum()
        };
        let errors: Vec<f64> = candidates.par_iter().map(error).collect::<Result<_, _>>()?;
        let best = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or(0);
        Ok(candidates[best].clone())
    }

    /// Factors to try; a given exponent is the only one, else the first candidate changes nothing.
    fn candidates(self, consumers: &[Consumer<'_>], magnitudes: &Magnitudes, producer: &[usize]) -> Vec<Vec<f32>> {
        let channels = producer.iter().max().map_or(0, |last| last + 1);
        let exponents = (0..=EXPONENTS).map(|step| f64::from(step) / f64::from(EXPONENTS));
        let unchanged = vec![1.0; channels];
        match self {
            Rescaling::Awq => {
                let mut inputs = vec![0.0f64; channels];
                producer.iter().zip(&magnitudes.mean).for_each(|(&channel, x)| inputs[channel] += x);
                let inputs = floored(inputs);
                let factors = exponents.map(|exponent| inputs.iter().map(|x| x.powf(exponent)).collect());
                std::iter::once(unchanged).chain(factors.map(centred)).collect()
            }
            Rescaling::Smooth(smooth) => {
                let mut inputs = vec![0.0f64; channels];
                let mut weights = vec![0.0f64; channels];
                for (k, &channel) in producer.iter().enumerate() {
                    inputs[channel] = inputs[channel].max(f64::from(magnitudes.largest[k]));
                    let columns = consumers.iter().flat_map(|layer| layer.weight.column(k));
                    weights[channel] = columns.fold(weights[channel], |largest, w| largest.max(f64::from(w.abs())));
                }
                let (inputs, weights) = (floored(inputs), floored(weights));
                let factors = |alpha: f64| {
                    let factor = |(x, w): (&f64, &f64)| x.powf(alpha) / w.powf(1.0 - alpha);
                    centred(inputs.iter().zip(&weights).map(factor).collect())
                };
                match smooth {
                    Smooth::Alpha(alpha) => vec![factors(alpha)],
                    Smooth::Search => std::iter::once(unchanged).chain(exponents.map(factors)).collect(),
                }
            }
        }
    }
}

/// Magnitudes that are all above 0: those near 0 are raised to a share of the mean.
fn floored(magnitudes: Vec<f64>) -> Vec<f64> {
    let mean = magnitudes.iter().sum::<f64>() / magnitudes.len() as f64;
    let least = if mean > 0.0 { FLOOR * mean } else { 1.0 };
    magnitudes.into_iter().map(|magnitude| magnitude.max(least)).collect()
}

/// Factors around 1: a common factor changes no code and would only wear out the range of the scales.
fn centred(factors: Vec<f64>) -> Vec<f32> {
    let (least, largest) =
        factors.iter().fold((f64::INFINITY, 0.0f64), |(least, largest), &f| (least.min(f), largest.max(f)));
    let middle = (least * largest).sqrt();
    factors.into_iter().map(|factor| (factor / middle) as f32).collect()
}

/// `Σ |y - ŷ|² / Σ |y|²` over the sample, with `y` the outputs of `layer` and `ŷ` those of its rounded weights, and
/// inputs, after rescaling by `factors`.
fn output_error(
    layer: &Consumer<'_>,
    outputs: &[f32],
    magnitudes: &Magnitudes,
    factors: &[f32],
) -> Result<f64, String> {
    let mut weight = layer.weight.to_owned();
    multiply_columns(&mut weight, factors);
    // The search for scales would take most of the time, and moves all candidates' errors alike.
    let scheme = WeightScheme { observer: Observer::MinMax, ..layer.scheme };
    let rounded = Rtn.quantize(weight.view(), scheme, None)?.tensor.to_f32();
    let mut inputs = magnitudes.sample.clone();
    inputs.indexed_iter_mut().for_each(|((_, k), x)| *x /= factors[k]);
    if layer.inputs != InputScheme::None {
        // That of all tokens, whatever the observer: the sample may lack the token with the largest.
        let of_all = magnitudes.largest.iter().zip(factors).fold(0.0f32, |most, (x, f)| most.max(x / f));
        let of_all = matches!(layer.inputs, InputScheme::Static(_)).then_some(of_all);
        let tokens = inputs.as_slice_mut().unwrap_or_default().chunks_exact_mut(factors.len());
        tokens.for_each(|token| round(token, of_all.unwrap_or_else(|| largest_of(token))));
    }
    let rounded = ArrayView2::from_shape(weight.raw_dim(), &rounded).map_err(|e| e.to_string())?;
    let found = product(&inputs, rounded);
    let of_error: f64 = found.iter().zip(outputs).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let of_output: f64 = outputs.iter().map(|y| f64::from(*y).powi(2)).sum();
    Ok(if of_error == 0.0 { 0.0 } else { of_error / of_output })
}

fn largest_of(inputs: &[f32]) -> f32 {
    inputs.iter().fold(0.0f32, |largest, x| largest.max(x.abs()))
}

/// Inputs as the kernels take them in 8 bits: symmetric, with one scale for magnitudes up to `largest`.
fn round(inputs: &mut [f32], largest: f32) {
    if largest > 0.0 {
        let scale = largest / 127.0;
        inputs.iter_mut().for_each(|x| *x = (*x / scale).round_ties_even() * scale);
    }
}

/// Multiplies column `k` by `factors[k]`.
fn multiply_columns(weight: &mut Array2<f32>, factors: &[f32]) {
    weight.rows_mut().into_iter().for_each(|row| row.into_iter().zip(factors).for_each(|(w, factor)| *w *= factor));
}

/// `inputs weightᵀ`, `(tokens, out_features)` row-major.
fn product(inputs: &Array2<f32>, weight: ArrayView2<'_, f32>) -> Vec<f32> {
    let (tokens, cols) = inputs.dim();
    let rows = weight.nrows();
    let mut out = vec![0.0f32; tokens * rows];
    let (inputs, weight) = (inputs.as_standard_layout(), weight.as_standard_layout());
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, tokens, rows),
        Accum::Replace,
        MatRef::from_row_major_slice(inputs.as_slice().unwrap_or_default(), tokens, cols),
        MatRef::from_row_major_slice(weight.as_slice().unwrap_or_default(), rows, cols).transpose(),
        1.0,
        Par::Seq,
    );
    out
}

/// Weights, and tokens of correlated inputs of very unequal size, as in a trained network.
#[cfg(test)]
pub(super) fn layer_for_tests(rows: usize, cols: usize, seed: u64) -> (Array2<f32>, Vec<f32>) {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let mut random = StdRng::seed_from_u64(seed);
    let weight = Array2::from_shape_simple_fn((rows, cols), || random.random_range(-1.0f32..1.0).powi(3));
    let sizes: Vec<f32> = (0..cols).map(|_| random.random_range(-2.5f32..2.5).exp()).collect();
    let mut tokens = Vec::new();
    for _ in 0..3 * cols {
        let common = random.random_range(-0.5f32..0.5);
        tokens.extend(sizes.iter().map(|size| size * (common + random.random_range(-1.0f32..1.0))));
    }
    (weight, tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::MagnitudesAccumulator;
    use crate::tensor::Granularity;

    fn scheme(bits: u8, group_size: Option<usize>) -> WeightScheme {
        let granularity = if group_size.is_some() { Granularity::Group } else { Granularity::Channel };
        WeightScheme { bits, granularity, group_size, symmetric: true, observer: Observer::MinMax }
    }

    fn layer(rows: usize, cols: usize, seed: u64) -> (Array2<f32>, Magnitudes) {
        let (weight, tokens) = layer_for_tests(rows, cols, seed);
        let mut accumulator = MagnitudesAccumulator::new(cols);
        accumulator.add(&tokens);
        (weight, accumulator.finish().unwrap())
    }

    fn identity(channels: usize) -> Vec<usize> {
        (0..channels).collect()
    }

    /// AWQ's search written out: every exponent, every output, in f64.
    fn awq_by_definition(weight: &Array2<f32>, magnitudes: &Magnitudes, scheme: WeightScheme) -> Vec<f64> {
        let candidates = (-1..=20).map(|step| -> Vec<f64> {
            if step < 0 {
                return vec![1.0; weight.ncols()];
            }
            let powers = magnitudes.mean.iter().map(|x| x.powf(f64::from(step) / 20.0));
            // As in the authors' code, so that scales in 16 bits are rounded alike.
            let (least, largest) = (powers.clone().fold(f64::MAX, f64::min), powers.clone().fold(0.0, f64::max));
            powers.map(|power| power / (least * largest).sqrt()).collect()
        });
        let loss = |factors: &Vec<f64>| -> f64 {
            let scaled = Array2::from_shape_fn(weight.raw_dim(), |(r, k)| weight[(r, k)] * factors[k] as f32);
            let rounded = Rtn.quantize(scaled.view(), scheme, None).unwrap().tensor.to_f32();
            let error = |r: usize, k: usize| {
                f64::from(weight[(r, k)]) - f64::from(rounded[r * weight.ncols() + k]) / factors[k]
            };
            let errors = Array2::from_shape_fn(weight.raw_dim(), |(r, k)| error(r, k));
            magnitudes.sample.mapv(f64::from).dot(&errors.t()).mapv(|e| e * e).sum()
        };
        candidates.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()
    }

    #[test]
    fn awq_finds_the_factors_of_the_definition() {
        for (seed, bits, group_size) in [(1, 4, Some(16)), (2, 3, Some(32)), (3, 3, None)] {
            let (weight, magnitudes) = layer(24, 64, seed);
            let scheme = scheme(bits, group_size);
            let layer = Consumer { weight: weight.view(), scheme, inputs: InputScheme::None };
            let found = Rescaling::Awq.search(&[layer], &magnitudes, &identity(64)).unwrap();
            let expected = awq_by_definition(&weight, &magnitudes, scheme);
            let differing = found.iter().zip(&expected).filter(|(f, e)| (f64::from(**f) / **e - 1.0).abs() > 1e-4);
            assert_eq!(differing.count(), 0, "{bits} bits: found {found:?}, expected {expected:?}");
            assert!(found.iter().any(|f| (f / found[0] - 1.0).abs() > 0.1), "inputs this unequal are rescaled");
        }
    }

    #[test]
    fn smoothing_follows_its_equation() {
        let weight = ndarray::array![[1.0f32, -0.25], [0.5, 0.125]];
        let magnitudes = Magnitudes { largest: vec![0.25, 16.0], ..Default::default() };
        let layer = Consumer { weight: weight.view(), scheme: scheme(8, None), inputs: InputScheme::None };
        let factors = Rescaling::Smooth(Smooth::Alpha(0.5)).candidates(&[layer], &magnitudes, &[0, 1]);
        // sqrt(0.25 / 1) = 0.5 and sqrt(16 / 0.25) = 8; divided by the middle, 2.
        assert_eq!(factors, [[0.25, 4.0]]);
    }

    #[test]
    fn smoothing_helps_where_inputs_have_outliers_and_never_hurts() {
        let (weight, magnitudes) = layer(48, 64, 4);
        let inputs = InputScheme::DynamicToken;
        let layer = Consumer { weight: weight.view(), scheme: scheme(8, None), inputs };
        let outputs = product(&magnitudes.sample, weight.view());
        let error = |factors: &[f32]| output_error(&layer, &outputs, &magnitudes, factors).unwrap();
        let search = Rescaling::Smooth(Smooth::Search);
        let found = search.search(std::slice::from_ref(&layer), &magnitudes, &identity(64)).unwrap();
        assert!(error(&found) < 0.7 * error(&[1.0; 64]), "{} {}", error(&found), error(&[1.0; 64]));
        for alpha in [0.25, 0.5, 0.75] {
            let fixed = Rescaling::Smooth(Smooth::Alpha(alpha));
            let fixed = fixed.search(std::slice::from_ref(&layer), &magnitudes, &identity(64)).unwrap();
            assert!(error(&found) <= error(&fixed));
        }
    }

    #[test]
    fn inputs_of_one_channel_share_its_factor_and_unseen_ones_keep_theirs_finite() {
        let (weight, mut magnitudes) = layer(16, 32, 6);
        magnitudes.mean[3] = 0.0;
        magnitudes.largest[3] = 0.0;
        let shared: Vec<usize> = (0..32).map(|k| k % 16).collect();
        for how in [Rescaling::Awq, Rescaling::Smooth(Smooth::Search)] {
            let layer = Consumer { weight: weight.view(), scheme: scheme(4, Some(16)), inputs: InputScheme::None };
            let factors = how.search(&[layer], &magnitudes, &shared).unwrap();
            assert_eq!(factors.len(), 16);
            assert!(factors.iter().all(|factor| *factor > 0.0 && factor.is_finite()));
        }
    }
}
