//! One transformer block: attention and SwiGLU, each behind an RMSNorm and added to the residual stream
//! (Touvron et al. 2023, arXiv:2302.13971).

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{
    Activations, Attention, AttentionScratch, Isa, KeyValues, KvFormat, Mask, Matrix, Part, Pool, Sequences, rows,
    vector,
};
use crate::network::Config;
use crate::network::linear::{Linear, LoadOptions, apply_all, kv_format, load_vector, published_in_bf16, replace};
use crate::network::rotary::Rotary;
use crate::network::tensor_list::Shaped;

/// One transformer block; a decoder holds one for each layer, calibration one at a time.
#[derive(Debug)]
pub struct Block {
    config: Config,
    input_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Norms of every query head and of every key head (Qwen3).
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    output: Linear,
    mlp_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    published_in_bf16: bool,
}

/// What all blocks of one forward pass share.
pub(super) struct Pass<'a> {
    pub pool: &'a Pool,
    pub rotary: &'a Rotary,
    /// Sequences, each with `length` new tokens from position `start` on.
    pub sequences: usize,
    pub start: usize,
    pub length: usize,
}

/// Memory of a forward pass, kept between passes.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Input of linear layers.
    pub(super) x: Activations,
    /// `(tokens, heads * head_dim)`.
    pub(super) query: Vec<f32>,
    /// `(tokens, kv_heads * head_dim)`.
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
    /// `(tokens, intermediate_size)`.
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    /// `(tokens, hidden_size)`: what is added to the residual stream.
    pub(super) delta: Vec<f32>,
    attention: AttentionScratch,
}

