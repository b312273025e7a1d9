//! Token files: documents as the ids of one model's tokenizer, so that data needs no text of its own.
//!
//! A safetensors file with `ids` (all documents in a row), `starts` (where each begins; the last entry is the number of
//! ids) and `genres` (one for each document); its metadata holds `kind` = `tokens`, the JSON lists `genres` and `names`,
//! and in `tokenizer` the SHA-256 of the `tokenizer.json` that the ids belong to. Integers are U8, U16 or U32.

use std::path::Path;

use super::arrays::Arrays;
use crate::error::{Error, Result};
use crate::files;

/// Documents as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    /// Whose ids they are.
    pub owner: TokenOwner,
    /// Names of the genres.
    pub genres: Vec<String>,
    /// The documents, in the file's order.
    pub documents: Vec<TokenDocument>,
}

/// A document as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDocument {
    /// Name.
    pub name: String,
    /// Index of its genre.
    pub genre: usize,
    /// Ids, the beginning-of-sequence token included where the model was trained with one.
    pub ids: Vec<u32>,
}

/// Which tokenizer the ids of a file belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOwner {
    /// The file, for errors.
    pub(super) place: String,
    /// SHA-256 of the `tokenizer.json`, as hex.
    pub(super) tokenizer: String,
    /// Largest id.
    pub(super) largest: u32,
}

impl TokenOwner {
    /// Checks that the ids are those of a model with this `tokenizer.json` (its SHA-256 as hex; `None` where the model
    /// has none) and this number of tokens in its vocabulary.
    ///
    /// # Errors
    /// Another tokenizer, or an id outside the vocabulary.
    pub fn check(&self, tokenizer: Option<&str>, vocabulary: usize) -> Result<()> {
        let expected = &self.tokenizer;
        if tokenizer != Some(expected.as_str()) {
            let got = tokenizer.map_or("which has none".into(), |sha256| format!("with sha256 {sha256}"));
            return Err(Error::input(
                &self.place,
                format!(
                    "its token ids belong to the tokenizer.json with sha256 {expected}, not to this model's, {got}; use \
                     the data's own model, or text"
                ),
            ));
        }
        if self.largest as usize >= vocabulary {
            let problem = format!("token id {} is outside the model's vocabulary of {vocabulary}", self.largest);
            return Err(Error::input(&self.place, problem));
        }
        Ok(())
    }
}

impl TokenFile {
    /// Reads a token file.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another kind; documents whose bounds do not rise from 0 to the end.
    pub fn read(path: &Path) -> Result<TokenFile> {
        let bytes = files::read(path, files::limit::DATA)?;
        let file = Arrays::parse(path, &bytes, "tokens")?;
        let (ids, starts, names) = (file.vector("ids")?, file.vector("starts")?, file.list("names")?);
        let (genres, genre_of) = file.genres(names.len(), "documents")?;
        if starts.len() != names.len() + 1 {
            let (documents, got) = (names.len(), starts.len());
            let problem = format!("{documents} documents need {} bounds, got {got}", documents + 1);
            return Err(file.fault(format!("tensor \"starts\": {problem}")));
        }
        let whole = starts.first() == Some(&0) && starts.last().is_some_and(|end| *end as usize == ids.len());
        if names.is_empty() || !whole || !starts.is_sorted_by(|a, b| a < b) {
            let problem = format!("expected bounds of documents that rise from 0 to the {} ids", ids.len());
            return Err(file.fault(format!("tensor \"starts\": {problem}; the file is damaged")));
        }
        let documents = names.into_iter().zip(genre_of).zip(starts.array_windows());
        let documents = documents.map(|((name, genre), [start, end])| TokenDocument {
            name,
            genre,
            ids: ids[*start as usize..*end as usize].to_vec(),
        });
        Ok(TokenFile { documents: documents.collect(), genres, owner: owner(&file, &ids)? })
    }
}

/// Whose ids a file holds.
pub(super) fn owner(file: &Arrays<'_>, ids: &[u32]) -> Result<TokenOwner> {
    let tokenizer = file.text("tokenizer")?.to_ascii_lowercase();
    let largest = ids.iter().copied().max().unwrap_or(0);
    Ok(TokenOwner { place: file.place().into(), tokenizer, largest })
}
