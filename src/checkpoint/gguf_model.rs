//! What a GGUF file says, in Hugging Face words: tensor names, row order, `config.json` keys, vocabulary.
//!
//! Source: the conversion that made such files (`convert_hf_to_gguf.py`, `gguf-py/gguf/constants.py`), read backwards.

use serde_json::{Map, Value as Json, json};

use super::GgufVocabulary;
use super::gguf::{Metadata, Tensor, Value};
use super::storage::RowOrder;
use crate::error::{Error, Result};

const SUPPORTED: &str = "llama (also mistral exported as llama), qwen2, qwen3";

/// A GGUF file's metadata with the name to use in errors.
pub(super) struct Model<'a> {
    place: &'a str,
    metadata: &'a Metadata,
    architecture: String,
}

impl<'a> Model<'a> {
    /// Checks the architecture.
    pub(super) fn new(place: &'a str, metadata: &'a Metadata) -> Result<Self> {
        let architecture = match metadata.get("general.architecture") {
            Some(Value::Text(name)) => name.clone(),
            _ => return Err(Error::input(place, "metadata has no general.architecture; the file is not a model")),
        };
        let model = Model { place, metadata, architecture };
        if !matches!(model.architecture.as_str(), "llama" | "qwen2" | "qwen3") {
            let problem = format!("architecture \"{}\" is not supported; supported: {SUPPORTED}", model.architecture);
            return Err(Error::input(place, problem));
        }
        if model.count("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(Error::input(place, format!("a mixture of experts is not supported; supported: {SUPPORTED}")));
        }
        Ok(model)
    }

    /// Hugging Face name and row order of a tensor.
    ///
    /// # Errors
    /// A tensor that the architectures do not have: to leave it out would change the model silently.
    pub(super) fn tensor(&self, tensor: &Tensor) -> Result<(String, RowOrder)> {
        let fault = |problem: String| Error::input(format!("{}: tensor \"{}\"", self.place, tensor.name), problem);
        let name = published_name(&tensor.name)
            .ok_or_else(|| fault(format!("no such tensor in a {} model; supported: {SUPPORTED}", self.architecture)))?;
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") if self.architecture == "llama" => self.needed("attention.head_count")?,
            Some("k_proj") if self.architecture == "llama" => self.kv_heads()?,
            _ => return Ok((name, RowOrder::Published)),
        };
        let rows = tensor.shape[0];
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(fault(format!("{rows} rows are not {heads} heads of an even width; the file is damaged")));
        }
        Ok((name, RowOrder::RotaryPairs { head_dim: rows / heads }))
    }

    /// The keys of `config.json`. `embedding_shape` is that of the token embedding; `published` are the file's tensors
    /// under their Hugging Face names; `frequency_factors` are the values of `rope_freqs.weight` where there is one:
    /// what Llama 3 divides its rotary frequencies by.
    pub(super) fn config(
        &self,
        embedding_rows: usize,
        published: &dyn Fn(&str) -> bool,
        frequency_factors: Option<Vec<f32>>,
    ) -> Result<Json> {
        let hidden_size = self.needed("embedding_length")?;
        let heads = self.needed("attention.head_count")?;
        let head_dim = match self.count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => return Err(self.fault("attention.head_count", format!("{heads} does not divide {hidden_size}"))),
        };
        if self.count("attention.value_length")?.is_some_and(|width| width != head_dim) {
            return Err(self.fault("attention.value_length", format!("expected the key's width {head_dim}")));
        }
        let window = self.count("attention.sliding_window")?;
        let model_type = match self.architecture.as_str() {
            "llama" if window.is_some() => "mistral",
            name => name,
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
        set("model_type", json!(model_type));
        set("hidden_size", json!(hidden_size));
        set("intermediate_size", json!(self.needed("feed_forward_length")?));
        set("num_hidden_layers", json!(self.needed("block_count")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(self.kv_heads()?));
        set("head_dim", json!(head_dim));
        set("vocab_size", json!(embedding_rows));
        set("max_position_embeddings", json!(self.needed("context_length")?));
        let epsilon = self.number("attention.layer_norm_rms_epsilon")?;
        set("rms_norm_eps", json!(epsilon.ok_or_else(|| self.missing("attention.layer_norm_rms_epsilon"))?));
        set("rope_theta", json!(self.number("rope.freq_base")?.unwrap_or(10_000.0)));
        set("rope_scaling", self.rope_scaling(frequency_factors)?);
        set("sliding_window", json!(window));
        set("attention_bias", json!(published("model.layers.0.self_attn.q_proj.bias")));
        set("mlp_bias", json!(published("model.layers.0.mlp.gate_proj.bias")));
        set("tie_word_embeddings", json!(!published("lm_head.weight")));
        set("bos_token_id", json!(self.token("bos_token_id")?));
        set("eos_token_id", json!(self.token("eos_token_id")?));
        Ok(Json::Object(config))
    }

    /// `null`, `{"rope_type": "linear", "factor": f}`, or `{"rope_type": "frequency_factors", "factors": [...]}` (one
    /// divisor for each rotary frequency; no Hugging Face file says it so, but Llama 3's parameters are not in a GGUF).
    fn rope_scaling(&self, frequency_factors: Option<Vec<f32>>) -> Result<Json> {
        let kind = match self.get("rope.scaling.type") {
            None => "none",
            Some(Value::Text(kind)) => kind.as_str(),
            Some(_) => return Err(self.fault("rope.scaling.type", "expected a text".into())),
        };
        match (kind, frequency_factors) {
            ("none", None) => Ok(Json::Null),
            ("none", Some(factors)) => Ok(json!({ "rope_type": "frequency_factors", "factors": factors })),
            ("linear", None) => {
                let factor = self.number("rope.scaling.factor")?;
                let factor = factor.ok_or_else(|| self.missing("rope.scaling.factor"))?;
                Ok(json!({ "rope_type": "linear", "factor": factor }))
            }
            (kind, _) => Err(self.fault(
                "rope.scaling.type",
                format!("\"{kind}\" is not supported; supported: none, linear, rope_freqs.weight"),
            )),
        }
    }

    /// The tokenizer's vocabulary; `None` when the file has none.
    pub(super) fn vocabulary(&self) -> Result<Option<GgufVocabulary>> {
        let Some(Value::Text(model)) = self.metadata.get("tokenizer.ggml.model") else { return Ok(None) };
        let pre = match self.metadata.get("tokenizer.ggml.pre") {
            Some(Value::Text(pre)) => pre.clone(),
            _ => "default".to_owned(),
        };
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let token_types = match self.metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(Value::Integers(types)) if types.len() == tokens.len() => {
                types.iter().map(|&kind| u32::try_from(kind).unwrap_or(0)).collect()
            }
            Some(_) => {
                let problem = format!("tokenizer.ggml.token_type: expected {} numbers", tokens.len());
                return Err(Error::input(self.place, problem));
            }
        };
        let merges = match self.metadata.contains_key("tokenizer.ggml.merges") {
            true => self.texts("tokenizer.ggml.merges")?,
            false => Vec::new(),
        };
        // Where the file does not say, llama.cpp adds BOS for SentencePiece and for Llama 3.
        let add_bos = match self.metadata.get("tokenizer.ggml.add_bos_token") {
            Some(Value::Bool(add)) => *add,
            _ => model == "llama" || matches!(pre.as_str(), "llama-bpe" | "llama3" | "llama-v3"),
        };
        Ok(Some(GgufVocabulary {
            model: model.clone(),
            pre,
            tokens,
            token_types,
            merges,
            bos: self.token("bos_token_id")?,
            eos: self.token("eos_token_id")?,
            add_bos,
        }))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn fault(&self, key: &str, problem: String) -> Error {
        Error::input(format!("{}: metadata {}.{key}", self.place, self.architecture), problem)
    }

    fn missing(&self, key: &str) -> Error {
        self.fault(key, "missing; the file was made by a converter that is too old, convert it again".into())
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) if (0..=i128::from(u32::MAX)).contains(n) => Ok(Some(*n as usize)),
            Some(_) => Err(self.fault(key, "expected one number of at most 32 bits".into())),
        }
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn kv_heads(&self) -> Result<usize> {
        match self.count("attention.head_count_kv")? {
            Some(heads) => Ok(heads),
            None => self.needed("attention.head_count"),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.fault(key, "expected a finite number".into())),
        }
    }

    fn token(&self, key: &str) -> Result<Option<u32>> {
        match self.metadata.get(&format!("tokenizer.ggml.{key}")) {
            None => Ok(None),
            Some(Value::Integer(id)) if u32::try_from(*id).is_ok() => Ok(Some(*id as u32)),
            Some(_) => Err(Error::input(self.place, format!("tokenizer.ggml.{key}: expected a token id"))),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Ok(texts.clone()),
            _ => Err(Error::input(self.place, format!("{key}: expected a list of texts"))),
        }
    }
}

