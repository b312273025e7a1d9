//! Calibration statistics of a linear layer's input, gathered as the tokens stream by, in memory that does not grow.
//!
//! Products of features are taken on the kernels of bfloat16, inputs rounded half to even: the error of a product is at
//! most 2^-8 of it and of either sign, which over thousands of tokens leaves less than the choice of the tokens does.

use ndarray::Array2;
use rayon::prelude::*;

use super::InputStatistics;
use crate::kernels::{Activations, Matrix, Pool};
use crate::tensor::DenseFormat;

/// Most tokens whose products are summed in f32 before they are added to the f64 sum.
const TILE_TOKENS: usize = 4096;
/// Most values of such a tile, for inputs of very many features.
const TILE_VALUES: usize = 1 << 23;
/// Features whose products with each other are taken at once.
const BAND: usize = 96;
/// Tokens that are turned from rows into columns at once: few enough for the first cache level, enough for each column's
/// place in memory to be worth going to.
const LINE: usize = 128;

/// Running sums over tokens.
#[derive(Debug)]
pub struct StatisticsAccumulator {
    features: usize,
    tokens: usize,
    /// Sums of products of feature `i` with the features `j` of its band and those before, `(features, features)`.
    products: Array2<f64>,
    /// Sums of products of how far feature `i` has drifted with feature `j` of the inputs, of all pairs.
    drift: Option<Array2<f64>>,
}

/// Some features of a tile of tokens.
struct Band {
    features: usize,
    /// `(features, tokens)`.
    values: Activations,
}

impl StatisticsAccumulator {
    /// For inputs of `features` values.
    pub fn new(features: usize) -> Self {
        StatisticsAccumulator { features, tokens: 0, products: Array2::zeros((features, features)), drift: None }
    }

    /// As [`StatisticsAccumulator::new`], for inputs that are added with what they are in the unquantized network.
    pub fn with_drift(features: usize) -> Self {
        let drift = Some(Array2::zeros((features, features)));
        StatisticsAccumulator { drift, ..StatisticsAccumulator::new(features) }
    }

    /// Tokens that are best added at once.
    pub fn tile_tokens(&self) -> usize {
        TILE_TOKENS.min(TILE_VALUES / self.features.max(1)).max(1)
    }

    /// Adds inputs, `(tokens, features)` row-major. The same calls give the same bits.
    ///
    /// # Panics
    /// When `inputs` is not a whole number of tokens, or those of the unquantized network are expected, too.
    pub fn add(&mut self, inputs: &[f32]) {
        inputs.chunks(self.tile_tokens() * self.features).for_each(|tile| self.add_tile(&[tile], &[]));
    }

    /// Adds inputs that lie in several parts, each `(tokens, features)` row-major: products of all of them are summed in
    /// f32, the sums in f64. `unquantized` are the same inputs in the unquantized network, where they are expected. Works on
    /// the threads of the rayon pool that it runs in.
    ///
    /// # Panics
    /// When a part is not a whole number of tokens, or `unquantized` is of another size or not expected.
    pub fn add_tile(&mut self, inputs: &[&[f32]], unquantized: &[&[f32]]) {
        let features = self.features;
        assert!(inputs.iter().all(|part| part.len().is_multiple_of(features)), "inputs are not (tokens, {features})");
        let bands = |parts: &[&[f32]]| -> Vec<Band> {
            let starts: Vec<usize> = (0..features).step_by(BAND).collect();
            starts.par_iter().map(|&start| Band::new(parts, features, start)).collect()
        };
        let mut of_inputs = bands(inputs);
        let packed: Vec<Matrix> = of_inputs.par_iter().map(Band::packed).collect();
        add_products(&mut self.products, &mut of_inputs, |band| &packed[..=band]);
        assert_eq!(unquantized.len(), if self.drift.is_some() { inputs.len() } else { 0 }, "inputs come with others");
        if let Some(drift) = &mut self.drift {
            let pairs = unquantized.par_iter().zip(inputs);
            let difference = |(was, is): (&&[f32], &&[f32])| -> Vec<f32> {
                assert_eq!(was.len(), is.len(), "inputs come with as many others");
                was.iter().zip(*is).map(|(was, is)| was - is).collect()
            };
            let differences: Vec<Vec<f32>> = pairs.map(difference).collect();
            let parts: Vec<&[f32]> = differences.iter().map(Vec::as_slice).collect();
            add_products(drift, &mut bands(&parts), |_| &packed);
        }
        self.tokens += inputs.iter().map(|part| part.len()).sum::<usize>() / features;
    }

