//! A head that is tied to the embedding: the two are one matrix, so a file that holds both must hold the same twice.
//!
//! Which of two different matrices is meant cannot be known: transformers 4 overwrote the head with the embedding, version 5
//! keeps both. Of a quantized one transformers shares nothing but `weight` between the two, so folders keep the other parts
//! (scales, zero points) under both names.

use safetensors::Dtype;
use serde_json::Value;

use super::quantized::by_name;
use super::safetensors::Tensor;
use super::{Checkpoint, DenseRows, Slab};
use crate::error::{Error, Result};

/// Module of the embedding.
const EMBEDDING: &str = "model.embed_tokens";
/// Module of the head.
const HEAD: &str = "lm_head";
/// Bytes of the map that are compared before their pages are given back.
const COMPARED: usize = 16 << 20;
/// What to do about a head that differs.
const REMEDY: &str = "though config.json says that the two are tied; if the head has weights of its own, set \
                      tie_word_embeddings to false";

/// Whether a `config.json` says that the head is the embedding.
pub(super) fn is_tied(config: &Value) -> bool {
    config.get("tie_word_embeddings") == Some(&Value::Bool(true))
}

/// The tensors without the copies that belong to a tied quantized head. Parts that tell of the head's inputs get the
/// embedding's name.
///
/// # Errors
/// A head that is quantized in another way than the embedding: then the two are not tied.
pub(super) fn share(
    place: &str,
    config: &Value,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<(usize, Tensor)>> {
    let of_embedding = |(_, tensor): &(usize, Tensor)| tensor.name.starts_with("model.embed_tokens.");
    // Encoders have another embedding, and a head that is not run here.
    if !is_tied(config) || !tensors.iter().any(of_embedding) {
        return Ok(tensors);
    }
    let by_name = by_name(&tensors);
    let stored = |file: usize, tensor: &Tensor| {
        (tensor.dtype, tensor.shape.clone(), bytes(&Slab { file, bytes: tensor.bytes.clone() }))
    };
    let mut kept = Vec::with_capacity(tensors.len());
    for (file, mut tensor) in tensors {
        match tensor.name.strip_prefix("lm_head.") {
            // Compared in [`check`], as values: the two may be of different types. A bias is none of the embedding's.
            Some("weight") if tensor.dtype != Dtype::I8 => kept.push((file, tensor)),
            Some("bias") => kept.push((file, tensor)),
            Some(part) if part.starts_with("input_") => {
                tensor.name = format!("{EMBEDDING}.{part}");
                kept.push((file, tensor));
            }
            Some(part) => {
                let embedding = by_name.get(&format!("{EMBEDDING}.{part}"));
                if embedding.is_none_or(|(other, embedding)| stored(*other, embedding) != stored(file, &tensor)) {
                    let problem = format!("is not that of {EMBEDDING}, {REMEDY}");
                    return Err(Error::input(format!("{place}: tensor \"{}\"", tensor.name), problem));
                }
            }
            None => kept.push((file, tensor)),
        }
    }
    Ok(kept)
}

/// Checks that the dense head of a checkpoint whose config ties it holds the values of the embedding.
///
/// # Errors
/// Other values, or an embedding that is quantized while its head is not.
pub(super) fn check(checkpoint: &Checkpoint, config: &Value) -> Result<()> {
    let names = [EMBEDDING, HEAD].map(|module| format!("{module}.weight"));
    if !is_tied(config) || !names.iter().all(|name| checkpoint.contains(name)) {
        return Ok(());
    }
    let release = || names.iter().for_each(|name| checkpoint.release(name));
    let [embedding, head] = names.each_ref().map(|name| checkpoint.dense_rows(name));
    let same = matches!((embedding, head), (Some(embedding), Some(head)) if same_values(embedding, head, &release));
    release();
    if same {
        return Ok(());
    }
    let problem = format!("does not hold the values of {}, {REMEDY}", names[0]);
    Err(Error::input(checkpoint.place_of(&names[1]), problem))
}

/// Whether two matrices hold the same numbers, to the bit.
fn same_values(one: DenseRows<'_>, other: DenseRows<'_>, release: &dyn Fn()) -> bool {
    let (rows, cols) = one.shape();
    if rows == 0 || other.shape() != (rows, cols) {
        return false;
    }
    let as_stored = one.stored_as() == other.stored_as();
    let (mut left, mut right) = (vec![0.0; cols], vec![0.0; cols]);
    let mut same_row = |row: usize| {
        if as_stored {
            return one.matrix.row(row) == other.matrix.row(row);
        }
        one.read(row, &mut left);
        other.read(row, &mut right);
        left.iter().zip(&right).all(|(left, right)| left.to_bits() == right.to_bits())
    };
    let rows_between = COMPARED.div_ceil(one.matrix.row(0).len().max(1));
    (0..rows).all(|row| {
        if row > 0 && row.is_multiple_of(rows_between) {
            release();
        }
        same_row(row)
    })
}
