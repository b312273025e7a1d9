//! Quantizers: pure functions from weights, calibration statistics and a scheme to a quantized tensor. One file per
//! algorithm; [`METHODS`] lists them.

mod awq;
mod cholesky;
mod feedback;
mod gptq;
mod grid;
mod histogram;
mod hqq;
mod input_range;
mod inverse_factor;
mod magnitudes;
mod observer;
mod output_error;
mod rescaling;
mod rtn;
mod statistics;

use ndarray::{Array2, ArrayView2};

use feedback::Prepared;

pub use awq::Awq;
pub use gptq::Gptq;
pub use grid::Grid;
pub use hqq::Hqq;
pub use input_range::InputRange;
pub use magnitudes::{Magnitudes, MagnitudesAccumulator};
pub use output_error::output_energies;
pub use rescaling::{Consumer, Rescaling};
pub use rtn::Rtn;
pub use statistics::StatisticsAccumulator;

use crate::suite::WeightScheme;
use crate::tensor::{Granularity, QuantizedTensor};

/// Rows of a weight that one task works on; fixed, so that the numbers do not depend on the number of threads.
const SLAB_ROWS: usize = 64;

/// What is known of a linear layer's inputs over the calibration tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputStatistics {
    /// Mean of `x xᵀ` over tokens, `(in_features, in_features)`, symmetric.
    pub hessian: Array2<f64>,
    /// Mean of `(x̃ - x) xᵀ`, `(in_features, in_features)`, where `x̃` is the input in the unquantized network and layers
    /// shall put out what they put out there; `None` where their outputs for `x` shall stay.
    pub drift: Option<Array2<f64>>,
    /// Tokens seen.
    pub tokens: usize,
    prepared: Prepared,
}

impl InputStatistics {
    /// Of `tokens` tokens with that mean of `x xᵀ`.
    pub fn new(hessian: Array2<f64>, tokens: usize) -> Self {
        InputStatistics { hessian, tokens, ..Default::default() }
    }
}

/// A quantized weight with what is known of its error.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The integers.
    pub tensor: QuantizedTensor,
    /// `E|(W - Q) x|^2 / E|W x|^2` over the calibration inputs, where there are any.
    pub output_error: Option<f64>,
}

/// An algorithm.
pub trait Quantizer: Sync {
    /// Name in suite files: `rtn`, `gptq`, `awq`, `hqq`.
    fn name(&self) -> &'static str;
    /// Whether it learns from calibration data.
    fn needs_calibration(&self) -> bool;
    /// How it rescales the inputs of linear layers before it quantizes them.
    fn rescaling(&self) -> Option<Rescaling> {
        None
    }
    /// Does the work that all layers with the same inputs and group size share, once and on all threads of the rayon pool
    /// that it runs in. Without it [`Quantizer::round`] does it again for each.
    ///
    /// # Errors
    /// Statistics that cannot be worked with.
    fn prepare(&self, _group_size: usize, _statistics: &InputStatistics) -> Result<(), String> {
        Ok(())
    }
    /// The algorithm itself: chooses grids and codes for `values` `(rows, cols)`, row-major, finite and not empty. The
    /// result depends on the arguments only, not on the number of threads of the rayon pool that it runs in.
    ///
    /// # Errors
    /// A scheme that does not fit, missing statistics; the message names no tensor.
    fn round(
        &self,
        values: &[f32],
        shape: (usize, usize),
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<QuantizedTensor, String>;

    /// Quantizes `weight` (out_features, in_features) and measures the error of its output.
    ///
    /// # Errors
    /// Those of [`Quantizer::round`]; NaN or infinite weights, statistics of another size.
    fn quantize(
        &self,
        weight: ArrayView2<'_, f32>,
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<Quantized, String> {
        check_inputs(weight, statistics)?;
        let contiguous = weight.as_standard_layout();
        let values = contiguous.as_slice().ok_or("the weight is not contiguous")?;
        let tensor = self.round(values, weight.dim(), scheme, statistics)?;
        let output_error = statistics.map(|statistics| output_error::relative(values, &tensor, statistics));
        Ok(Quantized { tensor, output_error })
    }
}

/// All quantizers.
pub const METHODS: &[&dyn Quantizer] = &[&Rtn, &Gptq, &Awq, &Hqq];

/// The quantizer of that name.
///
/// # Errors
/// A message that lists the names there are.
pub fn method(name: &str) -> Result<&'static dyn Quantizer, String> {
    METHODS.iter().copied().find(|method| method.name() == name).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
        format!("unknown method \"{name}\"; use one of {}", names.join(", "))
    })
}

