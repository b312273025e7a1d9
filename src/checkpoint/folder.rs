//! Which files of a folder make up a model.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::gguf_parts::name_of_part;
use super::other_formats::{self, has_extension};
use super::sentence_transformers::{self, SentenceModules};
use super::{gptq, python_json};
use crate::error::{Error, Result};

/// Configuration, published with every Hugging Face model.
const CONFIG: &str = "config.json";
/// Configuration of an adapter.
const ADAPTER: &str = "adapter_config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Configuration of the quantization, where GPTQ did not write it into [`CONFIG`].
const GPTQ_CONFIG: &str = "quantize_config.json";

/// What a folder holds.
#[derive(Debug)]
pub(super) enum Folder {
    /// Configuration and safetensors.
    Safetensors(Box<Layout>),
    /// One GGUF file, or the first part of one model.
    Gguf(PathBuf),
}

/// The files of a model in safetensors.
#[derive(Debug)]
pub(super) struct Layout {
    /// Weights; each is mapped once.
    pub(super) shards: Vec<PathBuf>,
    /// The shard of every tensor, as a place in `shards`; `None` when there is one shard without an index.
    pub(super) weight_map: Option<HashMap<String, usize>>,
    /// `config.json`, or `null` where a single file has none beside it. Has a `quantization_config` from
    /// `quantize_config.json` where it has none of its own.
    pub(super) config: Value,
    pub(super) tokenizer: Option<PathBuf>,
    /// What follows an encoder.
    pub(super) sentence_modules: SentenceModules,
    /// Configuration, tokenizer, index and sentence modules, where there are any.
    pub(super) side_files: Vec<PathBuf>,
}

/// Looks at a folder.
pub(super) fn look(folder: &Path) -> Result<Folder> {
    let names = list(folder)?;
    let adapter = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("adapter_model."));
    if folder.join(ADAPTER).is_file() && (names.iter().any(adapter) || !folder.join(WEIGHTS).is_file()) {
        let problem =
            "holds a LoRA adapter (adapter_config.json); merge it into its model first (merge_and_unload of peft)";
        return Err(Error::input(folder.display(), problem));
    }
    if folder.join(CONFIG).is_file() {
        if folder.join(WEIGHTS).is_file() {
            refuse_other_shards(folder)?;
            return layout(folder, vec![folder.join(WEIGHTS)], None).map(Box::new).map(Folder::Safetensors);
        }
        if folder.join(INDEX).is_file() {
            let (shards, weight_map) = read_index(folder)?;
            return layout(folder, shards, Some(weight_map)).map(Box::new).map(Folder::Safetensors);
        }
        // GPTQ names its one file after the scheme.
        let weights = names.iter().filter(|p| has_extension(p, &["safetensors"]) && !other_formats::is_consolidated(p));
        let weights: Vec<PathBuf> = weights.cloned().collect();
        if weights.len() == 1 {
            return layout(folder, weights, None).map(Box::new).map(Folder::Safetensors);
        }
        if weights.len() > 1 {
            let problem = format!("{} .safetensors files, but no {INDEX}; fetch the index too", weights.len());
            return Err(Error::input(folder.display(), problem));
        }
    }
    let of_kind = |extensions: &[&str]| -> Vec<&PathBuf> {
        names.iter().filter(|path| has_extension(path, extensions)).collect()
    };
    let gguf = of_kind(&["gguf"]);
    if let Some(first) = one_model(&gguf) {
        return Ok(Folder::Gguf(first.clone()));
    }
    // Exporters of ONNX put it into a folder of its own.
    let inner: Vec<PathBuf> = if folder.join("onnx").is_dir() { list(&folder.join("onnx"))? } else { Vec::new() };
    let other = other_formats::describe(&names).or_else(|| other_formats::describe(&inner));
    let got = if gguf.len() > 1 {
        format!("{} .gguf files: name one of them", gguf.len())
    } else if of_kind(&["safetensors"]).iter().any(|path| !other_formats::is_consolidated(path)) {
        "safetensors without config.json: put the model's config.json beside them".into()
    } else {
        other.unwrap_or_else(|| "neither".into())
    };
    let problem = format!("expected {CONFIG} with {WEIGHTS} or {INDEX}, or one .gguf file; got {got}");
    Err(Error::input(folder.display(), problem))
}

