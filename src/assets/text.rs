//! Documents from sources: each text file is one document; a token file holds many.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tokens::TokenFile;
use super::{Source, files};
use crate::error::{Error, Result};
use crate::files::{limit, read_text};
use crate::suite::TextSource;
use crate::units;

/// A text with the name of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// File name, with the folders inside the source.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// The documents of a source, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Documents {
    /// As text.
    Texts(Vec<Document>),
    /// As token ids.
    Tokens(TokenFile),
}

/// Reads the documents of a source in natural order; `base` is the folder that relative paths start from. A source
/// that is one `.safetensors` file holds tokens.
///
/// # Errors
/// As [`Source::fetch`]; a range outside the documents; a file that is not UTF-8, or not JSON with the field; what
/// [`TokenFile::read`] refuses.
pub fn read_documents(source: &TextSource, base: &Path) -> Result<Documents> {
    let files = found(source, base)?;
    if let [(_, path)] = files.as_slice()
        && is_arrays(path)
    {
        let mut file = TokenFile::read(path)?;
        let range = range(source, file.documents.len(), "documents")?;
        file.documents = file.documents.drain(range).collect();
        return Ok(Documents::Tokens(file));
    }
    if let Some((name, _)) = files.iter().find(|(_, path)| is_arrays(path)) {
        let problem = format!("token file \"{name}\" is one of {} files; name it alone", files.len());
        return Err(Error::input(&source.source, problem));
    }
    let mut left = limit::DATA;
    let mut texts = Vec::new();
    for (name, path) in &files[range(source, files.len(), "files")?] {
        let text = read_part(path, &mut left)?;
        texts.push(Document { name: name.clone(), text: document(path, text, source.field.as_deref())? });
    }
    Ok(Documents::Texts(texts))
}

/// The files of a source with their names.
pub(super) fn found(source: &TextSource, base: &Path) -> Result<Vec<(String, PathBuf)>> {
    files::expand(&Source::parse(&source.source).map_err(Error::Usage)?.locate(base)?)
}

/// Whether a file holds arrays, not text.
pub(super) fn is_arrays(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// The chosen documents of `count`, at least one.
fn range(source: &TextSource, count: usize, things: &str) -> Result<std::ops::Range<usize>> {
    let (start, end) = source.documents.unwrap_or((0, count));
    if start < end && end <= count {
        return Ok(start..end);
    }
    let problem = format!("documents {start}..{end} are not among its {count} {things} (0..{count})");
    Err(Error::input(&source.source, problem))
}

/// One text of a source that may hold `left` more bytes.
pub(super) fn read_part(path: &Path, left: &mut u64) -> Result<String> {
    let text = read_text(path, limit::DATA)?;
    *left = left.checked_sub(text.len() as u64).ok_or_else(|| {
        let problem = format!("with it, the source has more than {}; name fewer files", units::bytes(limit::DATA));
        Error::input(path.display(), problem)
    })?;
    Ok(text)
}

/// The document in a file: its whole text, or a field of its JSON.
fn document(path: &Path, text: String, field: Option<&str>) -> Result<String> {
    let Some(field) = field else {
        if path.extension().is_some_and(|extension| extension == "json") {
            return Err(Error::input(path.display(), "a JSON file: name the field that holds the text with `field`"));
        }
        return Ok(text);
    };
    let json: Value =
        serde_json::from_str(&text).map_err(|error| Error::input(path.display(), format!("not JSON: {error}")))?;
    match json.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Error::input(path.display(), format!("field \"{field}\": expected a text"))),
        None => {
            let known = json.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(", "));
            let problem = format!("has no field \"{field}\"; it has: {}", known.unwrap_or_else(|| "no fields".into()));
            Err(Error::input(path.display(), problem))
        }
    }
}
