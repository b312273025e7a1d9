//! Encoders of the BERT family: one vector for every sequence of a batch without padding.
//!
//! ```text
//! tokens (sequence after sequence) -> words + positions + type -> norm -> blocks -> states -> pooling    -> embedding
//!                                                                                          -> classifier -> logits
//! ```
//!
//! The sequences of a pass run together, each attending to itself only; nothing is calculated for padding.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Activations, KvFormat, Matrix, Pool, Sequences, rows};
use crate::network::encoder_block::{EncoderBlock, Workspace, attention_format};
use crate::network::linear::{Linear, LoadOptions, kernel_uses};
use crate::network::tensor_list::Shaped;
use crate::network::{Architecture, EncoderConfig, EncoderEmbeddings, Pooling};
use crate::results::KernelUse;

/// Tokens of a pass, where sequences are shorter: what a pass writes between its products should stay in a core's cache.
const PASS_TOKENS: usize = 128;
/// Passes for each thread from which on threads take passes of their own instead of sharing every product: they then wait
/// for each other once, and the last passes to finish are a small part of all.
const PASSES_APART: usize = 4;

/// Last part of the name of the word embeddings; what comes before it comes before all names.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// An encoder with packed weights.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    embeddings: EncoderEmbeddings,
    blocks: Vec<EncoderBlock>,
    end: End,
}

/// What becomes of the states.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one per network")]
pub(super) enum End {
    Embedding(Pooling),
    /// `output(tanh(dense(state of the first token)))`.
    Classes {
        dense: Linear,
        output: Linear,
    },
}

/// Memory of forward passes: once it has grown to the largest batch, passes allocate nothing.
#[derive(Debug, Default)]
pub struct EncoderMemory {
    /// Sequences of every pass.
    passes: Vec<Range<usize>>,
    /// For each thread that runs passes.
    threads: Vec<Mutex<PassMemory>>,
    /// Vectors of every pass, `(sequences, width)`.
    vectors: Vec<Mutex<Vec<f32>>>,
    /// Vectors of all sequences, `(sequences, width)`.
    out: Vec<f32>,
}

/// Memory of one pass at a time.
#[derive(Debug)]
struct PassMemory {
    /// Row after the last of every sequence.
    ends: Vec<usize>,
    /// Token and position of every row.
    inputs: Vec<(u32, usize)>,
    /// Residual stream, `(tokens, hidden_size)`.
    hidden: Activations,
    work: Workspace,
    /// States of the first tokens, for a classifier.
    first: Activations,
    between: Activations,
}

