//! Writes the tensors of an artefact: dense ones and the head first, then block by block.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::ArrayView2;
use rayon::ThreadPool;
use rayon::prelude::*;
use safetensors::Dtype;

use super::build::QuantizedSize;
use super::plan::{EMBEDDING, HEAD, Plan, PlannedTensor, Quantization, Storage};
use super::propagation::Propagation;
use super::safetensors_writer::SafetensorsWriter;
use super::{CalibrationTokens, Order, compressed_tensors};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Isa, Matrix};
use crate::network::{Architecture, EncoderEmbeddings, LoadOptions, Site, load_block};
use crate::quantize::{InputRange, InputStatistics, Quantized};
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor};

/// Values that one task converts.
const CHUNK: usize = 1 << 16;

/// An artefact's weights in the making.
pub(super) struct Maker<'a> {
    checkpoint: &'a Checkpoint,
    pub(super) plan: &'a Plan,
    pub(super) workers: &'a ThreadPool,
    writer: SafetensorsWriter,
    /// Tensors of the block at hand that rescaling or bias correction has changed, by their names.
    pub(super) changed: BTreeMap<String, Vec<f32>>,
    made: Made,
}

/// What is known of the weights once they are written.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// By tensor name.
    pub layer_errors: BTreeMap<String, f64>,
    pub size: QuantizedSize,
}

/// A linear layer of the block at hand.
pub(super) struct Linear<'a> {
    /// Name inside the block.
    pub name: &'static str,
    pub tensor: &'a PlannedTensor,
    quantization: Quantization,
    pub quantized: Quantized,
    pub activations: ActivationScheme,
}

/// What calibration has found of the inputs of the block at hand.
#[derive(Default)]
struct Observed {
    statistics: BTreeMap<Site, InputStatistics>,
    ranges: BTreeMap<Site, InputRange>,
}

