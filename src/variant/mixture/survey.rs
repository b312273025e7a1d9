//! What quantizing one unit alone does to the model's predictions.
//!
//! The windows are carried through the unquantized network block by block. For each unit of the block at hand, and each
//! format, the network runs on from the hidden states before the block, with that unit quantized and everything else as it
//! was: half of all blocks on average instead of all of them. Its predictions are compared with the unquantized ones at
//! every position by KL(p || q) over the whole vocabulary.
//!
//! Results are kept block by block in the cache, so that an interrupted survey goes on and a finished one costs nothing.

use std::path::{Path, PathBuf};

use ndarray::ArrayView2;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::super::CalibrationTokens;
use super::super::key::key_of;
use super::super::plan::{HEAD, check_kernel};
use super::super::propagation::Propagation;
use super::units::Unit;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Isa, Matrix, Pool, vector};
use crate::network::{Architecture, Config, Decoder, Head, LoadOptions, Site};
use crate::quantize::{InputStatistics, Quantizer, StatisticsAccumulator, method, output_energies};
use crate::results::{
    Effect, Lock, SENSITIVITY_SCHEMA, Sensitivity, UnitSensitivity, create_folder, read_checked, write_checked,
};
use crate::stats::mean_interval;
use crate::suite::{Format, Observer};
use crate::tensor::{DenseFormat, QuantizedTensor};

/// Largest file of results.
const MOST_BYTES: u64 = 256 << 20;

/// Positions whose logits are held at once.
const CHUNK: usize = 64;
/// Units of a block.
const UNITS: usize = Site::ALL.len();
/// Confidence of the intervals over windows.
const CONFIDENCE: f64 = 0.95;

/// What a survey needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey<'a> {
    /// The model's file or folder; a decoder.
    pub model: &'a Path,
    /// SHA-256 over its files.
    pub model_sha256: &'a str,
    /// Name of the quantizer; the head is rounded to nearest, as in every recipe.
    pub method: &'a str,
    /// Formats to try.
    pub formats: &'a [Format],
    /// Format of everything else.
    pub dense: DenseFormat,
    /// Text on which predictions are compared.
    pub windows: &'a CalibrationTokens,
    /// Text that the quantizer learns from.
    pub calibration: Option<&'a CalibrationTokens>,
    /// Threads to use.
    pub threads: usize,
    /// Folder that keeps results.
    pub cache: &'a Path,
}

/// How much a survey has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Passes of all windows through a block.
    pub block_passes: usize,
    /// Passes through the output head.
    pub head_passes: usize,
    /// What a pass through the head costs, in passes through a block.
    head_cost: usize,
}

impl Work {
    fn new(config: &Config, formats: usize) -> Work {
        let (layers, width) = (config.layers, config.hidden_size);
        let attention = width * 2 * (config.query_width() + config.kv_width());
        let block = attention + 3 * width * config.intermediate_size;
        let of_head = if config.tied_head { layers * formats } else { 0 };
        Work {
            block_passes: layers + UNITS * formats * layers * (layers + 1) / 2 + of_head,
            head_passes: (layers + 1) + (UNITS * layers + 1) * formats,
            head_cost: (config.vocab_size * width).div_ceil(block),
        }
    }

    /// In steps of one pass through a block.
    pub fn steps(&self) -> usize {
        self.block_passes + self.head_passes * self.head_cost
    }
}

