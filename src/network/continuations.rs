//! Scoring of continuations: the log-likelihood of each of several continuations of one passage.
//!
//! A passage is computed once: its keys and values stay in the cache while one continuation after the other is fed
//! behind it. Neighbouring items of the same lengths run together; the grouping depends on the items alone, so a
//! score depends on nothing else.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::network::Decoder;
use crate::network::range::check_finite;
use crate::network::score::{BATCH_TOKENS, CHUNK, Chunk};

/// A passage with what may follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuations {
    /// At least one token.
    pub passage: Vec<u32>,
    /// Each of at least one token.
    pub continuations: Vec<Vec<u32>>,
}

impl Continuations {
    /// Tokens that the network reads for the longest continuation, whose last one is predicted only.
    pub fn longest(&self) -> usize {
        let longest = self.continuations.iter().map(Vec::len).max().unwrap_or(1);
        (self.passage.len() + longest).saturating_sub(1)
    }

    /// Lengths of the passage and of each continuation: items run together where these agree.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        std::iter::once(&self.passage).chain(&self.continuations).map(Vec::len)
    }
}

/// Calls `each` with the index of an item and the log-likelihoods of its continuations (natural logarithm, summed over
/// tokens), in order.
///
/// # Errors
/// An empty passage or continuation, a token outside the vocabulary, a log-likelihood that is no number, or what
/// `each` returns.
pub fn score_continuations(
    decoder: &Decoder,
    pool: &Pool,
    items: &[Continuations],
    each: &mut dyn FnMut(usize, Vec<f64>) -> Result<()>,
) -> Result<()> {
    if let Some(empty) = items.iter().position(|item| item.lengths().any(|length| length == 0)) {
        return Err(Error::input(
            format!("item {empty}"),
            "expected a passage and continuations of at least one token",
        ));
    }
    let mut first = 0;
    while let Some(item) = items.get(first) {
        let together = items[first..].iter().take((BATCH_TOKENS / item.passage.len()).max(1));
        let count = together.take_while(|other| other.lengths().eq(item.lengths())).count();
        for (at, sums) in score_together(decoder, pool, &items[first..first + count])?.into_iter().enumerate() {
            if let Some(sum) = sums.iter().find(|sum| !sum.is_finite()) {
                let problem = format!("item {}: a log-likelihood is {sum}", first + at);
                return Err(Error::Measurement(problem));
            }
            each(first + at, sums)?;
        }
        first += count;
    }
    Ok(())
}

/// Log-likelihoods of items of equal lengths, each item a sequence of one cache.
fn score_together(decoder: &Decoder, pool: &Pool, items: &[Continuations]) -> Result<Vec<Vec<f64>>> {
    let width = decoder.config().hidden_size;
    let [passage, lengths @ ..] = &items[0].lengths().collect::<Vec<_>>()[..] else { return Ok(Vec::new()) };
    let mut cache = decoder.cache(items.len(), passage + lengths.iter().max().unwrap_or(&1) - 1);
    let passages: Vec<u32> = items.iter().flat_map(|item| &item.passage).copied().collect();
    let hidden = decoder.forward(pool, &passages, &mut cache)?;
    for (item, hidden) in items.iter().zip(hidden.chunks_exact(passage * width)) {
        check_finite(decoder, pool, hidden, &item.passage)?;
    }
    // The last token of a passage predicts the first of every continuation.
    let last: Vec<f32> =
        hidden.chunks_exact(passage * width).flat_map(|rows| &rows[(passage - 1) * width..]).copied().collect();
    let mut sums = vec![Vec::with_capacity(lengths.len()); items.len()];
    for (choice, &length) in lengths.iter().enumerate() {
        cache.truncate(*passage);
        let inputs: Vec<u32> =
            items.iter().flat_map(|item| &item.continuations[choice][..length - 1]).copied().collect();
        let following = if inputs.is_empty() { &[][..] } else { decoder.forward(pool, &inputs, &mut cache)? };
        for (item, hidden) in items.iter().zip(following.chunks_exact(((length - 1) * width).max(1))) {
            let read = [&item.passage[..], &item.continuations[choice][..length - 1]].concat();
            check_finite(decoder, pool, hidden, &read)?;
        }
        let mut hidden = Vec::with_capacity(items.len() * length * width);
        for (item, last) in last.chunks_exact(width).enumerate() {
            hidden.extend_from_slice(last);
            hidden.extend_from_slice(&following[item * (length - 1) * width..(item + 1) * (length - 1) * width]);
        }
        let targets: Vec<u32> = items.iter().flat_map(|item| &item.continuations[choice]).copied().collect();
        let losses = losses(decoder, pool, &hidden, &targets)?;
        for (sums, losses) in sums.iter_mut().zip(losses.chunks_exact(length)) {
            sums.push(-losses.iter().sum::<f64>());
        }
    }
    Ok(sums)
}

/// Negative log-likelihood of each target under its row of `hidden`.
fn losses(decoder: &Decoder, pool: &Pool, hidden: &[f32], targets: &[u32]) -> Result<Vec<f64>> {
    let (width, vocabulary) = (decoder.config().hidden_size, decoder.config().vocab_size);
    if let Some(token) = targets.iter().find(|token| **token as usize >= vocabulary) {
        let problem = format!("token {token} is outside the vocabulary of {vocabulary}");
        return Err(Error::input("continuation", problem));
    }
    let mut logits = Vec::new();
    let mut losses = Vec::with_capacity(targets.len());
    for (targets, hidden) in targets.chunks(CHUNK).zip(hidden.chunks(CHUNK * width)) {
        decoder.logits(pool, hidden, &mut logits);
        let chunk = Chunk { window: 0, position: 0, targets, hidden, logits: &logits };
        losses.extend(chunk.scores(pool).iter().map(|score| score.nll));
    }
    Ok(losses)
}
