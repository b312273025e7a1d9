//! One block of an encoder: attention over the whole sequence and a GELU layer, each added to the residual stream and
//! then normalized (Vaswani et al. 2017, arXiv:1706.03762; Devlin et al. 2018, arXiv:1810.04805).

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{
    Activations, Attention, AttentionScratch, Isa, KeyValues, KvFormat, LayerNorm, Mask, Matrix, Part, Pool, Sequences,
    rows,
};
use crate::network::linear::{Linear, LoadOptions, apply_all, kv_format, load_vector, replace};
use crate::network::pre_quant_scales::PreQuantScales;
use crate::network::tensor_list::Shaped;
use crate::network::{EncoderConfig, PRE_QUANT_SCALE, Site};

/// One block.
#[derive(Debug)]
pub struct EncoderBlock {
    config: EncoderConfig,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    scales: PreQuantScales,
}

/// Memory of a forward pass, kept between passes.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Result of attention, `(tokens, hidden_size)`.
    attended: Activations,
    /// Inputs of a site that are multiplied by its scale.
    scaled: Activations,
    steps: Steps,
}

/// Memory of the steps of a pass.
#[derive(Debug)]
pub(super) struct Steps {
    /// `(tokens, intermediate_size)`.
    pub wide: Activations,
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
        let steps = Steps::new(config, format);
        Workspace { attended: Activations::default(), scaled: Activations::default(), steps }
    }
}

impl Steps {
    fn new(config: &EncoderConfig, format: KvFormat) -> Self {
        Steps {
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
    pub(super) const LINEARS: [&str; 6] = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];

    /// Those that read the input of a site.
    pub(super) fn linears_at(site: Site) -> &'static [&'static str] {
        match site {
            Site::AttentionInput => &Self::LINEARS[..3],
            Site::AttentionOutput => &Self::LINEARS[3..4],
            Site::MlpInput => &Self::LINEARS[4..5],
            Site::MlpDown => &Self::LINEARS[5..],
        }
    }

    /// Features of the input of a site.
    fn features_at(config: &EncoderConfig, site: Site) -> usize {
        if site == Site::MlpDown { config.intermediate_size } else { config.hidden_size }
    }

    /// Loads the block whose tensors begin with `prefix` (`encoder.layer.0.`).
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor.
    pub(super) fn load(
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
        let mut scales = PreQuantScales::default();
        for site in Site::ALL {
            let modules: Vec<_> = Self::linears_at(site).iter().map(|linear| format!("{prefix}{linear}")).collect();
            scales.load(checkpoint, site, &modules, Self::features_at(config, site))?;
        }
        Ok(EncoderBlock {
            query: linear(0, (hidden, hidden))?,
            key: linear(1, (hidden, hidden))?,
            value: linear(2, (hidden, hidden))?,
            output: linear(3, (hidden, hidden))?,
            attention_norm: norm("attention.output.LayerNorm")?,
            up: linear(4, (ffn, hidden))?,
            down: linear(5, (hidden, ffn))?,
            norm: norm("output.LayerNorm")?,
            scales,
            config: config.clone(),
        })
    }

    /// The tensors of the block with their shapes; of the scales of inputs those of the sites that have any.
    pub(super) fn tensors(checkpoint: &Checkpoint, config: &EncoderConfig, prefix: &str) -> Vec<Shaped> {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let mut tensors = Vec::new();
        for site in Site::ALL {
            let (linears, cols) = (Self::linears_at(site), Self::features_at(config, site));
            let rows = if site == Site::MlpInput { ffn } else { hidden };
            for linear in linears {
                tensors.push((format!("{prefix}{linear}.weight"), vec![rows, cols]));
                tensors.push((format!("{prefix}{linear}.bias"), vec![rows]));
            }
            let scales: Vec<_> = linears.iter().map(|linear| format!("{prefix}{linear}{PRE_QUANT_SCALE}")).collect();
            if scales.iter().any(|name| checkpoint.contains(name)) {
                tensors.extend(scales.into_iter().map(|name| (name, vec![cols])));
            }
        }
        let norms = ["attention.output.LayerNorm", "output.LayerNorm"];
        tensors.extend(norms.iter().flat_map(|norm| layer_norm_tensors(&format!("{prefix}{norm}"), config)));
        tensors
    }

