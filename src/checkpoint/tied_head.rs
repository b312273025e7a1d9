//! A quantized head that is the embedding: folders keep a copy of it, or of parts of it, under the head's own name.
//!
//! transformers shares nothing but `weight` between a tied head and the embedding, so scales are stored for both; and it
//! cannot share packed codes at all, so such a model is declared untied, with all parts twice. Both are one matrix here.

use std::collections::HashMap;

use safetensors::Dtype;
use serde_json::Value;

use super::Slab;
use super::safetensors::Tensor;
use crate::error::{Error, Result};

const HEAD: &str = "lm_head";
const EMBEDDING: &str = "model.embed_tokens";

/// The tensors without the copies that belong to the head. Where an untied head is the embedding bit for bit, `config`
/// gets to say that they are tied. Parts that tell of the head's inputs get the embedding's name.
///
/// # Errors
/// A head said to be tied that is quantized in another way than the embedding.
pub(super) fn share(
    place: &str,
    config: &mut Value,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<(usize, Tensor)>> {
    let by_name: HashMap<&str, &(usize, Tensor)> = tensors.iter().map(|found| (found.1.name.as_str(), found)).collect();
    let stored = |(file, tensor): &(usize, Tensor)| {
        (tensor.dtype, tensor.shape.clone(), bytes(&Slab { file: *file, bytes: tensor.bytes.clone() }))
    };
    let is_copy = |part: &str| {
        let of = |module: &str| by_name.get(format!("{module}.{part}").as_str()).copied();
        matches!((of(HEAD), of(EMBEDDING)), (Some(head), Some(embedding)) if stored(head) == stored(embedding))
    };
    // Transformers overwrites a dense head that is tied, whatever it holds.
    let of_head: Vec<(&str, bool)> = tensors
        .iter()
        .filter_map(|(_, tensor)| Some((tensor.name.strip_prefix(HEAD)?.strip_prefix('.')?, tensor.dtype)))
        .filter(|(part, dtype)| *part != "weight" || *dtype == Dtype::I8)
        .map(|(part, _)| (part, part.starts_with("input_") || is_copy(part)))
        .collect();
    let tied = config.get("tie_word_embeddings") == Some(&Value::Bool(true));
    let all_copied = !of_head.is_empty() && of_head.iter().all(|(_, copied)| *copied);
    let codes = of_head.iter().any(|(part, _)| matches!(*part, "weight" | "weight_packed"));
    if let Some((part, _)) = of_head.iter().find(|(_, copied)| tied && !copied) {
        let problem = format!(
            "is not that of {EMBEDDING}, though config.json says that the two are tied; if the head has weights of its own, \
             set tie_word_embeddings to false"
        );
        return Err(Error::input(format!("{place}: tensor \"{HEAD}.{part}\""), problem));
    }
    if !all_copied || !(tied || codes) {
        return Ok(tensors);
    }
    let dropped: Vec<String> = of_head
        .iter()
        .filter(|(part, _)| !part.starts_with("input_"))
        .map(|(part, _)| format!("{HEAD}.{part}"))
        .collect();
    config["tie_word_embeddings"] = true.into();
    let kept = tensors.into_iter().filter(|(_, tensor)| !dropped.contains(&tensor.name));
    Ok(kept
        .map(|(file, mut tensor)| {
            if let Some(part) = tensor.name.strip_prefix("lm_head.input_") {
                tensor.name = format!("{EMBEDDING}.input_{part}");
            }
            (file, tensor)
        })
        .collect())
}
