//! The metadata keys of a GGUF file's architecture (`llama.block_count`, ...): typed reads, and what becomes of the rest.
//!
//! Every key under the architecture's name is read, or compared with the one value that is carried out, or changes nothing,
//! or is named in a warning. Source: what llama.cpp's loader does for llama, qwen2 and qwen3 (`llama_model::load_hparams`,
//! `src/llama-arch.cpp`) and `gguf-py/gguf/constants.py` of gguf 0.19. Keys that its loader reads for
//! other architectures only are compared too: a file that sets one means another network.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::gguf::{Metadata, Value};
use crate::error::{Error, Result};

/// Keys that are carried out for these numbers only; 0 is how a file says "none".
pub(super) const ONLY: [(&str, &[f64]); 31] = [
    ("attention.block_count_kv_shared", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.kv_lora_rank", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.q_lora_rank", &[0.0]),
    ("attention.shared_kv_layers", &[0.0]),
    ("attention.temperature_length", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_length_per_layer_input", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_count", &[0.0]),
    ("expert_group_count", &[0.0]),
    ("expert_group_used_count", &[0.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("interleave_moe_layer_step", &[0.0]),
    ("leading_dense_block_count", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("n_deepstack_layers", &[0.0]),
    ("nextn_predict_layers", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.dimension_sections", &[0.0]),
    ("rope.scaling.alpha", &[0.0]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("rope.scaling.yarn_attn_factor", &[1.0]),
    ("rope.scaling.yarn_ext_factor", &[0.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("swin_norm", &[0.0]),
];
/// Keys that are carried out for one of true and false only.
pub(super) const ONLY_FLAGS: [(&str, bool); 2] = [("attention.causal", true), ("use_parallel_residual", false)];
/// Keys that change nothing: of the history of a file, and of stretchings that are refused.
pub(super) const SILENT: [&str; 4] = [
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// Reading of a file's metadata.
pub(super) struct Keys<'a> {
    pub(super) place: &'a str,
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: String,
    /// Keys that were asked for, without the architecture's name.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(place: &'a str, metadata: &'a Metadata, architecture: &str) -> Self {
        Keys { place, metadata, architecture: architecture.to_owned(), asked: RefCell::default() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    pub(super) fn fault(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::input(format!("{}: metadata {}.{key}", self.place, self.architecture), problem)
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        self.fault(key, "missing; the file was made by a converter that is too old, convert it again")
    }

    /// A number of at most 32 bits.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) if (0..=i128::from(u32::MAX)).contains(n) => Ok(Some(*n as usize)),
            Some(_) => Err(self.fault(key, "expected one number of at most 32 bits")),
        }
    }

    pub(super) fn needed(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, or a list of one for each of `blocks` blocks, which must be equal.
    pub(super) fn count_of_blocks(&self, key: &str, blocks: usize) -> Result<Option<usize>> {
        let Some(Value::Integers(list)) = self.get(key) else { return self.count(key) };
        match list.first() {
            Some(&first) if list.len() == blocks && list.iter().all(|&count| count == first) => {
                usize::try_from(first).map(Some).map_err(|_| self.fault(key, format!("{first} is below 0")))
            }
            _ => Err(self.fault(
                key,
                format!("{} numbers for {blocks} blocks; supported: one number, the same for every block", list.len()),
            )),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.fault(key, "expected a finite number")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(key, "expected a text")),
        }
    }

    /// Refuses another value than one that is carried out.
    pub(super) fn only(&self, key: &str, accepted: &[f64]) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let is_accepted = |x: f64| accepted.iter().any(|a| (x - a).abs() <= 1e-6 * a.abs());
        let (fine, got) = match value {
            Value::Integer(n) => (is_accepted(*n as f64), n.to_string()),
            Value::Float(x) => (is_accepted(*x), x.to_string()),
            Value::Bool(on) => (is_accepted(f64::from(u8::from(*on))), on.to_string()),
            Value::Integers(list) => (list.iter().all(|&n| is_accepted(n as f64)), "a list".into()),
            Value::Floats(list) => (list.iter().all(|&x| is_accepted(x)), "a list".into()),
            Value::Bools(list) => (list.iter().all(|&on| is_accepted(f64::from(u8::from(on)))), "a list".into()),
            Value::Text(_) | Value::Texts(_) | Value::Long => (false, "no number".into()),
        };
        match fine {
            true => Ok(()),
            false => {
                let expected = accepted.iter().map(f64::to_string).collect::<Vec<_>>().join(" or ");
                Err(self.fault(key, format!("{got} is not supported; expected {expected}")))
            }
        }
    }

    /// Refuses what the tables do not accept.
    pub(super) fn refuse_others(&self) -> Result<()> {
        ONLY.iter().try_for_each(|(key, accepted)| self.only(key, accepted))?;
        for (key, accepted) in ONLY_FLAGS {
            match self.get(key) {
                None => {}
                Some(Value::Bool(flag)) if *flag == accepted => {}
                Some(Value::Bool(flag)) => {
                    return Err(self.fault(key, format!("{flag} is not supported; expected {accepted}")));
                }
                Some(_) => return Err(self.fault(key, "expected a boolean")),
            }
        }
        Ok(())
    }

    /// A warning about the keys under the architecture's name that nobody asked for.
    pub(super) fn warnings(&self) -> Vec<String> {
        const SHOWN: usize = 20;
        self.asked.borrow_mut().extend(SILENT.map(str::to_owned));
        let (asked, prefix) = (self.asked.borrow(), format!("{}.", self.architecture));
        let unread = |key: &&String| key.strip_prefix(&prefix).is_some_and(|key| !asked.contains(key));
        let mut names: Vec<String> = self.metadata.keys().filter(unread).map(|key| format!("{key:.60}")).collect();
        if names.is_empty() {
            return Vec::new();
        }
        names.sort_unstable();
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        names.truncate(SHOWN);
        vec![format!(
            "{}: metadata that is not known here and is not carried out: {}{more}; compare the results with another \
             program's if one of them changes the network",
            self.place,
            names.join(", ")
        )]
    }
}