impl Survey<'_> {
    /// How much there is to do.
    ///
    /// # Errors
    /// A model that is damaged or no decoder.
    pub fn work(&self) -> Result<Work> {
        let architecture = Architecture::of(&Checkpoint::open(self.model)?)?;
        Ok(Work::new(self.decoder(&architecture)?, self.formats.len()))
    }

    /// Measures all units, or finds what was measured before. `progress(done, total)` is told steps of [`Work`],
    /// `waiting` for whom it waits.
    ///
    /// # Errors
    /// A model that is damaged or no decoder; a method that rescales or lacks calibration text; windows that do not fit the
    /// model; predictions that are no numbers.
    pub fn run(&self, progress: &mut dyn FnMut(usize, usize), waiting: &mut dyn FnMut(&str)) -> Result<Sensitivity> {
        let file = self.file();
        // Held to the end: another process that wants the same waits, and finds it.
        let _lock = Lock::take(&file.with_extension("lock"), "the same survey of units", waiting)?;
        let mut found = self.read(&file).unwrap_or_else(|| self.nothing_yet());
        let checkpoint = Checkpoint::open(self.model)?;
        let architecture = Architecture::of(&checkpoint)?;
        let config = self.decoder(&architecture)?;
        if found.units.len() == UNITS * config.layers + 1 {
            return Ok(found);
        }
        let mut bench = Bench::new(self, &checkpoint, &architecture, config)?;
        let table = bench.decoder.embed(&(0..config.vocab_size as u32).collect::<Vec<u32>>());
        let carry = |tokens, workers| Propagation::of_decoder(config, tokens, &table, workers, None);
        let workers = bench.workers.clone();
        let mut windows = carry(self.windows, &workers)?;
        let mut calibration = self.calibration.map(|tokens| carry(tokens, &workers)).transpose()?;
        bench.reference = bench.run_on(0, &windows)?;
        drop(table);

        let work = Work::new(config, self.formats.len());
        let mut count = |passes: usize| progress(passes.min(work.steps()), work.steps());
        let mut done = config.layers;
        for layer in 0..config.layers {
            let trials = UNITS * self.formats.len();
            let steps = trials * (config.layers - layer) + (trials + 1) * work.head_cost;
            if found.units.len() < UNITS * (layer + 1) {
                let units = bench.block(layer, &windows, calibration.as_ref(), &mut |passes| count(done + passes))?;
                found.units.extend(units);
                self.write(&file, &found)?;
            }
            done += steps;
            windows.advance(bench.decoder.block(layer))?;
            if let Some(calibration) = &mut calibration {
                calibration.advance(bench.decoder.block(layer))?;
            }
        }
        found.units.push(bench.head()?);
        count(work.steps());
        self.write(&file, &found)?;
        Ok(found)
    }

    fn decoder<'c>(&self, architecture: &'c Architecture) -> Result<&'c Config> {
        match architecture {
            Architecture::Decoder(config) => Ok(config),
            Architecture::Encoder { .. } => {
                let problem = "is an encoder; sensitivity is measured by the predictions of a decoder";
                Err(Error::input(self.model.display(), problem))
            }
        }
    }

    fn nothing_yet(&self) -> Sensitivity {
        Sensitivity {
            schema_version: SENSITIVITY_SCHEMA,
            tool_version: crate::program::VERSION.into(),
            model_sha256: self.model_sha256.into(),
            method: self.method.into(),
            reference: self.dense.name().into(),
            isa: Isa::active().name().into(),
            calibration_windows: self.calibration.map_or(0, |tokens| tokens.windows.len()),
            windows: self.windows.windows.len(),
            tokens: self.windows.windows.iter().map(Vec::len).sum(),
            formats: self.formats.to_vec(),
            units: Vec::new(),
        }
    }

    /// Where results are kept: everything that changes them is in the name, the number of threads is not.
    fn file(&self) -> PathBuf {
        let formats = serde_json::to_string(self.formats).unwrap_or_else(|_| format!("{:?}", self.formats));
        let mut parts: Vec<&[u8]> = vec![
            self.model_sha256.as_bytes(),
            self.method.as_bytes(),
            formats.as_bytes(),
            self.dense.name().as_bytes(),
        ];
        parts.push(Isa::active().name().as_bytes());
        for tokens in [Some(self.windows), self.calibration] {
            parts.push(b"windows");
            parts.extend(tokens.iter().flat_map(|tokens| &tokens.windows).map(|window| bytemuck::cast_slice(window)));
        }
        self.cache.join("sensitivities").join(format!("{}.json", key_of(&parts)))
    }

    fn read(&self, file: &Path) -> Option<Sensitivity> {
        let found: Sensitivity = serde_json::from_slice(&read_checked(file, MOST_BYTES)?).ok()?;
        // Whole blocks only, as they are written.
        (found.formats == self.formats && (found.units.len() % UNITS <= 1)).then_some(found)
    }

    fn write(&self, file: &Path, found: &Sensitivity) -> Result<()> {
        if let Some(folder) = file.parent() {
            create_folder(folder)?;
        }
        let json = serde_json::to_vec(found).map_err(|e| Error::input(file.display(), e.to_string()))?;
        write_checked(file, &json)
    }
}