/// The only file, or one of the parts of the only model.
fn one_model<'a>(gguf: &[&'a PathBuf]) -> Option<&'a PathBuf> {
    let (first, others) = gguf.split_first()?;
    let model = |path: &Path| name_of_part(path).map(|(name, _, count)| (name, count));
    let same = |other: &&PathBuf| model(first).is_some() && model(other) == model(first);
    others.iter().all(same).then_some(first)
}

/// Refuses a folder that holds [`WEIGHTS`] and shards of another model, of which programs take one or the other.
fn refuse_other_shards(folder: &Path) -> Result<()> {
    if !folder.join(INDEX).is_file() {
        return Ok(());
    }
    let (shards, _) = read_index(folder)?;
    match shards.iter().find(|shard| **shard != folder.join(WEIGHTS) && shard.is_file()) {
        None => Ok(()),
        Some(shard) => {
            let shard = shard.file_name().unwrap_or_default().to_string_lossy();
            let problem = format!(
                "holds {WEIGHTS}, and beside it {shard} and others that {INDEX} lists; which of the two is the model cannot \
                 be known: remove one"
            );
            Err(Error::input(folder.display(), problem))
        }
    }
}

/// A single safetensors file, with the configuration and tokenizer beside it, where there are any.
pub(super) fn single(file: &Path) -> Result<Layout> {
    layout(file.parent().unwrap_or(Path::new("")), vec![file.to_path_buf()], None)
}

fn layout(folder: &Path, shards: Vec<PathBuf>, weight_map: Option<HashMap<String, usize>>) -> Result<Layout> {
    let beside = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let mut config = match beside(CONFIG) {
        Some(path) => read_json(&path)?,
        None => Value::Null,
    };
    let gptq_config = beside(GPTQ_CONFIG).filter(|_| config.is_object());
    if let Some(path) = &gptq_config {
        let mut quantization = read_json(path)?;
        match config.get("quantization_config").filter(|own| !own.is_null()) {
            Some(own) => gptq::check_copy(own, &quantization)
                .map_err(|problem| Error::input(path.display(), format!("{problem}; keep one of them")))?,
            None => {
                if quantization.get("quant_method").is_none() {
                    quantization["quant_method"] = "gptq".into();
                }
                config["quantization_config"] = quantization;
            }
        }
    }
    let index = weight_map.is_some().then(|| folder.join(INDEX));
    let sentence_modules = sentence_transformers::read(folder, &config)?;
    let modules = sentence_modules.files.iter().map(|file| folder.join(file));
    let side_files = [beside(CONFIG), beside(TOKENIZER), index, gptq_config].into_iter().flatten().chain(modules);
    let side_files = side_files.collect();
    Ok(Layout { shards, weight_map, config, tokenizer: beside(TOKENIZER), sentence_modules, side_files })
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::io(folder, "read", source))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(|source| Error::io(folder, "read", source))).collect()
}

/// A JSON object.
fn read_json(path: &Path) -> Result<Value> {
    let json = python_json::read(path)?;
    if json.is_object() { Ok(json) } else { Err(Error::input(path.display(), "expected a JSON object")) }
}

/// Shards, and the shard of every tensor.
fn read_index(folder: &Path) -> Result<(Vec<PathBuf>, HashMap<String, usize>)> {
    let path = folder.join(INDEX);
    let json = read_json(&path)?;
    let Some(entries) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::input(path.display(), "expected an object \"weight_map\" from tensor to file"));
    };
    let mut shards = Vec::new();
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    let mut weight_map = HashMap::with_capacity(entries.len());
    for (tensor, shard) in entries {
        let shard = shard.as_str().and_then(|name| plain_file_name(name).then(|| folder.join(name)));
        let shard = shard.ok_or_else(|| {
            let problem = "expected the name of a file in this folder, without a path";
            Error::input(format!("{}: weight_map: \"{tensor}\"", path.display()), problem)
        })?;
        let at = *places.entry(shard).or_insert_with_key(|shard| {
            shards.push(shard.clone());
            shards.len() - 1
        });
        weight_map.insert(tensor.clone(), at);
    }
    Ok((shards, weight_map))
}

/// Whether a name stays in its folder.
pub(super) fn plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    !name.contains(['/', '\\']) && matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
