//! Bytes to named tensors: safetensors (single file and sharded), GGUF, compressed-tensors folders.
//!
//! A [`Checkpoint`] maps its files and hands out tensors one at a time, under their Hugging Face names
//! (`model.layers.0.self_attn.q_proj.weight`), whatever the file calls them; nothing is copied until asked for.
//! Files are untrusted: sizes, offsets and shapes are checked when the file is opened.
//!
//! To load a model without holding both copies: pack a dense matrix straight from the map with
//! [`Checkpoint::dense_rows`] (a quantized one with [`Checkpoint::tensor`]), then give its pages back with
//! [`Checkpoint::release`].

mod gguf;
mod gguf_blocks;
mod gguf_model;
mod map;
mod storage;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::gguf_model::Model;
use self::map::MappedFile;
use self::storage::{Format, RowOrder, StoredMatrix};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, QuantizedTensor};

/// A model's files, opened and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    config: serde_json::Value,
    tokenizer: TokenizerSource,
    entries: Vec<Entry>,
    /// Place in `entries` by name.
    index: HashMap<String, usize>,
}

/// A tensor under its published name.
#[derive(Debug)]
struct Entry {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    slab: Slab,
    format: Format,
    order: RowOrder,
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
        /// `f32`, `f16`, `bf16`, or a block format without an exact kernel (`q6_k`) that was widened.
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
    /// Opens a `.gguf` file, a `.safetensors` file, or a folder with `config.json` and safetensors.
    ///
    /// # Errors
    /// A missing, truncated or unsupported file: where, what, expected, got, remedy.
    pub fn open(path: &Path) -> Result<Self> {
        Checkpoint::open_gguf(path)
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let file = MappedFile::open(path)?;
        let (metadata, tensors) = gguf::parse(&place, file.bytes())?;
        let model = Model::new(&place, &metadata)?;
        let mut entries = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let (name, order) = model.tensor(&tensor)?;
            let slab = Slab { file: 0, bytes: tensor.bytes };
            entries.push(Entry { name, shape: tensor.shape, slab, format: tensor.format, order });
        }
        let tokenizer = model.vocabulary()?.map_or(TokenizerSource::Missing, TokenizerSource::Gguf);
        let mut checkpoint = Checkpoint::assemble(path, vec![file], entries, tokenizer)?;
        let factors = match checkpoint.contains(FREQUENCY_FACTORS) {
            true => Some(checkpoint.tensor_f32(FREQUENCY_FACTORS)?.1),
            false => None,
        };
        let embedding = checkpoint.shape(EMBEDDING).ok_or_else(|| {
            Error::input(format!("{place}: tensor \"token_embd.weight\""), "missing; the file is not a whole model")
        })?;
        checkpoint.config = model.config(embedding[0], &|name| checkpoint.contains(name), factors)?;
        Ok(checkpoint)
    }

    /// A checkpoint of checked entries, without configuration.
    fn assemble(path: &Path, files: Vec<MappedFile>, entries: Vec<Entry>, tokenizer: TokenizerSource) -> Result<Self> {
        let mut index = HashMap::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            if index.insert(entry.name.clone(), at).is_some() {
                let place = format!("{}: tensor \"{}\"", path.display(), entry.name);
                return Err(Error::input(place, "appears twice; the file is damaged"));
            }
        }
        let config = serde_json::Value::Null;
        Ok(Checkpoint { path: path.to_path_buf(), files, config, tokenizer, entries, index })
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

    /// Names of all tensors, in the order of the file, under Hugging Face names. The parts of a quantized weight
    /// (`weight_packed`, `weight_scale`, ...) appear as one name ending in `.weight`.
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

    /// Reads one tensor.
    ///
    /// # Errors
    /// A missing tensor, NaN or infinite scales.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor> {
        let entry = self.entry(name).ok_or_else(|| Error::input(self.place_of(name), "no such tensor"))?;
        let matrix = self.matrix(entry);
        if entry.format.is_quantized() {
            let tensor = matrix.to_quantized();
            tensor.validate().map_err(|problem| Error::input(self.place_of(name), problem))?;
            return Ok(StoredTensor::Quantized(tensor, ActivationScheme::None));
        }
        let values = matrix.to_f32();
        if entry.format == Format::Q6_K && values.iter().any(|value| !value.is_finite()) {
            return Err(Error::input(self.place_of(name), "a scale is NaN or infinite"));
        }
        Ok(StoredTensor::Dense { shape: entry.shape.clone(), values, stored_as: entry.format.name() })
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
        let entry = self.entry(name)?;
        let dense = entry.shape.len() == 2 && !entry.format.is_quantized();
        dense.then(|| DenseRows { matrix: self.matrix(entry) })
    }

    /// Tells the system that a tensor's pages of the mapped file are no longer needed, so that loading does not keep
    /// both the file's copy and the packed one resident. The tensor can still be read. Does nothing for an unknown
    /// name, and on systems without such a call.
    pub fn release(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            self.files[entry.slab.file].release(entry.slab.bytes.clone());
        }
    }

    /// The tokenizer beside or inside the model.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.tokenizer.clone()
    }

    /// The files behind the checkpoint, for hashing and for size on disk.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path().to_path_buf()).collect()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&at| &self.entries[at])
    }

    fn place_of(&self, name: &str) -> String {
        format!("{}: tensor \"{name}\"", self.path.display())
    }

    fn matrix(&self, entry: &Entry) -> StoredMatrix<'_> {
        StoredMatrix {
            bytes: &self.files[entry.slab.file].bytes()[entry.slab.bytes.clone()],
            format: entry.format,
            order: entry.order,
            rows: entry.shape[0],
            cols: entry.shape[1..].iter().product(),
        }
    }
}

/// Name of the token embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of Llama 3's divisors of rotary frequencies in a GGUF file.
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";
