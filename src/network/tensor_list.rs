//! The tensors that a network reads, with their shapes, held against those of a checkpoint: what is missing, has another
//! shape or is read by no layer makes another model than the one that was published, so it is refused by name.
//!
//! Accepted though no layer reads them, since they change nothing:
//!
//! | tensor | why | in artefacts |
//! |---|---|---|
//! | `*.rotary_emb.inv_freq`, `cos_cached`, `sin_cached` | tables made from the config | no |
//! | `rope_freqs.weight` of a GGUF file | the factors of `rope_scaling` | no |
//! | `*attn.masked_bias`; `*attn.bias`, a square of truth values | causal masks of older files | no |
//! | `*embeddings.position_ids`, `token_type_ids` | the numbers 0, 1, 2, ... and zeros | no |
//! | `lm_head.weight` of a tied head | equals the embedding, as [`Checkpoint::open`] checks | no |
//! | a bias that is all zeros, beside a weight that is read | writers of GPTQ files add them | no |
//! | an encoder's `pooler.dense`, `cls.*`, `lm_head.*` | heads behind the states that are read here | yes |

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, FREQUENCY_FACTORS};
use crate::error::{Error, Result};
use crate::network::encoder::End;
use crate::network::encoder_block::EncoderBlock;
use crate::network::head::EMBEDDING;
use crate::network::{Architecture, Block, Config, EncoderConfig, EncoderEmbeddings, RopeScaling, unread_tensors};

/// Name and shape, outermost first, of a tensor that a layer reads.
pub(super) type Shaped = (String, Vec<usize>);

/// Weight of a head that is not tied.
pub(super) const HEAD: &str = "lm_head.weight";

/// The tensors that a network reads.
#[derive(Debug)]
pub(super) struct TensorList<'a> {
    architecture: &'a Architecture,
    checkpoint: &'a Checkpoint,
    shapes: HashMap<String, Vec<usize>>,
    /// In the order of the network.
    names: Vec<String>,
}

/// What becomes of a tensor that no layer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// Repeats what the network has.
    Redundant,
    /// Part of a head that is not run here.
    OtherHead,
    /// Would change the model.
    Refused,
}

impl<'a> TensorList<'a> {
    /// The tensors that `architecture` reads of `checkpoint`, which decides on what is optional: scales of an encoder's
    /// inputs, the classes of a classifier.
    pub fn new(architecture: &'a Architecture, checkpoint: &'a Checkpoint) -> Self {
        let tensors = match architecture {
            Architecture::Decoder(config) => of_decoder(config),
            Architecture::Encoder { config, prefix } => of_encoder(checkpoint, config, prefix),
        };
        let names = tensors.iter().map(|(name, _)| name.clone()).collect();
        TensorList { architecture, checkpoint, shapes: tensors.into_iter().collect(), names }
    }

    /// Whether a layer reads a tensor of that name.
    pub fn reads(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// In the order of the network.
    #[cfg(test)]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Refuses a checkpoint that lacks a tensor, has one in another shape or type, or has one that is not used.
    ///
    /// # Errors
    /// All tensors of the first kind of fault, with the key of the config that belongs to them.
    pub fn check(&self) -> Result<()> {
        let names = self.checkpoint.names();
        let mut unread = Vec::new();
        for name in names.iter().filter(|name| !self.reads(name)) {
            if self.fate(name)? == Unread::Refused {
                unread.push(name.as_str());
            }
        }
        let missing: Vec<&str> =
            self.names.iter().map(String::as_str).filter(|name| !self.checkpoint.contains(name)).collect();
        if !unread.is_empty() {
            let problem = unread_tensors::explain(self, &unread, &missing);
            return Err(self.fault(unread[0], problem));
        }
        if let Some(first) = missing.first() {
            return Err(self.fault(first, unread_tensors::explain_missing(self, &missing)));
        }
        self.names.iter().try_for_each(|name| self.check_tensor(name))
    }

    /// Shape and type of a tensor.
    fn check_tensor(&self, name: &str) -> Result<()> {
        let (expected, got) = (&self.shapes[name], self.checkpoint.shape(name).unwrap_or_default());
        if *expected != got {
            return Err(self.fault(name, format!("expected shape {expected:?} by the model's config, got {got:?}")));
        }
        match self.checkpoint.unsupported(name) {
            Some(dtype) => Err(self.fault(name, format!("type {dtype} is not supported; supported: F32, F16, BF16"))),
            None => Ok(()),
        }
    }

    /// The tensors that an artefact carries, in the order of the file.
    ///
    /// # Errors
    /// A bias that cannot be read.
    pub fn kept(&self) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        for name in self.checkpoint.names() {
            if self.reads(&name) || self.fate(&name)? == Unread::OtherHead {
                kept.push(name);
            }
        }
        Ok(kept)
    }

    /// What becomes of a tensor that no layer reads.
    fn fate(&self, name: &str) -> Result<Unread> {
        let redundant = match self.architecture {
            Architecture::Decoder(config) => {
                config.tied_head && name == HEAD
                    || self.is_rotary_table(name, config)
                    || self.is_mask(name)
                    || name == FREQUENCY_FACTORS && self.are_factors_of(config)?
            }
            Architecture::Encoder { prefix, .. } => {
                if self.is_other_head(name, prefix) {
                    return Ok(Unread::OtherHead);
                }
                let buffer = name.strip_prefix(prefix.as_str());
                matches!(buffer, Some("embeddings.position_ids" | "embeddings.token_type_ids"))
            }
        };
        if redundant || self.is_bias_of_zeros(name)? { Ok(Unread::Redundant) } else { Ok(Unread::Refused) }
    }

