//! Greedy generations beside a score: how long they are, and whether they run in circles. Perplexity sees neither.

use serde_json::Value;

use crate::error::Result;
use crate::kernels::{Isa, Pool, vector};
use crate::network::{Decoder, check_finite};
use crate::results::Generation;
use crate::tasks::runs_in_circles;

/// Prompts: the first tokens of windows, evenly spaced over the task's.
const PROMPTS: usize = 8;
const PROMPT_TOKENS: usize = 32;
/// Most generated tokens of each.
const MOST_TOKENS: usize = 96;

/// Continues the beginnings of some `windows`, all at once, to the end of the sequence (as `config` names it) or
/// [`MOST_TOKENS`]; none where windows are too short to begin with.
pub(super) fn generations(
    decoder: &Decoder,
    pool: &Pool,
    config: &Value,
    windows: &[Vec<u32>],
) -> Result<Vec<Generation>> {
    let long: Vec<&[u32]> = windows.iter().filter_map(|window| window.get(..PROMPT_TOKENS)).collect();
    let count = long.len().min(PROMPTS);
    let prompts: Vec<&[u32]> = (0..count).map(|at| long[at * long.len() / count]).collect();
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let ends = end_tokens(config);
    let mut cache = decoder.cache(count, PROMPT_TOKENS + MOST_TOKENS);
    let (mut next, mut logits) = (prompts.concat(), Vec::new());
    let mut generated: Vec<Vec<u32>> = vec![Vec::new(); count];
    for _ in 0..MOST_TOKENS {
        decoder.next_logits(pool, &next, &mut cache, &mut logits)?;
        let rows = logits.chunks_exact(decoder.config().vocab_size);
        for ((row, prompt), generated) in rows.clone().zip(&prompts).zip(&generated) {
            check_finite(decoder, pool, row, &[*prompt, generated.as_slice()].concat())?;
        }
        next = rows.map(|logits| vector::argmax(Isa::active(), logits) as u32).collect();
        generated.iter_mut().zip(&next).for_each(|(own, token)| own.push(*token));
    }
    let finish = |tokens: Vec<u32>| {
        let end = tokens.iter().position(|token| ends.contains(token));
        let tokens = &tokens[..end.unwrap_or(tokens.len())];
        Generation { tokens: tokens.len(), ended: end.is_some(), in_circles: runs_in_circles(tokens) }
    };
    Ok(generated.into_iter().map(finish).collect())
}

/// The tokens that end a sequence: one id, or several.
fn end_tokens(config: &Value) -> Vec<u32> {
    let ids = match &config["eos_token_id"] {
        Value::Array(ids) => ids.clone(),
        one => vec![one.clone()],
    };
    ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_is_one_token_several_or_none() {
        assert_eq!(end_tokens(&json!({ "eos_token_id": 2 })), [2]);
        assert_eq!(end_tokens(&json!({ "eos_token_id": [2, 7] })), [2, 7]);
        assert!(end_tokens(&json!({ "eos_token_id": null })).is_empty() && end_tokens(&json!({})).is_empty());
    }
}