/// Checks that `scheme` fits a matrix of `cols` input features and returns the columns that share a scale.
///
/// # Errors
/// Bits outside 2 to 8, or a group size that is missing or does not divide `cols`, with the sizes that do and that all
/// kernels run.
pub fn group_size(scheme: WeightScheme, cols: usize) -> Result<usize, String> {
    if !(2..=8).contains(&scheme.bits) {
        return Err(format!("bits {} is not supported; use 2 to 8", scheme.bits));
    }
    match (scheme.granularity, scheme.group_size) {
        (Granularity::Tensor | Granularity::Channel, _) => Ok(cols),
        (Granularity::Group, None) => Err("granularity \"group\" needs a group_size".into()),
        (Granularity::Group, Some(size)) if size > 0 && cols.is_multiple_of(size) => Ok(size),
        (Granularity::Group, Some(size)) => {
            let fitting: Vec<String> =
                (32..=256).step_by(32).filter(|&g| cols.is_multiple_of(g)).map(|g| g.to_string()).collect();
            let remedy = match fitting.split_last() {
                None => "granularity \"channel\"".into(),
                Some((only, [])) => only.clone(),
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
            };
            Err(format!("group_size {size} does not divide in_features {cols}; use {remedy}"))
        }
    }
}

/// Refuses weights that no grid can cover, and statistics of another size.
fn check_inputs(weight: ArrayView2<'_, f32>, statistics: Option<&InputStatistics>) -> Result<(), String> {
    if let Some(((row, col), value)) = weight.indexed_iter().find(|(_, value)| !value.is_finite()) {
        return Err(format!("weight ({row}, {col}) is {value}; quantization needs finite weights"));
    }
    if weight.is_empty() {
        return Err("the weight is empty".into());
    }
    let Some(statistics) = statistics else { return Ok(()) };
    let (cols, hessian) = (weight.ncols(), &statistics.hessian);
    if hessian.dim() != (cols, cols) {
        return Err(format!("statistics of shape {:?} do not fit a weight of {cols} in_features", hessian.dim()));
    }
    let mut values = hessian.iter().chain(statistics.drift.iter().flatten());
    if values.any(|value| !value.is_finite()) {
        return Err("the calibration statistics hold NaN or infinite values; the model overflows on this text".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Observer;

    #[test]
    fn methods_are_found_by_name_and_others_are_refused_with_the_names() {
        assert_eq!(method("gptq").unwrap().name(), "gptq");
        assert!(!method("rtn").unwrap().needs_calibration());
        let message = method("guess").err().unwrap();
        assert_eq!(message, "unknown method \"guess\"; use one of rtn, gptq, awq, hqq");
    }

    #[test]
    fn a_group_size_that_does_not_fit_names_those_that_do() {
        let scheme = WeightScheme {
            bits: 4,
            granularity: Granularity::Group,
            group_size: Some(128),
            symmetric: true,
            observer: Observer::MinMax,
        };
        assert_eq!(group_size(scheme, 1536), Ok(128));
        assert_eq!(
            group_size(scheme, 576).unwrap_err(),
            "group_size 128 does not divide in_features 576; use 32, 64, 96 or 192"
        );
        assert_eq!(
            group_size(scheme, 7).unwrap_err(),
            "group_size 128 does not divide in_features 7; use granularity \"channel\""
        );
        assert!(group_size(WeightScheme { bits: 9, ..scheme }, 256).is_err());
        assert!(group_size(WeightScheme { group_size: None, ..scheme }, 256).is_err());
        assert!(group_size(WeightScheme { group_size: Some(0), ..scheme }, 256).is_err());
    }
}
