//! Hyperparameters of a Llama-family decoder, read from `config.json` keys.
//!
//! The families differ in a few switches only: Qwen2 has biases on q, k and v, Qwen3 normalizes every query and key
//! head, Mistral may bound how far back a token looks. Key names and defaults are those of Hugging Face transformers
//! (`configuration_llama.py`, `configuration_mistral.py`, `configuration_qwen2.py`, `configuration_qwen3.py`).

use serde_json::{Value, json};

use crate::error::Result;
use crate::kernels::Hadamard;
use crate::network::keys::Keys;

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

/// Stretching of rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low` are divided.
        low: f64,
        /// Wavelengths below `original_positions / high` are kept.
        high: f64,
        /// Context length before stretching.
        original_positions: f64,
    },
    /// Frequency `i` divided by `factors[i]`: how GGUF files state Llama 3.1's stretching.
    Factors(Vec<f32>),
}

/// Largest value accepted for every size: beyond any published model, small enough that products of two fit memory
/// arithmetic.
pub(super) const MAX_WIDTH: usize = 1 << 18;
pub(super) const MAX_VOCABULARY: usize = 1 << 22;
pub(super) const MAX_POSITIONS: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 10;

/// What `model_type` begins with where the residual stream is rotated. No other program knows such a type, so none reads the
/// blocks' weights as those of the model that they were made of.
const ROTATED: &str = "rotated_";
const ROTATION: &str = "residual_rotation";