impl Block {
    /// Loads block `layer`.
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor.
    pub fn load(checkpoint: &Checkpoint, config: &Config, layer: usize, options: LoadOptions) -> Result<Block> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.query_width(), config.kv_width());
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let linear = |part: &str, shape, bias| Linear::load(checkpoint, &name(part), shape, bias, options);
        let norm = |part: &str, width| load_vector(checkpoint, &name(part), width);
        let head_norms = if config.qk_norm {
            let head = config.head_dim;
            Some((norm("self_attn.q_norm.weight", head)?, norm("self_attn.k_norm.weight", head)?))
        } else {
            None
        };
        Ok(Block {
            input_norm: norm("input_layernorm.weight", hidden)?,
            query: linear("self_attn.q_proj", (queries, hidden), config.qkv_bias)?,
            key: linear("self_attn.k_proj", (keys, hidden), config.qkv_bias)?,
            value: linear("self_attn.v_proj", (keys, hidden), config.qkv_bias)?,
            head_norms,
            output: linear("self_attn.o_proj", (hidden, queries), config.output_bias)?,
            mlp_norm: norm("post_attention_layernorm.weight", hidden)?,
            gate: linear("mlp.gate_proj", (ffn, hidden), config.mlp_bias)?,
            up: linear("mlp.up_proj", (ffn, hidden), config.mlp_bias)?,
            down: linear("mlp.down_proj", (hidden, ffn), config.mlp_bias)?,
            config: config.clone(),
            published_in_bf16: published_in_bf16(checkpoint),
        })
    }

    /// The tensors of block `layer` with their shapes.
    pub(super) fn tensors(config: &Config, layer: usize) -> Vec<Shaped> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.query_width(), config.kv_width());
        let linears = [
            ("self_attn.q_proj", queries, hidden, config.qkv_bias),
            ("self_attn.k_proj", keys, hidden, config.qkv_bias),
            ("self_attn.v_proj", keys, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, queries, config.output_bias),
            ("mlp.gate_proj", ffn, hidden, config.mlp_bias),
            ("mlp.up_proj", ffn, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, ffn, config.mlp_bias),
        ];
        let norms = [("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        let head_norms = ["self_attn.q_norm", "self_attn.k_norm"].map(|norm| (norm, config.head_dim));
        let norms = norms.into_iter().chain(head_norms.into_iter().filter(|_| config.qk_norm));
        let name = |module: &str, part: &str| format!("model.layers.{layer}.{module}.{part}");
        let mut tensors: Vec<Shaped> = norms.map(|(norm, width)| (name(norm, "weight"), vec![width])).collect();
        for (linear, rows, cols, bias) in linears {
            tensors.push((name(linear, "weight"), vec![rows, cols]));
            tensors.extend(bias.then(|| (name(linear, "bias"), vec![rows])));
        }
        tensors
    }

    /// The linear layer of that name inside the block.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "self_attn.q_proj" => Some(&mut self.query),
            "self_attn.k_proj" => Some(&mut self.key),
            "self_attn.v_proj" => Some(&mut self.value),
            "self_attn.o_proj" => Some(&mut self.output),
            "mlp.gate_proj" => Some(&mut self.gate),
            "mlp.up_proj" => Some(&mut self.up),
            "mlp.down_proj" => Some(&mut self.down),
            _ => None,
        }
    }

    /// Replaces a linear layer's weight (`self_attn.q_proj`, `mlp.down_proj`, ...) and returns the one before.
    ///
    /// # Errors
    /// An unknown name or another shape.
    pub fn set_linear(&mut self, name: &str, weight: Matrix) -> Result<Matrix> {
        let linear = self.linear_mut(name).ok_or_else(|| Error::input(name, "a block has no such linear layer"))?;
        linear.set_weight(name, weight)
    }

    /// Replaces a norm's weight or a linear layer's bias: `input_layernorm.weight`, `mlp.up_proj.bias`, ...
    ///
    /// # Errors
    /// An unknown name or another length.
    pub fn set_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        let vector = match name {
            "input_layernorm.weight" => Some(&mut self.input_norm),
            "post_attention_layernorm.weight" => Some(&mut self.mlp_norm),
            _ => name.strip_suffix(".bias").and_then(|linear| self.linear_mut(linear)).and_then(Linear::bias_mut),
        };
        replace(name, vector, values)
    }

    /// Runs the block in place over `sequences` sequences of `length` tokens each, `hidden` being
    /// `(sequences * length, hidden_size)` row-major, positions from 0 in each sequence.
    ///
    /// # Panics
    /// When `hidden` has another size.
    pub fn forward(&self, pool: &Pool, hidden: &mut [f32], sequences: usize, length: usize, work: &mut Workspace) {
        assert_eq!(hidden.len(), sequences * length * self.config.hidden_size, "hidden states of another size");
        self.with_pass(pool, sequences, length, |pass, cache| self.run(pass, hidden, cache, work));
    }

    /// A pass over whole sequences, and its empty keys and values.
    pub(super) fn with_pass(
        &self,
        pool: &Pool,
        sequences: usize,
        length: usize,
        run: impl FnOnce(&Pass<'_>, &mut KeyValues),
    ) {
        let rotary = Rotary::new(&self.config, length);
        let mut cache = self.cache(kv_format(self.linears().into_iter(), self.published_in_bf16), sequences, length);
        run(&Pass { pool, rotary: &rotary, sequences, start: 0, length }, &mut cache);
    }

    /// Empty keys and values of this block.
    pub(super) fn cache(&self, format: KvFormat, sequences: usize, length: usize) -> KeyValues {
        KeyValues::new(format, sequences, self.config.kv_heads, self.config.head_dim, length)
    }

    /// All linear layers in the order of execution.
    pub(super) fn linears(&self) -> [&Linear; 7] {
        [&self.query, &self.key, &self.value, &self.output, &self.gate, &self.up, &self.down]
    }

    /// Bytes of all weights, norms and biases.
    pub(super) fn bytes(&self) -> usize {
        let head_norms = self.head_norms.as_ref().map_or(0, |(q, k)| q.len() + k.len());
        let norms = self.input_norm.len() + self.mlp_norm.len() + head_norms;
        self.linears().iter().map(|linear| linear.bytes()).sum::<usize>() + norms * size_of::<f32>()
    }

    /// Runs the block in place over the new tokens of `pass`, whose keys and values are added to `cache`.
    pub(super) fn run(&self, pass: &Pass<'_>, hidden: &mut [f32], cache: &mut KeyValues, work: &mut Workspace) {
        self.begin(pass.pool, hidden, work);
        self.attention(pass, cache, work);
        self.after_attention(pass.pool, hidden, work);
        self.mlp(pass.pool, work);
        self.finish(pass.pool, hidden, work);
    }

    /// From the residual stream to the input of attention's projections, in `work.x`.
    pub(super) fn begin(&self, pool: &Pool, hidden: &[f32], work: &mut Workspace) {
        let x = work.x.write_for(hidden.len() / self.config.hidden_size, self.query.weight());
        rows::rms_norm(pool, hidden, &self.input_norm, self.config.rms_norm_eps, x);
    }

    /// From there to attention's result.
    pub(super) fn attention(&self, pass: &Pass<'_>, cache: &mut KeyValues, work: &mut Workspace) {
        let Workspace { x, query, key, value, .. } = work;
        apply_all(pass.pool, x, [(&self.query, query), (&self.key, key), (&self.value, value)]);
        pass.pool.part(Part::Attention, || self.attend(pass, cache, work));
    }

    /// From there through the residual stream to the input of the feed-forward part.
    pub(super) fn after_attention(&self, pool: &Pool, hidden: &mut [f32], work: &mut Workspace) {
        let tokens = work.x.tokens();
        self.output.apply(pool, &mut work.x, &mut work.delta);
        let x = work.x.write_for(tokens, self.gate.weight());
        rows::add_rms_norm(pool, hidden, &work.delta, &self.mlp_norm, self.config.rms_norm_eps, x);
    }

    /// From there to the input of its last layer.
    pub(super) fn mlp(&self, pool: &Pool, work: &mut Workspace) {
        let tokens = work.x.tokens();
        let Workspace { x, gate, up, .. } = work;
        apply_all(pool, x, [(&self.gate, gate), (&self.up, up)]);
        rows::silu_multiply(pool, gate, up, x.write_for(tokens, self.down.weight()));
    }

    /// From there to the residual stream.
    pub(super) fn finish(&self, pool: &Pool, hidden: &mut [f32], work: &mut Workspace) {
        self.down.apply(pool, &mut work.x, &mut work.delta);
        rows::add(pool, hidden, &work.delta, self.config.hidden_size);
    }

    /// Rotates queries and keys, stores keys and values, and leaves attention's result in `work.x`.
    fn attend(&self, pass: &Pass<'_>, cache: &mut KeyValues, work: &mut Workspace) {
        let (pool, isa, config) = (pass.pool, Isa::active(), &self.config);
        let tokens = pass.sequences * pass.length;
        if let Some((query_norm, key_norm)) = &self.head_norms {
            rows::rms_norm_in_place(pool, &mut work.query, query_norm, config.rms_norm_eps);
            rows::rms_norm_in_place(pool, &mut work.key, key_norm, config.rms_norm_eps);
        }
        rows::for_rows(pool, tokens, [&mut work.query, &mut work.key], |token, [query, key]| {
            let (cos, sin) = pass.rotary.at(pass.start + token % pass.length);
            vector::rotate(isa, query, cos, sin);
            vector::rotate(isa, key, cos, sin);
        });
        let new = Sequences::equal(pass.sequences, pass.length);
        cache.append(pool, pass.start, new, &work.key, &work.value);
        let attention = Attention {
            cache,
            heads: config.heads,
            new,
            mask: Mask::Causal { start: pass.start, window: config.sliding_window },
        };
        let out = work.x.write(tokens, config.query_width());
        attention.run(isa, pool, &work.query, &mut work.attention, out);
    }
}
