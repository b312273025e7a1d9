//! What a GGUF file says of its model: sizes and tokenizer. Keys are those of `gguf-py/gguf/constants.py`.

use super::gguf_writer::Value;
use crate::checkpoint::{Checkpoint, TokenizerSource};
use crate::error::Result;
use crate::network::{Config, RopeScaling, Tokenizer};

/// Keys and values in the order of the file.
pub(super) type Metadata = Vec<(String, Value)>;

/// Sizes of the model; `file_type` is llama.cpp's number for the format of most matrices.
pub(super) fn model_metadata(config: &Config, title: &str, file_type: u32) -> Metadata {
    let architecture = if config.model_type == "mistral" { "llama" } else { &config.model_type };
    let mut metadata = vec![
        ("general.architecture".into(), Value::Text(architecture.into())),
        ("general.type".into(), Value::Text("model".into())),
        ("general.name".into(), Value::Text(title.into())),
        ("general.file_type".into(), Value::U32(file_type)),
        ("general.quantization_version".into(), Value::U32(2)),
    ];
    let mut set = |key: &str, value: Value| metadata.push((format!("{architecture}.{key}"), value));
    // All sizes are below 2^24, as `Config` has checked.
    for (key, size) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_positions),
        ("embedding_length", config.hidden_size),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        set(key, Value::U32(size as u32));
    }
    set("rope.freq_base", Value::F32(config.rope_theta as f32));
    set("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
    if let Some(window) = config.sliding_window {
        set("attention.sliding_window", Value::U32(window as u32));
    }
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        set("rope.scaling.type", Value::Text("linear".into()));
        set("rope.scaling.factor", Value::F32(factor as f32));
    }
    metadata
}

/// Vocabulary and merges; nothing where the model has no tokenizer.
///
/// # Errors
/// A tokenizer that a GGUF file cannot describe.
pub(super) fn tokenizer_metadata(checkpoint: &Checkpoint) -> Result<Metadata> {
    if checkpoint.tokenizer() == TokenizerSource::Missing {
        return Ok(Vec::new());
    }
    let config = Config::from_json(&checkpoint.path().display().to_string(), checkpoint.config())?;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let token = |key: &str| {
        // Some models end texts with any of several tokens, the first being the usual one.
        let value = &checkpoint.config()[key];
        let id = value.as_array().map_or(Some(value), |ids| ids.first())?.as_u64()?;
        u32::try_from(id).ok()
    };
    let vocabulary = tokenizer.gguf_vocabulary(config.vocab_size, token("bos_token_id"), token("eos_token_id"))?;
    let mut metadata = vec![
        ("model", Value::Text(vocabulary.model)),
        ("pre", Value::Text(vocabulary.pre)),
        ("tokens", Value::Texts(vocabulary.tokens)),
        ("token_type", Value::Integers(vocabulary.token_types)),
        ("merges", Value::Texts(vocabulary.merges)),
        ("add_bos_token", Value::Bool(vocabulary.add_bos)),
    ];
    metadata.extend(vocabulary.bos.map(|id| ("bos_token_id", Value::U32(id))));
    metadata.extend(vocabulary.eos.map(|id| ("eos_token_id", Value::U32(id))));
    Ok(metadata.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
}