impl Config {
    /// Reads and checks a `config.json`; `place` names the file in errors.
    ///
    /// # Errors
    /// A missing or absurd value, or an architecture that is not supported.
    pub fn from_json(place: &str, json: &Value) -> Result<Self> {
        let keys = Keys { place, json };
        let published_type = keys.text("model_type")?;
        let rotation_seed = keys.rotation_seed(&published_type)?;
        let model_type = published_type.strip_prefix(ROTATED).unwrap_or(&published_type).to_owned();
        if !matches!(model_type.as_str(), "llama" | "mistral" | "qwen2" | "qwen3") {
            return Err(keys.fault(format!(
                "model_type \"{published_type}\" is not supported; supported are llama, mistral, qwen2 and qwen3"
            )));
        }
        if let Some(act) = keys.optional("hidden_act").and_then(Value::as_str).filter(|&a| a != "silu") {
            return Err(keys.fault(format!("hidden_act \"{act}\" is not supported; expected \"silu\"")));
        }
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let heads = keys.size("num_attention_heads", MAX_WIDTH)?;
        let attention_bias = keys.flag("attention_bias", false)?;
        let config = Config {
            hidden_size,
            intermediate_size: keys.size("intermediate_size", MAX_WIDTH)?,
            layers: keys.size("num_hidden_layers", MAX_LAYERS)?,
            heads,
            kv_heads: keys.size_or("num_key_value_heads", MAX_WIDTH, heads)?,
            head_dim: keys.size_or("head_dim", MAX_HEAD_DIM, hidden_size / heads)?,
            vocab_size: keys.size("vocab_size", MAX_VOCABULARY)?,
            max_positions: keys.size("max_position_embeddings", MAX_POSITIONS)?,
            rms_norm_eps: keys.number("rms_norm_eps", 0.0, 0.1)? as f32,
            tied_head: keys.flag("tie_word_embeddings", false)?,
            rope_theta: keys.rope_theta()?,
            rope_scaling: keys.rope_scaling()?,
            qkv_bias: model_type == "qwen2" || attention_bias,
            output_bias: model_type != "qwen2" && attention_bias,
            mlp_bias: keys.flag("mlp_bias", false)?,
            qk_norm: model_type == "qwen3",
            sliding_window: keys.sliding_window(&model_type)?,
            model_type,
            rotation_seed,
        };
        config.check(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(keys.fault(format!(
                "num_key_value_heads {} does not divide num_attention_heads {}",
                self.kv_heads, self.heads
            )));
        }
        if keys.optional("head_dim").is_none() && !self.hidden_size.is_multiple_of(self.heads) {
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

impl Keys<'_> {
    /// The rotary settings: `rope_parameters` since transformers 5, `rope_scaling` before.
    fn rope(&self) -> Option<&Value> {
        self.optional("rope_parameters").or_else(|| self.optional("rope_scaling"))
    }

    fn rope_theta(&self) -> Result<f64> {
        const MAX_THETA: f64 = 1e12;
        match self.rope() {
            Some(rope) if rope.get("rope_theta").is_some() => self.number_in(rope, "rope_theta", 1.0, MAX_THETA),
            _ if self.optional("rope_theta").is_some() => self.number("rope_theta", 1.0, MAX_THETA),
            _ => Ok(10_000.0),
        }
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        const MAX_FACTOR: f64 = 1e6;
        let Some(rope) = self.rope() else { return Ok(RopeScaling::None) };
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.number_in(rope, "factor", 0.0, MAX_FACTOR)? }),
            "llama3" => {
                let low = self.number_in(rope, "low_freq_factor", 0.0, MAX_FACTOR)?;
                Ok(RopeScaling::Llama3 {
                    factor: self.number_in(rope, "factor", 0.0, MAX_FACTOR)?,
                    low,
                    high: self.number_in(rope, "high_freq_factor", low, MAX_FACTOR)?,
                    original_positions: self.number_in(
                        rope,
                        "original_max_position_embeddings",
                        0.0,
                        MAX_POSITIONS as f64,
                    )?,
                })
            }
            "frequency_factors" => self.frequency_factors(rope).map(RopeScaling::Factors),
            other => Err(self
                .fault(format!("rope scaling \"{other}\" is not supported; supported are default, linear and llama3"))),
        }
    }

    fn frequency_factors(&self, rope: &Value) -> Result<Vec<f32>> {
        let factors = rope.get("factors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        factors
            .iter()
            .map(|factor| {
                factor
                    .as_f64()
                    .map(|f| f as f32)
                    .filter(|f| f.is_finite() && *f > 0.0)
                    .ok_or_else(|| self.fault(format!("rotary frequency factor {factor} is not a number above 0")))
            })
            .collect()
    }

    /// The seed of `residual_rotation`, which a rotated `model_type` has and no other.
    fn rotation_seed(&self, model_type: &str) -> Result<Option<u64>> {
        let form = "{\"kind\": \"hadamard\", \"seed\": 1}, say";
        let rotation = match (self.optional(ROTATION), model_type.starts_with(ROTATED)) {
            (None, false) => return Ok(None),
            (Some(rotation), true) => rotation,
            (None, true) => {
                let problem =
                    format!("\"{ROTATION}\" is missing, which model_type \"{model_type}\" needs; expected {form}");
                return Err(self.fault(problem));
            }
            (Some(_), false) => {
                let problem =
                    format!("\"{ROTATION}\" belongs to model_type \"{ROTATED}{model_type}\", got \"{model_type}\"");
                return Err(self.fault(format!("{problem}; one of the two was changed, quantize the model again")));
            }
        };
        let keys = rotation.as_object().filter(|keys| keys.len() == 2);
        let kind = keys.and_then(|keys| keys.get("kind")).and_then(Value::as_str);
        let seed = keys.and_then(|keys| keys.get("seed")).and_then(Value::as_u64);
        match (kind, seed) {
            (Some("hadamard"), Some(seed)) => Ok(Some(seed)),
            _ => Err(self.fault(format!("\"{ROTATION}\" is {rotation}; expected {form}"))),
        }
    }

    /// Mistral bounds all layers; Qwen files carry a window that `use_sliding_window` switches on for some layers.
    fn sliding_window(&self, model_type: &str) -> Result<Option<usize>> {
        match model_type {
            "mistral" if self.optional("sliding_window").is_some() => {
                Ok(Some(self.size("sliding_window", MAX_POSITIONS)?))
            }
            "qwen2" | "qwen3" if self.flag("use_sliding_window", false)? => Err(self.fault(
                "use_sliding_window is true; windows in some layers only are not supported, set it to false for \
                 contexts shorter than sliding_window"
                    .to_owned(),
            )),
            _ => Ok(None),
        }
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
    fn rotary_scaling_in_both_spellings() {
        let linear = with("rope_scaling", json!({"type": "linear", "factor": 2.0}));
        assert_eq!(Config::from_json("c", &linear).unwrap().rope_scaling, RopeScaling::Linear { factor: 2.0 });
        let llama3 = with(
            "rope_parameters",
            json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
        );
        let config = Config::from_json("c", &llama3).unwrap();
        assert_eq!(config.rope_theta, 500_000.0);
        assert_eq!(
            config.rope_scaling,
            RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original_positions: 8192.0 }
        );
        let factors: Vec<f32> = (1..=32).map(|f| f as f32).collect();
        let gguf = with("rope_scaling", json!({"rope_type": "frequency_factors", "factors": factors}));
        assert_eq!(Config::from_json("c", &gguf).unwrap().rope_scaling, RopeScaling::Factors(factors));
        let short = with("rope_scaling", json!({"rope_type": "frequency_factors", "factors": [1.0]}));
        assert!(message(&short).contains("expected 32 rotary frequency factors"));
        let negative = with("rope_scaling", json!({"rope_type": "frequency_factors", "factors": [-1.0]}));
        assert!(message(&negative).contains("-1"));
        let yarn = with("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}));
        assert!(message(&yarn).contains("rope scaling \"yarn\" is not supported"));
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
        assert!(message(&qwen).contains("use_sliding_window"));
    }
}
