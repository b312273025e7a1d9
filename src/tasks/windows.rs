//! Tokens of documents to windows that are scored and to prompts of the timed work.
//!
//! Windows of one document do not overlap and never cross into another document. What is left at a document's end is
//! too short for a window and is not used. Where the tokenizer has a beginning-of-sequence token it stands before
//! every window, and the window's first token is then predicted too.

use serde::{Deserialize, Serialize};

/// Consecutive tokens of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Index of the document in the text.
    pub document: usize,
    /// Beginning-of-sequence token, if any, and the text's tokens. Each token but the first is predicted from those
    /// before it.
    pub tokens: Vec<u32>,
}

/// All windows of `length` tokens in `documents`, in order; with a `limit`, that many of them, spread evenly over
/// the documents and over each document's length.
///
/// # Panics
/// When `length` is 0.
pub fn windows(documents: &[Vec<u32>], length: usize, limit: Option<usize>, bos: Option<u32>) -> Vec<Window> {
    let available: Vec<usize> = documents.iter().map(|tokens| tokens.len() / length).collect();
    let quotas = match limit {
        Some(limit) => share_evenly(&available, limit),
        None => available.clone(),
    };
    let mut windows = Vec::new();
    for (document, tokens) in documents.iter().enumerate() {
        for place in spread(quotas[document], available[document]) {
            windows.push(Window { document, tokens: window(tokens, place, length, bos) });
        }
    }
    windows
}

/// `count` prompts of exactly `length` tokens, taken one after the other from the documents' text and starting over
/// at its end, each shifted, so that no two are equal while the text allows it.
///
/// # Errors
/// When the text holds fewer than two tokens; the message names no place.
pub fn prompts(documents: &[Vec<u32>], count: usize, length: usize, bos: Option<u32>) -> Result<Vec<Vec<u32>>, String> {
    let text: Vec<u32> = documents.iter().flatten().copied().collect();
    if text.len() < 2 {
        return Err(format!("expected text for prompts, got {} tokens", text.len()));
    }
    let body = length - usize::from(bos.is_some() && length > 1);
    let bos = bos.filter(|_| length > 1);
    // A stride that shares no factor with the text's length visits every start before it comes back to the first.
    let mut stride = body.max(1);
    while gcd(stride, text.len()) != 1 {
        stride += 1;
    }
    let prompt = |i: usize| {
        let start = i * stride % text.len();
        bos.into_iter().chain(text.iter().copied().cycle().skip(start).take(body)).collect()
    };
    Ok((0..count).map(prompt).collect())
}

fn window(tokens: &[u32], place: usize, length: usize, bos: Option<u32>) -> Vec<u32> {
    bos.into_iter().chain(tokens[place * length..(place + 1) * length].iter().copied()).collect()
}

/// `wanted` places out of `0..available`, evenly spaced, ascending.
pub(super) fn spread(wanted: usize, available: usize) -> impl Iterator<Item = usize> {
    (0..wanted).map(move |i| (2 * i + 1) * available / (2 * wanted))
}

/// Shares `limit` over documents that have `available` windows each: one round after the other gives one window to
/// every document that has some left; a last round that cannot reach all is spread over them.
pub(super) fn share_evenly(available: &[usize], limit: usize) -> Vec<usize> {
    let mut quotas = vec![0; available.len()];
    let mut left = limit;
    loop {
        let open: Vec<usize> = (0..available.len()).filter(|&d| quotas[d] < available[d]).collect();
        if open.is_empty() || left == 0 {
            return quotas;
        }
        let reached = left.min(open.len());
        spread(reached, open.len()).for_each(|i| quotas[open[i]] += 1);
        left -= reached;
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Documents whose tokens are all different, so that a token tells its place.
    fn documents(lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut next = 0;
        lengths.iter().map(|&n| (0..n).map(|_| (next, next += 1).0).collect()).collect()
    }

    #[test]
    fn windows_do_not_overlap_and_stay_in_their_document() {
        let windows = windows(&documents(&[10, 3, 8]), 4, None, None);
        let tokens: Vec<(usize, &[u32])> = windows.iter().map(|w| (w.document, w.tokens.as_slice())).collect();
        let expected: [(usize, &[u32]); 4] =
            [(0, &[0, 1, 2, 3]), (0, &[4, 5, 6, 7]), (2, &[13, 14, 15, 16]), (2, &[17, 18, 19, 20])];
        assert_eq!(tokens, expected);
    }

    #[test]
    fn a_beginning_token_is_added_not_exchanged() {
        let windows = windows(&documents(&[4]), 4, None, Some(99));
        assert_eq!(windows[0].tokens, [99, 0, 1, 2, 3]);
    }

    #[test]
    fn a_limit_is_spread_over_documents_as_evenly_as_they_allow() {
        let text = documents(&[40, 4, 0, 40, 12]);
        let count = |limit| {
            let windows = windows(&text, 4, Some(limit), None);
            (0..5).map(|d| windows.iter().filter(|w| w.document == d).count()).collect::<Vec<_>>()
        };
        assert_eq!(count(12), [4, 1, 0, 4, 3]);
        assert_eq!(count(4), [1, 1, 0, 1, 1]);
        assert_eq!(count(2).iter().sum::<usize>(), 2);
        assert_eq!(count(1000), [10, 1, 0, 10, 3]);
        assert_eq!(count(0), [0; 5]);
    }

    #[test]
    fn prompts_have_the_exact_length_and_differ() {
        for (text, bos) in [(documents(&[60, 41]), None), (documents(&[100]), Some(500)), (documents(&[7]), None)] {
            let tokens = text.iter().map(Vec::len).sum();
            let prompts = prompts(&text, tokens, 20, bos).unwrap();
            assert!(prompts.iter().all(|p| p.len() == 20));
            assert_eq!(prompts.iter().collect::<BTreeSet<_>>().len(), tokens);
        }
        assert!(prompts(&documents(&[1]), 1, 4, None).is_err());
    }
}
