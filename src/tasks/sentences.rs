//! Sentences of documents, for tasks that compare embeddings.
//!
//! A sentence ends at `.`, `!` or `?`, with closing quotation marks and brackets, before white space, or at an empty line.
//! Pieces of fewer than [`FEWEST_CHARACTERS`] are left out: what is left of abbreviations, numbers and headings.

use super::windows::{share_evenly, spread};

/// Characters of the shortest sentence.
const FEWEST_CHARACTERS: usize = 20;

/// The sentences of a text, in order, without white space at their ends.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut start = 0;
        for (at, c) in paragraph.char_indices() {
            let end = at + c.len_utf8();
            let rest = paragraph[end..].trim_start_matches(['"', '\'', ')', '\u{201d}', '\u{2019}']);
            if ['.', '!', '?'].contains(&c) && (rest.is_empty() || rest.starts_with(char::is_whitespace)) {
                let end = paragraph.len() - rest.len();
                found.push(paragraph[start.min(end)..end].trim());
                start = end;
            }
        }
        found.push(paragraph[start..].trim());
    }
    found.retain(|sentence| sentence.chars().count() >= FEWEST_CHARACTERS);
    found
}

/// The sentences of documents with the index of their document; with a `limit`, that many of them, spread evenly over
/// the documents and over each document's length.
pub fn spread_sentences<'t>(documents: &[&'t str], limit: Option<usize>) -> Vec<(usize, &'t str)> {
    let all: Vec<Vec<&str>> = documents.iter().map(|text| sentences(text)).collect();
    let available: Vec<usize> = all.iter().map(Vec::len).collect();
    let quotas = limit.map_or_else(|| available.clone(), |limit| share_evenly(&available, limit));
    let of_document = |document: usize| {
        let places = spread(quotas[document], available[document]);
        places.map(|place| (document, all[document][place])).collect::<Vec<_>>()
    };
    (0..documents.len()).flat_map(of_document).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_the_ends_of_sentences_and_paragraphs() {
        let text = "He said: \"It is growing late.\" Nobody answered him then! No.\n\nA heading without an end\n\nThe \
                    price was 3.50 in the whole of the country, was it not?";
        assert_eq!(
            sentences(text),
            [
                "He said: \"It is growing late.\"",
                "Nobody answered him then!",
                "A heading without an end",
                "The price was 3.50 in the whole of the country, was it not?"
            ]
        );
        assert!(sentences("").is_empty());
    }

    #[test]
    fn a_limit_is_spread_over_documents() {
        let long = "This sentence is long enough to count. ".repeat(10);
        let documents = [long.as_str(), "One more sentence that counts.", ""];
        let places = |limit| spread_sentences(&documents, limit).into_iter().map(|(d, _)| d).collect::<Vec<_>>();
        assert_eq!(places(Some(3)), [0, 0, 1]);
        assert_eq!(places(None).len(), 11);
    }
}
