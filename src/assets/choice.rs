//! Multiple-choice data: a passage, its possible continuations, and which of them is right.
//!
//! As tokens: a safetensors file with `ids` (all items in a row), `items` (`(items, c + 2)`: begin of the passage,
//! begins of the c continuations, end), and for each item `answers`, `genres` and `documents` (the cluster that it
//! belongs to); its metadata is that of a token file, `kind` being `choice`. As text: JSON lines with `passage`,
//! `continuations`, `answer` (counted from 0) and optionally `document`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use super::arrays::Arrays;
use super::text::{found, is_arrays, read_part};
use super::tokens::{TokenOwner, owner};
use crate::error::{Error, Result};
use crate::files;
use crate::suite::TextSource;

/// Items of a source, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choices {
    /// As text.
    Texts(Vec<Choice<String>>),
    /// As token ids.
    Tokens {
        /// Whose ids they are.
        owner: TokenOwner,
        /// Names of the genres.
        genres: Vec<String>,
        /// Genre of each item.
        genre_of: Vec<usize>,
        /// The items.
        items: Vec<Choice<Vec<u32>>>,
    },
}

/// One item, as text or as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<T> {
    /// What comes first; not empty.
    pub passage: T,
    /// What may follow, at least two; none is empty.
    pub continuations: Vec<T>,
    /// Index of the right one.
    pub answer: usize,
    /// Cluster: items of one document resemble each other.
    pub document: usize,
}

/// Reads the items of a source: one `.safetensors` file, or text files with an item a line.
///
/// # Errors
/// As [`super::Source::fetch`]; no item; an item that is damaged or has no right answer.
pub fn read_choices(source: &TextSource, base: &Path) -> Result<Choices> {
    let files = found(source, base)?;
    if let [(_, path)] = files.as_slice()
        && is_arrays(path)
    {
        return read_tokens(path);
    }
    let mut left = files::limit::DATA;
    let mut items = Vec::new();
    let mut clusters = BTreeMap::new();
    for (_, path) in &files {
        let text = read_part(path, &mut left)?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{}:{}", path.display(), number + 1);
            items.push(read_line(line, &mut clusters).map_err(|problem| Error::input(place, problem))?);
        }
    }
    if items.is_empty() {
        return Err(Error::input(&source.source, "expected one item a line, got none"));
    }
    Ok(Choices::Texts(items))
}

/// An item as a line of JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    passage: String,
    continuations: Vec<String>,
    answer: usize,
    document: Option<String>,
}

/// Items that name no document stand for themselves; `clusters` numbers the documents.
fn read_line(line: &str, clusters: &mut BTreeMap<String, usize>) -> std::result::Result<Choice<String>, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        format!(
            "expected {{\"passage\": text, \"continuations\": [texts], \"answer\": index, \"document\": name}}: {error}"
        )
    })?;
    let texts = line.continuations.len();
    if line.passage.is_empty() || texts < 2 || line.continuations.iter().any(String::is_empty) {
        return Err("expected a passage and at least two continuations, none of them empty".into());
    }
    if line.answer >= texts {
        return Err(format!("`answer` is {}, expected the index of one of the {texts} continuations", line.answer));
    }
    let next = clusters.len();
    let name = line.document.map_or_else(|| format!("item {next}"), |name| format!("document {name}"));
    let document = *clusters.entry(name).or_insert(next);
    Ok(Choice { passage: line.passage, continuations: line.continuations, answer: line.answer, document })
}

fn read_tokens(path: &Path) -> Result<Choices> {
    let bytes = files::read(path, files::limit::DATA)?;
    let file = Arrays::parse(path, &bytes, "choice")?;
    let ids = file.vector("ids")?;
    let (shape, bounds) = file.array("items")?;
    let (&[count, columns], true) = (shape.as_slice(), bounds.len() >= 4) else {
        return Err(file.fault(format!("tensor \"items\": expected shape (items, continuations + 2), got {shape:?}")));
    };
    if columns < 4 {
        return Err(file.fault(format!("tensor \"items\": {columns} columns leave fewer than two continuations")));
    }
    let answers = file.vector_of("answers", count, "items")?;
    let documents = file.vector_of("documents", count, "items")?;
    let (genres, genre_of) = file.genres(count, "items")?;
    let mut items = Vec::with_capacity(count);
    let mut free = 0;
    for (number, bounds) in bounds.chunks_exact(columns).enumerate() {
        // Items come one after the other; none reaches back into another's tokens.
        let end = bounds[columns - 1] as usize;
        if (bounds[0] as usize) < free || end > ids.len() || !bounds.is_sorted_by(|a, b| a < b) {
            let problem = format!("bounds {bounds:?} do not rise from {free} on within the {} ids", ids.len());
            return Err(file.fault(format!("item {number}: {problem}; the file is damaged")));
        }
        free = end;
        let answer = answers[number] as usize;
        if answer >= columns - 2 {
            let problem = format!("answer {answer} is not one of the {} continuations", columns - 2);
            return Err(file.fault(format!("item {number}: {problem}")));
        }
        let part = |range: Range<u32>| ids[range.start as usize..range.end as usize].to_vec();
        let mut parts = bounds.array_windows().map(|[start, end]| part(*start..*end));
        let passage = parts.next().unwrap_or_default();
        items.push(Choice { passage, continuations: parts.collect(), answer, document: documents[number] as usize });
    }
    Ok(Choices::Tokens { owner: owner(&file, &ids)?, genres, genre_of, items })
}
