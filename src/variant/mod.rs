//! Model and recipe to artefact: what is made, where it is cached, under which key.
//!
//! An artefact is a checkpoint folder in the compressed-tensors layout, so that what is measured is a file that other
//! programs can load too. It appears whole or not at all.

mod bias_correction;
mod build;
mod cache;
mod calibration;
mod compressed_tensors;
mod gguf_blocks;
mod gguf_export;
mod gguf_metadata;
#[cfg(test)]
mod gguf_tests;
mod gguf_writer;
#[cfg(test)]
mod input_tests;
mod key;
mod maker;
mod mixture;
mod passages;
mod plan;
mod proof;
mod propagation;
#[cfg(test)]
mod property_tests;
mod rescale;
mod rotation;
#[cfg(test)]
mod rotation_tests;
mod safetensors_writer;
#[cfg(test)]
mod tests;
mod unfinished;

use std::path::Path;

pub use build::build;
pub use cache::{Found, cached_or_built};
pub use calibration::CalibrationTokens;
pub use compressed_tensors::packing_note;
pub use gguf_export::{Exported, build_gguf};
pub use key::{ARTEFACTS, cached};
pub use mixture::{Survey, Work, search};

use crate::suite::Recipe;

/// Everything needed to make a variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Order<'a> {
    /// The model's file or folder.
    pub model: &'a Path,
    /// SHA-256 over its files.
    pub model_sha256: &'a str,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Resolved path of an imported artefact, for `Recipe::Import` of another source than `model`.
    pub import: Option<&'a Path>,
    /// Calibration data, where the recipe needs it.
    pub calibration: Option<&'a CalibrationTokens>,
    /// Threads to use.
    pub threads: usize,
}
