//! Token files: what was prepared once is read by every worker, so that all variants see the same tokens.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Window;
use crate::error::{Error, Result};
use crate::files;
use crate::results::{Genres, write_whole};

/// Where the token files of a run lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFiles {
    folder: PathBuf,
}

impl TokenFiles {
    /// In `folder`.
    pub fn new(folder: PathBuf) -> Self {
        TokenFiles { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// [`Windows`] (of a similarity: its sentences) or [`super::ChoiceItems`] of the suite's task number `task`.
    pub fn windows(&self, task: usize) -> PathBuf {
        self.folder.join(format!("task-{task}.json"))
    }

    /// Calibration windows of draw number `draw`, each a list of ids.
    pub fn calibration(&self, draw: usize) -> PathBuf {
        self.folder.join(if draw == 0 { "calibration.json".into() } else { format!("calibration-{draw}.json") })
    }

    /// Windows of calibration text that no quantizer learns from, on which searches compare.
    pub fn held_out(&self) -> PathBuf {
        self.folder.join("held-out.json")
    }

    /// [`Prompts`].
    pub fn prompts(&self) -> PathBuf {
        self.folder.join("prompts.json")
    }
}

/// What a variant is scored on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Windows in order.
    pub windows: Vec<Window>,
    /// Their genres.
    pub genres: Genres,
}

/// Prompts of the timed work, all of one length: first those of the warm-up, then those that are timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// For the warm-up, used in turn.
    pub warmup: Vec<Vec<u32>>,
    /// For the timed iterations, each used once.
    pub timed: Vec<Vec<u32>>,
}

/// Writes a token file.
///
/// # Errors
/// When it cannot be written.
pub fn write_tokens<T: Serialize>(path: &Path, tokens: &T) -> Result<()> {
    let bytes = serde_json::to_vec(tokens).map_err(|e| Error::input(path.display(), e.to_string()))?;
    write_whole(path, &bytes)
}

/// Reads a token file.
///
/// # Errors
/// When it is missing or damaged.
pub fn read_tokens<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = files::read(path, files::limit::RESULTS)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(path.display(), format!("is no token file of this program ({e}); delete it and resume the run"))
    })
}
