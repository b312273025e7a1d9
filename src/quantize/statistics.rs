//! Calibration statistics of a linear layer's input, gathered as the tokens stream by, in memory that does not grow.
//!
//! Products of features are taken on the kernels of bfloat16, inputs rounded half to even: the error of a product is at
//! most 2^-8 of it and of either sign, which over thousands of tokens leaves less than the choice of the tokens does.

use ndarray::{Array2, ArrayView2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::InputStatistics;
use crate::kernels::{Activations, Matrix, Pool};
use crate::tensor::DenseFormat;

/// Tokens of the sample.
const SAMPLE_TOKENS: usize = 512;
/// Seed of its draw.
const SAMPLE_SEED: u64 = 1;

/// Tokens whose products are summed in f32 before they are added to the f64 sum.
const TILE_TOKENS: usize = 4096;
/// Features whose products with each other are taken at once.
const BAND: usize = 96;
/// Tokens that are turned from rows into columns at once: a cache line of them.
const LINE: usize = 16;

/// Running sums over tokens, and a sample of them.
#[derive(Debug)]
pub struct StatisticsAccumulator {
    features: usize,
    tokens: usize,
    /// Sum of `|x|`, and the largest.
    magnitude: Vec<f64>,
    largest: Vec<f32>,
    /// `(at most SAMPLE_TOKENS, features)`.
    sample: Vec<f32>,
    random: StdRng,
    /// Sums of products of feature `i` with the features `j` of its band and those before, `(features, features)`.
    products: Array2<f64>,
}

/// Some features of a tile of tokens.
struct Band {
    /// First feature.
    start: usize,
    features: usize,
    /// `(features, tokens)`.
    values: Activations,
    /// Sum of `|x|` of every feature, and the largest.
    magnitude: Vec<f32>,
    largest: Vec<f32>,
}

impl StatisticsAccumulator {
    /// For inputs of `features` values.
    pub fn new(features: usize) -> Self {
        StatisticsAccumulator {
            features,
            tokens: 0,
            magnitude: vec![0.0; features],
            largest: vec![0.0; features],
            sample: Vec::new(),
            random: StdRng::seed_from_u64(SAMPLE_SEED),
            products: Array2::zeros((features, features)),
        }
    }

    /// Adds inputs, `(tokens, features)` row-major: products and sums of up to 4096 tokens in f32, those in f64. Works on
    /// the threads of the rayon pool that it runs in.
    ///
    /// # Panics
    /// When `inputs` is not a whole number of tokens.
    pub fn add(&mut self, inputs: &[f32]) {
        assert!(inputs.len().is_multiple_of(self.features), "inputs are not (tokens, {})", self.features);
        for tile in inputs.chunks(TILE_TOKENS * self.features) {
            self.draw(tile);
            let starts: Vec<usize> = (0..self.features).step_by(BAND).collect();
            let mut bands: Vec<Band> = starts.par_iter().map(|&start| Band::new(tile, self.features, start)).collect();
            for band in &bands {
                let of_band = band.start..band.start + band.features;
                let sums = self.magnitude[of_band.clone()].iter_mut().zip(&band.magnitude);
                sums.for_each(|(total, &sum)| *total += f64::from(sum));
                let largest = self.largest[of_band].iter_mut().zip(&band.largest);
                largest.for_each(|(total, &largest)| *total = total.max(largest));
            }
            self.add_products(&mut bands);
            self.tokens += tile.len() / self.features;
        }
    }

    /// Adds the products of all pairs of bands, each pair once.
    fn add_products(&mut self, bands: &mut [Band]) {
        let features = self.features;
        let packed: Vec<Matrix> = bands.par_iter().map(Band::packed).collect();
        let sums = self.products.as_slice_mut().unwrap_or_default().par_chunks_mut(BAND * features);
        sums.zip(bands).enumerate().for_each(|(at, (sums, band))| {
            let (pool, mut product) = (Pool::new(1), vec![0.0f32; BAND * BAND]);
            for (earlier, weights) in packed.iter().take(at + 1).enumerate() {
                let product = &mut product[..band.features * weights.rows()];
                weights.multiply(&pool, &mut band.values, product);
                for (sums, product) in sums.chunks_exact_mut(features).zip(product.chunks_exact(weights.rows())) {
                    let sums = sums[earlier * BAND..].iter_mut();
                    sums.zip(product).for_each(|(sum, &product)| *sum += f64::from(product));
                }
            }
        });
    }

    /// Keeps every token of the stream with the same probability (reservoir sampling: Vitter 1985, algorithm R).
    fn draw(&mut self, tile: &[f32]) {
        for (at, token) in (self.tokens..).zip(tile.chunks_exact(self.features)) {
            if at < SAMPLE_TOKENS {
                self.sample.extend_from_slice(token);
                continue;
            }
            let place = self.random.random_range(0..=at);
            if place < SAMPLE_TOKENS {
                self.sample[place * self.features..][..self.features].copy_from_slice(token);
            }
        }
    }

    /// The means over all tokens, and the sample.
    ///
    /// # Errors
    /// No tokens, or inputs that overflow.
    pub fn finish(self) -> Result<InputStatistics, String> {
        if self.tokens == 0 {
            return Err("no calibration tokens were seen".into());
        }
        let mut hessian = self.products;
        if hessian.iter().any(|sum| !sum.is_finite()) {
            return Err("the layer's calibration inputs hold NaN, or overflow when squared".into());
        }
        for i in 0..self.features {
            for j in 0..=i {
                hessian[(i, j)] /= self.tokens as f64;
                hessian[(j, i)] = hessian[(i, j)];
            }
        }
        let drawn = self.tokens.min(SAMPLE_TOKENS);
        let sample =
            ArrayView2::from_shape((drawn, self.features), &self.sample).map_err(|e| e.to_string())?.to_owned();
        Ok(InputStatistics {
            hessian,
            mean_magnitude: self.magnitude.iter().map(|sum| sum / self.tokens as f64).collect(),
            largest_magnitude: self.largest,
            sample,
            tokens: self.tokens,
        })
    }
}

impl Band {
    /// The features from `start` on of `tile`, `(tokens, features)` row-major.
    fn new(tile: &[f32], features: usize, start: usize) -> Band {
        let (tokens, width) = (tile.len() / features, BAND.min(features - start));
        let (mut magnitude, mut largest) = (vec![0.0f32; width], vec![0.0f32; width]);
        let mut values = Activations::default();
        let columns = values.write(width, tokens);
        for (line, rows) in tile.chunks(LINE * features).enumerate() {
            for row in rows.chunks_exact(features) {
                for ((sum, largest), x) in magnitude.iter_mut().zip(&mut largest).zip(&row[start..]) {
                    *sum += x.abs();
                    *largest = largest.max(x.abs());
                }
            }
            for (feature, column) in columns.chunks_exact_mut(tokens).enumerate() {
                let column = column[line * LINE..].iter_mut();
                column.zip(rows.chunks_exact(features)).for_each(|(to, row)| *to = row[start + feature]);
            }
        }
        Band { start, features: width, values, magnitude, largest }
    }

    /// The features as rows of a weight matrix.
    fn packed(&self) -> Matrix {
        let (values, tokens) = (self.values.values(), self.values.features());
        let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * tokens..][..tokens]);
        Matrix::from_rows(DenseFormat::Bf16, self.features, tokens, &row)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Numbers that bfloat16 holds.
    fn inputs(tokens: usize, features: usize) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(7);
        (0..tokens * features).map(|_| random.random_range(-128i8..=127) as f32 / 128.0).collect()
    }

    #[test]
    fn the_mean_of_outer_products() {
        let (tokens, features) = (37, 200);
        let x = inputs(tokens, features);
        let mut accumulator = StatisticsAccumulator::new(features);
        accumulator.add(&x[..10 * features]);
        accumulator.add(&x[10 * features..]);
        let statistics = accumulator.finish().unwrap();
        assert_eq!(statistics.tokens, tokens);
        for (i, j) in [(0, 0), (3, 199), (199, 3), (191, 192), (150, 20)] {
            let exact: f64 = x.chunks(features).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>() / tokens as f64;
            assert!((statistics.hessian[(i, j)] - exact).abs() < 1e-6);
        }
    }

    #[test]
    fn magnitudes_are_those_of_all_tokens_and_the_sample_is_fair() {
        let (tokens, features) = (6000, 3);
        let mut x = inputs(tokens, features);
        x.chunks_mut(features).enumerate().for_each(|(token, x)| x[2] = token as f32);
        let mut accumulator = StatisticsAccumulator::new(features);
        x.chunks(1000 * features).for_each(|x| accumulator.add(x));
        let statistics = accumulator.finish().unwrap();
        for feature in 0..features {
            let magnitudes = || x.chunks(features).map(|x| x[feature].abs());
            let mean = magnitudes().map(f64::from).sum::<f64>() / tokens as f64;
            assert!((statistics.mean_magnitude[feature] / mean - 1.0).abs() < 1e-5);
            assert_eq!(statistics.largest_magnitude[feature], magnitudes().fold(0.0, f32::max));
        }
        let mut drawn = statistics.sample.column(2).to_vec();
        assert!(statistics.sample.rows().into_iter().all(|row| row.to_vec() == x[row[2] as usize * 3..][..3]));
        drawn.sort_by(f32::total_cmp);
        drawn.dedup();
        assert_eq!(drawn.len(), SAMPLE_TOKENS, "no token twice");
        // Of uniform draws the mean is within four standard errors of the middle: 6000 / sqrt(12 * 512).
        assert!((drawn.iter().sum::<f32>() / SAMPLE_TOKENS as f32 - 3000.0).abs() < 4.0 * 76.5);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let x = inputs(5000, 48);
        let gather = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut accumulator = StatisticsAccumulator::new(48);
                accumulator.add(&x);
                accumulator.finish().unwrap()
            })
        };
        assert_eq!(gather(1), gather(3));
    }

    #[test]
    fn nothing_and_overflow_are_refused() {
        assert!(StatisticsAccumulator::new(4).finish().is_err());
        let mut accumulator = StatisticsAccumulator::new(2);
        accumulator.add(&[1e30, 1.0]);
        assert!(accumulator.finish().unwrap_err().contains("overflow"));
    }
}
