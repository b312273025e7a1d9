//! Tokens of documents to windows that are scored and to prompts of the timed work.
//!
//! Windows of one document do not overlap and never cross into another document; the last one of a document is shorter
//! where its length is no multiple. So every token of the text is in a window, as in the rolling log-likelihood of
//! lm-evaluation-harness. Where the tokenizer has a beginning-of-sequence token it stands before every window, and the
//! window's first token is then predicted too. [`Coverage`] counts what is not.

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

/// All windows of at most `length` tokens in `documents`, in order, but those in which no token is predicted. A `limit`
/// takes that many of them, spread evenly over the documents and over each document's length: whole windows first, so that
/// the sampled tokens have the same context, and shorter ones where there are too few of those.
///
/// # Panics
/// When `length` is 0.
pub fn windows(documents: &[Vec<u32>], length: usize, limit: Option<usize>, bos: Option<u32>) -> Vec<Window> {
    let whole: Vec<usize> = documents.iter().map(|tokens| tokens.len() / length).collect();
    let predicts = |rest: usize| rest > 0 && rest + usize::from(bos.is_some()) >= 2;
    let short: Vec<usize> = documents.iter().map(|tokens| usize::from(predicts(tokens.len() % length))).collect();
    let of_whole = share_evenly(&whole, limit.unwrap_or(usize::MAX));
    let left = limit.map_or(usize::MAX, |limit| limit - of_whole.iter().sum::<usize>());
    let of_short = share_evenly(&short, left);
    let mut windows = Vec::new();
    for (document, tokens) in documents.iter().enumerate() {
        // The last one.
        let short = (of_short[document] > 0).then_some(whole[document]);
        for place in spread(of_whole[document], whole[document]).chain(short) {
            let part = tokens[place * length..].iter().take(length);
            windows.push(Window { document, tokens: bos.iter().chain(part).copied().collect() });
        }
    }
    windows
}

/// What of a text is predicted, and what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Predicted tokens.
    pub predicted: usize,
    /// Tokens that are in no window or, without a beginning-of-sequence token before it, the first of one.
    pub not_predicted: usize,
    /// Documents without a window.
    pub documents_left_out: usize,
}

impl Coverage {
    /// Of `windows` of `documents`.
    pub fn of(documents: &[Vec<u32>], windows: &[Window]) -> Coverage {
        let predicted = windows.iter().map(|window| window.tokens.len() - 1).sum();
        let tokens: usize = documents.iter().map(Vec::len).sum();
        let used: std::collections::HashSet<usize> = windows.iter().map(|window| window.document).collect();
        Coverage { predicted, not_predicted: tokens - predicted, documents_left_out: documents.len() - used.len() }
    }
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
        let (whole, short) = (tokens.iter().filter(|w| w.1.len() == 4), tokens.iter().filter(|w| w.1.len() < 4));
        assert!(whole.eq(&expected));
        assert!(short.eq(&[(0, &[8, 9][..]), (1, &[10, 11, 12][..])]), "every token is in a window");
        assert!(windows.is_sorted_by_key(|w| w.document));
    }

    #[test]
    fn a_beginning_token_is_added_not_exchanged() {
        let windows = windows(&documents(&[5]), 4, None, Some(99));
        assert_eq!(windows[0].tokens, [99, 0, 1, 2, 3]);
        assert_eq!(windows[1].tokens, [99, 4]);
    }

    #[test]
    fn what_is_not_predicted_is_counted() {
        let text = documents(&[9, 0, 1, 4]);
        let of = |limit, bos| Coverage::of(&text, &windows(&text, 4, limit, bos));
        let all = Coverage { predicted: 14, not_predicted: 0, documents_left_out: 1 };
        assert_eq!(of(None, Some(99)), all);
        // The first of each window, and two tokens that have none before them.
        assert_eq!(of(None, None), Coverage { predicted: 9, not_predicted: 5, documents_left_out: 2 });
        assert_eq!(of(Some(1), Some(99)), Coverage { predicted: 4, not_predicted: 10, documents_left_out: 3 });
    }

    #[test]
    fn a_limit_takes_whole_windows_first() {
        let lengths = |limit| {
            let windows = windows(&documents(&[9, 3, 6]), 4, Some(limit), None);
            windows.iter().map(|w| (w.document, w.tokens.len())).collect::<Vec<_>>()
        };
        assert_eq!(lengths(3), [(0, 4), (0, 4), (2, 4)]);
        assert_eq!(lengths(4).len(), 4);
        assert_eq!(lengths(9), [(0, 4), (0, 4), (1, 3), (2, 4), (2, 2)], "a last token alone predicts nothing");
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
