//! Makes the artefact of an order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};

use super::maker::Maker;
use super::plan::{EMBEDDING, HEAD, Plan, Quantization};
use super::unfinished::{Unfinished, keep_every};
use super::{Order, compressed_tensors, proof, rotation};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{Error, Result};
use crate::files;
use crate::machine::crash_point;
use crate::network::{self, Architecture, Model, Tokenizer};
use crate::results::{Artefact, folder_of, hash_files, hash_folder};
use crate::suite::{InputScheme, Recipe};
use crate::tensor::{DenseFormat, QuantizedTensor};

/// Makes the artefact of `order` in `into` (a new folder), or describes the published file for an import.
/// `progress(done, total)` is told blocks. The folder appears whole: it is written beside, made durable and renamed. A build
/// that was killed goes on behind the last block that it kept.
///
/// # Errors
/// A tensor that a scheme does not fit (all such tensors are named before work starts), NaN weights, no space.
pub fn build(order: &Order<'_>, into: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Artefact> {
    if let Recipe::Import { source, activations } = order.recipe {
        return describe_import(order, source, *activations);
    }
    build_keeping(order, into, keep_every(), progress, &mut |_| ())
}

/// As [`build`], keeping what is done at such intervals.
pub(super) fn build_keeping(
    order: &Order<'_>,
    into: &Path,
    every: Duration,
    progress: &mut dyn FnMut(usize, usize),
    waiting: &mut dyn FnMut(&str),
) -> Result<Artefact> {
    let mut unfinished = Unfinished::open(into, &order.key(), every, waiting)?;
    let artefact = build_in(order, into, &mut unfinished, progress);
    unfinished.remove();
    artefact
}

/// As [`build`] of a recipe that makes something, in a folder that is open.
pub(super) fn build_in(
    order: &Order<'_>,
    into: &Path,
    unfinished: &mut Unfinished,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Artefact> {
    let start = Instant::now();
    let original = Checkpoint::open(order.model)?;
    let mut plan = Plan::new(&original, order.recipe)?;
    let workers = ThreadPoolBuilder::new()
        .num_threads(order.threads)
        .build()
        .map_err(|e| Error::Usage(format!("cannot start {} threads: {e}", order.threads)))?;

    let rotated = match rotation::rotates(order.recipe) {
        true => Some(rotation::rotate(&original, &workers, &unfinished.folder().join("rotated"))?),
        false => None,
    };
    let checkpoint = rotated.as_ref().unwrap_or(&original);
    if rotated.is_some() {
        plan = Plan::new(checkpoint, order.recipe)?;
    }
    let made = Maker::new(checkpoint, &plan, &workers, unfinished)?.make(order, unfinished, progress)?;
    let folder = unfinished.artefact();
    write_config(checkpoint, &plan, made.scaled, &folder.join("config.json"))?;
    Tokenizer::from_checkpoint(&original)?.save(&folder.join("tokenizer.json"))?;
    for file in &original.sentence_modules().files {
        copy(original.path(), &folder, file)?;
    }
    // What is shipped must be what every other command reads.
    Model::open(&folder)?;
    let file_bytes = make_durable(&folder)?;
    let files = hash_folder(&folder)?;
    crash_point("rename-before");
    fs::rename(&folder, into).map_err(|e| Error::io(into, "rename the finished artefact to", e))?;
    crash_point("rename-after");
    let parent = folder_of(into);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| Error::io(parent, "write", e))?;
    Ok(Artefact {
        path: into.display().to_string(),
        key: order.key(),
        file_bytes,
        files,
        seconds: start.elapsed().as_secs_f64(),
        cached: false,
        layer_errors: made.layer_errors,
        bits_per_weight: made.size.bits_per_weight(),
        mixture: None,
        proof: Vec::new(),
    })
}