impl Encoder {
    /// Loads and packs a model, blocks in parallel.
    ///
    /// # Errors
    /// A damaged or unsupported model.
    pub fn load(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Encoder> {
        let Architecture::Encoder { config, prefix } = Architecture::of(checkpoint)? else {
            return Err(Error::input(checkpoint.path().display(), "is a decoder; expected an encoder"));
        };
        let of_blocks = format!("{prefix}encoder.layer.");
        let blocks = (0..config.layers)
            .into_par_iter()
            .map(|layer| EncoderBlock::load(checkpoint, &config, &format!("{of_blocks}{layer}."), options))
            .collect::<Result<_>>()?;
        Ok(Encoder {
            embeddings: EncoderEmbeddings::load(checkpoint, &config, &prefix, options)?,
            blocks,
            end: End::load(checkpoint, &config, &prefix, options)?,
            config,
        })
    }

    /// Hyperparameters.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Numbers of a vector that [`Encoder::forward`] returns: `hidden_size`, or the classes of a classifier.
    pub fn width(&self) -> usize {
        match &self.end {
            End::Embedding(_) => self.config.hidden_size,
            End::Classes { output, .. } => output.weight().rows(),
        }
    }

    /// Packed bytes of all weights, scales, biases, norms and embeddings.
    pub fn weight_bytes(&self) -> u64 {
        let blocks: usize = self.blocks.iter().map(EncoderBlock::bytes).sum();
        let end = match &self.end {
            End::Embedding(_) => 0,
            End::Classes { dense, output } => dense.bytes() + output.bytes(),
        };
        (blocks + end + self.embeddings.bytes()) as u64
    }

    /// The weights that a pass over `tokens` tokens multiplies in the blocks, each with its number of rows.
    pub fn products(&self, tokens: usize) -> impl Iterator<Item = (&Matrix, usize)> {
        self.blocks.iter().flat_map(EncoderBlock::linears).map(move |linear| (linear.weight(), tokens))
    }

    /// Kernels of the blocks for batches of `tokens` tokens, phase `encode`.
    pub fn kernels(&self, tokens: usize) -> Vec<KernelUse> {
        kernel_uses(self.products(tokens).map(|(matrix, rows)| ("encode", matrix, rows)))
    }

    fn attention_format(&self) -> KvFormat {
        attention_format(&self.config, self.blocks.iter().flat_map(EncoderBlock::linears))
    }

    /// Memory for forward passes.
    pub fn memory(&self) -> EncoderMemory {
        EncoderMemory::default()
    }

    /// Memory for one pass at a time.
    fn pass_memory(&self) -> PassMemory {
        PassMemory {
            ends: Vec::new(),
            inputs: Vec::new(),
            hidden: Activations::default(),
            work: Workspace::new(&self.config, self.attention_format()),
            first: Activations::default(),
            between: Activations::default(),
        }
    }

    /// The vector of every sequence, `(sequences.len(), width)` row-major: pooled embeddings, or a classifier's logits.
    /// A sequence is its token ids, special tokens included, as [`crate::network::Tokenizer::encode_whole`] gives them.
    /// `memory` is of [`Encoder::memory`].
    ///
    /// # Errors
    /// An empty or too long sequence, or a token outside the vocabulary.
    pub fn forward<'m>(
        &self,
        pool: &Pool,
        sequences: &[impl AsRef<[u32]> + Sync],
        memory: &'m mut EncoderMemory,
    ) -> Result<&'m [f32]> {
        sequences.iter().try_for_each(|sequence| self.embeddings.check(sequence.as_ref()))?;
        let EncoderMemory { passes, threads, vectors, out } = memory;
        cut(sequences, passes);
        let apart = passes.len() >= PASSES_APART * pool.threads();
        let used = if apart { pool.threads() } else { 1 };
        threads.resize_with(threads.len().max(used), || Mutex::new(self.pass_memory()));
        vectors.resize_with(vectors.len().max(passes.len()), Mutex::default);
        let run = |thread: usize, index: usize| {
            let mut memory = threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let mut vectors = vectors[index].lock().unwrap_or_else(PoisonError::into_inner);
            self.pass(pool, &sequences[passes[index].clone()], &mut memory, &mut vectors);
        };
        if apart {
            pool.each(passes.len(), &run);
        } else {
            (0..passes.len()).for_each(|index| run(0, index));
        }
        out.clear();
        for vectors in &mut vectors[..passes.len()] {
            out.extend_from_slice(vectors.get_mut().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(out)
    }

    /// Runs some sequences together and leaves their vectors in `out`.
    fn pass(&self, pool: &Pool, sequences: &[impl AsRef<[u32]>], memory: &mut PassMemory, out: &mut Vec<f32>) {
        let PassMemory { ends, inputs, hidden, work, first, between } = memory;
        ends.clear();
        inputs.clear();
        for sequence in sequences {
            inputs.extend(sequence.as_ref().iter().copied().zip(0..));
            ends.push(inputs.len());
        }
        let packed = Sequences::packed(ends);
        let width = self.config.hidden_size;
        self.embeddings.write(pool, inputs, hidden, self.blocks.first().and_then(EncoderBlock::reader));
        for (index, block) in self.blocks.iter().enumerate() {
            block.run(pool, packed, hidden, work, self.blocks.get(index + 1));
        }
        out.resize(sequences.len() * self.width(), 0.0);
        let states_of = |index: usize| {
            let rows = packed.rows(index);
            &hidden.values()[rows.start * width..rows.end * width]
        };
        match &self.end {
            End::Embedding(pooling) => {
                rows::for_rows(pool, sequences.len(), [out], |index, [out]| pooling.pool(states_of(index), out));
            }
            End::Classes { dense, output } => {
                let of_first = first.write(sequences.len(), width);
                for (index, to) in of_first.chunks_exact_mut(width).enumerate() {
                    to.copy_from_slice(&states_of(index)[..width]);
                }
                dense.multiply(pool, first, between.write(sequences.len(), width));
                for row in between.change().chunks_exact_mut(width) {
                    row.iter_mut().zip(dense.bias()).for_each(|(v, bias)| *v = (*v + bias).tanh());
                }
                output.multiply(pool, between, out);
                rows::add_bias(pool, out, output.bias());
            }
        }
    }
}

impl End {
    /// The two layers of a classifier, and the number of its classes.
    fn classifier(checkpoint: &Checkpoint, config: &EncoderConfig, prefix: &str) -> (String, &'static str, usize) {
        let (dense, output) = match config.model_type.as_str() {
            "bert" => (format!("{prefix}pooler.dense"), "classifier"),
            _ => ("classifier.dense".to_owned(), "classifier.out_proj"),
        };
        let shape = checkpoint.shape(&format!("{output}.weight")).unwrap_or_default();
        (dense, output, shape.first().copied().unwrap_or(0))
    }

