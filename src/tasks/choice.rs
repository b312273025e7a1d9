//! Multiple-choice items as tokens of one model.
//!
//! Passage and continuations of a text item are tokenized apart, so that every continuation has the same passage; a
//! continuation that begins a word brings its own space. Where the tokenizer has a beginning-of-sequence token it
//! stands before every passage.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encoder;
use super::windows::spread;
use crate::assets::{Choice, Choices, read_choices};
use crate::error::{Error, Result};
use crate::network::Continuations;
use crate::results::Genres;
use crate::suite::TextSource;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceItem {
    /// Cluster.
    pub document: usize,
    /// Index of the right continuation.
    pub answer: usize,
    /// Passage and continuations.
    pub tokens: Continuations,
}

/// The items that a variant is scored on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceItems {
    /// Items in order.
    pub items: Vec<ChoiceItem>,
    /// Their genres.
    pub genres: Genres,
}

impl ChoiceItems {
    /// Reads the items of a source but those that are longer than the model's positions, whose number is returned, too; with
    /// a `limit`, that many of them, evenly spaced over the file.
    ///
    /// # Errors
    /// As [`read_choices`]; text that the tokenizer refuses or makes nothing of; token ids of another model.
    pub fn read(
        encoder: &Encoder,
        source: &TextSource,
        base: &Path,
        limit: Option<usize>,
    ) -> Result<(ChoiceItems, usize)> {
        let (items, genres) = match read_choices(source, base)? {
            Choices::Texts(items) => {
                let items = items.iter().map(|item| encode(encoder, source, item)).collect::<Result<Vec<_>>>()?;
                (items, Genres::default())
            }
            Choices::Tokens { owner, genres, genre_of, items } => {
                encoder.check(&owner)?;
                (items, Genres { names: genres, of: genre_of })
            }
        };
        let items: Vec<ChoiceItem> = items.iter().map(|item| begin(encoder, item)).collect();
        let fits = |item: &ChoiceItem| item.tokens.longest() <= encoder.positions();
        let fitting: Vec<usize> = (0..items.len()).filter(|at| fits(&items[*at])).collect();
        let too_long = items.len() - fitting.len();
        if fitting.is_empty() && too_long > 0 {
            let problem = format!("all {too_long} items exceed the model's {} positions", encoder.positions());
            return Err(Error::input(&source.source, problem));
        }
        let wanted = limit.unwrap_or(fitting.len()).min(fitting.len());
        let places: Vec<usize> = spread(wanted, fitting.len()).map(|place| fitting[place]).collect();
        let of = places.iter().filter_map(|place| genres.of.get(*place).copied()).collect();
        let items = places.iter().map(|place| items[*place].clone()).collect();
        Ok((ChoiceItems { items, genres: Genres { names: genres.names, of } }, too_long))
    }
}

fn encode(encoder: &Encoder, source: &TextSource, item: &Choice<String>) -> Result<Choice<Vec<u32>>> {
    let ids = |text: &String| {
        let ids = encoder.encode(text)?;
        let empty = || Error::input(&source.source, format!("{text:?} has no tokens"));
        if ids.is_empty() { Err(empty()) } else { Ok(ids) }
    };
    let continuations = item.continuations.iter().map(ids).collect::<Result<_>>()?;
    Ok(Choice { passage: ids(&item.passage)?, continuations, answer: item.answer, document: item.document })
}

/// The item behind the model's beginning-of-sequence token.
fn begin(encoder: &Encoder, item: &Choice<Vec<u32>>) -> ChoiceItem {
    let passage = encoder.bos().into_iter().chain(encoder.without_bos(item.passage.clone())).collect();
    let tokens = Continuations { passage, continuations: item.continuations.clone() };
    ChoiceItem { document: item.document, answer: item.answer, tokens }
}
