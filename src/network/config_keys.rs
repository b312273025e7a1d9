//! Keys of a `config.json` that are not hyperparameters of a network here: those that change its arithmetic in a way that
//! is carried out for one value only, and those that change no number.
//!
//! A key of the first kind is compared with what is carried out, and any other value is refused by name. A key on neither
//! list, which no reader asked for, is named in a warning. Sources: `configuration_utils.py`, the configuration and the
//! modelling files of the seven families in transformers 5.24. Keys of other families (Granite, Gemma, Cohere, ...) are on
//! the list because files that call themselves Llama carry them.

use serde_json::Value;

use crate::error::Result;
use crate::network::keys::Keys;

/// The one value of a key that is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Only {
    /// This number.
    Number(f64),
    /// True or false.
    Flag(bool),
    /// One of these texts.
    Text(&'static [&'static str]),
    /// The key switched off: false, 0, or empty.
    Off,
    /// A list of as many 1 (or true) as it has entries.
    Ones,
}

/// Keys of decoders that are carried out for one value only.
pub(super) const DECODER: [(&str, Only); 51] = [
    ("activation_function", Only::Text(&SILU)),
    ("add_cross_attention", Only::Flag(false)),
    ("alibi", Only::Flag(false)),
    ("attention_logit_cap", Only::Off),
    ("attention_out_bias", Only::Flag(false)),
    ("attn_logit_softcapping", Only::Off),
    ("clamp_kqv", Only::Off),
    ("clip_qkv", Only::Off),
    ("embedding_multiplier", Only::Number(1.0)),
    ("embedding_scale", Only::Number(1.0)),
    ("final_logit_softcapping", Only::Off),
    ("hidden_act", Only::Text(&SILU)),
    ("hidden_activation", Only::Text(&SILU)),
    ("is_causal", Only::Flag(true)),
    ("is_encoder_decoder", Only::Flag(false)),
    ("key_multiplier", Only::Number(1.0)),
    ("kv_lora_rank", Only::Off),
    ("lm_head_bias", Only::Flag(false)),
    ("lm_head_multiplier", Only::Number(1.0)),
    ("logit_scale", Only::Number(1.0)),
    ("logits_scaling", Only::Number(1.0)),
    ("mlp_multipliers", Only::Ones),
    ("moe_num_experts", Only::Off),
    ("n_routed_experts", Only::Off),
    ("no_rope_layer_interval", Only::Off),
    ("no_rope_layers", Only::Ones),
    ("num_experts", Only::Off),
    ("num_experts_per_tok", Only::Off),
    ("num_local_experts", Only::Off),
    ("num_nextn_predict_layers", Only::Off),
    ("parallel_attn", Only::Flag(false)),
    ("partial_rotary_factor", Only::Number(1.0)),
    ("per_layer_config", Only::Off),
    ("prefix_lm", Only::Flag(false)),
    ("pruned_heads", Only::Off),
    ("q_lora_rank", Only::Off),
    ("residual_multiplier", Only::Number(1.0)),
    ("residual_scale", Only::Number(1.0)),
    ("rope_interleaved", Only::Flag(false)),
    ("rope_local_base_freq", Only::Off),
    ("rope_scaling_factor", Only::Number(1.0)),
    ("rotary_pct", Only::Number(1.0)),
    ("scale_depth", Only::Off),
    ("scale_emb", Only::Number(1.0)),
    ("scale_embedding", Only::Flag(false)),
    ("sliding_window_pattern", Only::Off),
    ("use_bidirectional_attention", Only::Flag(false)),
    ("use_dynamic_ntk", Only::Flag(false)),
    ("use_logn_attn", Only::Flag(false)),
    ("use_mrope", Only::Flag(false)),
    ("use_parallel_residual", Only::Flag(false)),
];

/// Names of the activation of decoders.
const SILU: [&str; 2] = ["silu", "swish"];

