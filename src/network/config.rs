//! Hyperparameters of a Llama-family decoder, read from `config.json` keys.
//!
//! The families differ in a few switches only: Qwen2 has biases on q, k and v, Qwen3 normalizes every query and key
//! head, Mistral may bound how far back a token looks. Key names and defaults are those of Hugging Face transformers
//! (`configuration_llama.py`, `configuration_mistral.py`, `configuration_qwen2.py`, `configuration_qwen3.py`).

use serde_json::{Value, json};

use crate::error::Result;
use crate::kernels::Hadamard;
use crate::network::config_keys::{DECODER, Only};
use crate::network::keys::Keys;
use crate::network::rope_config::{RopeScaling, rope};

/// Hyperparameters; all sizes checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `llama`, `mistral`, `qwen2`, `qwen3`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f32,
    /// The head uses the embedding's weights.
    pub tied_head: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched for longer contexts.
    pub rope_scaling: RopeScaling,
    /// q, k and v projections have biases.
    pub qkv_bias: bool,
    /// The output projection of attention has a bias.
    pub output_bias: bool,
    /// Gate, up and down projections have biases.
    pub mlp_bias: bool,
    /// Every query and key head is normalized before the rotation (Qwen3).
    pub qk_norm: bool,
    /// A token sees itself and the `sliding_window - 1` tokens before it; `None` sees all.
    pub sliding_window: Option<usize>,
    /// Blocks work on a residual stream that a [`Hadamard`] of this seed rotates: forth behind the embedding, back before the last
    /// norm.
    pub rotation_seed: Option<u64>,
}

/// Largest value accepted for every size: beyond any published model, small enough that products of two fit memory
/// arithmetic.
pub(super) const MAX_WIDTH: usize = 1 << 18;
pub(super) const MAX_VOCABULARY: usize = 1 << 22;
pub(super) const MAX_POSITIONS: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 10;

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
/// Window of Mistral where a file does not say; `null` is none.
const MISTRAL_WINDOW: usize = 4096;
/// First layer with a window in Qwen where a file does not say.
const QWEN_FIRST_WINDOW: usize = 28;

/// What `model_type` begins with where the residual stream is rotated. No other program knows such a type, so none reads the
/// blocks' weights as those of the model that they were made of.
const ROTATED: &str = "rotated_";
const ROTATION: &str = "residual_rotation";

impl Config {
    /// Reads and checks a `config.json`; `place` names the file in errors.
    ///
    /// # Errors
    /// A missing or absurd value, a key that changes the arithmetic in a way that is not carried out, or an architecture
    /// that is not supported.
    pub fn from_json(place: &str, json: &Value) -> Result<Self> {
        Config::read(place, json).map(|(config, _)| config)
    }

    /// As [`Config::from_json`], with warnings about keys that are not known.
    ///
    /// # Errors
    /// As [`Config::from_json`].
    pub fn read(place: &str, json: &Value) -> Result<(Self, Vec<String>)> {
        let keys = &Keys::new(place, json);
        let published_type = keys.text("model_type")?;
        let rotation_seed = rotation_seed(keys, &published_type)?;
        let model_type = published_type.strip_prefix(ROTATED).unwrap_or(&published_type).to_owned();
        if !FAMILIES.contains(&model_type.as_str()) {
            return Err(keys.fault(format!(
                "model_type \"{published_type}\" is not supported; supported are llama, mistral, qwen2 and qwen3"
            )));
        }
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let heads = keys.size("num_attention_heads", MAX_WIDTH)?;
        let layers = keys.size("num_hidden_layers", MAX_LAYERS)?;
        let max_positions = keys.size("max_position_embeddings", MAX_POSITIONS)?;
        let (rope_theta, rope_scaling) = rope(keys, max_positions)?;
        // Qwen2 has biases on q, k and v whatever the key says.
        let attention_bias = keys.flag("attention_bias", false)?;
        let config = Config {
            hidden_size,
            intermediate_size: keys.size("intermediate_size", MAX_WIDTH)?,
            layers,
            heads,
            kv_heads: kv_heads(keys, &model_type, heads)?,
            head_dim: head_dim(keys, &model_type, hidden_size / heads)?,
            vocab_size: keys.size("vocab_size", MAX_VOCABULARY)?,
            max_positions,
            rms_norm_eps: keys.optional_number("rms_norm_eps", 0.0, 0.1)?.unwrap_or(1e-6) as f32,
            tied_head: keys.flag("tie_word_embeddings", false)?,
            rope_theta,
            rope_scaling,
            qkv_bias: model_type == "qwen2" || attention_bias,
            output_bias: model_type != "qwen2" && attention_bias,
            mlp_bias: keys.flag("mlp_bias", false)?,
            qk_norm: model_type == "qwen3",
            sliding_window: sliding_window(keys, &model_type, layers, max_positions)?,
            model_type,
            rotation_seed,
        };
        config.check(keys)?;
        config.refuse_others(keys)?;
        let other_class = config.check_class(keys)?;
        Ok((config, other_class.into_iter().chain(keys.warnings()).collect()))
    }