/// The network on which units are tried.
struct Bench<'a> {
    survey: &'a Survey<'a>,
    checkpoint: &'a Checkpoint,
    architecture: &'a Architecture,
    config: &'a Config,
    quantizer: &'static dyn Quantizer,
    decoder: Decoder,
    pool: Pool,
    workers: std::sync::Arc<ThreadPool>,
    /// Final hidden states of the unquantized network, `(tokens, hidden_size)`.
    reference: Vec<f32>,
}

/// A unit in a format.
struct Trial {
    matrices: Vec<Matrix>,
    tensors: Vec<QuantizedTensor>,
    output_error: f64,
}

impl Trial {
    fn bytes(&self) -> u64 {
        self.matrices.iter().map(|matrix| matrix.bytes() as u64).sum()
    }
}

/// A quantized weight, the same packed, and `E|(W - Q) x|^2` with `E|W x|^2`.
type Made = (QuantizedTensor, Matrix, (f64, f64));

/// What is known of a trial before its predictions are.
struct Tried {
    unit: usize,
    format: String,
    output_error: f64,
    bytes: u64,
    /// Final hidden states.
    states: Vec<f32>,
}

impl<'a> Bench<'a> {
    fn new(
        survey: &'a Survey<'a>,
        checkpoint: &'a Checkpoint,
        architecture: &'a Architecture,
        config: &'a Config,
    ) -> Result<Self> {
        let quantizer = method(survey.method).map_err(Error::Usage)?;
        if quantizer.rescaling().is_some() {
            let problem = "rescales what other units read, so its effect is not that of a unit; use rtn, gptq or hqq";
            return Err(Error::Usage(format!("method \"{}\" {problem}", survey.method)));
        }
        let learns = |format: &Format| format.weights.observer == Observer::ImatrixMse;
        if survey.calibration.is_none() && (quantizer.needs_calibration() || survey.formats.iter().any(learns)) {
            return Err(Error::Usage(format!("method \"{}\" learns from text; give calibration text", survey.method)));
        }
        let workers = ThreadPoolBuilder::new()
            .num_threads(survey.threads)
            .build()
            .map_err(|e| Error::Usage(format!("cannot start {} threads: {e}", survey.threads)))?;
        let options = LoadOptions { dense: Some(survey.dense), kv_cache: None };
        Ok(Bench {
            survey,
            checkpoint,
            architecture,
            config,
            quantizer,
            decoder: workers.install(|| Decoder::load(checkpoint, options))?,
            pool: Pool::new(survey.threads),
            workers: workers.into(),
            reference: Vec::new(),
        })
    }

    /// Final hidden states of all windows, from those before block `layer` on.
    fn run_on(&self, layer: usize, windows: &Propagation<'_>) -> Result<Vec<f32>> {
        let mut states = Vec::new();
        windows.for_each_stream(|stream| {
            let mut hidden = stream.to_vec();
            self.decoder.run_on(&self.pool, layer, windows.length(), &mut hidden);
            states.extend(hidden);
            Ok(())
        })?;
        Ok(states)
    }

