//! What several commands ask for: a model, as a path or a source, the form of its weights, a number of threads.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::assets::{Local, Source};
use crate::error::{Error, Result};
use crate::kernels::KvFormat;
use crate::network::Model;
use crate::suite::TextSource;
use crate::tasks::Encoder;
use crate::tensor::DenseFormat;
use crate::{machine, text};

/// Whether the text names a source (`pypi:...`) and not a path.
pub(super) fn is_source(text: &str) -> bool {
    ["path:", "pypi:", "npm:", "hf:", "bundled:"].iter().any(|kind| text.starts_with(kind))
}

/// The source that a text names, which may be a path.
fn source(text: &str) -> Result<Source> {
    if !is_source(text) {
        return Ok(Source::Path(PathBuf::from(text)));
    }
    Source::parse(text).map_err(Error::Usage)
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

/// The model, fetched if it is not here, opened and checked, with the hash of its files; what the user should know
/// of it is printed on standard error. Paths are relative to the working folder.
///
/// # Errors
/// An unknown form, and those of [`Model::fetch`].
pub(super) fn fetch(text: &str) -> Result<(Model, Local)> {
    let (model, local) = Model::fetch(&source(text)?, Path::new("."))?;
    warn(&model);
    Ok((model, local))
}

/// As [`fetch`], for commands that need no hash.
///
/// # Errors
/// As [`fetch`].
pub(super) fn open(text: &str) -> Result<Model> {
    match source(text)? {
        Source::Path(path) if !text.contains('*') => {
            let model = Model::open(&path)?;
            warn(&model);
            Ok(model)
        }
        _ => fetch(text).map(|(model, _)| model),
    }
}

/// Prints what the user should know of a model that can be read; that standard error is closed is no fault.
fn warn(model: &Model) {
    for warning in model.warnings() {
        text::to_stderr(&format!("warning: {warning}"));
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

/// Tokens of the longest sentence: those asked for, at most the model's positions, or what its side files say. A note on
/// standard error says where more is asked for than they say.
pub(super) fn longest_sentence(encoder: &Encoder, asked: Option<u32>) -> usize {
    let stated = encoder.longest_sentence();
    let Some(asked) = asked else { return stated };
    let longest = (asked as usize).min(encoder.positions());
    if longest > stated {
        // A closed standard error is no reason to stop.
        text::to_stderr(&format!("sentences are cut at {longest} tokens; the model's side files say {stated}"));
    }
    longest
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
