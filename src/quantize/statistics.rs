//! Calibration statistics of a linear layer's input, gathered as the tokens stream by.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ndarray::Array2;
use rayon::prelude::*;

use super::InputStatistics;

/// Tokens whose products are summed in f32 before they are added to the f64 sum.
const TILE_TOKENS: usize = 4096;
/// Edge of a square of the matrix that one task computes; fixed, so that the sums do not depend on the threads.
const SQUARE: usize = 96;

/// Running sum of `x xᵀ` over tokens.
#[derive(Debug, Clone)]
pub struct StatisticsAccumulator {
    features: usize,
    tokens: usize,
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
        StatisticsAccumulator { features, tokens: 0, squares }
    }

    /// Adds inputs, `(tokens, features)` row-major: products and sums of up to 4096 tokens in f32, those in f64.
    ///
    /// # Panics
    /// When `inputs` is not a whole number of tokens.
    pub fn add(&mut self, inputs: &[f32]) {
        assert!(inputs.len().is_multiple_of(self.features), "inputs are not (tokens, {})", self.features);
        for tile in inputs.chunks(TILE_TOKENS * self.features) {
            let tokens = tile.len() / self.features;
            let tile = MatRef::from_row_major_slice(tile, tokens, self.features);
            self.squares.par_iter_mut().for_each(|square| square.add(tile));
            self.tokens += tokens;
        }
    }

    /// The mean over all tokens.
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
        Ok(InputStatistics { hessian, tokens: self.tokens })
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