    /// Tries all units of a block; `count` is told passes.
    fn block(
        &mut self,
        layer: usize,
        windows: &Propagation<'_>,
        calibration: Option<&Propagation<'_>>,
        count: &mut dyn FnMut(usize),
    ) -> Result<Vec<UnitSensitivity>> {
        let fault = |problem| Error::input(format!("{}: block {layer}", self.checkpoint.path().display()), problem);
        let observe = |through: &Propagation<'_>| through.observe(self.decoder.block(layer))?.map_err(fault);
        let (seen, learned) = (observe(windows)?, calibration.map(observe).transpose()?);
        let units = Unit::of_block(self.architecture, layer);
        let mut tried: Vec<Tried> = Vec::new();
        for (at, (unit, site)) in units.iter().zip(Site::ALL).enumerate() {
            let learned = learned.as_ref().and_then(|learned| learned.get(&site));
            for format in self.survey.formats {
                let Some(trial) = self.quantize(self.quantizer, &unit.modules, *format, learned, &seen[&site])? else {
                    continue;
                };
                let (bytes, output_error) = (trial.bytes(), trial.output_error);
                let originals = self.exchange(layer, site, trial.matrices)?;
                let states = self.run_on(layer, windows)?;
                self.exchange(layer, site, originals)?;
                tried.push(Tried { unit: at, format: format.name(), output_error, bytes, states });
                count(tried.len() * (self.config.layers - layer));
            }
        }
        let heads: Vec<(&Head, &[f32])> =
            tried.iter().map(|tried| (self.decoder.head(), tried.states.as_slice())).collect();
        let divergences = self.divergences(&heads)?;
        let mut found: Vec<UnitSensitivity> = units.iter().map(|unit| self.describe(unit)).collect::<Result<_>>()?;
        for (tried, divergences) in tried.iter().zip(divergences) {
            let Tried { unit, output_error, bytes, .. } = *tried;
            found[unit].effects.push(effect(tried.format.clone(), output_error, bytes, &divergences));
        }
        Ok(found)
    }

    /// Tries the head, with the embedding where they are tied.
    fn head(&self) -> Result<UnitSensitivity> {
        let mut statistics = StatisticsAccumulator::new(self.config.hidden_size);
        self.workers.install(|| statistics.add(&self.reference));
        let seen = statistics.finish().map_err(|problem| Error::input(self.checkpoint.path().display(), problem))?;
        let unit = Unit::head();
        let rounding = method("rtn").map_err(Error::Usage)?;
        let mut found = self.describe(&unit)?;
        for format in self.survey.formats.iter().map(Format::of_head) {
            let Some(mut trial) = self.quantize(rounding, &unit.modules, format, None, &seen)? else { continue };
            let (bytes, Some(tensor), Some(matrix)) = (trial.bytes(), trial.tensors.pop(), trial.matrices.pop()) else {
                continue;
            };
            let states = if self.config.tied_head {
                let table = tensor.to_f32();
                let windows = Propagation::of_decoder(self.config, self.survey.windows, &table, &self.workers, None)?;
                self.run_on(0, &windows)?
            } else {
                self.reference.clone()
            };
            let divergences = self.divergences(&[(&Head::new(matrix), &states)])?;
            let divergences = divergences.into_iter().flatten().collect::<Vec<f64>>();
            found.effects.push(effect(format.name(), trial.output_error, bytes, &divergences));
        }
        Ok(found)
    }

    fn describe(&self, unit: &Unit) -> Result<UnitSensitivity> {
        let weights = |module: &String| {
            let name = self.weight_of(module);
            self.checkpoint.shape(&name).map(|shape| shape.iter().product::<usize>() as u64)
        };
        Ok(UnitSensitivity {
            layer: unit.place.map(|(layer, _)| layer),
            unit: unit.name().into(),
            modules: unit.modules.clone(),
            weights: unit.modules.iter().filter_map(weights).sum(),
            effects: Vec::new(),
        })
    }

    /// The tensor of a module: a tied head's is the embedding.
    fn weight_of(&self, module: &str) -> String {
        let head = self.architecture.head().filter(|_| module == HEAD);
        head.map_or_else(|| format!("{module}.weight"), str::to_owned)
    }

