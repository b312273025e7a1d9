//! The output head: hidden states to logits.

use std::sync::{Mutex, PoisonError};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::{Activations, Matrix, Part, Pool};
use crate::network::Config;
use crate::network::linear::{LoadOptions, load_matrix};
use crate::network::tensor_list::HEAD;

/// Name of the embedding's tensor.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The output head alone: scoring a divergence recomputes the reference's logits from its stored hidden states
/// without the rest of the reference.
#[derive(Debug)]
pub struct Head {
    weight: Matrix,
    /// Kept so that decoding does not allocate.
    input: Mutex<Activations>,
}

impl Head {
    /// Loads the head of a model: `lm_head.weight`, or the embedding where the config ties them.
    ///
    /// # Errors
    /// A damaged or unsupported model.
    pub fn load(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Head> {
        let config = Config::from_json(&checkpoint.path().display().to_string(), checkpoint.config())?;
        Head::load_for(checkpoint, &config, options)
    }

    /// A head of its weight, `(vocab_size, hidden_size)`.
    pub fn new(weight: Matrix) -> Head {
        Head { weight, input: Mutex::default() }
    }

    pub(super) fn load_for(checkpoint: &Checkpoint, config: &Config, options: LoadOptions) -> Result<Head> {
        let name = if config.tied_head { EMBEDDING } else { HEAD };
        let weight = load_matrix(checkpoint, name, (config.vocab_size, config.hidden_size), options)?;
        Ok(Head::new(weight))
    }

    /// The packed weight, `(vocab_size, hidden_size)`.
    pub(super) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// Tokens in the vocabulary: the width of a row of logits.
    pub fn vocab_size(&self) -> usize {
        self.weight.rows()
    }

    /// Width of a row of hidden states.
    pub fn hidden_size(&self) -> usize {
        self.weight.cols()
    }

    /// Logits of final normalized hidden states, `(rows, hidden_size)`, into `out`, `(rows, vocab_size)`.
    ///
    /// # Panics
    /// When `hidden` is not whole rows.
    pub fn logits(&self, pool: &Pool, hidden: &[f32], out: &mut Vec<f32>) {
        let (rows, width) = (hidden.len() / self.weight.cols(), self.weight.cols());
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.write(rows, width).copy_from_slice(hidden);
        out.resize(rows * self.weight.rows(), 0.0);
        pool.part(Part::Head, || self.weight.multiply(pool, &mut input, out));
    }
}
