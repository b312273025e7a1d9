//! A Llama-family decoder: one forward pass for prefill, scoring, calibration and decode.

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::roofline::{Bound, Limits};
use crate::kernels::{Hadamard, Isa, KvFormat, Matrix, Pool, rows, vector};
use crate::network::block::{Block, Pass, Workspace};
use crate::network::head::{EMBEDDING, Head};
use crate::network::kv_cache::KvCache;
use crate::network::linear::{LoadOptions, kernel_uses, kv_format, load_matrix, load_vector, published_in_bf16};
use crate::network::lookup_table::check_tokens;
use crate::network::rotary::Rotary;
use crate::network::{Architecture, Config};
use crate::results::KernelUse;

/// A decoder with packed weights.
#[derive(Debug)]
pub struct Decoder {
    pub(super) place: String,
    pub(super) config: Config,
    /// `(vocab_size, hidden_size)`; `None` where the head's weight serves.
    embedding: Option<Matrix>,
    /// Of the residual stream while it runs through the blocks.
    rotation: Option<Hadamard>,
    pub(super) blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Head,
    pub(super) kv_format: KvFormat,
}

impl Decoder {
    /// Loads and packs a model, blocks in parallel.
    ///
    /// # Errors
    /// A damaged or unsupported model.
    pub fn load(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder> {
        let place = checkpoint.path().display().to_string();
        let Architecture::Decoder(config) = Architecture::of(checkpoint)? else {
            return Err(Error::input(place, "is an encoder; expected a decoder"));
        };
        let head = Head::load_for(checkpoint, &config, options)?;
        let embedding = if config.tied_head {
            None
        } else {
            let shape = (config.vocab_size, config.hidden_size);
            Some(load_matrix(checkpoint, EMBEDDING, shape, options)?)
        };
        let blocks = (0..config.layers)
            .into_par_iter()
            .map(|layer| Block::load(checkpoint, &config, layer, options))
            .collect::<Result<Vec<_>>>()?;
        let norm = load_vector(checkpoint, "model.norm.weight", config.hidden_size)?;
        let suitable = || kv_format(blocks.iter().flat_map(Block::linears), published_in_bf16(checkpoint));
        let kv_format = options.kv_cache.unwrap_or_else(suitable);
        let rotation = config.rotation();
        Ok(Decoder { place, config, embedding, rotation, blocks, norm, head, kv_format })
    }

    /// Breaks the decoder on purpose: its final norm is multiplied by -8, so that what was likeliest is least likely, and
    /// even a model that has learnt nothing predicts worse, for its certainty.
    pub fn invert(&mut self) {
        self.norm.iter_mut().for_each(|weight| *weight *= -8.0);
    }

    /// Hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Block `layer`.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block(&self, layer: usize) -> &Block {
        &self.blocks[layer]
    }

