//! Calibration statistics of a linear layer's input, gathered as the tokens stream by, in memory that does not grow.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ndarray::{Array2, ArrayView2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::InputStatistics;

/// Tokens of the sample.
const SAMPLE_TOKENS: usize = 512;
/// Seed of its draw.
const SAMPLE_SEED: u64 = 1;

/// Tokens whose products are summed in f32 before they are added to the f64 sum.
const TILE_TOKENS: usize = 4096;
/// Edge of a square of the matrix that one task computes; fixed, so that the sums do not depend on the threads.
const SQUARE: usize = 96;

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
    /// The squares on and below the diagonal, row of squares by row.
    squares: Vec<Square>,
}

#[derive(Debug, Clone)]
struct Square {
    row: usize,
    col: usize,
    sum: Mat<f64>,
}

impl StatisticsAccumulator {
    /// For inputs of `features` values.
    pub fn new(features: usize) -> Self {
        let edge = |start: usize| SQUARE.min(features - start);
        let squares = (0..features)
            .step_by(SQUARE)
            .flat_map(|row| (0..=row).step_by(SQUARE).map(move |col| (row, col)))
            .map(|(row, col)| Square { row, col, sum: Mat::zeros(edge(row), edge(col)) })
            .collect();
        StatisticsAccumulator {
            features,
            tokens: 0,
            magnitude: vec![0.0; features],
            largest: vec![0.0; features],
            sample: Vec::new(),
            random: StdRng::seed_from_u64(SAMPLE_SEED),
            squares,
        }
    }

    /// Adds inputs, `(tokens, features)` row-major: products and sums of up to 4096 tokens in f32, those in f64.
    ///
    /// # Panics
    /// When `inputs` is not a whole number of tokens.
    pub fn add(&mut self, inputs: &[f32]) {
        assert!(inputs.len().is_multiple_of(self.features), "inputs are not (tokens, {})", self.features);
        for tile in inputs.chunks(TILE_TOKENS * self.features) {
            let tokens = tile.len() / self.features;
            self.add_magnitudes(tile);
            self.draw(tile);
            let tile = MatRef::from_row_major_slice(tile, tokens, self.features);
            self.squares.par_iter_mut().for_each(|square| square.add(tile));
            self.tokens += tokens;
        }
    }

    fn add_magnitudes(&mut self, tile: &[f32]) {
        let mut sum = vec![0.0f32; self.features];
        for token in tile.chunks_exact(self.features) {
            for ((sum, largest), &x) in sum.iter_mut().zip(&mut self.largest).zip(token) {
                *sum += x.abs();
                *largest = largest.max(x.abs());
            }
        }
        self.magnitude.iter_mut().zip(&sum).for_each(|(total, &sum)| *total += f64::from(sum));
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
        let mut hessian = Array2::zeros((self.features, self.features));
        for Square { row, col, sum } in &self.squares {
            for (i, j) in (0..sum.nrows()).flat_map(|i| (0..sum.ncols()).map(move |j| (i, j))) {
                let mean = sum[(i, j)] / self.tokens as f64;
                if !mean.is_finite() {
                    return Err("the layer's calibration inputs hold NaN, or overflow when squared".into());
                }
                hessian[(row + i, col + j)] = mean;
                hessian[(col + j, row + i)] = mean;
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

impl Square {
    fn add(&mut self, tile: MatRef<'_, f32>) {
        let (rows, cols) = (self.sum.nrows(), self.sum.ncols());
        let left = tile.subcols(self.row, rows).transpose();
        let mut product = Mat::<f32>::zeros(rows, cols);
        matmul(product.as_mut(), Accum::Replace, left, tile.subcols(self.col, cols), 1.0, Par::Seq);
        for col in 0..cols {
            let sum = self.sum.col_as_slice_mut(col);
            sum.iter_mut().zip(product.col_as_slice(col)).for_each(|(sum, &p)| *sum += f64::from(p));
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn inputs(tokens: usize, features: usize) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(7);
        (0..tokens * features).map(|_| random.random_range(-1.0..1.0)).collect()
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
