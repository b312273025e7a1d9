//! A tokenizer in the words of a GGUF file: tokens, their types, merges, and the name of the rule that cuts text.
//!
//! The rule is named only when the tokenizer's own steps are those that the name stands for; a name that is nearly right
//! would make other programs cut text in other places without a word.

use serde_json::Value;

use super::Tokenizer;
use super::tokenizer::{CONTROL, NORMAL, UNUSED, USER_DEFINED, WordRule};
use crate::checkpoint::GgufVocabulary;
use crate::error::{Error, Result};

impl Tokenizer {
    /// The vocabulary as a GGUF file holds it, for an embedding of `rows` rows; rows without a token get unused ones.
    /// `bos` and `eos` are what the model's configuration says; a token that the tokenizer itself puts in front of a
    /// text goes before the former.
    ///
    /// # Errors
    /// A tokenizer that is no byte-level BPE, that cuts text by a rule without a known name, or that does not fit `rows`.
    pub fn gguf_vocabulary(&self, rows: usize, bos: Option<u32>, eos: Option<u32>) -> Result<GgufVocabulary> {
        let fault = |problem: String| Error::input(&self.place, format!("tokenizer: {problem}"));
        let text = self.tokenizer.to_string(false).map_err(|problem| fault(problem.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|problem| fault(problem.to_string()))?;
        let pre = rule_name(&json).map_err(fault)?;
        let (tokens, token_types) = tokens(&json, rows).map_err(fault)?;
        Ok(GgufVocabulary {
            model: "gpt2".into(),
            pre: pre.into(),
            tokens,
            token_types,
            merges: merges(&json).map_err(fault)?,
            bos: self.bos().or(bos),
            eos,
            add_bos: self.bos().is_some(),
        })
    }
}

/// The name of the rule whose steps the tokenizer takes.
fn rule_name(json: &Value) -> std::result::Result<&'static str, String> {
    let model = &json["model"];
    let is_off = |key: &str| matches!(&model[key], Value::Null | Value::Bool(false)) || model[key] == "";
    let options = ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"];
    if model["type"] != "BPE" || !options.into_iter().all(is_off) {
        return Err(format!(
            "{} is not a byte-level BPE, the one kind that can be written to a GGUF file",
            model["type"]
        ));
    }
    let normalize = match &json["normalizer"] {
        Value::Null => Some(false),
        normalizer if normalizer["type"] == "NFC" => Some(true),
        _ => None,
    };
    for name in WordRule::NAMES {
        let rule = WordRule::named(name)?;
        let expected = serde_json::to_value(rule.pre_tokenizer()?).map_err(|problem| problem.to_string())?;
        if normalize == Some(rule.normalize)
            && model["ignore_merges"] == rule.ignore_merges
            && steps(&json["pre_tokenizer"]) == steps(&expected)
        {
            return Ok(name);
        }
    }
    Err(format!(
        "its way of cutting text has no name that is known here ({}), so other programs would cut it differently; \
         keep the compressed-tensors folder",
        WordRule::NAMES.join(", ")
    ))
}

/// The steps of a pre-tokenizer, without what changes no token.
fn steps(pre_tokenizer: &Value) -> Vec<Value> {
    let mut steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![pre_tokenizer.clone()],
    };
    for step in steps.iter_mut().filter_map(Value::as_object_mut) {
        step.remove("trim_offsets");
    }
    steps
}

/// Tokens and their types by id.
fn tokens(json: &Value, rows: usize) -> std::result::Result<(Vec<String>, Vec<u32>), String> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; rows];
    let mut put = |token: &str, id: Option<u64>, kind: u32| {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < rows);
        let id = id.ok_or_else(|| format!("token {token:?} has no row among the embedding's {rows}"))?;
        tokens[id] = token.to_owned();
        types[id] = kind;
        Ok::<(), String>(())
    };
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        put(token, id.as_u64(), NORMAL)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().unwrap_or_default();
        if ["lstrip", "rstrip", "single_word"].iter().any(|key| added[key] == true) {
            return Err(format!("added token {token:?} takes in the spaces around it, which a GGUF file cannot say"));
        }
        put(token, added["id"].as_u64(), if added["special"] == true { CONTROL } else { USER_DEFINED })?;
    }
    Ok((tokens, types))
}

/// Merges, best first, their sides joined by a space.
fn merges(json: &Value) -> std::result::Result<Vec<String>, String> {
    let merge = |merge: &Value| match merge.as_array().map(Vec::as_slice) {
        Some([Value::String(left), Value::String(right)]) => Ok(format!("{left} {right}")),
        _ => Err(format!("merge {merge} is not a pair of tokens")),
    };
    json["model"]["merges"].as_array().into_iter().flatten().map(merge).collect()
}
