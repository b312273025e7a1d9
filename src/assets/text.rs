//! Texts from sources: each file is one document.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Source, files};
use crate::error::{Error, Result};
use crate::suite::TextSource;

/// A text with the name of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// File name, with the folders inside the source.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// Reads the documents of a source in natural order; `base` is the folder that relative paths start from.
///
/// # Errors
/// As [`Source::fetch`]; a range outside the documents; a file that is not UTF-8, or not JSON with the field.
pub fn read_text(source: &TextSource, base: &Path) -> Result<Vec<Document>> {
    let parsed = Source::parse(&source.source).map_err(|problem| Error::input(&source.source, problem))?;
    let files = files::expand(&parsed.fetch(base)?.paths)?;
    let (start, end) = source.documents.unwrap_or((0, files.len()));
    let chosen = files.get(start..end).filter(|chosen| !chosen.is_empty()).ok_or_else(|| {
        let problem = format!("documents {start}..{end} are not among its {} files (0..{0})", files.len());
        Error::input(&source.source, problem)
    })?;
    let read = |(name, path): &(String, PathBuf)| {
        let text = read_document(path, source.field.as_deref())?;
        Ok(Document { name: name.clone(), text })
    };
    chosen.iter().map(read).collect()
}

fn read_document(path: &Path, field: Option<&str>) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::input(format!("{}: byte {at}", path.display()), "not UTF-8; convert the text")
    })?;
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
