//! One block of an encoder: attention over the whole sequence and a GELU layer, each added to the residual stream and
//! then normalized (Vaswani et al. 2017, arXiv:1706.03762; Devlin et al. 2018, arXiv:1810.04805).

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::{
    Activations, Attention, AttentionScratch, Isa, KeyValues, KvFormat, LayerNorm, Mask, Matrix, Part, Pool, Sequences,
    rows,
};
use crate::network::EncoderConfig;
use crate::network::linear::{Linear, LoadOptions, apply_all, load_vector};

/// One block.
#[derive(Debug)]
pub(super) struct EncoderBlock {
    config: EncoderConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// Memory of a forward pass, kept between passes.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Result of attention, `(tokens, hidden_size)`.
    attended: Activations,
    /// `(tokens, intermediate_size)`.
    wide: Activations,
    /// `(tokens, hidden_size)`.
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    delta: Vec<f32>,
    /// Keys and values of one block at a time.
    cache: KeyValues,
    attention: AttentionScratch,
}

impl Workspace {
    /// With keys and values of attention in `format`.
    pub fn new(config: &EncoderConfig, format: KvFormat) -> Self {
        Workspace {
            attended: Activations::default(),
            wide: Activations::default(),
            query: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            delta: Vec::new(),
            cache: KeyValues::new(format, 0, config.heads, config.hidden_size / config.heads, 0),
            attention: AttentionScratch::default(),
        }
    }
}

impl EncoderBlock {
    /// Linear layers by their name inside the block, in the order of execution.
    pub const LINEARS: [&str; 6] = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];

    /// Loads the block whose tensors begin with `prefix` (`encoder.layer.0.`).
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &EncoderConfig,
        prefix: &str,
        options: LoadOptions,
    ) -> Result<EncoderBlock> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let linear = |index: usize, shape| {
            Linear::load(checkpoint, &format!("{prefix}{}", Self::LINEARS[index]), shape, true, options)
        };
        let norm = |part: &str| load_layer_norm(checkpoint, &format!("{prefix}{part}"), config);
        Ok(EncoderBlock {
            query: linear(0, (hidden, hidden))?,
            key: linear(1, (hidden, hidden))?,
            value: linear(2, (hidden, hidden))?,
            output: linear(3, (hidden, hidden))?,
            attention_norm: norm("attention.output.LayerNorm")?,
            up: linear(4, (ffn, hidden))?,
            down: linear(5, (hidden, ffn))?,
            norm: norm("output.LayerNorm")?,
            config: config.clone(),
        })
    }

    /// All linear layers in the order of execution.
    pub fn linears(&self) -> [&Linear; 6] {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down]
    }

    /// Bytes of all weights, biases and norms.
    pub fn bytes(&self) -> usize {
        let norms = 4 * self.config.hidden_size * size_of::<f32>();
        self.linears().iter().map(|linear| linear.bytes()).sum::<usize>() + norms
    }

    /// The first weight that multiplies the block's inputs.
    pub fn first_weight(&self) -> &Matrix {
        self.query.weight()
    }

    /// Runs the block in place over `hidden`, `(sequences.tokens(), hidden_size)`, which goes on to block `next`.
    pub fn run(
        &self,
        pool: &Pool,
        sequences: Sequences<'_>,
        hidden: &mut Activations,
        work: &mut Workspace,
        next: Option<&EncoderBlock>,
    ) {
        let (tokens, width) = (sequences.tokens(), self.config.hidden_size);
        let Workspace { query, key, value, .. } = work;
        apply_all(pool, hidden, [(&self.query, query), (&self.key, key), (&self.value, value)]);
        pool.part(Part::Attention, || self.attend(pool, sequences, work));

        work.delta.resize(tokens * width, 0.0);
        self.output.multiply(pool, &mut work.attended, &mut work.delta);
        let x = hidden.change_for(Some(self.up.weight()));
        rows::add_layer_norm(pool, x, &work.delta, self.output.bias(), &self.attention_norm);
        self.up.multiply(pool, hidden, work.wide.write(tokens, self.config.intermediate_size));
        rows::bias_gelu(pool, work.wide.change_for(Some(self.down.weight())), self.up.bias(), self.config.gelu);
        self.down.multiply(pool, &mut work.wide, &mut work.delta);
        let x = hidden.change_for(next.map(EncoderBlock::first_weight));
        rows::add_layer_norm(pool, x, &work.delta, self.down.bias(), &self.norm);
    }

    /// Leaves attention's result in `work.attended`.
    fn attend(&self, pool: &Pool, sequences: Sequences<'_>, work: &mut Workspace) {
        work.cache.reshape(sequences.count(), sequences.longest());
        work.cache.append(pool, 0, sequences, &work.key, &work.value);
        let attention = Attention { cache: &work.cache, heads: self.config.heads, new: sequences, mask: Mask::Whole };
        let attended = work.attended.write(sequences.tokens(), self.config.hidden_size);
        attention.run(Isa::active(), pool, &work.query, &mut work.attention, attended);
    }
}

/// Loads weight and bias of a layer norm.
///
/// # Errors
/// A missing or wrongly sized tensor.
pub(super) fn load_layer_norm(checkpoint: &Checkpoint, name: &str, config: &EncoderConfig) -> Result<LayerNorm> {
    let vector = |part: &str| load_vector(checkpoint, &format!("{name}.{part}"), config.hidden_size);
    Ok(LayerNorm { weight: vector("weight")?, bias: vector("bias")?, eps: config.layer_norm_eps })
}
