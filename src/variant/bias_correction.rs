//! Bias correction: what quantization adds to the mean of a layer's outputs over calibration inputs is taken off its bias
//! (Nagel et al. 2019, arXiv 1906.04721, section 4.2): `b + E[W x] - E[Q x̂] = b + W E[x] - Q E[x̂]`, with `Q` the quantized
//! weights and `x̂` the inputs as the kernels take them.

use super::maker::{Linear, Maker};
use super::propagation::{Means, Propagation};
use crate::error::Result;
use crate::network::ObservedBlock;
use crate::tensor::{ActivationScheme, QuantizedTensor};

impl Maker<'_> {
    /// Corrects the biases of the quantized `linears` of a site of `block` that `propagation` has reached, where they have
    /// any.
    pub(super) fn correct_biases(
        &mut self,
        layer: usize,
        propagation: &Propagation<'_>,
        linears: &[Linear<'_>],
        block: &mut dyn ObservedBlock,
    ) -> Result<()> {
        let correctable: Vec<_> = linears.iter().filter(|linear| self.plan.bias_of(linear.tensor).is_some()).collect();
        let schemes: Vec<ActivationScheme> = correctable.iter().map(|linear| linear.activations).collect();
        for (linear, means) in correctable.into_iter().zip(propagation.means(&schemes)?) {
            let weight = self.values(&linear.tensor.name)?;
            let correction = mean_error(&weight, &linear.quantized.tensor, &means);
            let bias = format!("{}.bias", linear.name);
            self.change(layer, &bias, |bias| {
                bias.iter_mut().zip(correction).for_each(|(bias, error)| *bias = (f64::from(*bias) + error) as f32);
            })?;
            let name = format!("{}{bias}", self.plan.block(layer));
            if let Some(values) = self.changed.get(&name) {
                block.replace_vector(&bias, values.clone())?;
            }
        }
        Ok(())
    }
}

/// `W E[x] - Q E[x̂]` of every output.
fn mean_error(weight: &[f32], quantized: &QuantizedTensor, means: &Means) -> Vec<f64> {
    let dot = |row: &[f32], mean: &[f64]| row.iter().zip(mean).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    let mut rounded = vec![0.0; quantized.cols];
    let rows = weight.chunks_exact(quantized.cols).enumerate();
    rows.map(|(at, row)| {
        quantized.row_to_f32(at, &mut rounded);
        dot(row, &means.exact) - dot(&rounded, &means.rounded)
    })
    .collect()
}
