//! Bytes to named tensors: safetensors (single file and sharded) with compressed-tensors, GPTQ, AWQ or torchao weights or
//! the state of torch's fake quantizers (quantization-aware training), GGUF (also in parts).
//!
//! A [`Checkpoint`] maps its files and hands out tensors one at a time, under their Hugging Face names
//! (`model.layers.0.self_attn.q_proj.weight`), whatever the file calls them; nothing is copied until asked for.
//! Files are untrusted: sizes, offsets and shapes are checked when the file is opened.
//!
//! To load a model without holding both copies: pack a dense matrix straight from the map with
//! [`Checkpoint::dense_rows`] (a quantized one with [`Checkpoint::tensor`]), then give its pages back with
//! [`Checkpoint::release`].

mod awq;
mod compressed_tensors;
mod fake_quantize;
mod folder;
mod gguf;
mod gguf_blocks;
mod gguf_keys;
mod gguf_model;
mod gguf_parts;
mod gptq;
mod map;
mod other_formats;
mod left_dense;
mod packed_words;
mod python_json;
mod quantization_config;
mod quantized;
mod safetensors;
mod sentence_transformers;
mod storage;
mod tied_head;
mod torchao;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;

use self::folder::{Folder, Layout};
use self::gguf_model::Model;
pub use self::gguf_model::{FREQUENCY_FACTORS, gguf_name};
use self::map::MappedFile;
use self::quantized::PackedWeight;
pub use self::sentence_transformers::{ENCODERS, SentenceModule, SentenceModules};
use self::storage::{Format, RowOrder, StoredMatrix};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, QuantizedTensor};

/// A model's files, opened and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    side_files: Vec<PathBuf>,
    sentence_modules: SentenceModules,
    config: serde_json::Value,
    warnings: Vec<String>,
    tokenizer: TokenizerSource,
    entries: Vec<Entry>,
    /// Place in `entries` by name.
    index: HashMap<String, usize>,
    /// Names of the tensors that were read.
    #[cfg(test)]
    reads: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

/// A tensor under its published name.
#[derive(Debug)]
struct Entry {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    storage: Storage,
}

/// Where and how a tensor is stored.
#[derive(Debug)]
enum Storage {
    /// In one piece: dense, or blocks with their scales.
    Whole { slab: Slab, format: Format, order: RowOrder },
    /// With scales and zero points in tensors of their own.
    Quantized(Box<dyn PackedWeight>),
    /// In a type that no model weight has; known by name only.
    Unsupported(Dtype),
}

impl Entry {
    /// A tensor of a safetensors file that is no part of a quantized weight.
    fn dense(file: usize, tensor: safetensors::Tensor) -> Entry {
        let storage = match float_format(tensor.dtype) {
            Some(format) => {
                Storage::Whole { slab: Slab { file, bytes: tensor.bytes }, format, order: RowOrder::Published }
            }
            None => Storage::Unsupported(tensor.dtype),
        };
        Entry { name: tensor.name, shape: tensor.shape, storage }
    }
}

/// The floating-point types that weights, norms and scales come in.
fn float_format(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::Bf16),
        _ => None,
    }
}

/// Bytes of one of the files.
#[derive(Debug, Clone)]
struct Slab {
    file: usize,
    bytes: Range<usize>,
}

/// A dense matrix read row by row from the map, without a copy of the whole.
#[derive(Debug, Clone, Copy)]
pub struct DenseRows<'a> {
    matrix: StoredMatrix<'a>,
}

impl DenseRows<'_> {
    /// `(rows, cols)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.matrix.rows, self.matrix.cols)
    }

    /// As [`StoredTensor::Dense::stored_as`].
    pub fn stored_as(&self) -> &'static str {
        self.matrix.format.name()
    }

    /// Writes row `row`, widened to f32; may be called from several threads.
    ///
    /// # Panics
    /// When `row` is outside the matrix or `out` is not one row long.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        self.matrix.row_to_f32(row, out);
    }
}

/// A tensor as stored.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredTensor {
    /// Floating point values, widened to f32.
    Dense {
        /// Shape, outermost first.
        shape: Vec<usize>,
        /// Values, row-major.
        values: Vec<f32>,
        /// `f32`, `f16` or `bf16`.
        stored_as: &'static str,
    },
    /// Integers with scales, exactly as the format defines them.
    Quantized(QuantizedTensor, ActivationScheme),
}

