//! Writes the tensors of an artefact: dense ones and the head first, then block by block.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::ArrayView2;
use rayon::ThreadPool;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::build::QuantizedSize;
use super::passages::Spill;
use super::plan::{EMBEDDING, HEAD, Plan, PlannedTensor, Quantization, Storage};
use super::propagation::{ACTIVATION_BYTES, Propagation};
use super::safetensors_writer::SafetensorsWriter;
use super::unfinished::{Kept, Unfinished};
use super::{CalibrationTokens, Order, compressed_tensors};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Isa, Matrix};
use crate::network::{Architecture, EncoderEmbeddings, LoadOptions, PRE_QUANT_SCALE, Site, load_block};
use crate::quantize::{InputRange, InputStatistics, Quantized, group_size};
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
    /// Blocks that an earlier build has done, and what it kept.
    kept: Option<Kept>,
}

/// What is known of the weights once they are written.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Made {
    /// By tensor name.
    pub layer_errors: BTreeMap<String, f64>,
    pub size: QuantizedSize,
    /// Inputs have explicit scales.
    pub scaled: bool,
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

/// What calibration has found of the inputs of a site.
#[derive(Default)]
struct Observed {
    statistics: Option<InputStatistics>,
    range: Option<InputRange>,
}

/// The calibration sequences on their way.
struct Calibration<'p> {
    quantized: Propagation<'p>,
    /// Through the unquantized network, for asymmetric calibration.
    unquantized: Option<Propagation<'p>>,
}