/// Modules of a block: GGUF's name, Hugging Face's.
const MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// Tensors outside the blocks: GGUF's name, Hugging Face's.
const OUTSIDE: [(&str, &str); 4] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    (FREQUENCY_FACTORS, FREQUENCY_FACTORS),
];
/// Name of Llama 3's divisors of rotary frequencies; Hugging Face has no such tensor.
pub const FREQUENCY_FACTORS: &str = "rope_freqs.weight";

/// Hugging Face name of a GGUF tensor of the supported architectures.
fn published_name(name: &str) -> Option<String> {
    if let Some((_, published)) = OUTSIDE.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*published).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, part) = rest.split_once('.')?;
    let (_, published) = MODULES.iter().find(|(gguf, _)| *gguf == module)?;
    has_part(module, part).then(|| format!("model.layers.{layer}.{published}.{part}"))
}

/// GGUF name of a tensor of the supported architectures: the other way round.
pub fn gguf_name(published: &str) -> Option<String> {
    if let Some((gguf, _)) = OUTSIDE.iter().find(|(_, name)| *name == published) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = published.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, part) = rest.rsplit_once('.')?;
    let (gguf, _) = MODULES.iter().find(|(_, name)| *name == module)?;
    has_part(gguf, part).then(|| format!("blk.{layer}.{gguf}.{part}"))
}

/// Whether a module of GGUF has a weight or a bias.
fn has_part(module: &str, part: &str) -> bool {
    part == "weight" || (part == "bias" && !module.ends_with("norm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hugging_face() {
        assert_eq!(
            published_name("blk.12.attn_output.weight").as_deref(),
            Some("model.layers.12.self_attn.o_proj.weight")
        );
        assert_eq!(published_name("blk.0.attn_q.bias").as_deref(), Some("model.layers.0.self_attn.q_proj.bias"));
        for name in ["blk.7.attn_k_norm.weight", "blk.0.ffn_down.bias", "output.weight", FREQUENCY_FACTORS] {
            assert_eq!(gguf_name(&published_name(name).unwrap()).as_deref(), Some(name));
        }
        for unknown in ["blk.0.ffn_gate_inp.weight", "blk.x.attn_q.weight", "blk.0.attn_norm.bias", "cls.weight"] {
            assert_eq!(published_name(unknown), None, "{unknown}");
            assert_eq!(gguf_name(&format!("model.layers.0.{unknown}")), None, "{unknown}");
        }
    }
}
