//! Rescaling folded into a block's weights ([`crate::quantize::Rescaling`]): linear layers that read an input are
//! multiplied, whoever puts it out is divided, and the block computes what it did before.

use std::collections::BTreeMap;

use ndarray::ArrayView2;

use super::maker::Maker;
use super::plan::{Plan, PlannedTensor, Storage};
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::network::{Block, Config, Site};
use crate::quantize::{Consumer, InputStatistics, Rescaling};
use crate::tensor::DenseFormat;

impl<'a> Maker<'a> {
    /// Rescales the inputs of block `layer` as the plan says, and returns the statistics of the rescaled inputs.
    pub(super) fn rescale_block(
        &mut self,
        config: &Config,
        layer: usize,
        statistics: BTreeMap<Site, InputStatistics>,
    ) -> Result<BTreeMap<Site, InputStatistics>> {
        if self.plan.rescaling.is_none() {
            return Ok(statistics);
        }
        let mut rescaled = BTreeMap::new();
        for (site, of_site) in statistics {
            let channels = site.producer_channels(config);
            let factors = self.search_factors(layer, site, &of_site, &channels)?;
            let of_inputs: Vec<f32> = channels.iter().map(|&channel| factors[channel]).collect();
            for linear in site.linears() {
                self.change(layer, &format!("{linear}.weight"), |values| {
                    values.chunks_exact_mut(of_inputs.len()).for_each(|row| {
                        row.iter_mut().zip(&of_inputs).for_each(|(w, factor)| *w *= factor);
                    });
                })?;
            }
            for part in ["weight", "bias"] {
                self.change(layer, &format!("{}.{part}", site.producer()), |values| {
                    let width = values.len() / factors.len();
                    let channels = values.chunks_exact_mut(width).zip(&factors);
                    channels.for_each(|(channel, factor)| channel.iter_mut().for_each(|v| *v /= factor));
                })?;
            }
            rescaled.insert(site, of_site.divided_by(&of_inputs));
        }
        Ok(rescaled)
    }

    /// The best factors of a site's channels, judged by its quantized layers.
    fn search_factors(
        &self,
        layer: usize,
        site: Site,
        statistics: &InputStatistics,
        channels: &[usize],
    ) -> Result<Vec<f32>> {
        let quantized: Vec<_> =
            self.plan.linears_of(layer).into_iter().filter(|(name, ..)| site.linears().contains(name)).collect();
        let weights: Vec<Vec<f32>> =
            quantized.iter().map(|(_, tensor, _)| self.values(&tensor.name)).collect::<Result<_>>()?;
        let mut consumers = Vec::new();
        for ((_, tensor, how), values) in quantized.iter().zip(&weights) {
            let weight = ArrayView2::from_shape((tensor.shape[0], tensor.shape[1]), values)
                .map_err(|problem| self.fault(tensor, problem.to_string()))?;
            consumers.push(Consumer { weight, scheme: how.scheme, activations: how.activations });
        }
        let search = |rescaling: Rescaling| rescaling.search(&consumers, statistics, channels);
        match (self.plan.rescaling, quantized.first()) {
            (Some(rescaling), Some((_, tensor, _))) => {
                self.workers.install(|| search(rescaling)).map_err(|problem| self.fault(tensor, problem))
            }
            _ => Err(Error::Usage(format!("block {layer}: nothing to rescale"))),
        }
    }

    /// Changes a tensor of a block, where the model has it.
    fn change(&mut self, layer: usize, part: &str, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let name = format!("{}{part}", self.plan.block(layer));
        if self.plan.tensors.iter().any(|tensor| tensor.name == name) {
            let mut values = self.values(&name)?;
            change(&mut values);
            self.rescaled.insert(name, values);
        }
        Ok(())
    }

