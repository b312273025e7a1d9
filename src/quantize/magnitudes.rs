//! Sizes of a linear layer's inputs and a few of them: what rescaling searches by.

use ndarray::{Array2, ArrayView2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Tokens of the sample.
const SAMPLE_TOKENS: usize = 512;
/// Seed of its draw.
const SAMPLE_SEED: u64 = 1;

/// What is known of the size of a linear layer's inputs over the calibration tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Magnitudes {
    /// Mean of `|x|` of every feature.
    pub mean: Vec<f64>,
    /// Largest `|x|` of every feature.
    pub largest: Vec<f32>,
    /// Some of the tokens, drawn at random: `(drawn, in_features)`.
    pub sample: Array2<f32>,
}

/// Running sums over tokens, and a sample of them.
#[derive(Debug)]
pub struct MagnitudesAccumulator {
    features: usize,
    tokens: usize,
    /// Sum of `|x|`, and the largest.
    sums: Vec<f64>,
    largest: Vec<f32>,
    /// `(at most SAMPLE_TOKENS, features)`.
    sample: Vec<f32>,
    random: StdRng,
}

impl MagnitudesAccumulator {
    /// For inputs of `features` values.
    pub fn new(features: usize) -> Self {
        MagnitudesAccumulator {
            features,
            tokens: 0,
            sums: vec![0.0; features],
            largest: vec![0.0; features],
            sample: Vec::new(),
            random: StdRng::seed_from_u64(SAMPLE_SEED),
        }
    }

    /// Adds inputs, `(tokens, features)` row-major.
    ///
    /// # Panics
    /// When `inputs` is not a whole number of tokens.
    pub fn add(&mut self, inputs: &[f32]) {
        assert!(inputs.len().is_multiple_of(self.features), "inputs are not (tokens, {})", self.features);
        for token in inputs.chunks_exact(self.features) {
            self.sums.iter_mut().zip(token).for_each(|(sum, x)| *sum += f64::from(x.abs()));
            self.largest.iter_mut().zip(token).for_each(|(largest, x)| *largest = largest.max(x.abs()));
            self.draw(token);
            self.tokens += 1;
        }
    }

    /// Keeps every token of the stream with the same probability (reservoir sampling: Vitter 1985, algorithm R).
    fn draw(&mut self, token: &[f32]) {
        if self.tokens < SAMPLE_TOKENS {
            self.sample.extend_from_slice(token);
            return;
        }
        let place = self.random.random_range(0..=self.tokens);
        if place < SAMPLE_TOKENS {
            self.sample[place * self.features..][..self.features].copy_from_slice(token);
        }
    }

    /// The sizes over all tokens, and the sample.
    ///
    /// # Errors
    /// No tokens, or inputs that are NaN or infinite.
    pub fn finish(self) -> Result<Magnitudes, String> {
        if self.tokens == 0 {
            return Err("no calibration tokens were seen".into());
        }
        if self.sums.iter().any(|sum| !sum.is_finite()) {
            return Err(
                "the layer's calibration inputs hold NaN or infinite values; the model overflows on this text".into()
            );
        }
        let drawn = self.tokens.min(SAMPLE_TOKENS);
        let sample =
            ArrayView2::from_shape((drawn, self.features), &self.sample).map_err(|e| e.to_string())?.to_owned();
        let mean = self.sums.iter().map(|sum| sum / self.tokens as f64).collect();
        Ok(Magnitudes { mean, largest: self.largest, sample })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_are_those_of_all_tokens_and_the_sample_is_fair() {
        let (tokens, features) = (6000, 3);
        let mut random = StdRng::seed_from_u64(7);
        let mut x: Vec<f32> = (0..tokens * features).map(|_| random.random_range(-1.0f32..1.0)).collect();
        x.chunks_mut(features).enumerate().for_each(|(token, x)| x[2] = token as f32);
        let mut accumulator = MagnitudesAccumulator::new(features);
        x.chunks(1000 * features).for_each(|x| accumulator.add(x));
        let found = accumulator.finish().unwrap();
        for feature in 0..features {
            let magnitudes = || x.chunks(features).map(|x| x[feature].abs());
            let mean = magnitudes().map(f64::from).sum::<f64>() / tokens as f64;
            assert!((found.mean[feature] / mean - 1.0).abs() < 1e-9);
            assert_eq!(found.largest[feature], magnitudes().fold(0.0, f32::max));
        }
        let mut drawn = found.sample.column(2).to_vec();
        assert!(found.sample.rows().into_iter().all(|row| row.to_vec() == x[row[2] as usize * 3..][..3]));
        drawn.sort_by(f32::total_cmp);
        drawn.dedup();
        assert_eq!(drawn.len(), SAMPLE_TOKENS, "no token twice");
        // Of uniform draws the mean is within four standard errors of the middle: 6000 / sqrt(12 * 512).
        assert!((drawn.iter().sum::<f32>() / SAMPLE_TOKENS as f32 - 3000.0).abs() < 4.0 * 76.5);
    }

    #[test]
    fn nothing_and_no_numbers_are_refused() {
        assert!(MagnitudesAccumulator::new(4).finish().is_err());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut accumulator = MagnitudesAccumulator::new(2);
            accumulator.add(&[bad, 1.0]);
            assert!(accumulator.finish().unwrap_err().contains("overflow"));
        }
    }
}