impl<'a> Maker<'a> {
    /// Begins the safetensors file in `unfinished`, or goes on with what an earlier build has kept there.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        workers: &'a ThreadPool,
        unfinished: &Unfinished,
    ) -> Result<Self> {
        let (file, folder) = (unfinished.artefact().join("model.safetensors"), unfinished.folder());
        let go_on = |kept: Kept| Some((SafetensorsWriter::resume(&file, folder, kept.written.clone()).ok()?, kept));
        let (writer, kept) = match unfinished.kept().and_then(go_on) {
            Some((writer, kept)) => (writer, Some(kept)),
            None => (SafetensorsWriter::create(&file, folder)?, None),
        };
        let made = kept.as_ref().map(|kept| kept.made.clone()).unwrap_or_default();
        Ok(Maker { checkpoint, plan, workers, writer, changed: BTreeMap::new(), made, kept })
    }

    /// Writes all tensors.
    pub(super) fn make(
        mut self,
        order: &Order<'_>,
        unfinished: &mut Unfinished,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Made> {
        let kept = self.kept.take();
        let embedding = self.write_outside_blocks(kept.is_some())?;
        let mut calibration =
            if self.plan.needs_calibration() { Some(self.calibration(order, embedding, unfinished)?) } else { None };
        if let (Some(kept), Some(calibration)) = (&kept, &mut calibration) {
            unfinished.restore(kept, &mut calibration.all_mut())?;
        }
        let layers = self.plan.architecture.layers();
        for layer in kept.map_or(0, |kept| kept.layers)..layers {
            match &mut calibration {
                Some(calibration) => self.make_block_calibrated(layer, calibration)?,
                None => self.make_block(layer)?,
            }
            progress(layer + 1, layers);
            let through = calibration.as_ref().map(Calibration::all).unwrap_or_default();
            unfinished.keep(layer + 1, &self.made, &mut self.writer, &through)?;
        }
        self.writer.finish()?;
        Ok(self.made)
    }

    /// Writes the tensors outside of blocks, unless they are `written`, and returns the quantized embedding.
    fn write_outside_blocks(&mut self, written: bool) -> Result<Option<QuantizedTensor>> {
        let mut embedding = None;
        let plan: &'a Plan = self.plan;
        for tensor in &plan.tensors {
            match tensor.storage {
                _ if written => {}
                // Written with its block, which may change it.
                Storage::Dense(_) if plan.changes_blocks() && plan.is_in_block(tensor) => {}
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
        Ok(embedding)
    }

    /// Quantizes a block without calibration.
    fn make_block(&mut self, layer: usize) -> Result<()> {
        for linear in self.quantize_linears(self.plan.linears_of(layer), &Observed::default())? {
            self.write_quantized(linear.tensor, linear.quantization, &linear.quantized, linear.activations)?;
        }
        Ok(())
    }

    /// Quantizes the linear layers of a block site by site, each calibrated on what the quantized layers before it put out:
    /// matrices with 8-bit inputs run on the kernels that will run, all others in bfloat16.
    fn make_block_calibrated(&mut self, layer: usize, calibration: &mut Calibration<'_>) -> Result<()> {
        let options = LoadOptions { dense: Some(DenseFormat::Bf16), kv_cache: None };
        let load = || self.workers.install(|| load_block(self.checkpoint, &self.plan.architecture, layer, options));
        let mut block = load()?;
        let original = calibration.unquantized.as_ref().map(|_| load()).transpose()?;
        self.rescale_block(layer, &calibration.quantized, block.as_mut())?;
        for site in Site::ALL {
            calibration.quantized.reach(block.as_ref(), site)?;
            if let (Some(unquantized), Some(original)) = (&mut calibration.unquantized, &original) {
                unquantized.reach(original.as_ref(), site)?;
            }
            let linears = self.plan.linears_at(layer, site);
            let observed = self.observe(layer, &linears, calibration)?;
            let linears = self.quantize_linears(linears, &observed)?;
            if self.plan.bias_correction {
                self.correct_biases(layer, &calibration.quantized, &linears, block.as_mut())?;
            }
            for linear in linears {
                let matrix = calibration_matrix(&linear.quantized.tensor, linear.activations);
                block.replace_linear(linear.name, matrix.map_err(|problem| self.fault(linear.tensor, problem))?)?;
                self.write_quantized(linear.tensor, linear.quantization, &linear.quantized, linear.activations)?;
            }
        }
        self.write_changed_block(layer)?;
        if layer + 1 < self.plan.architecture.layers() {
            calibration.quantized.finish(block.as_ref())?;
            if let (Some(unquantized), Some(original)) = (&mut calibration.unquantized, &original) {
                unquantized.finish(original.as_ref())?;
            }
        }
        Ok(())
    }

    /// What the quantized `linears` of a site, which calibration has reached, want to know of their inputs.
    fn observe(
        &self,
        layer: usize,
        linears: &[(&'static str, &'a PlannedTensor, Quantization)],
        calibration: &Calibration<'_>,
    ) -> Result<Observed> {
        let overflow = |problem| self.block_fault(layer, problem);
        let mut observed = Observed::default();
        let learning: Vec<Quantization> = linears.iter().map(|(.., how)| *how).filter(|how| how.learns()).collect();
        if !learning.is_empty() {
            let statistics = calibration.quantized.statistics(calibration.unquantized.as_ref())?.map_err(overflow)?;
            for how in learning {
                let group_size = group_size(how.scheme, statistics.hessian.ncols()).map_err(overflow)?;
                self.workers.install(|| how.quantizer.prepare(group_size, &statistics)).map_err(overflow)?;
            }
            observed.statistics = Some(statistics);
        }
        if linears.iter().any(|(.., how)| how.inputs.learns().is_some()) {
            observed.range = Some(calibration.quantized.range()?.map_err(overflow)?);
        }
        Ok(observed)
    }

    /// A fault of a whole block.
    pub(super) fn block_fault(&self, layer: usize, problem: String) -> Error {
        Error::input(format!("{}: block {layer}", self.checkpoint.path().display()), problem)
    }

    /// The calibration sequences before the first block.
    fn calibration(
        &self,
        order: &Order<'_>,
        embedding: Option<QuantizedTensor>,
        unfinished: &Unfinished,
    ) -> Result<Calibration<'a>> {
        let tokens = order.calibration.ok_or_else(|| {
            Error::Usage("the recipe learns from calibration data, but there is none; name some in the suite".into())
        })?;
        let spill = Some((unfinished.folder(), ACTIVATION_BYTES));
        let unquantized =
            if self.plan.asymmetric_calibration { Some(self.propagation(tokens, None, spill)?) } else { None };
        Ok(Calibration { quantized: self.propagation(tokens, embedding, spill)?, unquantized })
    }

    /// Calibration sequences before the first block, with embeddings as the artefact will hold them.
    pub(super) fn propagation(
        &self,
        tokens: &CalibrationTokens,
        embedding: Option<QuantizedTensor>,
        spill: Spill<'_>,
    ) -> Result<Propagation<'a>> {
        match &self.plan.architecture {
            Architecture::Decoder(config) => {
                let table = self.embedding_table(embedding)?;
                Propagation::of_decoder(config, tokens, &table, self.workers, spill)
            }
            Architecture::Encoder { config, prefix } => {
                let options = LoadOptions { dense: Some(self.plan.dense), kv_cache: None };
                let embeddings = EncoderEmbeddings::load(self.checkpoint, config, prefix, options)?;
                Propagation::of_encoder(config, &embeddings, tokens, self.workers, spill)
            }
        }
    }

    /// Quantizes some linear layers of a block, several at once; the one with most inputs begins.
    fn quantize_linears(
        &self,
        mut linears: Vec<(&'static str, &'a PlannedTensor, Quantization)>,
        observed: &Observed,
    ) -> Result<Vec<Linear<'a>>> {
        let quantize = |(name, tensor, quantization): (&'static str, &'a PlannedTensor, Quantization)| {
            let quantized = self.quantize(tensor, quantization, observed.statistics.as_ref())?;
            let activations = quantization.activations(observed.range.as_ref());
            let activations = activations.map_err(|problem| self.fault(tensor, problem))?;
            Ok(Linear { name, tensor, quantization, quantized, activations })
        };
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
        self.made.scaled |= tensor.name.ends_with(PRE_QUANT_SCALE);
        let (shape, values) = (&tensor.shape, self.values(&tensor.name)?);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(self.fault(tensor, format!("holds {value}; the model is damaged")));
        }
        match format {
            DenseFormat::F32 => self.writer.add(&tensor.name, Dtype::F32, shape, &values),
            DenseFormat::Bf16 => {
                let halves = self.convert(&values, <[bf16]>::convert_from_f32_slice);
                if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
                    let problem = format!("holds {:e}, but bf16 ends at 3.39e38; use f32", values[at]);
                    return Err(self.fault(tensor, problem));
                }
                self.writer.add(&tensor.name, Dtype::BF16, shape, &halves)
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

impl<'p> Calibration<'p> {
    fn all(&self) -> Vec<&Propagation<'p>> {
        [Some(&self.quantized), self.unquantized.as_ref()].into_iter().flatten().collect()
    }

    fn all_mut(&mut self) -> Vec<&mut Propagation<'p>> {
        [Some(&mut self.quantized), self.unquantized.as_mut()].into_iter().flatten().collect()
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
