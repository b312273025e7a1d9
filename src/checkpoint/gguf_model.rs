//! What a GGUF file says, in Hugging Face words: tensor names, row order, `config.json` keys, vocabulary.
//!
//! Source: the conversion that made such files (`convert_hf_to_gguf.py`, `gguf-py/gguf/constants.py`), read backwards.

use serde_json::{Map, Value as Json, json};

use super::GgufVocabulary;
use super::gguf::{Metadata, Tensor, Value};
use super::gguf_keys::Keys;
use super::storage::RowOrder;
use crate::error::{Error, Result};

const SUPPORTED: &str = "llama (also mistral exported as llama), qwen2, qwen3";

/// A GGUF file's metadata with the name to use in errors.
pub(super) struct Model<'a> {
    place: &'a str,
    metadata: &'a Metadata,
    keys: Keys<'a>,
}

impl<'a> Model<'a> {
    /// Checks the architecture.
    pub(super) fn new(place: &'a str, metadata: &'a Metadata) -> Result<Self> {
        if let Some(kind) = metadata.get("general.type").filter(|kind| **kind != Value::Text("model".into())) {
            let kind = if let Value::Text(kind) = kind { kind.as_str() } else { "no text" };
            return Err(Error::input(place, format!("general.type is \"{kind:.60}\"; expected \"model\"")));
        }
        let architecture = match metadata.get("general.architecture") {
            Some(Value::Text(name)) => name.as_str(),
            _ => return Err(Error::input(place, "metadata has no general.architecture; the file is not a model")),
        };
        if !matches!(architecture, "llama" | "qwen2" | "qwen3") {
            let problem = format!("architecture \"{architecture}\" is not supported; supported: {SUPPORTED}");
            return Err(Error::input(place, problem));
        }
        if metadata.get("general.quantization_version").is_some_and(|version| *version != Value::Integer(2)) {
            return Err(Error::input(place, "general.quantization_version: expected 2; convert the model again"));
        }
        let model = Model { place, metadata, keys: Keys::new(place, metadata, architecture) };
        if model.keys.count("expert_count")?.is_some_and(|experts| experts > 0) {
            let problem = format!("a mixture of experts is not supported; supported: {SUPPORTED}");
            return Err(model.keys.fault("expert_count", problem));
        }
        Ok(model)
    }

    fn architecture(&self) -> &str {
        &self.keys.architecture
    }