    /// Quantizes a unit; `None` where the format does not fit it. `learned` is what the quantizer sees of the inputs, `seen`
    /// what the error is measured on.
    fn quantize(
        &self,
        quantizer: &'static dyn Quantizer,
        modules: &[String],
        format: Format,
        learned: Option<&InputStatistics>,
        seen: &InputStatistics,
    ) -> Result<Option<Trial>> {
        let fault = |name: &str, problem: String| {
            Error::input(format!("{}: tensor \"{name}\"", self.checkpoint.path().display()), problem)
        };
        let (scheme, learns) = (format.weights, format.weights.observer == Observer::ImatrixMse);
        let learned = learned.filter(|_| learns || quantizer.needs_calibration());
        let one = |module: &String| -> Result<Option<Made>> {
            let name = self.weight_of(module);
            let (shape, values) = self.checkpoint.tensor_f32(&name)?;
            self.checkpoint.release(&name);
            let (rows, cols) = (values.len() / shape.last().copied().unwrap_or(1).max(1), *shape.last().unwrap_or(&1));
            if check_kernel(scheme, cols).is_err() {
                return Ok(None);
            }
            let weight = ArrayView2::from_shape((rows, cols), &values).map_err(|e| fault(&name, e.to_string()))?;
            let tensor = quantizer.quantize(weight, scheme, learned).map_err(|problem| fault(&name, problem))?.tensor;
            let matrix = Matrix::from_quantized(&tensor, format.activations.unlearned())
                .map_err(|problem| fault(&name, problem))?;
            let energies = output_energies(&values, &tensor, seen);
            Ok(Some((tensor, matrix, energies)))
        };
        let made: Vec<_> = self.workers.install(|| modules.par_iter().map(one).collect::<Result<_>>())?;
        let Some(made) = made.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let (mut trial, mut sums) =
            (Trial { matrices: Vec::new(), tensors: Vec::new(), output_error: 0.0 }, (0.0, 0.0));
        for (tensor, matrix, (of_error, of_output)) in made {
            trial.tensors.push(tensor);
            trial.matrices.push(matrix);
            sums = (sums.0 + of_error, sums.1 + of_output);
        }
        trial.output_error = if sums.0 == 0.0 { 0.0 } else { sums.0 / sums.1 };
        Ok(Some(trial))
    }

    /// Puts other weights into a site's linear layers and returns those that were there.
    fn exchange(&mut self, layer: usize, site: Site, matrices: Vec<Matrix>) -> Result<Vec<Matrix>> {
        let linears = self.architecture.linears_at(site);
        let block = self.decoder.block_mut(layer);
        linears.iter().zip(matrices).map(|(linear, matrix)| block.set_linear(linear, matrix)).collect()
    }

    /// For each trial the mean KL divergence of every window's tokens from the unquantized network's predictions.
    fn divergences(&self, trials: &[(&Head, &[f32])]) -> Result<Vec<Vec<f64>>> {
        let (width, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let length = self.survey.windows.windows.first().map_or(1, Vec::len);
        let (mut reference, mut logits) = (Vec::new(), Vec::new());
        let mut rows: Vec<Vec<f64>> = vec![Vec::new(); trials.len()];
        for (chunk, of_reference) in self.reference.chunks(CHUNK * width).enumerate() {
            self.decoder.logits(&self.pool, of_reference, &mut reference);
            for ((head, states), rows) in trials.iter().zip(&mut rows) {
                let start = chunk * CHUNK * width;
                head.logits(&self.pool, &states[start..start + of_reference.len()], &mut logits);
                let pairs = reference.par_chunks_exact(vocabulary).zip(logits.par_chunks_exact(vocabulary));
                let divergence = |(a, b): (&[f32], &[f32])| vector::softmax_divergence(Isa::active(), a, b).1;
                rows.extend(self.workers.install(|| pairs.map(divergence).collect::<Vec<f64>>()));
            }
        }
        if rows.iter().flatten().any(|kl| !kl.is_finite()) {
            return Err(Error::Measurement("a KL divergence is no number; the model overflows on this text".into()));
        }
        // What rounding leaves below 0 is no divergence.
        let window = |rows: &[f64]| rows.iter().map(|kl| kl.max(0.0)).sum::<f64>() / rows.len() as f64;
        Ok(rows.iter().map(|rows| rows.chunks(length).map(window).collect()).collect())
    }
}

/// An effect from the divergences of all windows.
fn effect(format: String, output_error: f64, bytes: u64, divergences: &[f64]) -> Effect {
    let interval = mean_interval(divergences, CONFIDENCE);
    let kl = interval.as_ref().map_or(f64::NAN, |interval| interval.value);
    Effect { format, output_error, kl, kl_interval: interval.and_then(|interval| interval.bounds), bytes }
}