    /// Writes the dense tensors of a rescaled block, and brings `block`, whose quantized layers are in place, up to date.
    pub(super) fn finish_rescaled_block(&mut self, layer: usize, block: &mut Block) -> Result<()> {
        if self.plan.rescaling.is_none() {
            return Ok(());
        }
        let prefix = self.plan.block(layer);
        let plan: &'a Plan = self.plan;
        for tensor in plan.tensors.iter().filter(|tensor| tensor.name.starts_with(&prefix)) {
            let Storage::Dense(format) = tensor.storage else { continue };
            self.write_dense(tensor, format)?;
            if let Some(values) = self.rescaled.get(&tensor.name) {
                set(block, tensor, &tensor.name[prefix.len()..], values)?;
            }
        }
        self.rescaled.clear();
        Ok(())
    }
}

/// Replaces a dense tensor of a block, in 32 bits.
fn set(block: &mut Block, tensor: &PlannedTensor, part: &str, values: &[f32]) -> Result<()> {
    let [rows, cols] = tensor.shape[..] else { return block.set_vector(part, values.to_vec()) };
    let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * cols..(row + 1) * cols]);
    let linear = part.strip_suffix(".weight").unwrap_or(part);
    block.set_linear(linear, Matrix::from_rows(DenseFormat::F32, rows, cols, &row)).map(drop)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::propagation::Propagation;
    use super::super::tests::{calibration, quantize, scheme, write_model};
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::kernels::Pool;
    use crate::network::{Architecture, LoadOptions, Workspace};
    use crate::suite::{Method, Recipe, Smooth};
    use crate::tensor::Granularity;

    #[test]
    fn folding_leaves_the_output_of_a_block_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        // Some channels are much larger than others, as smoothing expects.
        write_model(folder.path(), true, &|name, values| {
            if name.contains("layernorm") {
                values.iter_mut().step_by(5).for_each(|v| *v *= 20.0);
            }
        });
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let Recipe::Quantize(method) = quantize("rtn", scheme(8, Granularity::Channel, true), vec![]) else {
            panic!("a recipe that quantizes");
        };
        let recipe = Recipe::Quantize(Method { smooth: Some(Smooth::Alpha(0.6)), ..method });
        let plan = Plan::new(&checkpoint, &recipe).unwrap();
        let Architecture::Decoder(config) = &plan.architecture else { panic!("a decoder") };
        let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
        let load = || Block::load(&checkpoint, config, 1, options).unwrap();
        let (original, mut folded) = (load(), load());

        let workers = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let (_, table) = checkpoint.tensor_f32("model.embed_tokens.weight").unwrap();
        let mut propagation = Propagation::new(config, &calibration(), &table, &workers).unwrap();
        let statistics = propagation.observe(&original, &Site::ALL).unwrap();
        let mut maker = Maker::new(&checkpoint, &plan, &workers, &folder.path().join("out.safetensors")).unwrap();
        maker.rescale_block(config, 1, statistics).unwrap();
        // All seven linear layers and both norms.
        assert_eq!(maker.rescaled.len(), 9, "{:?}", maker.rescaled.keys());
        for tensor in plan.tensors.iter().filter(|tensor| maker.rescaled.contains_key(&tensor.name)) {
            let values = &maker.rescaled[&tensor.name];
            let before = checkpoint.tensor_f32(&tensor.name).unwrap().1;
            assert!(before.iter().zip(values).any(|(a, b)| (a / b - 1.0).abs() > 0.1), "{}", tensor.name);
            set(&mut folded, tensor, &tensor.name["model.layers.1.".len()..], values).unwrap();
        }
        let mut random = StdRng::seed_from_u64(1);
        let hidden: Vec<f32> = (0..10 * config.hidden_size).map(|_| random.random_range(-1.0f32..1.0)).collect();
        let forward = |block: &Block| {
            let mut hidden = hidden.clone();
            block.forward(&Pool::new(1), &mut hidden, 2, 5, &mut Workspace::default());
            hidden
        };
        let (expected, found) = (forward(&original), forward(&folded));
        let size = expected.iter().fold(0.0f32, |size, v| size.max(v.abs()));
        let off = expected.iter().zip(&found).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
        assert!(off < 1e-5 * size, "off by {off} of {size}");
    }
}
