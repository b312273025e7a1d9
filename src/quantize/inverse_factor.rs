//! The upper triangular `U` with `(H + damping)⁻¹ = Uᵀ U`, which GPTQ reads its error feedback from.
//!
//! With the order of the columns reversed, `J H J = L Lᵀ` gives `H = (J L J)(J L J)ᵀ` with `J L J` upper triangular,
//! hence `U = (J L J)⁻¹ = J L⁻¹ J`: one Cholesky factorization and one triangular inverse in f64, and the inverse of H
//! is never formed (GPTQ's own code forms it and factors it again).

use ndarray::Array2;

use super::cholesky::inverse_of_factor;

/// Damping on the diagonal as shares of its mean, tried in this order.
const DAMPING: [f64; 3] = [0.01, 0.1, 1.0];

/// `U` for the columns of `hessian` in the given order, `(n, n)` row-major in f32, zero below the diagonal.
///
/// A Hessian of zeros (the layer's input was always 0) gives the identity: no feedback.
///
/// # Errors
/// A Hessian that is not positive definite even with its diagonal raised by its mean: it is no mean of `x xᵀ`.
pub(super) fn inverse_factor(hessian: &Array2<f64>, order: &[usize]) -> Result<Array2<f32>, String> {
    let n = order.len();
    let mean = hessian.diag().sum() / n as f64;
    if mean == 0.0 {
        return Ok(Array2::eye(n));
    }
    let reversed = |i: usize| order[n - 1 - i];
    for damping in DAMPING {
        let damped = |i, j| hessian[(reversed(i), reversed(j))] + if i == j { damping * mean } else { 0.0 };
        let Some(inverse) = inverse_of_factor(n, &damped) else { continue };
        let mut upper = Array2::zeros((n, n));
        inverse.for_each(|i, j, value| upper[(n - 1 - i, n - 1 - j)] = value as f32);
        if upper.iter().all(|value: &f32| value.is_finite()) {
            return Ok(upper);
        }
    }
    Err("the calibration statistics are not positive definite, even when damped by their mean".into())
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_factor_reproduces_the_inverse() {
        let hessian = array![[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]];
        let order = [2, 0, 1];
        let upper = inverse_factor(&hessian, &order).unwrap().mapv(f64::from);
        let damped =
            Array2::from_shape_fn((3, 3), |(i, j)| hessian[(order[i], order[j])] + if i == j { 0.03 } else { 0.0 });
        let product = upper.t().dot(&upper).dot(&damped);
        assert!((product - Array2::<f64>::eye(3)).iter().all(|v| v.abs() < 1e-6));
        assert_eq!(upper[(1, 0)], 0.0);
    }

    #[test]
    fn singular_statistics_are_damped_and_impossible_ones_refused() {
        let rank_one = Array2::from_elem((4, 4), 1.0);
        assert!(inverse_factor(&rank_one, &[0, 1, 2, 3]).is_ok());
        assert_eq!(inverse_factor(&Array2::zeros((2, 2)), &[0, 1]).unwrap(), Array2::<f32>::eye(2));
        // Eigenvalues 21 and -19: more negative than the damping of once the mean (1) can mend.
        let indefinite = array![[1.0, 20.0], [20.0, 1.0]];
        assert!(inverse_factor(&indefinite, &[0, 1]).unwrap_err().contains("not positive definite"));
        // Eigenvalues 2.05 and -0.05: mended by the second damping.
        assert!(inverse_factor(&array![[1.0, 1.05], [1.05, 1.0]], &[0, 1]).is_ok());
    }
}
