//! One block of either kind of network, run over whole sequences from one [`Site`] to the next, so that calibration can
//! watch a linear layer's inputs and change the layer before it runs.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::{Activations, Matrix, Pool, Sequences};
use crate::network::block::Workspace;
use crate::network::encoder_block::EncoderBlock;
use crate::network::{Architecture, Block, LoadOptions, Site};

/// Some sequences on their way through a block.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Passage {
    /// The residual stream, `(tokens, hidden_size)` row-major.
    pub hidden: Vec<f32>,
    /// Inputs of the site that was reached last, `(tokens, features)` row-major.
    pub inputs: Vec<f32>,
    /// Row after the last of every sequence; those of a decoder are of one length.
    pub ends: Vec<usize>,
}

/// A block of a decoder or an encoder. `work` is memory that a decoder's block keeps between passes.
pub trait ObservedBlock: Send + Sync {
    /// Runs on from the site before (from the beginning of the block to the first) to where `passage.inputs` are what the
    /// linear layers of `site` read.
    ///
    /// # Panics
    /// When the passage does not come from the site before.
    fn reach(&self, site: Site, pool: &Pool, passage: &mut Passage, work: &mut Workspace);

    /// Runs from the last site to the end of the block.
    ///
    /// # Panics
    /// When the passage does not come from the last site.
    fn finish(&self, pool: &Pool, passage: &mut Passage, work: &mut Workspace);

    /// Runs the whole block.
    ///
    /// # Panics
    /// When `passage.hidden` is not as many rows as the sequences have tokens.
    fn advance(&self, pool: &Pool, passage: &mut Passage, work: &mut Workspace) {
        for site in Site::ALL {
            self.reach(site, pool, passage, work);
        }
        self.finish(pool, passage, work);
    }

    /// Replaces a linear layer's weight by its name inside the block.
    ///
    /// # Errors
    /// An unknown name or another shape.
    fn replace_linear(&mut self, name: &str, weight: Matrix) -> Result<()>;

    /// Replaces a linear layer's bias, in a decoder a norm's weight, or sets an explicit scale of an encoder's inputs:
    /// `mlp.up_proj.bias`, `input_layernorm.weight`, `output.dense.pre_quant_scale`.
    ///
    /// # Errors
    /// An unknown name or another length.
    fn replace_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()>;
}

impl Passage {
    fn tokens(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Moves the inputs to where kernels read them.
    fn load(&mut self, x: &mut Activations) {
        x.exchange(self.tokens(), &mut self.inputs);
    }

    /// Moves what the next linear layers read here.
    fn store(&mut self, x: &mut Activations) {
        x.exchange(0, &mut self.inputs);
    }
}

impl ObservedBlock for Block {
    fn reach(&self, site: Site, pool: &Pool, passage: &mut Passage, work: &mut Workspace) {
        match site {
            Site::AttentionInput => self.begin(pool, &passage.hidden, work),
            Site::AttentionOutput => {
                passage.load(&mut work.x);
                let length = passage.ends.first().copied().unwrap_or(0);
                self.with_pass(pool, passage.ends.len(), length, |pass, cache| self.attention(pass, cache, work));
            }
            Site::MlpInput => {
                passage.load(&mut work.x);
                self.after_attention(pool, &mut passage.hidden, work);
            }
            Site::MlpDown => {
                passage.load(&mut work.x);
                self.mlp(pool, work);
            }
        }
        passage.store(&mut work.x);
    }

    fn finish(&self, pool: &Pool, passage: &mut Passage, work: &mut Workspace) {
        passage.load(&mut work.x);
        Block::finish(self, pool, &mut passage.hidden, work);
        passage.inputs.clear();
    }

    fn replace_linear(&mut self, name: &str, weight: Matrix) -> Result<()> {
        self.set_linear(name, weight).map(|_| ())
    }

    fn replace_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        self.set_vector(name, values)
    }
}

impl EncoderBlock {
    /// Runs `step` on the residual stream as kernels read it.
    fn on_stream(&self, passage: &mut Passage, step: impl FnOnce(&mut Activations)) {
        let (tokens, mut stream) = (passage.tokens(), Activations::default());
        stream.write(tokens, passage.hidden.len() / tokens).copy_from_slice(&passage.hidden);
        step(&mut stream);
        passage.hidden.copy_from_slice(stream.values());
    }
}

impl ObservedBlock for EncoderBlock {
    fn reach(&self, site: Site, pool: &Pool, passage: &mut Passage, _: &mut Workspace) {
        let (mut steps, mut x, mut reached) = (self.steps(), Activations::default(), Activations::default());
        passage.load(&mut x);
        match site {
            Site::AttentionInput => {}
            Site::AttentionOutput => {
                self.attention(pool, Sequences::packed(&passage.ends), &mut x, &mut reached, &mut steps);
            }
            Site::MlpInput => self.on_stream(passage, |stream| self.after_attention(pool, &mut x, stream, &mut steps)),
            Site::MlpDown => {
                // Scaled by what stands between.
                self.mlp(pool, &mut x, &mut steps);
                return passage.store(&mut steps.wide);
            }
        }
        if matches!(site, Site::AttentionInput | Site::MlpInput) {
            reached.write(passage.tokens(), passage.hidden.len() / passage.tokens()).copy_from_slice(&passage.hidden);
        }
        passage.store(self.scale(pool, site, &mut reached, &mut Activations::default()));
    }

    fn finish(&self, pool: &Pool, passage: &mut Passage, _: &mut Workspace) {
        let mut steps = self.steps();
        passage.load(&mut steps.wide);
        self.on_stream(passage, |stream| EncoderBlock::finish(self, pool, stream, &mut steps, None));
        passage.inputs.clear();
    }

    fn replace_linear(&mut self, name: &str, weight: Matrix) -> Result<()> {
        self.set_linear(name, weight)
    }

    fn replace_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        self.set_vector(name, values)
    }
}

/// Loads block `layer` of a network.
///
/// # Errors
/// A missing or wrongly shaped tensor.
pub fn load_block(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    layer: usize,
    options: LoadOptions,
) -> Result<Box<dyn ObservedBlock>> {
    match architecture {
        Architecture::Decoder(config) => Ok(Box::new(Block::load(checkpoint, config, layer, options)?)),
        Architecture::Encoder { config, .. } => {
            let prefix = architecture.module(layer, "");
            Ok(Box::new(EncoderBlock::load(checkpoint, config, &prefix, options)?))
        }
    }
}
