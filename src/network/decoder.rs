//! A Llama-family decoder: one forward pass for prefill, scoring, calibration and decode.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::{Matrix, Pool};
use crate::network::Config;
use crate::results::KernelUse;
use crate::tensor::DenseFormat;

/// How to load a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadOptions {
    /// Format of all matrices, quantized ones included (they are dequantized); `None` keeps what is stored: quantized
    /// tensors run on integer kernels, floating-point ones in their own format.
    pub dense: Option<DenseFormat>,
}

/// Places in a block where linear layers read their input; all layers of a site share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `self_attn.q_proj`, `k_proj`, `v_proj`.
    AttentionInput,
    /// `self_attn.o_proj`.
    AttentionOutput,
    /// `mlp.gate_proj`, `up_proj`.
    MlpInput,
    /// `mlp.down_proj`.
    MlpDown,
}

impl Site {
    /// The linear layers that read this input, by their name inside the block.
    pub fn linears(self) -> &'static [&'static str] {
        match self {
            Site::AttentionInput => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            Site::AttentionOutput => &["self_attn.o_proj"],
            Site::MlpInput => &["mlp.gate_proj", "mlp.up_proj"],
            Site::MlpDown => &["mlp.down_proj"],
        }
    }

    /// All sites in the order of execution.
    pub const ALL: [Site; 4] = [Site::AttentionInput, Site::AttentionOutput, Site::MlpInput, Site::MlpDown];
}

/// A decoder with packed weights.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
}

/// One transformer block, loaded alone: calibration holds the weights of one block at a time.
#[derive(Debug)]
pub struct Block {}

/// Keys and values of one or more sequences.
#[derive(Debug)]
pub struct KvCache {}

impl Block {
    /// Loads block `layer`.
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor.
    pub fn load(checkpoint: &Checkpoint, config: &Config, layer: usize, options: LoadOptions) -> Result<Block> {
        let _ = (checkpoint, config, layer, options);
        todo!("network")
    }

    /// Replaces a linear layer's weight: `self_attn.q_proj`, `mlp.down_proj`, ...
    ///
    /// # Errors
    /// An unknown name or another shape.
    pub fn set_linear(&mut self, name: &str, weight: Matrix) -> Result<()> {
        let _ = (name, weight);
        todo!("network")
    }

    /// Runs the block in place over `sequences` sequences of `length` tokens each, `hidden` being
    /// `(sequences * length, hidden_size)` row-major, positions from 0 in each sequence. `observe(site, inputs)` sees
    /// every site's input, `(sequences * length, features)` row-major.
    pub fn forward(
        &self,
        pool: &Pool,
        hidden: &mut [f32],
        sequences: usize,
        length: usize,
        observe: &mut dyn FnMut(Site, &[f32]),
    ) {
        let _ = (pool, hidden, sequences, length, observe);
        todo!("network")
    }
}

impl Decoder {
    /// Loads and packs a model.
    ///
    /// # Errors
    /// A damaged or unsupported model.
    pub fn load(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder> {
        let _ = (checkpoint, options);
        todo!("network")
    }

    /// Hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Packed bytes of all weights, scales, norms and the embedding included (a tied embedding counts once).
    pub fn weight_bytes(&self) -> u64 {
        todo!("network")
    }

    /// Kernels by phase: `prefill` as for `tokens` rows, `decode` as for `batch` rows.
    pub fn kernels(&self, tokens: usize, batch: usize) -> Vec<KernelUse> {
        let _ = (tokens, batch);
        todo!("network")
    }

    /// Embeddings of `tokens`, `(tokens, hidden_size)`.
    pub fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let _ = tokens;
        todo!("network")
    }

    /// An empty cache for `sequences` sequences of at most `length` tokens.
    pub fn cache(&self, sequences: usize, length: usize) -> KvCache {
        let _ = (sequences, length);
        todo!("network")
    }

    /// Feeds the next `tokens.len() / sequences` tokens of every sequence (sequence-major) and leaves the final
    /// normalized hidden states in the cache's workspace; returns them, `(tokens.len(), hidden_size)`.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a full cache.
    pub fn forward<'c>(&self, pool: &Pool, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32]> {
        let _ = (pool, tokens, cache);
        todo!("network")
    }

    /// Logits of final hidden states, `(rows, vocab_size)` into `out`; `hidden` as [`Decoder::forward`] returns it.
    pub fn logits(&self, pool: &Pool, hidden: &[f32], out: &mut Vec<f32>) {
        let _ = (pool, hidden, out);
        todo!("network")
    }
}

impl KvCache {
    /// Forgets all tokens; keeps the memory.
    pub fn clear(&mut self) {
        todo!("network")
    }

    /// Tokens held per sequence.
    pub fn len(&self) -> usize {
        todo!("network")
    }

    /// Holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys and values at full length.
    pub fn bytes(&self) -> u64 {
        todo!("network")
    }
}
