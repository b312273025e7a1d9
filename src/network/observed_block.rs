//! One block of either kind of network, run over whole sequences while somebody watches its linear layers' inputs, and
//! changed: what calibration does.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::{Matrix, Pool};
use crate::network::block::Workspace;
use crate::network::encoder_block::EncoderBlock;
use crate::network::{Architecture, Block, LoadOptions, Site};

/// A block of a decoder or an encoder.
///
/// Sequences are rows of `hidden`, `(tokens, hidden_size)` row-major, that end at `ends`; those of a decoder are of one
/// length. `work` is memory that a decoder's block keeps between passes.
pub trait ObservedBlock: Sync {
    /// Runs the block in place.
    ///
    /// # Panics
    /// When `hidden` has another size.
    fn advance(&self, pool: &Pool, hidden: &mut [f32], ends: &[usize], work: &mut Workspace);

    /// Shows `observe(site, inputs)` what every site would read, `(tokens, features)` row-major.
    ///
    /// # Panics
    /// When `hidden` has another size.
    fn watch(
        &self,
        pool: &Pool,
        hidden: &[f32],
        ends: &[usize],
        work: &mut Workspace,
        observe: &mut dyn FnMut(Site, &[f32]),
    );

    /// Replaces a linear layer's weight by its name inside the block.
    ///
    /// # Errors
    /// An unknown name or another shape.
    fn replace_linear(&mut self, name: &str, weight: Matrix) -> Result<()>;

    /// Replaces a linear layer's bias, or in a decoder a norm's weight: `input_layernorm.weight`, `mlp.up_proj.bias`, ...
    ///
    /// # Errors
    /// An unknown name or another length.
    fn replace_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()>;
}

impl ObservedBlock for Block {
    fn advance(&self, pool: &Pool, hidden: &mut [f32], ends: &[usize], work: &mut Workspace) {
        self.forward(pool, hidden, ends.len(), ends.first().copied().unwrap_or(0), work);
    }

    fn watch(
        &self,
        pool: &Pool,
        hidden: &[f32],
        ends: &[usize],
        work: &mut Workspace,
        observe: &mut dyn FnMut(Site, &[f32]),
    ) {
        self.observe(pool, hidden, ends.len(), ends.first().copied().unwrap_or(0), work, observe);
    }

    fn replace_linear(&mut self, name: &str, weight: Matrix) -> Result<()> {
        self.set_linear(name, weight).map(|_| ())
    }

    fn replace_vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        self.set_vector(name, values)
    }
}

impl ObservedBlock for EncoderBlock {
    fn advance(&self, pool: &Pool, hidden: &mut [f32], ends: &[usize], _: &mut Workspace) {
        self.forward(pool, hidden, ends, &mut |_, _| {});
    }

    fn watch(
        &self,
        pool: &Pool,
        hidden: &[f32],
        ends: &[usize],
        _: &mut Workspace,
        observe: &mut dyn FnMut(Site, &[f32]),
    ) {
        self.forward(pool, &mut hidden.to_vec(), ends, observe);
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
