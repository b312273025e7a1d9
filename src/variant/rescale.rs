//! Rescaling folded into a block's weights ([`crate::quantize::Rescaling`]): linear layers that read an input are
//! multiplied, whoever puts it out is divided, and the block computes what it did before. Where nobody can be divided, the
//! block is told to divide the input before its layers read it, by a scale that the artefact holds.

use ndarray::ArrayView2;

use super::maker::Maker;
use super::plan::{PlannedTensor, Storage};
use super::propagation::Propagation;
use crate::error::{Error, Result};
use crate::kernels::Matrix;
use crate::network::{ObservedBlock, PRE_QUANT_SCALE, Producer, Site};
use crate::quantize::{Consumer, Magnitudes, Rescaling};
use crate::tensor::DenseFormat;

impl Maker<'_> {
    /// Rescales the inputs of block `layer`, before which `propagation` is, as the plan says, and changes `block` alike.
    pub(super) fn rescale_block(
        &mut self,
        layer: usize,
        propagation: &Propagation<'_>,
        block: &mut dyn ObservedBlock,
    ) -> Result<()> {
        if self.plan.rescaling.is_none() {
            return Ok(());
        }
        let quantized = |site: &Site| !self.plan.linears_at(layer, *site).is_empty();
        let sites: Vec<Site> = Site::ALL.into_iter().filter(quantized).collect();
        let magnitudes = propagation.magnitudes(block, &sites)?.map_err(|problem| self.block_fault(layer, problem))?;
        for (site, magnitudes) in magnitudes {
            let producer = self.plan.architecture.producer(site);
            let every_feature = || (0..magnitudes.mean.len()).collect();
            let channels = producer.as_ref().map_or_else(every_feature, |producer| producer.channels.clone());
            let factors = self.search_factors(layer, site, &magnitudes, &channels)?;
            if factors.iter().all(|factor| *factor == 1.0) {
                continue;
            }
            let of_inputs: Vec<f32> = channels.iter().map(|&channel| factors[channel]).collect();
            for linear in self.plan.architecture.linears_at(site) {
                self.change(layer, &format!("{linear}.weight"), |values| {
                    values.chunks_exact_mut(of_inputs.len()).for_each(|row| {
                        row.iter_mut().zip(&of_inputs).for_each(|(w, factor)| *w *= factor);
                    });
                })?;
            }
            match producer {
                Some(producer) => self.divide_outputs(layer, &producer, &factors)?,
                None => self.divide_inputs(layer, site, &factors)?,
            }
        }
        self.set_changed(layer, block)
    }

    /// Divides the channels that `producer` puts out.
    fn divide_outputs(&mut self, layer: usize, producer: &Producer, factors: &[f32]) -> Result<()> {
        for part in ["weight", "bias"] {
            self.change(layer, &format!("{}.{part}", producer.name), |values| {
                let width = values.len() / factors.len();
                let channels = values.chunks_exact_mut(width).zip(factors);
                channels.for_each(|(channel, factor)| channel.iter_mut().for_each(|v| *v /= factor));
            })?;
        }
        Ok(())
    }

    /// Divides the inputs of a site where its layers read them.
    fn divide_inputs(&mut self, layer: usize, site: Site, factors: &[f32]) -> Result<()> {
        for linear in self.plan.architecture.linears_at(site) {
            let name = format!("{}{linear}{PRE_QUANT_SCALE}", self.plan.block(layer));
            let mut scale = if self.is_planned(&name) { self.values(&name)? } else { vec![1.0; factors.len()] };
            scale.iter_mut().zip(factors).for_each(|(scale, factor)| *scale /= factor);
            self.changed.insert(name, scale);
        }
        Ok(())
    }

    /// Whether the model has a tensor.
    fn is_planned(&self, name: &str) -> bool {
        self.plan.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// The changed tensors that the model does not have: scales of inputs.
    fn added(&self) -> Vec<PlannedTensor> {
        let storage = Storage::Dense(DenseFormat::F32);
        let added = self.changed.iter().filter(|(name, _)| !self.is_planned(name));
        added.map(|(name, scale)| PlannedTensor { name: name.clone(), shape: vec![scale.len()], storage }).collect()
    }

    /// Brings `block` up to date with what has been changed: quantized layers in the format of calibration until their
    /// turn comes.
    fn set_changed(&self, layer: usize, block: &mut dyn ObservedBlock) -> Result<()> {
        let prefix = self.plan.block(layer);
        for tensor in self.plan.tensors.iter().chain(&self.added()) {
            let Some(values) = self.changed.get(&tensor.name) else { continue };
            set(block, tensor, &tensor.name[prefix.len()..], values)?;
        }
        Ok(())
    }

    /// The best factors of a site's channels, judged by its quantized layers.
    fn search_factors(
        &self,
        layer: usize,
        site: Site,
        magnitudes: &Magnitudes,
        channels: &[usize],
    ) -> Result<Vec<f32>> {
        let quantized = self.plan.linears_at(layer, site);
        let weights: Vec<Vec<f32>> =
            quantized.iter().map(|(_, tensor, _)| self.values(&tensor.name)).collect::<Result<_>>()?;
        let mut consumers = Vec::new();
        for ((_, tensor, how), values) in quantized.iter().zip(&weights) {
            let weight = ArrayView2::from_shape((tensor.shape[0], tensor.shape[1]), values)
                .map_err(|problem| self.fault(tensor, problem.to_string()))?;
            consumers.push(Consumer { weight, scheme: how.scheme, inputs: how.inputs });
        }
        let search = |rescaling: Rescaling| rescaling.search(&consumers, magnitudes, channels);
        match (self.plan.rescaling, quantized.first()) {
            (Some(rescaling), Some((_, tensor, _))) => {
                self.workers.install(|| search(rescaling)).map_err(|problem| self.fault(tensor, problem))
            }
            _ => Err(Error::Usage(format!("block {layer}: nothing to rescale"))),
        }
    }

    /// Changes a tensor of a block, where the model has it.
    pub(super) fn change(&mut self, layer: usize, part: &str, change: impl FnOnce(&mut [f32])) -> Result<()> {
        let name = format!("{}{part}", self.plan.block(layer));
        if self.is_planned(&name) {
            let mut values = self.values(&name)?;
            change(&mut values);
            self.changed.insert(name, values);
        }
        Ok(())
    }

    /// Writes the dense tensors of a block that may have been changed, and forgets the changes.
    pub(super) fn write_changed_block(&mut self, layer: usize) -> Result<()> {
        if !self.plan.changes_blocks() {
            return Ok(());
        }
        let (plan, prefix, added) = (self.plan, self.plan.block(layer), self.added());
        for tensor in plan.tensors.iter().chain(&added).filter(|tensor| tensor.name.starts_with(&prefix)) {
            if let Storage::Dense(format) = tensor.storage {
                self.write_dense(tensor, format)?;
            }
        }
        self.changed.clear();
        Ok(())
    }
}