    fn is_rotary_table(&self, name: &str, config: &Config) -> bool {
        match name.rsplit_once("rotary_emb.") {
            Some((_, "inv_freq")) => self.checkpoint.shape(name).is_some_and(|shape| shape == [config.head_dim / 2]),
            Some((_, part)) => matches!(part, "cos_cached" | "sin_cached"),
            None => false,
        }
    }

    /// The config repeats the factors of a GGUF file.
    fn are_factors_of(&self, config: &Config) -> Result<bool> {
        let stored = self.checkpoint.tensor_f32(FREQUENCY_FACTORS)?.1;
        Ok(matches!(&config.rope_scaling, RopeScaling::Factors(factors) if *factors == stored))
    }

    /// Masks are a scalar, or `(1, 1, n, n)` of truth values; a bias of attention's projections has neither shape.
    fn is_mask(&self, name: &str) -> bool {
        let shape = self.checkpoint.shape(name).unwrap_or_default();
        let square = matches!(shape[..], [1, 1, rows, cols] if rows == cols);
        name.ends_with("attn.masked_bias") && shape.iter().product::<usize>() == 1
            || name.ends_with("attn.bias") && square && self.checkpoint.unsupported(name).is_some()
    }

    /// Heads for masked words and next sentences, and a pooler whose result nothing reads here.
    fn is_other_head(&self, name: &str, prefix: &str) -> bool {
        const BERT: [&str; 5] = [
            "predictions.decoder",
            "predictions.transform.dense",
            "predictions.transform.LayerNorm",
            "seq_relationship",
            "predictions",
        ];
        const ROBERTA: [&str; 4] = ["dense", "layer_norm", "decoder", ""];
        let Some((module, "weight" | "bias" | "gamma" | "beta")) = name.rsplit_once('.') else { return false };
        module.strip_prefix(prefix) == Some("pooler.dense")
            || module.strip_prefix("cls.").is_some_and(|part| BERT.contains(&part))
            || module.strip_prefix("lm_head").is_some_and(|part| ROBERTA.contains(&part.trim_start_matches('.')))
    }

    fn is_bias_of_zeros(&self, name: &str) -> Result<bool> {
        let Some(module) = name.strip_suffix(".bias") else { return Ok(false) };
        // A tied head has the rows of the embedding.
        let tied = module == "lm_head" && self.architecture.tied_head();
        let weight = if tied { EMBEDDING.to_owned() } else { format!("{module}.weight") };
        let rows = self.shapes.get(&weight).and_then(|shape| shape.first());
        let fits = |rows: &usize| self.checkpoint.shape(name).is_some_and(|shape| shape == [*rows]);
        if !rows.is_some_and(fits) || self.checkpoint.unsupported(name).is_some() {
            return Ok(false);
        }
        Ok(self.checkpoint.tensor_f32(name)?.1.iter().all(|value| *value == 0.0))
    }

    pub fn architecture(&self) -> &Architecture {
        self.architecture
    }

    /// Blocks of the checkpoint, by their names.
    pub fn blocks_in_file(&self) -> usize {
        let number = |name: &String| self.block_of(name);
        self.checkpoint.names().iter().filter_map(number).max().map_or(0, |last| last + 1)
    }

    /// The number of the block that a tensor belongs to.
    pub fn block_of(&self, name: &str) -> Option<usize> {
        let blocks = self.architecture.module(0, "");
        let (number, _) = name.strip_prefix(blocks.strip_suffix("0.")?)?.split_once('.')?;
        number.parse().ok()
    }

    fn fault(&self, name: &str, problem: String) -> Error {
        Error::input(self.checkpoint.path().display(), format!("tensor \"{name}\": {problem}"))
    }
}

fn of_decoder(config: &Config) -> Vec<Shaped> {
    let table = vec![config.vocab_size, config.hidden_size];
    let mut tensors = vec![(EMBEDDING.to_owned(), table.clone())];
    tensors.extend((0..config.layers).flat_map(|layer| Block::tensors(config, layer)));
    tensors.push(("model.norm.weight".to_owned(), vec![config.hidden_size]));
    if !config.tied_head {
        tensors.push((HEAD.to_owned(), table));
    }
    tensors
}

fn of_encoder(checkpoint: &Checkpoint, config: &EncoderConfig, prefix: &str) -> Vec<Shaped> {
    let mut tensors = EncoderEmbeddings::tensors(config, prefix);
    for layer in 0..config.layers {
        tensors.extend(EncoderBlock::tensors(checkpoint, config, &format!("{prefix}encoder.layer.{layer}.")));
    }
    tensors.extend(End::tensors(checkpoint, config, prefix));
    tensors
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::network::{Decoder, Encoder, LoadOptions};

    /// The list is that of what loading reads, no more and no less.
    #[test]
    fn loading_reads_the_listed_tensors() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for folder in ["tiny_models", "tiny_encoders"] {
            for model in std::fs::read_dir(fixtures.join(folder)).unwrap() {
                let checkpoint = Checkpoint::open(&model.unwrap().path()).unwrap();
                let architecture = Architecture::of(&checkpoint).unwrap();
                match &architecture {
                    Architecture::Decoder(_) => _ = Decoder::load(&checkpoint, LoadOptions::default()).unwrap(),
                    Architecture::Encoder { .. } => _ = Encoder::load(&checkpoint, LoadOptions::default()).unwrap(),
                }
                let mut listed = TensorList::new(&architecture, &checkpoint).names().to_vec();
                listed.sort();
                assert_eq!(
                    checkpoint.reads().into_iter().collect::<Vec<_>>(),
                    listed,
                    "{}",
                    checkpoint.path().display()
                );
            }
        }
    }
}
