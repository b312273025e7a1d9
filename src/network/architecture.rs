//! What a checkpoint holds: the kind of its network, with the names of the parts that recipes, proofs and tables speak of.

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::kernels::Hadamard;
use crate::network::encoder::prefix;
use crate::network::head::EMBEDDING;
use crate::network::tensor_list::{HEAD, TensorList};
use crate::network::{Config, EncoderConfig, Site};

/// The kind of a network and its hyperparameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// A decoder of the Llama family.
    Decoder(Config),
    /// An encoder of the BERT family.
    Encoder {
        /// Hyperparameters.
        config: EncoderConfig,
        /// What comes before the names of the network's tensors: nothing, `bert.`.
        prefix: String,
    },
}

impl Architecture {
    /// Reads the configuration of a checkpoint and holds the checkpoint's tensors against it: names, shapes and types.
    ///
    /// # Errors
    /// A missing or absurd value, an architecture that is not supported; a tensor that is missing, has another shape or
    /// is read by no layer.
    pub fn of(checkpoint: &Checkpoint) -> Result<Architecture> {
        let (place, json) = (checkpoint.path().display().to_string(), checkpoint.config());
        let architecture = if Architecture::is_encoder(json) {
            let config = EncoderConfig::from_json(&place, json)?;
            Architecture::Encoder { config, prefix: prefix(checkpoint)? }
        } else {
            Architecture::Decoder(Config::from_json(&place, json)?)
        };
        TensorList::new(&architecture, checkpoint).check()?;
        Ok(architecture)
    }

    /// The tensors of a checkpoint of this architecture that an artefact carries, in the order of the file: what layers
    /// read, and an encoder's heads that are not run here.
    ///
    /// # Errors
    /// A bias that cannot be read.
    pub fn kept_tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<String>> {
        TensorList::new(self, checkpoint).kept()
    }

    /// What the user should know of a checkpoint that can be read: keys that are not known, and what its reader noticed.
    ///
    /// # Errors
    /// As [`Architecture::of`].
    pub fn warnings(checkpoint: &Checkpoint) -> Result<Vec<String>> {
        let (place, json) = (checkpoint.path().display().to_string(), checkpoint.config());
        let unknown = match Architecture::is_encoder(json) {
            true => EncoderConfig::read(&place, json)?.1,
            false => Config::read(&place, json)?.1,
        };
        Ok(checkpoint.warnings().iter().cloned().chain(unknown).collect())
    }

    /// Whether a `config.json` is that of an encoder.
    pub fn is_encoder(json: &Value) -> bool {
        EncoderConfig::describes(json)
    }

    /// Blocks.
    pub fn layers(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.layers,
            Architecture::Encoder { config, .. } => config.layers,
        }
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.hidden_size,
            Architecture::Encoder { config, .. } => config.hidden_size,
        }
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.vocab_size,
            Architecture::Encoder { config, .. } => config.vocab_size,
        }
    }

    /// Whether the head uses the embedding's weights.
    pub fn tied_head(&self) -> bool {
        matches!(self, Architecture::Decoder(config) if config.tied_head)
    }

    /// The rotation of the residual stream while a network runs.
    pub fn rotation(&self) -> Option<Hadamard> {
        match self {
            Architecture::Decoder(config) => config.rotation(),
            Architecture::Encoder { .. } => None,
        }
    }

    /// Weight of the output head; `None` for an encoder, which has none.
    pub fn head(&self) -> Option<&'static str> {
        match self {
            Architecture::Decoder(config) => Some(if config.tied_head { EMBEDDING } else { HEAD }),
            Architecture::Encoder { .. } => None,
        }
    }

    /// What comes before the names of all blocks.
    fn blocks(&self) -> String {
        match self {
            Architecture::Decoder(_) => "model.layers.".to_owned(),
            Architecture::Encoder { prefix, .. } => format!("{prefix}encoder.layer."),
        }
    }

    /// Linear layers of a block by their name inside the block, in the order of execution.
    pub fn linears_of_block(&self) -> Vec<&'static str> {
        Site::ALL.into_iter().flat_map(|site| self.linears_at(site)).copied().collect()
    }

    /// Module of a linear layer of block `layer`: `model.layers.3.mlp.up_proj`.
    pub fn module(&self, layer: usize, linear: &str) -> String {
        format!("{}{layer}.{linear}", self.blocks())
    }

    /// The name inside its block of a module that is a linear layer of a block.
    pub fn linear_of_block(&self, module: &str) -> Option<&'static str> {
        let (_, inside) = module.strip_prefix(&self.blocks())?.split_once('.')?;
        self.linears_of_block().into_iter().find(|linear| *linear == inside)
    }

    /// Weights of the linear layers of all blocks in the order of execution.
    pub fn block_weights(&self) -> Vec<String> {
        let of_block = |layer| self.linears_of_block().into_iter().map(move |linear| (layer, linear));
        let modules = (0..self.layers()).flat_map(of_block);
        modules.map(|(layer, linear)| format!("{}.weight", self.module(layer, linear))).collect()
    }
}