/// The published file as it is, with the proof that it was read rightly.
fn describe_import(order: &Order<'_>, source: &str, activations: InputScheme) -> Result<Artefact> {
    if activations != InputScheme::None {
        return Err(Error::Usage(format!(
            "import \"{source}\": quantizing the inputs of an imported model is not supported; leave activations out"
        )));
    }
    let path = order.import.unwrap_or(order.model);
    let checkpoint = Checkpoint::open(path)?;
    Architecture::of(&checkpoint)?;
    let mut size = QuantizedSize::default();
    for name in checkpoint.names() {
        if let StoredTensor::Quantized(tensor, _) = checkpoint.tensor(&name)? {
            size.add(&tensor);
        }
        checkpoint.release(&name);
    }
    let bytes = |path: &Path| fs::metadata(path).map(|m| m.len()).map_err(|e| Error::io(path, "read", e));
    Ok(Artefact {
        path: path.display().to_string(),
        key: order.key(),
        file_bytes: checkpoint.files().iter().map(|file| bytes(file)).sum::<Result<u64>>()?,
        files: hash_files(path, &checkpoint.files().iter().map(PathBuf::from).collect::<Vec<_>>())?,
        seconds: 0.0,
        cached: false,
        layer_errors: BTreeMap::new(),
        bits_per_weight: size.bits_per_weight(),
        mixture: None,
        proof: proof::prove(&checkpoint, order.threads)?,
    })
}

/// Size of all quantized tensors.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct QuantizedSize {
    bits: u64,
    weights: u64,
}

impl QuantizedSize {
    pub(super) fn add(&mut self, tensor: &QuantizedTensor) {
        self.bits += compressed_tensors::stored_bits(tensor);
        self.weights += tensor.codes.len() as u64;
    }

    /// `None` where nothing is quantized.
    fn bits_per_weight(self) -> Option<f64> {
        (self.weights > 0).then(|| self.bits as f64 / self.weights as f64)
    }
}

/// The model's configuration with the artefact's formats; `scaled` says whether inputs have explicit scales.
fn write_config(checkpoint: &Checkpoint, plan: &Plan, scaled: bool, path: &Path) -> Result<()> {
    let mut config = checkpoint.config().clone();
    let Some(keys) = config.as_object_mut() else {
        return Err(Error::input(checkpoint.path().display(), "the configuration is not a JSON object"));
    };
    // What a bfloat16 model computes may exceed f16, whatever its left dense tensors are stored in.
    let quantized_bf16 = plan.quantized().next().is_some() && network::published_in_bf16(checkpoint);
    let dtype = match if quantized_bf16 { DenseFormat::Bf16 } else { plan.dense } {
        DenseFormat::F32 => "float32",
        DenseFormat::F16 => "float16",
        DenseFormat::Bf16 => "bfloat16",
    };
    keys.remove("dtype");
    keys.insert("torch_dtype".into(), dtype.into());
    if plan.architecture.head().is_some() {
        keys.insert("tie_word_embeddings".into(), plan.architecture.tied_head().into());
    }
    keys.remove("quantization_config");
    let mut quantized: Vec<(String, Quantization)> =
        plan.quantized().map(|(tensor, quantization)| (tensor.module().to_owned(), quantization)).collect();
    let embedding = quantized.iter_mut().find(|(module, _)| module == EMBEDDING);
    if let Some((_, quantization)) = embedding {
        let head = *quantization;
        *quantization = head.of_lookup();
        quantized.push((HEAD.to_owned(), head));
    }
    if !quantized.is_empty() {
        let declared = compressed_tensors::quantization_config(&quantized, &plan.dense_linears(), scaled);
        keys.insert("quantization_config".into(), declared);
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::input(path.display(), e.to_string()))?;
    fs::write(path, text).map_err(|e| Error::io(path, "write", e))
}

/// Copies `file`, a path relative to both folders.
fn copy(from: &Path, to: &Path, file: &Path) -> Result<()> {
    let (source, target) = (from.join(file), to.join(file));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
    }
    files::copy(&source, &target)
}

/// Makes all files of a folder durable, those of its folders too, and returns their bytes.
fn make_durable(folder: &Path) -> Result<u64> {
    let failed = |e| Error::io(folder, "read", e);
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
        file.sync_all().map_err(|e| Error::io(&path, "write", e))?;
        let metadata = file.metadata().map_err(|e| Error::io(&path, "read", e))?;
        bytes += if metadata.is_dir() { make_durable(&path)? } else { metadata.len() };
    }
    Ok(bytes)
}