/// Replaces a tensor of a block: vectors and matrices that stay dense in 32 bits, others in bfloat16.
fn set(block: &mut dyn ObservedBlock, tensor: &PlannedTensor, part: &str, values: &[f32]) -> Result<()> {
    let [rows, cols] = tensor.shape[..] else { return block.replace_vector(part, values.to_vec()) };
    let format = match tensor.storage {
        Storage::Dense(_) => DenseFormat::F32,
        Storage::Quantized(_) => DenseFormat::Bf16,
    };
    let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * cols..(row + 1) * cols]);
    let linear = part.strip_suffix(".weight").unwrap_or(part);
    block.replace_linear(linear, Matrix::from_rows(format, rows, cols, &row))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::CalibrationTokens;
    use super::super::plan::Plan;
    use super::super::tests::{calibration, quantize, scheme, write_model};
    use super::super::unfinished::{KEEP_EVERY, Unfinished};
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::kernels::Pool;
    use crate::network::{LoadOptions, Passage, Workspace, load_block};
    use crate::suite::{Method, Recipe, Smooth};
    use crate::tensor::Granularity;

    /// Smooths block 1 and compares its output over two sequences of five tokens; the names of what was changed.
    fn changed_by_rescaling(checkpoint: &Checkpoint, tokens: &CalibrationTokens) -> Vec<String> {
        let Recipe::Quantize(method) = quantize("rtn", scheme(8, Granularity::Channel, true), vec![]) else {
            panic!("a recipe that quantizes");
        };
        let recipe = Recipe::Quantize(Method { smooth: Some(Smooth::Alpha(0.6)), ..method });
        let plan = Plan::new(checkpoint, &recipe).unwrap();
        let options = LoadOptions { dense: Some(DenseFormat::F32), kv_cache: None };
        let load = || load_block(checkpoint, &plan.architecture, 1, options).unwrap();
        let (original, mut folded) = (load(), load());

        let workers = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let beside = tempfile::tempdir().unwrap();
        let unfinished = Unfinished::open(&beside.path().join("into"), "key", KEEP_EVERY, &mut |_| ()).unwrap();
        let mut maker = Maker::new(checkpoint, &plan, &workers, &unfinished).unwrap();
        let propagation = maker.propagation(tokens, None, None).unwrap();
        maker.rescale_block(1, &propagation, load().as_mut()).unwrap();
        let prefix = plan.block(1);
        for tensor in plan.tensors.iter().chain(&maker.added()) {
            let Some(values) = maker.changed.get(&tensor.name) else { continue };
            let before = checkpoint.tensor_f32(&tensor.name).map_or(vec![1.0; values.len()], |(_, values)| values);
            assert!(before.iter().zip(values).any(|(a, b)| (a / b - 1.0).abs() > 0.1), "{}", tensor.name);
            let exact = PlannedTensor {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                storage: Storage::Dense(DenseFormat::F32),
            };
            set(folded.as_mut(), &exact, &tensor.name[prefix.len()..], values).unwrap();
        }
        let mut random = StdRng::seed_from_u64(1);
        let width = plan.architecture.hidden_size();
        let hidden: Vec<f32> = (0..10 * width).map(|_| random.random_range(-1.0f32..1.0)).collect();
        let forward = |block: &dyn ObservedBlock| {
            let mut passage = Passage { hidden: hidden.clone(), inputs: Vec::new(), ends: vec![5, 10] };
            block.advance(&Pool::new(1), &mut passage, &mut Workspace::default());
            passage.hidden
        };
        let (expected, found) = (forward(original.as_ref()), forward(folded.as_ref()));
        let size = expected.iter().fold(0.0f32, |size, v| size.max(v.abs()));
        let off = expected.iter().zip(&found).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
        assert!(off < 1e-5 * size, "off by {off} of {size}");
        maker.changed.keys().map(|name| name[prefix.len()..].to_owned()).collect()
    }

    #[test]
    fn rescaling_leaves_the_output_of_a_block_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        // Some channels are much larger than others, as smoothing expects.
        write_model(folder.path(), true, &|name, values| {
            if name.contains("layernorm") {
                values.iter_mut().step_by(5).for_each(|v| *v *= 20.0);
            }
        });
        let changed = changed_by_rescaling(&Checkpoint::open(folder.path()).unwrap(), &calibration());
        assert_eq!(changed.len(), 9, "all seven linear layers and both norms: {changed:?}");
    }

    #[test]
    fn rescaling_leaves_the_output_of_an_encoders_block_unchanged_and_folds_what_can_be() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_encoders/bert");
        let windows = (1..20).map(|length| (0..length).map(|at| (at * 7 + length) % 48).collect()).collect();
        let tokens = CalibrationTokens { windows };
        let changed = changed_by_rescaling(&Checkpoint::open(std::path::Path::new(folder)).unwrap(), &tokens);
        let expected = [
            "attention.output.dense.weight",
            "attention.self.key.pre_quant_scale",
            "attention.self.key.weight",
            "attention.self.query.pre_quant_scale",
            "attention.self.query.weight",
            "attention.self.value.bias",
            "attention.self.value.pre_quant_scale",
            "attention.self.value.weight",
            "intermediate.dense.pre_quant_scale",
            "intermediate.dense.weight",
            "output.dense.pre_quant_scale",
            "output.dense.weight",
        ];
        assert_eq!(changed, expected);
    }
}