impl<'a> Maker<'a> {
    /// Begins the safetensors file at `path`.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        workers: &'a ThreadPool,
        path: &Path,
    ) -> Result<Self> {
        let writer = SafetensorsWriter::create(path)?;
        Ok(Maker { checkpoint, plan, workers, writer, changed: BTreeMap::new(), made: Made::default() })
    }

    /// Writes all tensors.
    pub(super) fn make(mut self, order: &Order<'_>, progress: &mut dyn FnMut(usize, usize)) -> Result<Made> {
        let mut embedding = None;
        for tensor in &self.plan.tensors {
            match tensor.storage {
                // Written with its block, which may change it.
                Storage::Dense(_) if self.plan.changes_blocks() && self.plan.is_in_block(tensor) => {}
                Storage::Dense(format) => self.write_dense(tensor, format)?,
                Storage::Quantized(quantization) if [EMBEDDING, HEAD].contains(&tensor.module()) => {
                    let quantized = self.quantize(tensor, quantization, None)?;
                    let activations = quantization.activations(None).map_err(|problem| self.fault(tensor, problem))?;
                    self.write_quantized(tensor, quantization, &quantized, activations)?;
                    embedding = Some(quantized.tensor).filter(|_| tensor.module() == EMBEDDING);
                }
                Storage::Quantized(_) => {}
            }
        }
        if self.plan.needs_calibration() {
            self.make_blocks_calibrated(order, embedding, progress)?;
        } else {
            self.make_blocks(progress)?;
        }
        self.writer.finish()?;
        Ok(self.made)
    }

    /// Quantizes all blocks without calibration.
    fn make_blocks(&mut self, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let layers = self.plan.architecture.layers();
        for layer in 0..layers {
            for linear in self.quantize_block(layer, &Observed::default())? {
                self.write_quantized(linear.tensor, linear.quantization, &linear.quantized, linear.activations)?;
            }
            progress(layer + 1, layers);
        }
        Ok(())
    }

    /// Quantizes block after block, each calibrated on what the already quantized blocks before it put out: matrices with
    /// 8-bit inputs on the kernels that will run, all others in bfloat16.
    fn make_blocks_calibrated(
        &mut self,
        order: &Order<'_>,
        embedding: Option<QuantizedTensor>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let tokens = order.calibration.ok_or_else(|| {
            Error::Usage("the recipe learns from calibration data, but there is none; name some in the suite".into())
        })?;
        let mut propagation = self.propagation(tokens, embedding)?;
        let layers = self.plan.architecture.layers();
        for layer in 0..layers {
            let options = LoadOptions { dense: Some(DenseFormat::Bf16), kv_cache: None };
            let mut block = load_block(self.checkpoint, &self.plan.architecture, layer, options)?;
            let overflow =
                |problem| Error::input(format!("{}: block {layer}", self.checkpoint.path().display()), problem);
            let rescaled = |site| self.plan.rescaling.is_some() && self.plan.architecture.producer(site).is_some();
            let sites = self.sites(layer, |site, how| rescaled(site) || how.learns());
            let statistics = propagation.observe(block.as_ref(), &sites).map_err(overflow)?;
            let (statistics, factors) = self.rescale_block(layer, statistics)?;
            let sites = self.sites(layer, |_, how| how.inputs.learns().is_some());
            let ranges = propagation.ranges(block.as_ref(), &sites, &factors).map_err(overflow)?;
            let linears = self.quantize_block(layer, &Observed { statistics, ranges })?;
            if self.plan.bias_correction {
                self.correct_biases(layer, &mut propagation, block.as_ref(), &factors, &linears)?;
            }
            for linear in linears {
                let matrix = calibration_matrix(&linear.quantized.tensor, linear.activations);
                block.replace_linear(linear.name, matrix.map_err(|problem| self.fault(linear.tensor, problem))?)?;
                self.write_quantized(linear.tensor, linear.quantization, &linear.quantized, linear.activations)?;
            }
            self.finish_changed_block(layer, block.as_mut())?;
            if layer + 1 < layers {
                propagation.advance(block.as_ref());
            }
            progress(layer + 1, layers);
        }
        Ok(())
    }

    /// The calibration data before the first block, with embeddings as the artefact will hold them.
    pub(super) fn propagation(
        &self,
        tokens: &CalibrationTokens,
        embedding: Option<QuantizedTensor>,
    ) -> Result<Propagation<'a>> {
        match &self.plan.architecture {
            Architecture::Decoder(config) => {
                let table = self.embedding_table(embedding)?;
                Propagation::of_decoder(config, tokens, &table, self.workers)
            }
            Architecture::Encoder { config, prefix } => {
                let options = LoadOptions { dense: Some(self.plan.dense), kv_cache: None };
                let embeddings = EncoderEmbeddings::load(self.checkpoint, config, prefix, options)?;
                Propagation::of_encoder(&embeddings, tokens, self.workers)
            }
        }
    }

    /// Sites of a block where a quantized layer that is `wanted` reads.
    fn sites(&self, layer: usize, wanted: impl Fn(Site, &Quantization) -> bool) -> Vec<Site> {
        let linears = self.plan.linears_of(layer);
        let reads =
            |site: &Site| linears.iter().any(|(name, _, how)| wanted(*site, how) && self.site_of(name) == Some(*site));
        Site::ALL.into_iter().filter(reads).collect()
    }

    /// The site where a linear layer reads its input.
    pub(super) fn site_of(&self, linear: &str) -> Option<Site> {
        Site::ALL.into_iter().find(|site| self.plan.architecture.linears_at(*site).contains(&linear))
    }

    /// Quantizes all linear layers of a block, several at once, as a factorization keeps only one thread busy; the one
    /// with most inputs, whose factorization is the longest, begins.
    fn quantize_block(&self, layer: usize, observed: &Observed) -> Result<Vec<Linear<'a>>> {
        let plan: &'a Plan = self.plan;
        let quantize = |(name, tensor, quantization): (&'static str, &'a PlannedTensor, Quantization)| {
            let site = self.site_of(name);
            let of_site = site.and_then(|site| observed.statistics.get(&site));
            let quantized = self.quantize(tensor, quantization, of_site)?;
            let range = site.and_then(|site| observed.ranges.get(&site));
            let activations = quantization.activations(range).map_err(|problem| self.fault(tensor, problem))?;
            Ok(Linear { name, tensor, quantization, quantized, activations })
        };
        let mut linears = plan.linears_of(layer);
        linears.sort_by_key(|(_, tensor, _)| Reverse(tensor.shape[1]));
        self.workers.install(|| linears.into_par_iter().map(quantize).collect())
    }

    fn quantize(
        &self,
        tensor: &PlannedTensor,
        quantization: Quantization,
        statistics: Option<&InputStatistics>,
    ) -> Result<Quantized> {
        let values = self.values(&tensor.name)?;
        let weight = ArrayView2::from_shape((tensor.shape[0], tensor.shape[1]), &values)
            .map_err(|problem| self.fault(tensor, problem.to_string()))?;
        let statistics = statistics.filter(|_| quantization.learns());
        self.workers
            .install(|| quantization.quantizer.quantize(weight, quantization.scheme, statistics))
            .map_err(|problem| self.fault(tensor, problem))
    }

    /// The values of a tensor of the model, changed where they have been.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        if let Some(values) = self.changed.get(name) {
            return Ok(values.clone());
        }
        let (_, values) = self.checkpoint.tensor_f32(name)?;
        self.checkpoint.release(name);
        Ok(values)
    }

    /// The embedding as the artefact's first block will read it, `(vocab_size, hidden_size)`.
    fn embedding_table(&self, quantized: Option<QuantizedTensor>) -> Result<Vec<f32>> {
        let mut values = match quantized {
            Some(quantized) => quantized.to_f32(),
            None => {
                let mut values = self.values(&format!("{EMBEDDING}.weight"))?;
                let dense = self.plan.dense;
                self.workers.install(|| values.par_chunks_mut(CHUNK).for_each(|values| round_to(values, dense)));
                values
            }
        };
        if let Some(rotation) = self.plan.architecture.rotation() {
            let rotate = |row: &mut [f32]| rotation.rotate(Isa::active(), row);
            self.workers.install(|| values.par_chunks_exact_mut(rotation.size()).for_each(rotate));
        }
        Ok(values)
    }

    pub(super) fn write_dense(&mut self, tensor: &PlannedTensor, format: DenseFormat) -> Result<()> {
        let (shape, values) = (&tensor.shape, self.values(&tensor.name)?);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(self.fault(tensor, format!("holds {value}; the model is damaged")));
        }
        match format {
            DenseFormat::F32 => self.writer.add(&tensor.name, Dtype::F32, shape, &values),
            DenseFormat::Bf16 => {
                let values = self.convert(&values, <[bf16]>::convert_from_f32_slice);
                self.writer.add(&tensor.name, Dtype::BF16, shape, &values)
            }
            DenseFormat::F16 => {
                let halves = self.convert(&values, <[f16]>::convert_from_f32_slice);
                if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
                    let problem = format!("holds {}, but f16 ends at 65504; use bf16 or f32", values[at]);
                    return Err(self.fault(tensor, problem));
                }
                self.writer.add(&tensor.name, Dtype::F16, shape, &halves)
            }
        }
    }

    /// All of `values` in a type of 16 bits.
    fn convert<T: Default + Copy + Send>(&self, values: &[f32], convert: fn(&mut [T], &[f32])) -> Vec<T> {
        let mut out = vec![T::default(); values.len()];
        let chunks = out.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
        self.workers.install(|| chunks.for_each(|(to, from)| convert(to, from)));
        out
    }

    fn write_quantized(
        &mut self,
        tensor: &PlannedTensor,
        how: Quantization,
        quantized: &Quantized,
        activations: ActivationScheme,
    ) -> Result<()> {
        self.made.size.add(&quantized.tensor);
        if let Some(error) = quantized.output_error {
            self.made.layer_errors.insert(tensor.name.clone(), error);
        }
        if tensor.module() == EMBEDDING {
            return compressed_tensors::write_tied(&mut self.writer, &quantized.tensor, &how);
        }
        compressed_tensors::write(&mut self.writer, tensor.module(), &quantized.tensor, &how, activations)
    }

    pub(super) fn fault(&self, tensor: &PlannedTensor, problem: String) -> Error {
        Error::input(format!("{}: tensor \"{}\"", self.checkpoint.path().display(), tensor.name), problem)
    }
}

/// A quantized weight as calibration runs it.
fn calibration_matrix(tensor: &QuantizedTensor, activations: ActivationScheme) -> std::result::Result<Matrix, String> {
    match activations {
        ActivationScheme::None => {
            let row = |row: usize, out: &mut [f32]| tensor.row_to_f32(row, out);
            Ok(Matrix::from_rows(DenseFormat::Bf16, tensor.rows, tensor.cols, &row))
        }
        _ => Matrix::from_quantized(tensor, activations),
    }
}

/// Rounds values to a format, half to even.
fn round_to(values: &mut [f32], format: DenseFormat) {
    match format {
        DenseFormat::F32 => {}
        DenseFormat::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        DenseFormat::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
    }
}