    /// Refuses keys that change the arithmetic in a way that is not carried out.
    fn refuse_others(&self, keys: &Keys<'_>) -> Result<()> {
        keys.only_these(&DECODER)?;
        for key in ["qkv_bias", "use_qkv_bias"] {
            keys.only(key, Only::Flag(self.qkv_bias))?;
        }
        for key in ["qk_norm", "use_qk_norm"] {
            keys.only(key, Only::Flag(self.qk_norm))?;
        }
        for key in ["rotary_dim", "query_pre_attn_scalar", "attn_head_dim", "v_head_dim"] {
            keys.only(key, Only::Number(self.head_dim as f64))?;
        }
        keys.only("attention_multiplier", Only::Number((self.head_dim as f64).sqrt().recip()))?;
        keys.optional_flag("is_decoder")?;
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            keys.token_ids(key)?;
        }
        Ok(())
    }

    /// The class of the model's own program must be a causal language model. Where it is that of another family there is a
    /// warning: transformers goes by `model_type`, as is done here, other programs by the class.
    fn check_class(&self, keys: &Keys<'_>) -> Result<Option<String>> {
        let classes = keys.texts("architectures")?;
        let Some(class) = classes.first() else { return Ok(None) };
        let lower = class.to_ascii_lowercase();
        let other =
            lower.strip_suffix("forcausallm").filter(|name| FAMILIES.contains(name) && *name != self.model_type);
        if let Some(family) = other {
            let (place, model_type) = (keys.place, &self.model_type);
            return Ok(Some(format!(
                "{place}: architecture \"{class}\" is of {family}; the network is that of model_type \"{model_type}\""
            )));
        }
        let is_causal = lower.ends_with("forcausallm") || lower.ends_with("model");
        if !is_causal || lower.ends_with("bimodel") || lower.contains("bidirectional") {
            return Err(keys.fault(format!(
                "architecture \"{class}\" is not supported; supported decoders are causal language models"
            )));
        }
        Ok(None)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(keys.fault(format!(
                "num_key_value_heads {} does not divide num_attention_heads {}",
                self.kv_heads, self.heads
            )));
        }
        if keys.optional("head_dim").is_none()
            && self.model_type != "qwen3"
            && !self.hidden_size.is_multiple_of(self.heads)
        {
            return Err(keys.fault(format!(
                "num_attention_heads {} does not divide hidden_size {} and there is no head_dim",
                self.heads, self.hidden_size
            )));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(keys.fault(format!("head_dim {} is not even; rotary positions need pairs", self.head_dim)));
        }
        if let RopeScaling::Factors(factors) = &self.rope_scaling
            && factors.len() != self.head_dim / 2
        {
            return Err(keys.fault(format!(
                "expected {} rotary frequency factors (half of head_dim), got {}",
                self.head_dim / 2,
                factors.len()
            )));
        }
        if self.query_width() > MAX_WIDTH {
            return Err(keys.fault(format!(
                "num_attention_heads {} times head_dim {} exceeds {MAX_WIDTH}",
                self.heads, self.head_dim
            )));
        }
        Ok(())
    }

    /// The rotation of the residual stream.
    pub fn rotation(&self) -> Option<Hadamard> {
        self.rotation_seed.map(|seed| Hadamard::new(self.hidden_size, seed))
    }

    /// Declares in the `config.json` of this model that the residual stream is rotated.
    pub fn declare_rotation(&self, json: &mut serde_json::Map<String, Value>, seed: u64) {
        json.insert("model_type".into(), format!("{ROTATED}{}", self.model_type).into());
        json.insert(ROTATION.into(), json!({"kind": "hadamard", "seed": seed}));
        json.remove("architectures");
    }

    /// Longest sequence that the model was made for; linear stretching is on top of `max_position_embeddings`. Windows of
    /// attention bound how far back a token looks, not this.
    pub fn positions(&self) -> usize {
        match self.rope_scaling {
            RopeScaling::Linear { factor } if factor > 1.0 => (self.max_positions as f64 * factor) as usize,
            _ => self.max_positions,
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The seed of `residual_rotation`, which a rotated `model_type` has and no other.
fn rotation_seed(keys: &Keys<'_>, model_type: &str) -> Result<Option<u64>> {
    let form = "{\"kind\": \"hadamard\", \"seed\": 1}, say";
    let rotation = match (keys.optional(ROTATION), model_type.starts_with(ROTATED)) {
        (None, false) => return Ok(None),
        (Some(rotation), true) => rotation,
        (None, true) => {
            let problem =
                format!("\"{ROTATION}\" is missing, which model_type \"{model_type}\" needs; expected {form}");
            return Err(keys.fault(problem));
        }
        (Some(_), false) => {
            let problem =
                format!("\"{ROTATION}\" belongs to model_type \"{ROTATED}{model_type}\", got \"{model_type}\"");
            return Err(keys.fault(format!("{problem}; one of the two was changed, quantize the model again")));
        }
    };
    let entries = rotation.as_object().filter(|entries| entries.len() == 2);
    let kind = entries.and_then(|entries| entries.get("kind")).and_then(Value::as_str);
    let seed = entries.and_then(|entries| entries.get("seed")).and_then(Value::as_u64);
    match (kind, seed) {
        (Some("hadamard"), Some(seed)) => Ok(Some(seed)),
        _ => Err(keys.fault(format!("\"{ROTATION}\" is {rotation}; expected {form}"))),
    }
}

/// The families differ in what a missing key stands for; null stands for as many as query heads in all of them.
fn kv_heads(keys: &Keys<'_>, model_type: &str, heads: usize) -> Result<usize> {
    let default = match (keys.stated("num_key_value_heads"), model_type) {
        (None, "mistral") => 8,
        (None, "qwen2" | "qwen3") => 32,
        _ => heads,
    };
    keys.size_or("num_key_value_heads", MAX_WIDTH, default)
}

/// Qwen3 does not derive the width of a head from the other sizes.
fn head_dim(keys: &Keys<'_>, model_type: &str, derived: usize) -> Result<usize> {
    keys.size_or("head_dim", MAX_HEAD_DIM, if model_type == "qwen3" { 128 } else { derived })
}

/// Mistral bounds all layers; Qwen files carry a window that `use_sliding_window` switches on from some layer on; Llama has
/// none.
fn sliding_window(keys: &Keys<'_>, model_type: &str, layers: usize, max_positions: usize) -> Result<Option<usize>> {
    let stated = match keys.stated("sliding_window") {
        None if model_type == "mistral" => Some(MISTRAL_WINDOW),
        None | Some(Value::Null) => None,
        Some(_) => Some(keys.size("sliding_window", MAX_POSITIONS)?),
    };
    let switched_on = keys.flag("use_sliding_window", model_type == "mistral")?;
    let first = match keys.optional("max_window_layers") {
        Some(_) => keys.count("max_window_layers", 0, MAX_LAYERS)?,
        None if model_type == "mistral" => 0,
        None => QWEN_FIRST_WINDOW,
    };
    let window = match (model_type, stated) {
        ("mistral", window) if switched_on || window.is_none() => window,
        ("mistral", Some(_)) => {
            let problem =
                "use_sliding_window is false, but sliding_window bounds all layers of mistral; set it to null";
            return Err(keys.fault(problem.into()));
        }
        // A window that no sequence reaches changes nothing.
        ("llama", Some(window)) if window < max_positions => {
            let problem =
                format!("sliding_window {window} is not supported in a llama; expected null, or model_type mistral");
            return Err(keys.fault(problem));
        }
        ("qwen2" | "qwen3", Some(_)) if switched_on && first < layers && keys.optional("layer_types").is_none() => {
            return Err(keys.fault(
                "use_sliding_window is true; windows in some layers only are not supported, set it to false for \
                 contexts shorter than sliding_window"
                    .to_owned(),
            ));
        }
        _ => None,
    };
    check_layer_types(keys, layers, window)?;
    Ok(window)
}

/// `layer_types` names the attention of every layer, which must be what `window` says.
fn check_layer_types(keys: &Keys<'_>, layers: usize, window: Option<usize>) -> Result<()> {
    let types = keys.texts("layer_types")?;
    if types.is_empty() {
        return Ok(());
    }
    if types.len() != layers {
        return Err(keys.fault(format!("layer_types has {} entries, but num_hidden_layers is {layers}", types.len())));
    }
    let expected = if window.is_some() { ["sliding_attention", "sliding"] } else { ["full_attention", "attention"] };
    match types.iter().find(|kind| !expected.contains(&kind.as_str())) {
        None => Ok(()),
        Some(kind) => Err(keys.fault(format!(
            "layer_types has \"{kind}\", which is not supported; expected \"{}\" in every layer",
            expected[0]
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn smollm2() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "hidden_act": "silu",
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true,
            "rope_scaling": null, "attention_bias": false
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut json = smollm2();
        json[key] = value;
        json
    }

    fn message(json: &Value) -> String {
        Config::from_json("m/config.json", json).expect_err("must be refused").to_string()
    }

    #[test]
    fn llama_as_published() {
        let config = Config::from_json("config.json", &smollm2()).unwrap();
        assert_eq!((config.head_dim, config.query_width(), config.kv_width()), (64, 576, 192));
        assert_eq!((config.rope_theta, config.rope_scaling), (1e5, RopeScaling::None));
        assert!(config.tied_head && !config.qkv_bias && !config.output_bias && !config.qk_norm);
        assert_eq!(config.sliding_window, None);
    }

    #[test]
    fn families_differ_in_their_switches() {
        let qwen2 = Config::from_json("c", &with("model_type", json!("qwen2"))).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.output_bias);
        let qwen3 = Config::from_json("c", &with("model_type", json!("qwen3"))).unwrap();
        assert!(qwen3.qk_norm && !qwen3.qkv_bias);
        let mut mistral = with("model_type", json!("mistral"));
        mistral["sliding_window"] = json!(4096);
        mistral["head_dim"] = json!(128);
        let mistral = Config::from_json("c", &mistral).unwrap();
        assert_eq!((mistral.sliding_window, mistral.query_width()), (Some(4096), 9 * 128));
        let biased = Config::from_json("c", &with("attention_bias", json!(true))).unwrap();
        assert!(biased.qkv_bias && biased.output_bias);
    }

    #[test]
    fn a_rotation_is_declared_and_read_back_and_a_damaged_one_refused() {
        let plain = Config::from_json("c", &smollm2()).unwrap();
        let mut json = with("architectures", json!(["LlamaForCausalLM"]));
        plain.declare_rotation(json.as_object_mut().unwrap(), 5);
        assert!(json.get("architectures").is_none(), "no other program takes it for a Llama");
        let read = Config::from_json("c", &json).unwrap();
        assert_eq!(read.rotation(), Some(Hadamard::new(576, 5)));
        assert_eq!(Config { rotation_seed: None, ..read }, plain);
        for (key, value, expected) in [
            ("model_type", json!("llama"), "belongs to model_type \"rotated_llama\""),
            ("model_type", json!("rotated_gpt2"), "model_type \"rotated_gpt2\" is not supported"),
            ("model_type", json!("rotated_rotated_llama"), "is not supported"),
            ("residual_rotation", Value::Null, "is missing, which model_type \"rotated_llama\" needs"),
            ("residual_rotation", json!("hadamard"), "expected {\"kind\": \"hadamard\", \"seed\": 1}"),
            ("residual_rotation", json!({"kind": "learned", "seed": 1}), "is {\"kind\":\"learned\""),
            ("residual_rotation", json!({"kind": "hadamard", "seed": -1}), "expected"),
            ("residual_rotation", json!({"kind": "hadamard", "seed": 1, "order": 4}), "expected"),
        ] {
            let mut damaged = json.clone();
            damaged[key] = value;
            let text = message(&damaged);
            assert!(text.starts_with("m/config.json: ") && text.contains(expected), "{key}: {text}");
        }
    }

    #[test]
    fn absurd_values_are_refused() {
        for (key, value, expected) in [
            ("model_type", json!("gpt2"), "model_type \"gpt2\""),
            ("hidden_size", json!(0), "\"hidden_size\" is 0"),
            ("hidden_size", json!(577), "does not divide hidden_size"),
            ("num_hidden_layers", json!(4_000_000_000_u64), "\"num_hidden_layers\" is 4000000000"),
            ("num_key_value_heads", json!(4), "does not divide num_attention_heads"),
            ("head_dim", json!(63), "not even"),
            ("vocab_size", json!(-1), "\"vocab_size\" is -1"),
            ("rms_norm_eps", json!(0), "\"rms_norm_eps\" is 0"),
            ("rope_theta", json!("big"), "\"rope_theta\""),
            ("hidden_act", json!("gelu"), "hidden_act"),
            ("intermediate_size", Value::Null, "\"intermediate_size\" is missing"),
            ("tie_word_embeddings", json!(1), "expected true or false"),
        ] {
            let text = message(&with(key, value));
            assert!(text.starts_with("m/config.json: ") && text.contains(expected), "{key}: {text}");
        }
        let mut wide = with("num_attention_heads", json!(1 << 17));
        wide["num_key_value_heads"] = json!(1 << 17);
        wide["head_dim"] = json!(1024);
        assert!(message(&wide).contains("exceeds"));
        let mut qwen = with("model_type", json!("qwen2"));
        qwen["use_sliding_window"] = json!(true);
        qwen["sliding_window"] = json!(4096);
        assert!(message(&qwen).contains("use_sliding_window"));
    }
}