    /// All linear layers in the order of execution.
    pub(super) fn linears(&self) -> [&Linear; 6] {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down]
    }

    /// Bytes of all weights, biases, norms and scales.
    pub(super) fn bytes(&self) -> usize {
        let norms = 4 * self.config.hidden_size * size_of::<f32>();
        self.linears().iter().map(|linear| linear.bytes()).sum::<usize>() + norms + self.scales.bytes()
    }

    /// The first weight that multiplies the block's inputs as they are, if any does.
    pub(super) fn reader(&self) -> Option<&Matrix> {
        self.scales.direct(Site::AttentionInput, self.query.weight())
    }

    /// The linear layer of that name inside the block.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        let linears = [&mut self.query, &mut self.key, &mut self.value, &mut self.output, &mut self.up, &mut self.down];
        Self::LINEARS.iter().zip(linears).find(|(known, _)| **known == name).map(|(_, linear)| linear)
    }

    /// Replaces a linear layer's weight.
    ///
    /// # Errors
    /// An unknown name or another shape.
    pub(super) fn set_linear(&mut self, name: &str, weight: Matrix) -> Result<()> {
        let linear = self.linear_mut(name).ok_or_else(|| Error::input(name, "a block has no such linear layer"))?;
        linear.set_weight(name, weight).map(|_| ())
    }

    /// Replaces a linear layer's bias, `output.dense.bias`, or sets the scale of its site's inputs,
    /// `output.dense.pre_quant_scale`.
    ///
    /// # Errors
    /// An unknown name or another length.
    pub(super) fn set_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        let scaled = name.strip_suffix(PRE_QUANT_SCALE);
        let site = scaled.and_then(|linear| Site::ALL.into_iter().find(|s| Self::linears_at(*s).contains(&linear)));
        if let Some(site) = site {
            return self.scales.set(name, site, Self::features_at(&self.config, site), values);
        }
        let linear = name.strip_suffix(".bias").and_then(|linear| self.linear_mut(linear));
        let bias = linear.and_then(Linear::bias_mut);
        replace(name, bias, values)
    }

    /// Memory of the steps of this block alone.
    pub(super) fn steps(&self) -> Steps {
        Steps::new(&self.config, attention_format(&self.config, self.linears().into_iter()))
    }

    /// Runs the block in place over `hidden`, `(sequences.tokens(), hidden_size)`, which goes on to block `next`.
    pub(super) fn run(
        &self,
        pool: &Pool,
        sequences: Sequences<'_>,
        hidden: &mut Activations,
        work: &mut Workspace,
        next: Option<&EncoderBlock>,
    ) {
        let Workspace { attended, scaled, steps } = work;
        self.attention(pool, sequences, self.scale(pool, Site::AttentionInput, hidden, scaled), attended, steps);
        let x = self.scale(pool, Site::AttentionOutput, attended, scaled);
        self.after_attention(pool, x, hidden, steps);
        self.mlp(pool, self.scale(pool, Site::MlpInput, hidden, scaled), steps);
        self.finish(pool, hidden, steps, next);
    }

    /// What the linear layers of a site read of `x`, which is in `scaled` where the site has a scale.
    pub(super) fn scale<'x>(
        &self,
        pool: &Pool,
        site: Site,
        x: &'x mut Activations,
        scaled: &'x mut Activations,
    ) -> &'x mut Activations {
        let reader = match site {
            Site::AttentionInput => &self.query,
            Site::AttentionOutput => &self.output,
            Site::MlpInput => &self.up,
            Site::MlpDown => &self.down,
        };
        self.scales.apply(pool, site, x, scaled, reader.weight())
    }

    /// From the input of attention's projections to attention's result.
    pub(super) fn attention(
        &self,
        pool: &Pool,
        sequences: Sequences<'_>,
        x: &mut Activations,
        attended: &mut Activations,
        steps: &mut Steps,
    ) {
        let Steps { query, key, value, .. } = steps;
        apply_all(pool, x, [(&self.query, query), (&self.key, key), (&self.value, value)]);
        pool.part(Part::Attention, || self.attend(pool, sequences, attended, steps));
    }

    /// From the input of attention's last projection to the residual stream, which the feed-forward part reads.
    pub(super) fn after_attention(
        &self,
        pool: &Pool,
        x: &mut Activations,
        hidden: &mut Activations,
        steps: &mut Steps,
    ) {
        steps.delta.resize(x.tokens() * self.config.hidden_size, 0.0);
        self.output.multiply(pool, x, &mut steps.delta);
        let x = hidden.change_for(self.scales.direct(Site::MlpInput, self.up.weight()));
        rows::add_layer_norm(pool, x, &steps.delta, self.output.bias(), &self.attention_norm);
    }

    /// From the input of the feed-forward part to that of its last layer, in `steps.wide`.
    pub(super) fn mlp(&self, pool: &Pool, x: &mut Activations, steps: &mut Steps) {
        self.up.multiply(pool, x, steps.wide.write(x.tokens(), self.config.intermediate_size));
        let x = steps.wide.change_for(Some(self.down.weight()));
        rows::bias_gelu(pool, x, self.up.bias(), self.config.gelu, self.scales.of(Site::MlpDown));
    }

    /// From there to the residual stream, which goes on to block `next`.
    pub(super) fn finish(&self, pool: &Pool, hidden: &mut Activations, steps: &mut Steps, next: Option<&EncoderBlock>) {
        steps.delta.resize(steps.wide.tokens() * self.config.hidden_size, 0.0);
        self.down.multiply(pool, &mut steps.wide, &mut steps.delta);
        let x = hidden.change_for(next.and_then(EncoderBlock::reader));
        rows::add_layer_norm(pool, x, &steps.delta, self.down.bias(), &self.norm);
    }

    /// Leaves attention's result in `attended`.
    fn attend(&self, pool: &Pool, sequences: Sequences<'_>, attended: &mut Activations, steps: &mut Steps) {
        steps.cache.reshape(sequences.count(), sequences.longest());
        steps.cache.append(pool, 0, sequences, &steps.key, &steps.value);
        let attention = Attention { cache: &steps.cache, heads: self.config.heads, new: sequences, mask: Mask::Whole };
        let attended = attended.write(sequences.tokens(), self.config.hidden_size);
        attention.run(Isa::active(), pool, &steps.query, &mut steps.attention, attended);
    }
}

/// Attention in bfloat16 where all weights are or have 8-bit inputs, in 32 bits elsewhere.
pub(super) fn attention_format<'a>(
    config: &EncoderConfig,
    linears: impl Iterator<Item = &'a Linear> + Clone,
) -> KvFormat {
    let pairs = (config.hidden_size / config.heads).is_multiple_of(2);
    match kv_format(linears, false) {
        KvFormat::Bf16 if pairs => KvFormat::Bf16,
        _ => KvFormat::F32,
    }
}

/// Weight and bias of a layer norm, with their shapes.
pub(super) fn layer_norm_tensors(name: &str, config: &EncoderConfig) -> [Shaped; 2] {
    ["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![config.hidden_size]))
}

/// Loads weight and bias of a layer norm.
///
/// # Errors
/// A missing or wrongly sized tensor.
pub(super) fn load_layer_norm(checkpoint: &Checkpoint, name: &str, config: &EncoderConfig) -> Result<LayerNorm> {
    let vector = |part: &str| load_vector(checkpoint, &format!("{name}.{part}"), config.hidden_size);
    Ok(LayerNorm { weight: vector("weight")?, bias: vector("bias")?, eps: config.layer_norm_eps })
}