/// Keys of encoders that are carried out for one value only.
pub(super) const ENCODER: [(&str, Only); 11] = [
    ("add_cross_attention", Only::Flag(false)),
    ("alibi", Only::Flag(false)),
    ("is_causal", Only::Flag(false)),
    ("is_decoder", Only::Flag(false)),
    ("is_encoder_decoder", Only::Flag(false)),
    ("per_layer_config", Only::Off),
    ("position_embedding_type", Only::Text(&["absolute"])),
    ("pruned_heads", Only::Off),
    ("rope_scaling", Only::Off),
    ("rotary_emb_fraction", Only::Off),
    ("use_bidirectional_attention", Only::Flag(true)),
];

/// Keys that change no number of a network at work: names, training, generation, the shape of outputs.
pub(super) const SILENT: [&str; 94] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "architecture",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "directionality",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "generation_config",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "language",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "max_new_tokens",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "output_scores",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "vocab_file",
];

/// Configurations of the quantization, which the checkpoint has read.
const READ_BY_CHECKPOINT: [&str; 2] = ["quantization_config", "compression_config"];

impl Keys<'_> {
    /// Refuses a value of `key` other than the one that is carried out. A key that is missing or null is fine.
    pub(super) fn only(&self, key: &str, only: Only) -> Result<()> {
        let Some(value) = self.optional(key) else { return Ok(()) };
        let carried_out = match only {
            Only::Number(number) => value.as_f64().is_some_and(|x| (x - number).abs() <= 1e-6 * number.abs()),
            Only::Flag(flag) => *value == flag,
            Only::Text(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Only::Off => is_off(value),
            Only::Ones => value.as_array().is_some_and(|list| list.iter().all(is_one)),
        };
        if carried_out {
            return Ok(());
        }
        let expected = match only {
            Only::Number(number) => number.to_string(),
            Only::Flag(flag) => flag.to_string(),
            Only::Text(texts) => format!("\"{}\"", texts[0]),
            Only::Off => "null".into(),
            Only::Ones => "null, or a list of 1".into(),
        };
        Err(self.fault(format!("\"{key}\" is {value}, which is not supported; expected {expected}")))
    }

    /// Checks the keys of a table.
    pub(super) fn only_these(&self, table: &[(&str, Only)]) -> Result<()> {
        table.iter().try_for_each(|&(key, only)| self.only(key, only))
    }

    /// Warnings about the keys that nobody asked for and that are on no list.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.pass_over(&SILENT);
        self.pass_over(&READ_BY_CHECKPOINT);
        let mut warnings = Vec::new();
        if self.optional("auto_map").is_some() {
            warnings.push(format!(
                "{}: \"auto_map\" names code of the model's own, which is not run; the network is that of model_type",
                self.place
            ));
        }
        let unread = self.unread();
        if !unread.is_empty() {
            warnings.push(format!(
                "{}: keys that are not known here and are not carried out: {}; compare the results with another \
                 program's if one of them changes the network",
                self.place,
                listed(&unread)
            ));
        }
        warnings
    }
}