    /// What the user should know of keys that nobody asked for; to be called last.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.keys.warnings()
    }

    /// Hugging Face name and row order of a tensor.
    ///
    /// # Errors
    /// A tensor that the architectures do not have: to leave it out would change the model silently.
    pub(super) fn tensor(&self, tensor: &Tensor) -> Result<(String, RowOrder)> {
        let fault = |problem: String| Error::input(format!("{}: tensor \"{}\"", self.place, tensor.name), problem);
        let name = published_name(&tensor.name).ok_or_else(|| {
            fault(format!("no such tensor in a {} model; supported: {SUPPORTED}", self.architecture()))
        })?;
        if name == FREQUENCY_FACTORS && self.architecture() != "llama" {
            return Err(fault(format!("no such tensor in a {} model; supported in: llama", self.architecture())));
        }
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") if self.architecture() == "llama" => self.heads()?,
            Some("k_proj") if self.architecture() == "llama" => self.kv_heads()?,
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
        let keys = &self.keys;
        let hidden_size = keys.needed("embedding_length")?;
        let heads = self.heads()?;
        let head_dim = match keys.count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => return Err(keys.fault("attention.head_count", format!("{heads} does not divide {hidden_size}"))),
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(width) = keys.count(key)?.filter(|width| *width != head_dim) {
                let problem = format!("{width} is not supported; expected {head_dim}, the width of a head");
                return Err(keys.fault(key, problem));
            }
        }
        if let Some(size) = keys.count("vocab_size")?.filter(|size| *size != embedding_rows) {
            return Err(keys.fault("vocab_size", format!("{size}, but token_embd.weight has {embedding_rows} rows")));
        }
        self.check_layout()?;
        let epsilon = keys.number("attention.layer_norm_rms_epsilon")?;
        let epsilon = epsilon.ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?;
        keys.only("attention.layer_norm_epsilon", &[epsilon])?;
        keys.only("attention.scale", &[0.0, (head_dim as f64).sqrt().recip()])?;
        keys.only("embedding_length_out", &[0.0, hidden_size as f64])?;
        keys.refuse_others()?;
        let window = self.window()?;
        let model_type = match self.architecture() {
            "llama" if window.is_some() => "mistral",
            name => name,
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
        set("model_type", json!(model_type));
        set("hidden_size", json!(hidden_size));
        set("intermediate_size", json!(self.of_blocks("feed_forward_length")?));
        set("num_hidden_layers", json!(keys.needed("block_count")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(self.kv_heads()?));
        set("head_dim", json!(head_dim));
        set("vocab_size", json!(embedding_rows));
        set("max_position_embeddings", json!(keys.needed("context_length")?));
        set("rms_norm_eps", json!(epsilon));
        set("rope_theta", json!(keys.number("rope.freq_base")?.unwrap_or(10_000.0)));
        set("rope_scaling", self.rope_scaling(frequency_factors)?);
        set("sliding_window", json!(window));
        set("attention_bias", json!(published("model.layers.0.self_attn.q_proj.bias")));
        set("mlp_bias", json!(published("model.layers.0.mlp.gate_proj.bias")));
        set("tie_word_embeddings", json!(!published("lm_head.weight")));
        set("bos_token_id", json!(self.token("bos_token_id")?));
        set("eos_token_id", json!(self.token("eos_token_id")?));
        Ok(Json::Object(config))
    }

    /// How the tensors of the blocks are laid out; llama.cpp takes what its own converter writes.
    fn check_layout(&self) -> Result<()> {
        let expected = if self.architecture() == "llama" { "Meta AI original pth" } else { "reference" };
        match self.keys.text("tensor_data_layout")? {
            Some(layout) if layout != expected => {
                let problem = format!("\"{layout:.60}\" is not supported; expected \"{expected}\"");
                Err(self.keys.fault("tensor_data_layout", problem))
            }
            _ => Ok(()),
        }
    }

    /// The bound on how far back a token looks: of Mistral, which is exported as llama. (llama.cpp reads the key for other
    /// architectures only, and sees all tokens.)
    fn window(&self) -> Result<Option<usize>> {
        let window = self.keys.count("attention.sliding_window")?.filter(|window| *window > 0);
        let context = self.keys.needed("context_length")?;
        match window {
            Some(window) if self.architecture() != "llama" && window < context => Err(self.keys.fault(
                "attention.sliding_window",
                format!("{window} is not supported in a {}; expected none", self.architecture()),
            )),
            Some(_) if self.architecture() != "llama" => Ok(None),
            window => Ok(window),
        }
    }

    /// `null`, `{"rope_type": "linear", "factor": f}`, or `{"rope_type": "frequency_factors", "factors": [...]}` (one
    /// divisor for each rotary frequency; no Hugging Face file says it so, but Llama 3's parameters are not in a GGUF).
    ///
    /// As in llama.cpp the type is "linear" where none is stated, the factor is that of `rope.scaling.factor`, else of
    /// `rope.scale_linear` as files of 2023 have it, and a factor of 0 is 1.
    fn rope_scaling(&self, frequency_factors: Option<Vec<f32>>) -> Result<Json> {
        let kind = self.keys.text("rope.scaling.type")?.unwrap_or("linear");
        let factor = self.keys.number("rope.scaling.factor")?;
        let former = self.keys.number("rope.scale_linear")?;
        if let (Some(factor), Some(former)) = (factor, former)
            && factor != former
        {
            let problem = format!("{former}, but rope.scaling.factor is {factor}; the two are one number");
            return Err(self.keys.fault("rope.scale_linear", problem));
        }
        let factor = factor.or(former).filter(|factor| ![0.0, 1.0].contains(factor));
        match (kind, factor, frequency_factors) {
            ("none" | "linear", None, None) => Ok(Json::Null),
            ("none" | "linear", None, Some(factors)) => {
                Ok(json!({ "rope_type": "frequency_factors", "factors": factors }))
            }
            ("linear", Some(factor), None) => Ok(json!({ "rope_type": "linear", "factor": factor })),
            ("linear", Some(factor), Some(_)) => Err(self.keys.fault(
                "rope.scaling.factor",
                format!("{factor} beside rope_freqs.weight is not supported; expected one of the two"),
            )),
            ("none", Some(factor), _) => {
                Err(self.keys.fault("rope.scaling.type", format!("\"none\", but the factor is {factor}; expected 1")))
            }
            (kind, ..) => Err(self.keys.fault(
                "rope.scaling.type",
                format!("\"{kind:.60}\" is not supported; supported: none, linear, rope_freqs.weight"),
            )),
        }
    }

    /// The tokenizer's vocabulary; `None` when the file has none.
    pub(super) fn vocabulary(&self) -> Result<Option<GgufVocabulary>> {
        let Some(model) = self.tokenizer_text("model")? else { return Ok(None) };
        let pre = self.tokenizer_text("pre")?.unwrap_or("default").to_owned();
        if model == "gpt2" {
            self.refuse_other_tokenizers()?;
        }
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
        let default_bos = model == "llama" || matches!(pre.as_str(), "llama-bpe" | "llama3" | "llama-v3");
        let add_bos = self.tokenizer_flag("add_bos_token")?.unwrap_or(default_bos);
        let bos = self.token("bos_token_id")?;
        if add_bos && bos.is_none() && model == "gpt2" {
            let problem =
                "tokenizer.ggml.bos_token_id: missing, though the tokenizer adds one; convert the model again";
            return Err(Error::input(self.place, problem));
        }
        Ok(Some(GgufVocabulary {
            model: model.to_owned(),
            pre,
            tokens,
            token_types,
            merges,
            bos,
            eos: self.token("eos_token_id")?,
            add_bos,
        }))
    }

    /// Refuses settings of a byte-level BPE that would make other tokens.
    fn refuse_other_tokenizers(&self) -> Result<()> {
        for key in ["add_eos_token", "add_sep_token"] {
            if self.tokenizer_flag(key)? == Some(true) {
                let problem =
                    format!("tokenizer.ggml.{key}: true is not supported in a byte-level BPE; expected false");
                return Err(Error::input(self.place, problem));
            }
        }
        match self.metadata.contains_key("tokenizer.ggml.precompiled_charsmap") {
            false => Ok(()),
            true => {
                let problem = "tokenizer.ggml.precompiled_charsmap: not supported in a byte-level BPE";
                Err(Error::input(self.place, problem))
            }
        }
    }

    fn tokenizer_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(&format!("tokenizer.ggml.{key}")) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(Error::input(self.place, format!("tokenizer.ggml.{key}: expected a boolean"))),
        }
    }

    fn tokenizer_text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.metadata.get(&format!("tokenizer.ggml.{key}")) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Error::input(self.place, format!("tokenizer.ggml.{key}: expected a text"))),
        }
    }

    fn of_blocks(&self, key: &str) -> Result<usize> {
        let blocks = self.keys.needed("block_count")?;
        self.keys.count_of_blocks(key, blocks)?.ok_or_else(|| self.keys.missing(key))
    }

    fn heads(&self) -> Result<usize> {
        self.of_blocks("attention.head_count")
    }

    fn kv_heads(&self) -> Result<usize> {
        let blocks = self.keys.needed("block_count")?;
        match self.keys.count_of_blocks("attention.head_count_kv", blocks)? {
            Some(heads) => Ok(heads),
            None => self.heads(),
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