    /// The tensors of a classifier with their shapes.
    pub(super) fn tensors(checkpoint: &Checkpoint, config: &EncoderConfig, prefix: &str) -> Vec<Shaped> {
        if !config.classifies {
            return Vec::new();
        }
        let (dense, output, classes) = End::classifier(checkpoint, config, prefix);
        let width = config.hidden_size;
        let linear =
            |name: &str, rows| [(format!("{name}.weight"), vec![rows, width]), (format!("{name}.bias"), vec![rows])];
        [linear(&dense, width), linear(output, classes)].concat()
    }

    fn load(checkpoint: &Checkpoint, config: &EncoderConfig, prefix: &str, options: LoadOptions) -> Result<End> {
        if !config.classifies {
            return Pooling::of(checkpoint).map(End::Embedding);
        }
        let (dense, output, classes) = End::classifier(checkpoint, config, prefix);
        let width = config.hidden_size;
        Ok(End::Classes {
            dense: Linear::load(checkpoint, &dense, (width, width), true, options)?,
            output: Linear::load(checkpoint, output, (classes, width), true, options)?,
        })
    }
}

/// Cuts sequences into passes of at most [`PASS_TOKENS`] tokens, at least one sequence each. The cut depends on nothing
/// else, so that results do not depend on threads.
fn cut(sequences: &[impl AsRef<[u32]>], passes: &mut Vec<Range<usize>>) {
    passes.clear();
    let mut tokens = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        tokens += sequence.as_ref().len();
        match passes.last_mut() {
            Some(pass) if tokens <= PASS_TOKENS => pass.end = index + 1,
            _ => {
                passes.push(index..index + 1);
                tokens = sequence.as_ref().len();
            }
        }
    }
}

/// What comes before the names of all tensors of the network: nothing, `bert.`, `roberta.`.
pub(super) fn prefix(checkpoint: &Checkpoint) -> Result<String> {
    let names = checkpoint.names();
    let found = names.iter().find_map(|name| name.strip_suffix(WORDS));
    found.map(str::to_owned).ok_or_else(|| {
        let problem = format!("tensor \"{WORDS}\": is missing; is this an encoder?");
        Error::input(checkpoint.path().display(), problem)
    })
}
