//! A quantized head that is tied to the embedding: transformers shares nothing but `weight` between the two, so folders
//! keep the other parts (scales, zero points) under both names. They are one matrix here.

use safetensors::Dtype;
use serde_json::Value;

use super::Slab;
use super::quantized::by_name;
use super::safetensors::Tensor;
use crate::error::{Error, Result};

/// Module of the embedding.
const EMBEDDING: &str = "model.embed_tokens";

/// Whether a `config.json` says that the head is the embedding.
pub(super) fn is_tied(config: &Value) -> bool {
    config.get("tie_word_embeddings") == Some(&Value::Bool(true))
}

/// The tensors without the copies that belong to a tied head. Parts that tell of the head's inputs get the embedding's
/// name.
///
/// # Errors
/// A head that is quantized in another way than the embedding: then the two are not tied.
pub(super) fn share(
    place: &str,
    config: &Value,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<(usize, Tensor)>> {
    if !is_tied(config) {
        return Ok(tensors);
    }
    let by_name = by_name(&tensors);
    let stored = |file: usize, tensor: &Tensor| {
        (tensor.dtype, tensor.shape.clone(), bytes(&Slab { file, bytes: tensor.bytes.clone() }))
    };
    let mut kept = Vec::with_capacity(tensors.len());
    for (file, mut tensor) in tensors {
        match tensor.name.strip_prefix("lm_head.") {
            // Transformers overwrites a dense head that is tied, whatever it holds.
            Some("weight") if tensor.dtype != Dtype::I8 => kept.push((file, tensor)),
            Some(part) if part.starts_with("input_") => {
                tensor.name = format!("{EMBEDDING}.{part}");
                kept.push((file, tensor));
            }
            Some(part) => {
                let embedding = by_name.get(&format!("{EMBEDDING}.{part}"));
                if embedding.is_none_or(|(other, embedding)| stored(*other, embedding) != stored(file, &tensor)) {
                    let problem = format!(
                        "is not that of {EMBEDDING}, though config.json says that the two are tied; if the head has \
                         weights of its own, set tie_word_embeddings to false"
                    );
                    return Err(Error::input(format!("{place}: tensor \"{}\"", tensor.name), problem));
                }
            }
            None => kept.push((file, tensor)),
        }
    }
    Ok(kept)
}
