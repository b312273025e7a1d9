//! What GPTQ knows of a layer's inputs: the order of the columns and the factor of the inverse of H, shared by all layers
//! that read them, and the weights that asymmetric calibration aims at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::Array2;
use rayon::prelude::*;

use super::inverse_factor::inverse_factor;
use super::{InputStatistics, SLAB_ROWS};

/// The order of columns and what it needs of H, shared by all layers with the same inputs and group size.
#[derive(Debug)]
pub(super) struct Feedback {
    /// Position to original column.
    pub order: Vec<usize>,
    /// `U` of [`inverse_factor`] in that order.
    pub upper: Array2<f32>,
}

/// Feedback by group size.
#[derive(Debug, Default)]
pub(super) struct Prepared(Mutex<BTreeMap<usize, Arc<Feedback>>>);

/// What was prepared follows from the statistics: a copy begins without.
impl Clone for Prepared {
    fn clone(&self) -> Self {
        Prepared::default()
    }
}

impl PartialEq for Prepared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl InputStatistics {
    /// Makes the feedback of a group size once and for all.
    pub(super) fn prepare_feedback(&self, group_size: usize) -> Result<(), String> {
        let feedback = self.feedback(group_size)?;
        self.prepared.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group_size, feedback);
        Ok(())
    }

    /// The feedback of a group size, prepared or made now.
    pub(super) fn feedback(&self, group_size: usize) -> Result<Arc<Feedback>, String> {
        let prepared = self.prepared.0.lock().unwrap_or_else(PoisonError::into_inner).get(&group_size).cloned();
        prepared.map_or_else(|| Feedback::new(self, group_size).map(Arc::new), Ok)
    }
}

impl Feedback {
    fn new(statistics: &InputStatistics, group_size: usize) -> Result<Self, String> {
        let order = column_order(&statistics.hessian, group_size);
        Ok(Feedback { upper: inverse_factor(&statistics.hessian, &order)?, order })
    }

    pub(super) fn upper(&self) -> MatRef<'_, f32> {
        let cols = self.order.len();
        MatRef::from_row_major_slice(self.upper.as_slice().unwrap_or_default(), cols, cols)
    }

    /// `W + W D H⁻¹` for `values` (rows, cols) and `drift` D; `H⁻¹ = Uᵀ U` in the order of the columns.
    pub(super) fn target(&self, values: &[f32], drift: &Array2<f64>) -> Vec<f32> {
        let cols = self.order.len();
        // Columns of D in the order, so that products with U need no other one.
        let drift: Vec<f32> =
            drift.rows().into_iter().flat_map(|row| self.order.iter().map(move |&col| row[col] as f32)).collect();
        let drift = MatRef::from_row_major_slice(&drift, cols, cols);
        let of_slab = |(target, values): (&mut [f32], &[f32])| {
            let rows = values.len() / cols;
            let multiply = |from: &[f32], factor| {
                let mut product = vec![0.0f32; from.len()];
                let to = MatMut::from_row_major_slice_mut(&mut product, rows, cols);
                matmul(to, Accum::Replace, MatRef::from_row_major_slice(from, rows, cols), factor, 1.0, Par::Seq);
                product
            };
            let change = multiply(&multiply(&multiply(values, drift), self.upper().transpose()), self.upper());
            target.copy_from_slice(values);
            for (target, change) in target.chunks_exact_mut(cols).zip(change.chunks_exact(cols)) {
                self.order.iter().zip(change).for_each(|(&col, change)| target[col] += change);
            }
        };
        let mut target = vec![0.0; values.len()];
        let slabs = target.par_chunks_mut(SLAB_ROWS * cols).zip(values.par_chunks(SLAB_ROWS * cols));
        slabs.for_each(of_slab);
        target
    }
}

/// Position to column: inside a group by falling diagonal, groups by falling largest diagonal, ties by column.
pub(super) fn column_order(hessian: &Array2<f64>, group_size: usize) -> Vec<usize> {
    let diagonal = hessian.diag();
    let falling = |&a: &usize, &b: &usize| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b));
    let columns: Vec<usize> = (0..diagonal.len()).collect();
    let mut groups: Vec<Vec<usize>> = columns.chunks(group_size).map(<[usize]>::to_vec).collect();
    groups.iter_mut().for_each(|group| group.sort_by(falling));
    groups.sort_by(|a, b| falling(&a[0], &b[0]));
    groups.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_whole_in_the_order() {
        let hessian = Array2::from_diag(&ndarray::arr1(&[1.0, 3.0, 2.0, 2.0, 9.0, 0.0]));
        assert_eq!(column_order(&hessian, 2), [4, 5, 1, 0, 2, 3]);
        assert_eq!(column_order(&hessian, 6), [4, 1, 2, 3, 0, 5]);
    }
}
