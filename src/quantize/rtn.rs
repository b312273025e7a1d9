//! Round to nearest: every weight becomes the nearest number of its group's [`Grid`], which the scheme's observer chooses.

use std::ops::Range;

use rayon::prelude::*;

use super::grid::Grid;
use super::observer::{grid, importance};
use super::{InputStatistics, Quantizer, group_size};
use crate::suite::WeightScheme;
use crate::tensor::{Granularity, QuantizedTensor, Zero};

/// Round to nearest.
#[derive(Debug, Clone, Copy)]
pub struct Rtn;

impl Quantizer for Rtn {
    fn name(&self) -> &'static str {
        "rtn"
    }

    fn needs_calibration(&self) -> bool {
        false
    }

    fn round(
        &self,
        values: &[f32],
        (rows, cols): (usize, usize),
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<QuantizedTensor, String> {
        let importance = importance(scheme, statistics, cols)?;
        round_groups(values, (rows, cols), scheme, &|group, columns| grid(group, &importance[columns], scheme))
    }
}

/// Rounds every group of a matrix to the grid that `grid` chooses for its values and columns. One grid for the whole
/// tensor is chosen for all values, row after row.
pub(super) fn round_groups(
    values: &[f32],
    (rows, cols): (usize, usize),
    scheme: WeightScheme,
    grid: &(dyn Fn(&[f32], Range<usize>) -> Grid + Sync),
) -> Result<QuantizedTensor, String> {
    let group_size = group_size(scheme, cols)?;
    let shared = (scheme.granularity == Granularity::Tensor).then(|| grid(values, 0..cols));
    let mut codes = vec![0i8; rows * cols];
    let grids: Vec<Grid> = codes
        .par_chunks_exact_mut(group_size)
        .zip(values.par_chunks_exact(group_size))
        .enumerate()
        .with_min_len(4096 / group_size.min(4096))
        .map(|(at, (codes, group))| {
            let start = at * group_size % cols;
            let grid = shared.unwrap_or_else(|| grid(group, start..start + group_size));
            codes.iter_mut().zip(group).for_each(|(code, &value)| *code = grid.code(value));
            grid
        })
        .collect();
    assemble(rows, cols, scheme, codes, &grids)
}

/// Joins codes and the grids of all (row, group) pairs into a tensor.
pub(super) fn assemble(
    rows: usize,
    cols: usize,
    scheme: WeightScheme,
    codes: Vec<i8>,
    grids: &[Grid],
) -> Result<QuantizedTensor, String> {
    let tensor = QuantizedTensor {
        rows,
        cols,
        bits: scheme.bits,
        group_size: group_size(scheme, cols)?,
        codes,
        scales: grids.iter().map(Grid::scale).collect(),
        zero: match scheme.symmetric {
            true => Zero::Symmetric,
            false => Zero::Points(grids.iter().map(Grid::zero_point).collect()),
        },
        input_order: None,
    };
    tensor.validate()?;
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::suite::Observer;

    fn scheme(bits: u8, granularity: Granularity, group_size: Option<usize>, symmetric: bool) -> WeightScheme {
        WeightScheme { bits, granularity, group_size, symmetric, observer: Observer::MinMax }
    }

    #[test]
    fn known_values() {
        let weight = array![[7.5f32, -3.0, 0.4, 1.0], [0.0, 0.0, 0.0, 0.0]];
        let rounded = Rtn.quantize(weight.view(), scheme(4, Granularity::Channel, None, true), None).unwrap();
        assert_eq!(rounded.tensor.codes, [7, -3, 0, 1, 0, 0, 0, 0]);
        assert_eq!(rounded.tensor.scales, [1.0, 1.0]);
        assert_eq!(rounded.output_error, None);

        let grouped = Rtn.quantize(weight.view(), scheme(4, Granularity::Group, Some(2), false), None).unwrap();
        assert_eq!(grouped.tensor.scales[3], 1.0);
        assert_eq!(&grouped.tensor.codes[..2], [7, -8], "the ends of an asymmetric range have codes");
        assert_eq!(grouped.tensor.zero, Zero::Points(vec![-4, -8, 0, 0]));

        let whole = Rtn.quantize(weight.view(), scheme(8, Granularity::Tensor, None, true), None).unwrap();
        assert_eq!(whole.tensor.scales[0], whole.tensor.scales[1]);
    }

    #[test]
    fn a_search_over_calibration_inputs_needs_them() {
        let scheme = WeightScheme { observer: Observer::ImatrixMse, ..scheme(4, Granularity::Channel, None, true) };
        let message = Rtn.quantize(array![[1.0f32, 2.0]].view(), scheme, None).unwrap_err();
        assert_eq!(message, "observer \"imatrix_mse\" needs calibration statistics");
    }

    #[test]
    fn bad_weights_are_refused() {
        let scheme = scheme(4, Granularity::Channel, None, true);
        for bad in [f32::NAN, f32::INFINITY] {
            let weight = array![[1.0, 2.0], [3.0, bad]];
            let message = Rtn.quantize(weight.view(), scheme, None).unwrap_err();
            assert!(message.starts_with("weight (1, 1) is"), "{message}");
        }
        assert!(Rtn.quantize(Array2::zeros((0, 4)).view(), scheme, None).is_err());
    }

    proptest! {
        #[test]
        fn codes_are_in_range_and_the_error_is_half_a_step_where_nothing_clips(
            values in prop::collection::vec(-3.0f32..3.0, 4 * 24),
            bits in 2u8..=8, symmetric: bool, magnitude in -8i32..4,
        ) {
            let weight = Array2::from_shape_vec((4, 24), values).unwrap() * 10f32.powi(magnitude);
            for (granularity, group) in
                [(Granularity::Tensor, None), (Granularity::Channel, None), (Granularity::Group, Some(8))]
            {
                let tensor =
                    Rtn.quantize(weight.view(), scheme(bits, granularity, group, symmetric), None).unwrap().tensor;
                tensor.validate().unwrap();
                let (low, high) = tensor.code_range();
                for (at, (&w, real)) in weight.iter().zip(tensor.to_f32()).enumerate() {
                    let scale = tensor.scales[at / 24 * tensor.groups() + at % 24 / tensor.group_size];
                    let clipped = i32::from(tensor.codes[at]) == low || i32::from(tensor.codes[at]) == high;
                    let steps = (w - real).abs() / scale;
                    // A clipped end is off by at most one step: half by the grid, the rest by the f16 scale.
                    prop_assert!(steps <= if clipped { 1.0 } else { 0.5 + 1e-4 }, "{steps} steps at {at}");
                }
            }
        }
    }
}
