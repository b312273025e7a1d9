//! Why an answer is no number: the first quantity of a decoder that left the range of its format.
//!
//! Weights are checked when they are loaded, so a network that is fed tokens begins with finite numbers. Most often keys or
//! values exceed f16, in which they are kept unless the model was published in bfloat16: then another cache is the remedy.

use crate::error::{Error, Result};
use crate::kernels::{KvFormat, Pool};
use crate::network::Decoder;
use crate::network::block::{Block, Pass, Workspace};
use crate::network::linear::{F16_ENDS, LARGEST_F16};
use crate::network::rotary::Rotary;

/// Refuses hidden states or logits that hold an infinity or NaN; `tokens` are those of a sequence that led to them.
///
/// # Errors
/// What left its range, in which block, and the remedy.
pub fn check_finite(decoder: &Decoder, pool: &Pool, numbers: &[f32], tokens: &[u32]) -> Result<()> {
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(());
    }
    let found = first_excess(decoder, pool, tokens);
    let found = found.unwrap_or_else(|| "an answer is no number, but no quantity of the blocks left its range".into());
    Err(Error::Measurement(format!("{}: {found}", decoder.place)))
}

/// Runs the blocks over one sequence, step by step, up to the first quantity out of range.
fn first_excess(decoder: &Decoder, pool: &Pool, tokens: &[u32]) -> Option<String> {
    let (mut hidden, mut work) = (decoder.embed(tokens), Workspace::default());
    let rotary = Rotary::new(&decoder.config, tokens.len());
    let pass = Pass { pool, rotary: &rotary, sequences: 1, start: 0, length: tokens.len() };
    for (layer, block) in decoder.blocks.iter().enumerate() {
        if let Some(excess) = excess_of_block(block, decoder.kv_format, &pass, &mut hidden, &mut work) {
            return Some(excess.of_block(layer));
        }
    }
    None
}

/// A quantity out of range.
struct Excess {
    what: &'static str,
    /// Its largest magnitude; infinite or NaN where 32 bits do not hold it either.
    largest: f32,
}

impl Excess {
    fn of_block(&self, layer: usize) -> String {
        let Excess { what, largest } = self;
        match largest.is_finite() {
            true => format!(
                "{what} of block {layer} reach {largest:.1e}, beyond {LARGEST_F16}, the largest f16; the model's own numbers \
                 are finite: use kv_cache = \"bf16\" (--kv-cache bf16)"
            ),
            false => format!(
                "{what} of block {layer} exceed the range of 32 bits, though all weights are finite: the weights are \
                 damaged, or the model was made for other arithmetic"
            ),
        }
    }
}

fn excess_of_block(
    block: &Block,
    format: KvFormat,
    pass: &Pass<'_>,
    hidden: &mut [f32],
    work: &mut Workspace,
) -> Option<Excess> {
    let finite = f32::INFINITY;
    let kept = if format == KvFormat::F16 { F16_ENDS } else { finite };
    let mut cache = block.cache(format, 1, pass.length);
    block.begin(pass.pool, hidden, work);
    block.attention(pass, &mut cache, work);
    let of_attention = [("queries", &work.query, finite), ("keys", &work.key, kept), ("values", &work.value, kept)];
    if let Some(excess) = of_attention.into_iter().find_map(|(what, numbers, end)| excess(what, numbers, end)) {
        return Some(excess);
    }
    block.after_attention(pass.pool, hidden, work);
    if let Some(excess) = excess("sums after attention", hidden, finite) {
        return Some(excess);
    }
    block.mlp(pass.pool, work);
    let gates =
        excess("gates", &work.gate, finite).or_else(|| excess("products of the feed-forward part", &work.up, finite));
    if gates.is_some() {
        return gates;
    }
    block.finish(pass.pool, hidden, work);
    excess("sums after the feed-forward part", hidden, finite)
}

/// Whether some magnitude is not below `end`.
fn excess(what: &'static str, numbers: &[f32], end: f32) -> Option<Excess> {
    // NaN is larger than all.
    let largest = numbers.iter().map(|number| number.abs()).max_by(f32::total_cmp)?;
    (largest.is_nan() || largest >= end).then_some(Excess { what, largest })
}
