//! Quantizers: pure functions from weights, calibration statistics and a scheme to a quantized tensor. One file per
//! algorithm; [`METHODS`] lists them.

use ndarray::{Array2, ArrayView2};

use crate::suite::WeightScheme;
use crate::tensor::QuantizedTensor;

/// Second moments of a linear layer's inputs over the calibration tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct InputStatistics {
    /// Mean of `x xᵀ` over tokens, `(in_features, in_features)`, symmetric.
    pub hessian: Array2<f64>,
    /// Tokens seen.
    pub tokens: usize,
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
    /// Name in suite files: `rtn`, `gptq`.
    fn name(&self) -> &'static str;
    /// Whether it learns from calibration data.
    fn needs_calibration(&self) -> bool;
    /// Quantizes `weight` (out_features, in_features).
    ///
    /// # Errors
    /// NaN or infinite weights, a scheme it does not know, missing statistics; the message names no tensor.
    fn quantize(
        &self,
        weight: ArrayView2<'_, f32>,
        scheme: WeightScheme,
        statistics: Option<&InputStatistics>,
    ) -> Result<Quantized, String>;
}

/// All quantizers.
pub const METHODS: &[&dyn Quantizer] = &[];
