//! Hyperparameters of a Llama-family decoder, read from `config.json` keys.

use crate::error::Result;

/// Hyperparameters; all sizes checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `llama`, `mistral`, `qwen2`, `qwen3`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f32,
    /// The head uses the embedding's weights.
    pub tied_head: bool,
}

impl Config {
    /// Reads and checks a `config.json`; `place` names the file in errors.
    ///
    /// # Errors
    /// A missing or absurd value, or an architecture that is not supported.
    pub fn from_json(place: &str, json: &serde_json::Value) -> Result<Self> {
        let _ = (place, json);
        todo!("network")
    }
}