/// Names in a line of bounded length.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("\"{name:.60}\"")).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// False, 0, and what is empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn is_one(value: &Value) -> bool {
    *value == true || value.as_f64() == Some(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Config, EncoderConfig};
    use serde_json::json;

    fn decoder(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "hidden_act": "silu",
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": null
        })
    }

    fn encoder(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 300, "hidden_act": "gelu", "max_position_embeddings": 512,
            "layer_norm_eps": 1e-12
        })
    }

    /// Warnings, or the error.
    type Read = Result<Vec<String>>;
    type Table = &'static [(&'static str, Only)];
    /// A configuration of a family, its table and its reader.
    type Family = (Value, Table, fn(&Value) -> Read);

    /// Every family with its table and its reader.
    fn families() -> Vec<Family> {
        let decoders = ["llama", "mistral", "qwen2", "qwen3"].map(decoder);
        let encoders = ["bert", "roberta", "xlm-roberta"].map(encoder);
        let read_decoder: fn(&Value) -> Read = |json| Config::read("c", json).map(|(_, warnings)| warnings);
        let read_encoder: fn(&Value) -> Read = |json| EncoderConfig::read("c", json).map(|(_, warnings)| warnings);
        let decoders = decoders.into_iter().map(|json| (json, &DECODER[..], read_decoder));
        decoders.chain(encoders.into_iter().map(|json| (json, &ENCODER[..], read_encoder))).collect()
    }

    fn with(json: &Value, key: &str, value: Value) -> Value {
        let mut json = json.clone();
        json[key] = value;
        json
    }

    #[test]
    fn a_value_that_is_not_carried_out_is_refused_by_name() {
        for (json, table, read) in families() {
            assert!(read(&json).unwrap().is_empty());
            for &(key, only) in table {
                let accepted = match only {
                    Only::Number(number) => json!([number]),
                    Only::Flag(flag) => json!([flag]),
                    Only::Text(texts) => json!(texts),
                    Only::Off => json!([false, 0, 0.0, "", [], {}]),
                    Only::Ones => json!([[], [1, 1], [true], [1.0]]),
                };
                for value in accepted.as_array().unwrap().iter().chain([&Value::Null]) {
                    assert_eq!(read(&with(&json, key, value.clone())).unwrap(), [""; 0], "{key} {value}");
                }
                let opposite = Value::Bool(!matches!(only, Only::Flag(true)));
                for value in [json!(0.37), json!("other"), json!(["x"]), json!({"x": 1}), json!("Infinity"), opposite] {
                    let message = read(&with(&json, key, value.clone())).unwrap_err().to_string();
                    assert!(
                        message.contains(&format!("\"{key}\"")) || message.contains(key),
                        "{key} {value}: {message}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_name() {
        let numbers =
            ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"];
        let of_decoders = ["head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "sliding_window"];
        let flags = ["tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "is_decoder"];
        let others = ["rope_scaling", "rope_parameters", "layer_types", "architectures", "bos_token_id", "hidden_act"];
        for (json, table, read) in families() {
            let is_decoder = table.len() == DECODER.len();
            let keys = if is_decoder {
                [&of_decoders[..], &flags, &others].concat()
            } else {
                vec!["hidden_act", "architectures"]
            };
            for key in keys.into_iter().chain(numbers) {
                for value in [json!("text"), json!(-2), json!([[]]), json!({"x": []}), json!("NaN")] {
                    let message = read(&with(&json, key, value.clone())).unwrap_err().to_string();
                    assert!(message.contains(key), "{key} {value}: {message}");
                }
            }
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_named_in_one_warning_and_a_silent_one_is_not() {
        for (json, _, read) in families() {
            let mut json = json;
            for key in SILENT {
                json[key] = json!("Infinity");
            }
            assert!(read(&json).unwrap().is_empty());
            json["rope_wobble"] = json!(3);
            json["a_scale"] = json!("Infinity");
            json["nothing"] = Value::Null;
            let warnings = read(&json).unwrap();
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains(": \"a_scale\", \"rope_wobble\";"), "{}", warnings[0]);
            for key in 0..100 {
                json[format!("k{key}")] = json!(0);
            }
            assert!(read(&json).unwrap()[0].contains("and 82 more"));
            json["auto_map"] = json!({"AutoModel": "x.Y"});
            assert_eq!(read(&json).unwrap().len(), 2);
        }
    }

    #[test]
    fn the_tables_are_in_order_and_apart() {
        assert!(DECODER.is_sorted_by(|a, b| a.0 < b.0) && ENCODER.is_sorted_by(|a, b| a.0 < b.0) && SILENT.is_sorted());
        for key in SILENT {
            assert!(DECODER.iter().chain(&ENCODER).all(|(other, _)| *other != key), "{key}");
        }
    }

    #[test]
    fn keys_that_depend_on_the_family_mean_what_transformers_takes_them_for() {
        let read = |json: &Value| Config::from_json("c", json);
        let refused = |json: &Value, expected: &str| {
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected}: {message}");
        };
        let [llama, mistral, qwen2, qwen3] = ["llama", "mistral", "qwen2", "qwen3"].map(decoder);
        let without = |json: &Value, key: &str| {
            let mut json = json.clone();
            json.as_object_mut().unwrap().remove(key);
            json
        };
        // Defaults of keys that are missing; null is another thing.
        assert_eq!(read(&without(&mistral, "sliding_window")).unwrap().sliding_window, Some(4096));
        assert_eq!(read(&mistral).unwrap().sliding_window, None);
        assert_eq!(read(&without(&qwen3, "head_dim")).unwrap().head_dim, 128);
        assert_eq!(read(&without(&qwen2, "head_dim")).unwrap().head_dim, 16);
        assert_eq!(read(&with(&qwen2, "num_key_value_heads", Value::Null)).unwrap().kv_heads, 4);
        refused(&without(&mistral, "num_key_value_heads"), "num_key_value_heads 8 does not divide");
        assert_eq!(read(&without(&llama, "num_key_value_heads")).unwrap().kv_heads, 4);
        assert_eq!(read(&without(&llama, "rms_norm_eps")).unwrap().rms_norm_eps, 1e-6);
        // Windows.
        refused(&with(&llama, "sliding_window", json!(128)), "sliding_window 128 is not supported in a llama");
        assert!(read(&with(&llama, "sliding_window", json!(512))).is_ok());
        assert_eq!(read(&with(&mistral, "sliding_window", json!(128))).unwrap().sliding_window, Some(128));
        for qwen in [&qwen2, &qwen3] {
            let window = with(&with(qwen, "sliding_window", json!(128)), "max_window_layers", json!(1));
            assert_eq!(read(&window).unwrap().sliding_window, None);
            refused(&with(&window, "use_sliding_window", json!(true)), "use_sliding_window");
            let none = with(&window, "max_window_layers", json!(2));
            assert_eq!(read(&with(&none, "use_sliding_window", json!(true))).unwrap().sliding_window, None);
        }
        let types = |json: &Value, types: [&str; 2]| with(json, "layer_types", json!(types));
        assert!(read(&types(&qwen3, ["full_attention"; 2])).is_ok());
        refused(&types(&qwen3, ["full_attention", "sliding_attention"]), "sliding_attention");
        refused(&with(&qwen3, "layer_types", json!(["full_attention"])), "1 entries, but num_hidden_layers is 2");
        let window = with(&mistral, "sliding_window", json!(128));
        assert!(read(&types(&window, ["sliding_attention"; 2])).is_ok());
        refused(&types(&window, ["full_attention"; 2]), "full_attention");
        // Biases, norms and scales that follow from other keys.
        for bias in [true, false] {
            let config = read(&with(&qwen2, "attention_bias", json!(bias))).unwrap();
            assert!(config.qkv_bias && !config.output_bias);
        }
        refused(&with(&llama, "qkv_bias", json!(true)), "qkv_bias");
        assert!(read(&with(&qwen3, "use_qk_norm", json!(true))).is_ok());
        refused(&with(&llama, "use_qk_norm", json!(true)), "use_qk_norm");
        assert!(read(&with(&llama, "attention_multiplier", json!(0.25))).is_ok());
        refused(&with(&llama, "attention_multiplier", json!(0.015625)), "attention_multiplier");
        refused(&with(&llama, "query_pre_attn_scalar", json!(256)), "query_pre_attn_scalar");
        // Classes.
        for (class, expected) in
            [("LlamaForSequenceClassification", "causal language models"), ("LlamaBiModel", "causal language models")]
        {
            refused(&with(&llama, "architectures", json!([class])), expected);
        }
        let of_another = Config::read("c", &with(&llama, "architectures", json!(["Qwen2ForCausalLM"]))).unwrap().1;
        assert_eq!(
            of_another,
            ["c: architecture \"Qwen2ForCausalLM\" is of qwen2; the network is that of model_type \"llama\""]
        );
        for class in ["LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "YiForCausalLM"] {
            assert!(read(&with(&llama, "architectures", json!([class]))).is_ok(), "{class}");
        }
        // Encoders.
        let first = |json: &Value| EncoderConfig::from_json("c", json).map(|config| config.first_position);
        let roberta = encoder("roberta");
        assert_eq!(first(&roberta).unwrap(), 2);
        assert_eq!(first(&with(&roberta, "pad_token_id", json!(0))).unwrap(), 1);
        assert!(first(&with(&roberta, "pad_token_id", Value::Null)).is_err());
        assert_eq!(first(&with(&encoder("bert"), "pad_token_id", Value::Null)).unwrap(), 0);
    }
}