    /// The means over all tokens.
    ///
    /// # Errors
    /// No tokens, or inputs that overflow.
    pub fn finish(self) -> Result<InputStatistics, String> {
        if self.tokens == 0 {
            return Err("no calibration tokens were seen".into());
        }
        let (features, sums) = (self.features, self.products);
        if sums.iter().any(|sum| !sum.is_finite()) {
            return Err("the layer's calibration inputs hold NaN, or overflow when squared".into());
        }
        let mut hessian = Array2::zeros((features, features));
        let rows = hessian.as_slice_mut().unwrap_or_default().par_chunks_mut(features.max(1));
        rows.enumerate().for_each(|(i, row)| {
            let mean = |j: usize| sums[(i.max(j), i.min(j))] / self.tokens as f64;
            row.iter_mut().enumerate().for_each(|(j, value)| *value = mean(j));
        });
        let drift = self.drift.map(|drift| drift / self.tokens as f64);
        Ok(InputStatistics { drift, ..InputStatistics::new(hessian, self.tokens) })
    }
}

/// Adds the products of every band of features with those that `others` names for it.
fn add_products<'o>(sums: &mut Array2<f64>, bands: &mut [Band], others: impl Fn(usize) -> &'o [Matrix] + Sync) {
    let features = sums.ncols();
    let sums = sums.as_slice_mut().unwrap_or_default().par_chunks_mut(BAND * features);
    sums.zip(bands).enumerate().for_each(|(at, (sums, band))| {
        let (pool, mut product) = (Pool::new(1), vec![0.0f32; BAND * BAND]);
        for (other, weights) in others(at).iter().enumerate() {
            let product = &mut product[..band.features * weights.rows()];
            weights.multiply(&pool, &mut band.values, product);
            for (sums, product) in sums.chunks_exact_mut(features).zip(product.chunks_exact(weights.rows())) {
                let sums = sums[other * BAND..].iter_mut();
                sums.zip(product).for_each(|(sum, &product)| *sum += f64::from(product));
            }
        }
    });
}

impl Band {
    /// The features from `start` on of the rows of `parts`, `(tokens, features)` row-major.
    fn new(parts: &[&[f32]], features: usize, start: usize) -> Band {
        let tokens = parts.iter().map(|part| part.len()).sum::<usize>() / features;
        let (width, mut done) = (BAND.min(features - start), 0);
        let mut values = Activations::default();
        let columns = values.write(width, tokens);
        let mut lines = [[0.0; LINE]; BAND];
        for rows in parts.iter().flat_map(|part| part.chunks(LINE * features)) {
            let count = rows.len() / features;
            for (token, row) in rows.chunks_exact(features).enumerate() {
                lines.iter_mut().zip(&row[start..start + width]).for_each(|(line, &value)| line[token] = value);
            }
            for (column, line) in columns.chunks_exact_mut(tokens).zip(&lines) {
                column[done..done + count].copy_from_slice(&line[..count]);
            }
            done += count;
        }
        Band { features: width, values }
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
    fn drift_is_the_mean_of_its_products_with_the_inputs() {
        let (tokens, features) = (300, 130);
        let (x, was) = (inputs(tokens, features), inputs(2 * tokens, features)[tokens * features..].to_vec());
        let mut accumulator = StatisticsAccumulator::with_drift(features);
        let cut = 100 * features;
        accumulator.add_tile(&[&x[..cut], &x[cut..2 * cut]], &[&was[..cut], &was[cut..2 * cut]]);
        accumulator.add_tile(&[&x[2 * cut..]], &[&was[2 * cut..]]);
        let found = accumulator.finish().unwrap();
        let drift = found.drift.unwrap();
        for (i, j) in [(0, 0), (3, 129), (129, 3), (97, 96)] {
            let pairs = x.chunks(features).zip(was.chunks(features));
            let exact: f64 = pairs.map(|(x, was)| f64::from(was[i] - x[i]) * f64::from(x[j])).sum();
            // Differences take one bit more than bfloat16 holds.
            assert!((drift[(i, j)] - exact / tokens as f64).abs() < 1e-3, "({i}, {j})");
        }
    }

    #[test]
    fn the_number_of_threads_and_of_parts_changes_no_bit() {
        let x = inputs(5000, 48);
        let gather = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut accumulator = StatisticsAccumulator::new(48);
                let parts: Vec<&[f32]> = x.chunks(48 * 1001 * threads).collect();
                accumulator.add_tile(&parts, &[]);
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