/// Where the tokenizer of a checkpoint is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// A `tokenizer.json` file.
    Json(PathBuf),
    /// The vocabulary inside a GGUF file.
    Gguf(GgufVocabulary),
    /// None found.
    Missing,
}

/// Byte-level BPE vocabulary of a GGUF file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: only `gpt2` (byte-level BPE) is supported.
    pub model: String,
    /// `tokenizer.ggml.pre`: name of the pre-tokenizer.
    pub pre: String,
    /// Tokens by id.
    pub tokens: Vec<String>,
    /// Types by id: 1 normal, 3 control, 4 user-defined.
    pub token_types: Vec<u32>,
    /// Merges, best first.
    pub merges: Vec<String>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Whether the model wants BOS before every text.
    pub add_bos: bool,
}

impl Checkpoint {
    /// Opens a `.gguf` file (of a model in parts any of them), a `.safetensors` file, a folder with `config.json` and safetensors (one file, or shards
    /// with their index), or a folder with one `.gguf` model. A single safetensors file takes `config.json` and
    /// `tokenizer.json` from its folder; without the former, [`Checkpoint::config`] is `null`.
    ///
    /// # Errors
    /// A missing, truncated or unsupported file: where, what, expected, got, remedy.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, "open", source))?;
        if metadata.is_dir() {
            return match folder::look(path)? {
                Folder::Safetensors(layout) => Checkpoint::open_safetensors(path, *layout),
                Folder::Gguf(file) => Checkpoint::open_gguf(&file),
            };
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => Checkpoint::open_gguf(path),
            Some("safetensors") => Checkpoint::open_safetensors(path, folder::single(path)?),
            _ => {
                let got = other_formats::describe(&[path.to_path_buf()]);
                let got = got.map_or_else(String::new, |got| format!("; got {got}"));
                let problem = format!("expected a .gguf file, a .safetensors file or a model's folder{got}");
                Err(Error::input(path.display(), problem))
            }
        }
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let gguf_parts::Parts { files, metadata, tensors } = gguf_parts::open(path)?;
        let model = Model::new(&place, &metadata)?;
        let mut entries = Vec::with_capacity(tensors.len());
        for (file, tensor) in tensors {
            let (name, order) = model.tensor(&tensor)?;
            let slab = Slab { file, bytes: tensor.bytes };
            let storage = Storage::Whole { slab, format: tensor.format, order };
            entries.push(Entry { name, shape: tensor.shape, storage });
        }
        let mut checkpoint = Checkpoint::assemble(path, files, entries)?;
        if let Some(vocabulary) = model.vocabulary()? {
            checkpoint.tokenizer = TokenizerSource::Gguf(vocabulary);
        }
        let factors = match checkpoint.contains(FREQUENCY_FACTORS) {
            true => Some(checkpoint.tensor_f32(FREQUENCY_FACTORS)?.1),
            false => None,
        };
        let embedding = checkpoint.shape(EMBEDDING).ok_or_else(|| {
            Error::input(format!("{place}: tensor \"token_embd.weight\""), "missing; the file is not a whole model")
        })?;
        checkpoint.config = model.config(embedding[0], &|name| checkpoint.contains(name), factors)?;
        checkpoint.warnings = model.warnings();
        Ok(checkpoint)
    }

    fn open_safetensors(path: &Path, layout: Layout) -> Result<Self> {
        let mut files = Vec::with_capacity(layout.shards.len());
        let mut tensors = Vec::new();
        let mut metadata = HashMap::new();
        for (at, shard) in layout.shards.iter().enumerate() {
            let file = MappedFile::open(shard)?;
            let (found, described) = safetensors::parse(&shard.display().to_string(), file.bytes())?;
            metadata.extend(described);
            if let Some(map) = &layout.weight_map
                && let Some(tensor) = found.iter().find(|tensor| !map.contains_key(&tensor.name))
            {
                let place = format!("{}: tensor \"{}\"", shard.display(), tensor.name);
                return Err(Error::input(place, "is not listed in the index; fetch index and shards again"));
            }
            // Where there is an index, it decides which shard a tensor is read from.
            let listed = |name: &str| layout.weight_map.as_ref().is_none_or(|map| map.get(name) == Some(&at));
            tensors.extend(found.into_iter().filter(|tensor| listed(&tensor.name)).map(|tensor| (at, tensor)));
            files.push(file);
        }
        if let Some(map) = layout.weight_map.as_ref().filter(|map| map.len() != tensors.len()) {
            let present: std::collections::HashSet<&str> = tensors.iter().map(|(_, t)| t.name.as_str()).collect();
            if let Some((name, &shard)) = map.iter().find(|(name, _)| !present.contains(name.as_str())) {
                let place = format!("{}: tensor \"{name}\"", layout.shards[shard].display());
                return Err(Error::input(
                    place,
                    "missing, though the index says that it is here; fetch the file again",
                ));
            }
        }
        let place = path.display().to_string();
        if other_formats::is_mlx(&layout.config, tensors.iter().map(|(_, tensor)| tensor.name.as_str())) {
            return Err(Error::input(place, other_formats::MLX));
        }
        let bytes = |slab: &Slab| files[slab.file].bytes()[slab.bytes.clone()].to_vec();
        let tensors = tied_head::share(&place, &layout.config, tensors, &bytes)?;
        let (entries, warnings) = quantized::entries(&place, &layout.config, &metadata, tensors, &bytes)?;
        let mut checkpoint = Checkpoint::assemble(path, files, entries)?;
        tied_head::check(&checkpoint, &layout.config)?;
        checkpoint.config = layout.config;
        checkpoint.warnings = warnings;
        checkpoint.side_files = layout.side_files;
        checkpoint.sentence_modules = layout.sentence_modules;
        checkpoint.tokenizer = layout.tokenizer.map_or(TokenizerSource::Missing, TokenizerSource::Json);
        Ok(checkpoint)
    }

    /// A checkpoint of checked entries, without configuration and tokenizer.
    fn assemble(path: &Path, files: Vec<MappedFile>, entries: Vec<Entry>) -> Result<Self> {
        let mut index = HashMap::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            if index.insert(entry.name.clone(), at).is_some() {
                let place = format!("{}: tensor \"{}\"", path.display(), entry.name);
                return Err(Error::input(place, "appears twice; the file is damaged"));
            }
        }
        Ok(Checkpoint {
            path: path.to_path_buf(),
            files,
            side_files: Vec::new(),
            sentence_modules: SentenceModules::default(),
            config: serde_json::Value::Null,
            warnings: Vec::new(),
            tokenizer: TokenizerSource::Missing,
            entries,
            index,
            #[cfg(test)]
            reads: Default::default(),
        })
    }

    #[cfg(test)]
    fn record_read(&self, name: &str) {
        self.reads.lock().unwrap().insert(name.to_owned());
    }

    /// Names of the tensors that were read since the checkpoint was opened.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> std::collections::BTreeSet<String> {
        self.reads.lock().unwrap().clone()
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's `config.json`; for a GGUF file the same keys made from its metadata (`model_type`,
    /// `hidden_size`, `num_hidden_layers`, ...). Where a GGUF file carries Llama 3's rotary frequency factors, they are
    /// `rope_scaling = {"rope_type": "frequency_factors", "factors": [...]}`: frequency `i` is divided by `factors[i]`.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// What a user should know of the files, though they can be read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Names of all tensors, in the order of the file, under Hugging Face names. The parts of a quantized weight
    /// (`weight_packed`, `weight_scale`, ...; `qweight`, `scales`, ...; `_weight_qdata`, ...) appear as one name ending in
    /// `.weight`.
    pub fn names(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.name.clone()).collect()
    }

    /// Whether a tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Shape of a tensor, outermost first, without reading it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entry(name).map(|entry| entry.shape.clone())
    }

    /// The type of a tensor whose values cannot be read here (integers, truth values, 8-bit floats).
    pub fn unsupported(&self, name: &str) -> Option<String> {
        match self.entry(name)?.storage {
            Storage::Unsupported(dtype) => Some(dtype.to_string()),
            Storage::Whole { .. } | Storage::Quantized(_) => None,
        }
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// A missing tensor, NaN or infinite scales.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor> {
        #[cfg(test)]
        self.record_read(name);
        let fault = |problem: String| Error::input(self.place_of(name), problem);
        let entry = self.entry(name).ok_or_else(|| fault("no such tensor".into()))?;
        let (slab, format, order) = match &entry.storage {
            Storage::Whole { slab, format, order } => (slab, *format, *order),
            Storage::Quantized(weight) => {
                let (tensor, activations) = weight.read(&|slab| self.bytes(slab)).map_err(fault)?;
                return Ok(StoredTensor::Quantized(tensor, activations));
            }
            Storage::Unsupported(dtype) => {
                return Err(fault(format!("type {dtype} is not supported; supported: F32, F16, BF16")));
            }
        };
        let matrix = self.matrix(&entry.shape, slab, format, order);
        if let Format::Blocks(blocks) = format {
            let tensor = matrix.to_quantized(blocks);
            tensor.validate().map_err(fault)?;
            return Ok(StoredTensor::Quantized(tensor, ActivationScheme::None));
        }
        let shape = entry.shape.clone();
        Ok(StoredTensor::Dense { shape, values: matrix.to_f32(), stored_as: format.name() })
    }

    /// Reads one tensor as f32 values, dequantized where it is quantized; with its shape.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensor_f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        Ok(match self.tensor(name)? {
            StoredTensor::Dense { shape, values, .. } => (shape, values),
            StoredTensor::Quantized(tensor, _) => (vec![tensor.rows, tensor.cols], tensor.to_f32()),
        })
    }

    /// Rows of a dense matrix, to be packed without a copy of the whole; `None` when there is no such tensor, or it is
    /// quantized or no matrix. Values are not checked: NaN in the file is NaN here.
    pub fn dense_rows(&self, name: &str) -> Option<DenseRows<'_>> {
        #[cfg(test)]
        self.record_read(name);
        let entry = self.entry(name)?;
        match &entry.storage {
            Storage::Whole { slab, format, order }
                if entry.shape.len() == 2 && !matches!(format, Format::Blocks(_)) =>
            {
                Some(DenseRows { matrix: self.matrix(&entry.shape, slab, *format, *order) })
            }
            _ => None,
        }
    }

    /// Tells the system that a tensor's pages of the mapped file are no longer needed, so that loading does not keep
    /// both the file's copy and the packed one resident. The tensor can still be read. Does nothing for an unknown
    /// name, and on systems without such a call.
    pub fn release(&self, name: &str) {
        let release = |slab: &Slab| self.files[slab.file].release(slab.bytes.clone());
        match self.entry(name).map(|entry| &entry.storage) {
            Some(Storage::Whole { slab, .. }) => release(slab),
            Some(Storage::Quantized(weight)) => weight.slabs().into_iter().for_each(release),
            Some(Storage::Unsupported(_)) | None => {}
        }
    }

    /// The tokenizer beside or inside the model.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.tokenizer.clone()
    }

    /// What a sentence-transformers folder does with the states of an encoder; empty where it does not say.
    pub fn sentence_modules(&self) -> &SentenceModules {
        &self.sentence_modules
    }

    /// The files behind the checkpoint, configuration and tokenizer included, for hashing and for size on disk.
    pub fn files(&self) -> Vec<PathBuf> {
        let weights = self.files.iter().map(|file| file.path().to_path_buf());
        weights.chain(self.side_files.iter().cloned()).collect()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&at| &self.entries[at])
    }

    fn place_of(&self, name: &str) -> String {
        format!("{}: tensor \"{name}\"", self.path.display())
    }

    fn bytes(&self, slab: &Slab) -> &[u8] {
        &self.files[slab.file].bytes()[slab.bytes.clone()]
    }

    /// A tensor in one piece as a matrix: a vector has one column, a scalar is one by one.
    fn matrix(&self, shape: &[usize], slab: &Slab, format: Format, order: RowOrder) -> StoredMatrix<'_> {
        let (rows, rest) = shape.split_first().map_or((1, &[][..]), |(rows, rest)| (*rows, rest));
        StoredMatrix { bytes: self.bytes(slab), format, order, rows, cols: rest.iter().product() }
    }
}

/// Name of the token embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

#[cfg(test)]
mod tests;
