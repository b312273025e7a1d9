//! The inverse of the Cholesky factor of a large matrix, by tiles, on all threads of the rayon pool that it runs in.
//!
//! Factor: the right-looking blocked algorithm (Golub and Van Loan, Matrix Computations, 4th edition, 4.2.9). Inverse: every
//! column of tiles by forward substitution, `X_jj = L_jj⁻¹`, `X_ij = -L_ii⁻¹ Σ L_ik X_kj`. A tile's products are summed in a
//! fixed order, so that the numbers do not depend on the number of threads.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, Par, Side};
use rayon::prelude::*;

/// Rows and columns of a tile.
const TILE: usize = 128;

/// A lower triangular matrix: tile `(i, j)` with `j <= i` at `rows[i][j]`.
pub(super) struct LowerTiles {
    rows: Vec<Vec<Mat<f64>>>,
}

/// `L⁻¹` of `A = L Lᵀ`, `(n, n)`, of which `entry(i, j)` tells the lower triangle; `None` where A is not positive definite.
pub(super) fn inverse_of_factor(n: usize, entry: &(dyn Fn(usize, usize) -> f64 + Sync)) -> Option<LowerTiles> {
    let (tiles, size) = (n.div_ceil(TILE), |tile: usize| TILE.min(n - tile * TILE));
    // Tiles on the diagonal whole: what stands above the diagonal is A's own, as A is symmetric.
    let tile = |i: usize, j: usize| Mat::from_fn(size(i), size(j), |r, c| entry(i * TILE + r, j * TILE + c));
    let mut rows: Vec<Vec<Mat<f64>>> =
        (0..tiles).into_par_iter().map(|i| (0..=i).map(|j| tile(i, j)).collect()).collect();
    let mut diagonal_inverses: Vec<Mat<f64>> = Vec::with_capacity(tiles);
    for k in 0..tiles {
        let inverse = inverse_of_small_factor(&rows[k][k])?;
        let panel: Vec<Mat<f64>> =
            rows[k + 1..].par_iter().map(|row| product(&row[k], inverse.transpose().to_owned())).collect();
        rows[k + 1..].par_iter_mut().zip(&panel).enumerate().for_each(|(below, (row, left))| {
            for (right, tile) in panel[..=below].iter().zip(&mut row[k + 1..]) {
                matmul(tile.as_mut(), Accum::Add, left.as_ref(), right.transpose(), -1.0, Par::Seq);
            }
        });
        rows[k + 1..].iter_mut().zip(panel).for_each(|(row, tile)| row[k] = tile);
        diagonal_inverses.push(inverse);
    }
    let column = |j: usize| -> Vec<Mat<f64>> {
        let mut column = vec![diagonal_inverses[j].clone()];
        for i in j + 1..tiles {
            let mut sum = Mat::zeros(size(i), size(j));
            for (factor, found) in rows[i][j..i].iter().zip(&column) {
                matmul(sum.as_mut(), Accum::Add, factor.as_ref(), found.as_ref(), -1.0, Par::Seq);
            }
            column.push(product(&diagonal_inverses[i], sum));
        }
        column
    };
    let columns: Vec<Vec<Mat<f64>>> = (0..tiles).into_par_iter().map(column).collect();
    let mut rows: Vec<Vec<Mat<f64>>> = vec![Vec::new(); tiles];
    for (j, column) in columns.into_iter().enumerate() {
        column.into_iter().zip(&mut rows[j..]).for_each(|(tile, row)| row.push(tile));
    }
    Some(LowerTiles { rows })
}

/// `L⁻¹` of one tile.
fn inverse_of_small_factor(tile: &Mat<f64>) -> Option<Mat<f64>> {
    let factor = tile.llt(Side::Lower).ok()?;
    let mut inverse = Mat::zeros(tile.nrows(), tile.ncols());
    invert_lower_triangular(inverse.as_mut(), factor.L(), Par::Seq);
    Some(inverse)
}

fn product(left: &Mat<f64>, right: Mat<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(left.nrows(), right.ncols());
    matmul(out.as_mut(), Accum::Replace, left.as_ref(), right.as_ref(), 1.0, Par::Seq);
    out
}

impl LowerTiles {
    /// Shows `see(row, column, value)` all entries of the lower triangle.
    pub(super) fn for_each(&self, mut see: impl FnMut(usize, usize, f64)) {
        for (i, row) in self.rows.iter().enumerate() {
            for (j, tile) in row.iter().enumerate() {
                for c in 0..tile.ncols() {
                    let first = if i == j { c } else { 0 };
                    (first..tile.nrows()).for_each(|r| see(i * TILE + r, j * TILE + c, tile[(r, c)]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_inverse_times_the_matrix_times_its_transpose_is_the_identity() {
        for n in [1, 5, TILE, TILE + 1, 3 * TILE - 7] {
            let mut random = StdRng::seed_from_u64(n as u64);
            let root = Mat::from_fn(n, n, |i, j| random.random_range(-1.0..1.0) + if i == j { 2.0 } else { 0.0 });
            let matrix = &root * root.transpose();
            let inverse = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let tiles = pool.install(|| inverse_of_factor(n, &|i, j| matrix[(i, j)]).unwrap());
                let mut found = Mat::zeros(n, n);
                tiles.for_each(|i, j, value| found[(i, j)] = value);
                found
            };
            let found = inverse(1);
            assert!((0..n).all(|i| (i + 1..n).all(|j| found[(i, j)] == 0.0)), "lower triangular");
            let identity = &found * &matrix * found.transpose();
            let off = |i: usize, j: usize| (identity[(i, j)] - f64::from(u8::from(i == j))).abs();
            assert!((0..n).all(|i| (0..n).all(|j| off(i, j) < 1e-7)), "{n} rows");
            assert_eq!(inverse(3), found, "the number of threads changes no bit");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        let entry = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
        assert!(inverse_of_factor(200, &entry).is_some());
        assert!(inverse_of_factor(200, &|i, j| if (i, j) == (150, 150) { -1.0 } else { entry(i, j) }).is_none());
    }
}