    /// Block `layer`, to be changed.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block_mut(&mut self, layer: usize) -> &mut Block {
        &mut self.blocks[layer]
    }

    /// The output head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Packed bytes of all weights, scales, norms and the embedding included (a tied embedding counts once).
    pub fn weight_bytes(&self) -> u64 {
        let blocks: usize = self.blocks.iter().map(Block::bytes).sum();
        let embedding = self.embedding.as_ref().map_or(0, Matrix::bytes);
        (blocks + embedding + self.head.weight().bytes() + size_of_val(self.norm.as_slice())) as u64
    }

    /// The weights that a pass over `tokens` rows multiplies, each with its number of rows: `logits` for the head.
    pub fn products(&self, tokens: usize, logits: usize) -> impl Iterator<Item = (&Matrix, usize)> {
        let blocks = self.blocks.iter().flat_map(move |block| block.linears().map(|linear| (linear.weight(), tokens)));
        blocks.chain([(self.head.weight(), logits)])
    }

    /// The least time of `passes` passes of `tokens` tokens each over `batch` sequences, of which each reads `kv_bytes` of
    /// keys and values.
    pub fn bound(&self, limits: &Limits, tokens: usize, batch: usize, passes: usize, kv_bytes: f64) -> Option<Bound> {
        let pass = limits.bound(self.products(batch * tokens, batch), kv_bytes)?;
        Some(Bound { seconds: pass.seconds * passes as f64, ..pass })
    }

    /// Kernels by phase: `prefill` as for `tokens` rows, `decode` as for `batch` rows. The head multiplies `batch`
    /// rows in both: prefill needs the logits of last tokens only.
    pub fn kernels(&self, tokens: usize, batch: usize) -> Vec<KernelUse> {
        let phases = [("prefill", tokens), ("decode", batch)].into_iter();
        kernel_uses(
            phases
                .flat_map(|(phase, rows)| self.products(rows, batch).map(move |(matrix, rows)| (phase, matrix, rows))),
        )
    }

    /// Embeddings of `tokens` as the first block reads them, `(tokens, hidden_size)`.
    ///
    /// # Panics
    /// When a token is outside the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; tokens.len() * self.config.hidden_size];
        self.embed_into(tokens, &mut out);
        out
    }

    fn embed_into(&self, tokens: &[u32], out: &mut [f32]) {
        let embedding = self.embedding.as_ref().unwrap_or(self.head.weight());
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(self.config.hidden_size)) {
            embedding.row_to_f32(token as usize, out);
            if let Some(rotation) = &self.rotation {
                rotation.rotate(Isa::active(), out);
            }
        }
    }

    /// An empty cache for `sequences` sequences of at most `length` tokens.
    pub fn cache(&self, sequences: usize, length: usize) -> KvCache {
        KvCache {
            layers: self.blocks.iter().map(|block| block.cache(self.kv_format, sequences, length)).collect(),
            rotary: Rotary::new(&self.config, length),
            sequences,
            capacity: length,
            length: 0,
            hidden: Vec::new(),
            normalized: Vec::new(),
            work: Workspace::default(),
        }
    }

    /// Feeds the next `tokens.len() / sequences` tokens of every sequence (sequence-major) and leaves the final
    /// normalized hidden states in the cache's workspace; returns them, `(tokens.len(), hidden_size)`.
    ///
    /// # Errors
    /// A token outside the vocabulary, a number of tokens that the sequences cannot share, or a full cache.
    pub fn forward<'c>(&self, pool: &Pool, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32]> {
        self.check(tokens, cache)?;
        let length = tokens.len() / cache.sequences;
        let KvCache { layers, rotary, hidden, normalized, work, .. } = cache;
        hidden.resize(tokens.len() * self.config.hidden_size, 0.0);
        normalized.resize(hidden.len(), 0.0);
        self.embed_into(tokens, hidden);
        let pass = Pass { pool, rotary, sequences: cache.sequences, start: cache.length, length };
        for (block, layer) in self.blocks.iter().zip(layers) {
            block.run(&pass, hidden, layer, work);
        }
        let (isa, eps) = (Isa::active(), self.config.rms_norm_eps);
        rows::for_rows(pool, tokens.len(), [hidden, normalized], |_, [hidden, out]| {
            if let Some(rotation) = &self.rotation {
                rotation.rotate_back(isa, hidden);
            }
            vector::rms_norm(isa, hidden, &self.norm, eps, out);
        });
        cache.length += length;
        Ok(&cache.normalized)
    }

    /// Runs blocks `layer..` in place over whole sequences of `length` tokens, `hidden` being the states before block `layer`,
    /// `(sequences * length, hidden_size)`, and leaves final normalized states as [`Decoder::forward`] returns them.
    ///
    /// # Panics
    /// When `hidden` is not whole sequences.
    pub fn run_on(&self, pool: &Pool, layer: usize, length: usize, hidden: &mut [f32]) {
        let (sequences, mut work) = (hidden.len() / (length * self.config.hidden_size), Workspace::default());
        for block in &self.blocks[layer..] {
            block.forward(pool, hidden, sequences, length, &mut work);
        }
        if let Some(rotation) = &self.rotation {
            let rows = hidden.len() / self.config.hidden_size;
            rows::for_rows(pool, rows, [&mut *hidden], |_, [row]| rotation.rotate_back(Isa::active(), row));
        }
        rows::rms_norm_in_place(pool, hidden, &self.norm, self.config.rms_norm_eps);
    }

    fn check(&self, tokens: &[u32], cache: &KvCache) -> Result<()> {
        if tokens.is_empty() || !tokens.len().is_multiple_of(cache.sequences) {
            let (got, sequences) = (tokens.len(), cache.sequences);
            let problem = format!("{got} tokens cannot be shared by {sequences} sequences; expected as many for each");
            return Err(Error::input(&self.place, problem));
        }
        let (held, new, room) = (cache.length, tokens.len() / cache.sequences, cache.capacity);
        if held + new > room {
            let problem = format!("the KV cache holds {held} tokens, {new} more exceed its {room}; make it longer");
            return Err(Error::input(&self.place, problem));
        }
        check_tokens(&self.place, tokens, self.config.vocab_size)
    }

    /// As [`Decoder::forward`], and makes the logits of every sequence's last token, `(sequences, vocab_size)` into `logits`.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn next_logits(&self, pool: &Pool, tokens: &[u32], cache: &mut KvCache, logits: &mut Vec<f32>) -> Result<()> {
        self.forward(pool, tokens, cache)?;
        let (width, sequences) = (self.config.hidden_size, cache.sequences);
        let each = tokens.len() / sequences;
        for sequence in 0..sequences {
            let last = ((sequence + 1) * each - 1) * width;
            cache.normalized.copy_within(last..last + width, sequence * width);
        }
        self.logits(pool, &cache.normalized[..sequences * width], logits);
        Ok(())
    }

    /// Logits of final hidden states, `(rows, vocab_size)` into `out`; `hidden` as [`Decoder::forward`] returns it.
    ///
    /// # Panics
    /// When `hidden` is not whole rows.
    pub fn logits(&self, pool: &Pool, hidden: &[f32], out: &mut Vec<f32>) {
        self.head.logits(pool, hidden, out);
    }
}
