//! Bytes to named tensors: safetensors (single file and sharded), GGUF, compressed-tensors folders.
//!
//! A [`Checkpoint`] maps its files and hands out tensors one at a time, under their Hugging Face names
//! (`model.layers.0.self_attn.q_proj.weight`), whatever the file calls them; nothing is copied until asked for.
//! Files are untrusted: sizes, offsets and shapes are checked when the file is opened.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::tensor::{ActivationScheme, QuantizedTensor};

/// A model's files, opened and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
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
        let _ = Checkpoint { path: path.to_path_buf() };
        todo!("checkpoint")
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's `config.json`; for a GGUF file the same keys made from its metadata (`model_type`,
    /// `hidden_size`, `num_hidden_layers`, ...).
    pub fn config(&self) -> &serde_json::Value {
        todo!("checkpoint")
    }

    /// Names of all tensors, in the order of the file, under Hugging Face names. The parts of a quantized weight
    /// (`weight_packed`, `weight_scale`, ...) appear as one name ending in `.weight`.
    pub fn names(&self) -> Vec<String> {
        todo!("checkpoint")
    }

    /// Whether a tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        let _ = name;
        todo!("checkpoint")
    }

    /// Shape of a tensor, outermost first, without reading it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let _ = name;
        todo!("checkpoint")
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// A missing tensor, NaN or infinite scales.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor> {
        let _ = name;
        todo!("checkpoint")
    }

    /// Reads one tensor as f32 values, dequantized where it is quantized; with its shape.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensor_f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let _ = name;
        todo!("checkpoint")
    }

    /// The tokenizer beside or inside the model.
    pub fn tokenizer(&self) -> TokenizerSource {
        todo!("checkpoint")
    }

    /// The files behind the checkpoint, for hashing and for size on disk.
    pub fn files(&self) -> Vec<PathBuf> {
        todo!("checkpoint")
    }
}
