//! Model and recipe to artefact: what is made, where it is cached, under which key.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::results::Artefact;
use crate::suite::Recipe;

/// Calibration windows as token ids, all of one length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CalibrationTokens {
    /// Windows.
    pub windows: Vec<Vec<u32>>,
}

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

impl Order<'_> {
    /// Cache key: SHA-256 of model, recipe, calibration tokens and tool version, as hex.
    pub fn key(&self) -> String {
        todo!("variant")
    }
}

/// Makes the artefact of `order` in `into` (a new folder), or describes the published file for an import.
/// `progress(done, total)` is told blocks.
///
/// # Errors
/// A tensor that a scheme does not fit (all such tensors are named before work starts), NaN weights, no space.
pub fn build(order: &Order<'_>, into: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Artefact> {
    let _ = (order, into, progress);
    todo!("variant")
}

/// Folder of an artefact in the cache; it exists only when complete.
pub fn cached(key: &str) -> PathBuf {
    let _ = key;
    todo!("variant")
}
