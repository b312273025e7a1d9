//! Hyperparameters of an encoder of the BERT family (Devlin et al. 2018, arXiv:1810.04805), read from `config.json`.
//!
//! RoBERTa and XLM-RoBERTa are the same network; their positions begin after the padding token's id. Key names and
//! defaults are those of Hugging Face transformers (`configuration_bert.py`, `configuration_roberta.py`).

use serde_json::Value;

use crate::checkpoint::ENCODERS;
use crate::error::Result;
use crate::kernels::Gelu;
use crate::network::config::{MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH};
use crate::network::config_keys::{ENCODER, Only};
use crate::network::keys::Keys;

/// Hyperparameters; all sizes checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// `bert`, `roberta`, `xlm-roberta`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads; divides `hidden_size`.
    pub heads: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Rows of the table of positions.
    pub position_rows: usize,
    /// Row of the first position.
    pub first_position: usize,
    /// Rows of the table of token types; all tokens are of type 0.
    pub token_types: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Activation of the feed-forward layer.
    pub gelu: Gelu,
    /// The model ends in a classification head (`...ForSequenceClassification`), not in token states.
    pub classifies: bool,
}

impl EncoderConfig {
    /// Whether a `config.json` is that of an encoder.
    pub fn describes(json: &Value) -> bool {
        json["model_type"].as_str().is_some_and(|kind| ENCODERS.contains(&kind))
    }

    /// Reads and checks a `config.json`; `place` names the file in errors.
    ///
    /// # Errors
    /// A missing or absurd value, a key that changes the arithmetic in a way that is not carried out, or an architecture
    /// that is not supported.
    pub fn from_json(place: &str, json: &Value) -> Result<Self> {
        EncoderConfig::read(place, json).map(|(config, _)| config)
    }

    /// As [`EncoderConfig::from_json`], with warnings about keys that are not known.
    ///
    /// # Errors
    /// As [`EncoderConfig::from_json`].
    pub fn read(place: &str, json: &Value) -> Result<(Self, Vec<String>)> {
        let keys = &Keys::new(place, json);
        let model_type = keys.text("model_type")?;
        if !EncoderConfig::describes(json) {
            let problem = "supported encoders are bert, roberta and xlm-roberta";
            return Err(keys.fault(format!("model_type \"{model_type}\" is not supported; {problem}")));
        }
        keys.only_these(&ENCODER)?;
        let first_position = first_position(keys, &model_type)?;
        let config = EncoderConfig {
            hidden_size: keys.size("hidden_size", MAX_WIDTH)?,
            intermediate_size: keys.size("intermediate_size", MAX_WIDTH)?,
            layers: keys.size("num_hidden_layers", MAX_LAYERS)?,
            heads: keys.size("num_attention_heads", MAX_WIDTH)?,
            vocab_size: keys.size("vocab_size", MAX_VOCABULARY)?,
            position_rows: keys.size("max_position_embeddings", MAX_POSITIONS)?,
            first_position,
            token_types: keys.size_or("type_vocab_size", MAX_WIDTH, 2)?,
            layer_norm_eps: keys.optional_number("layer_norm_eps", 0.0, 0.1)?.unwrap_or(1e-12) as f32,
            gelu: gelu(keys)?,
            classifies: classifies(keys)?,
            model_type,
        };
        keys.only("embedding_size", Only::Number(config.hidden_size as f64))?;
        keys.optional_flag("tie_word_embeddings")?;
        for key in ["bos_token_id", "eos_token_id"] {
            keys.token_ids(key)?;
        }
        if !config.hidden_size.is_multiple_of(config.heads) {
            let (heads, width) = (config.heads, config.hidden_size);
            return Err(keys.fault(format!("num_attention_heads {heads} does not divide hidden_size {width}")));
        }
        if config.position_rows <= first_position {
            let rows = config.position_rows;
            return Err(keys.fault(format!("max_position_embeddings {rows} leaves no position after pad_token_id")));
        }
        Ok((config, keys.warnings()))
    }

    /// Longest sequence.
    pub fn max_positions(&self) -> usize {
        self.position_rows - self.first_position
    }
}

/// Row of the first position: 0 in BERT, behind the padding token's in the other families, where that is 1 if the file
/// does not say.
fn first_position(keys: &Keys<'_>, model_type: &str) -> Result<usize> {
    match keys.stated("pad_token_id") {
        _ if model_type == "bert" => keys.token_ids("pad_token_id").map(|()| 0),
        None => Ok(2),
        Some(_) => Ok(keys.count("pad_token_id", 0, MAX_VOCABULARY)? + 1),
    }
}

fn gelu(keys: &Keys<'_>) -> Result<Gelu> {
    match keys.optional_text("hidden_act")?.as_deref().unwrap_or("gelu") {
        "gelu" | "gelu_python" => Ok(Gelu::Erf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" => Ok(Gelu::Tanh),
        other => Err(keys.fault(format!(
            "hidden_act \"{other}\" is not supported; supported are gelu, gelu_new, gelu_fast and gelu_pytorch_tanh"
        ))),
    }
}

/// Whether the network's own class ends in a classifier; other heads than that are refused.
fn classifies(keys: &Keys<'_>) -> Result<bool> {
    let architectures = keys.texts("architectures")?;
    let Some(name) = architectures.first() else { return Ok(false) };
    // Token states are the same below a head for masked words, which is left out.
    let states = ["Model", "ForMaskedLM", "ForPreTraining"].iter().any(|end| name.ends_with(end));
    match name.ends_with("ForSequenceClassification") {
        false if !states => Err(keys.fault(format!(
            "architecture \"{name}\" is not supported; supported are models of token states and of sequence \
             classification"
        ))),
        classifies => Ok(classifies),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn minilm() -> Value {
        json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 384, "intermediate_size": 1536,
            "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "position_embedding_type": "absolute"
        })
    }

    #[test]
    fn bert_as_published_and_roberta_with_its_first_position() {
        let config = EncoderConfig::from_json("c", &minilm()).unwrap();
        assert_eq!((config.max_positions(), config.gelu, config.classifies), (512, Gelu::Erf, false));
        let mut json = minilm();
        json["model_type"] = "xlm-roberta".into();
        json["architectures"] = json!(["XLMRobertaForSequenceClassification"]);
        json["pad_token_id"] = 1.into();
        json["max_position_embeddings"] = 514.into();
        let config = EncoderConfig::from_json("c", &json).unwrap();
        assert_eq!((config.max_positions(), config.first_position, config.classifies), (512, 2, true));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, expected) in [
            ("model_type", json!("llama"), "model_type \"llama\""),
            ("hidden_act", json!("relu"), "hidden_act \"relu\""),
            ("num_attention_heads", json!(7), "does not divide hidden_size"),
            ("position_embedding_type", json!("relative_key"), "\"position_embedding_type\" is \"relative_key\""),
            ("architectures", json!(["BertForTokenClassification"]), "BertForTokenClassification"),
            ("layer_norm_eps", json!(0), "\"layer_norm_eps\" is 0"),
        ] {
            let mut json = minilm();
            json[key] = value;
            let message = EncoderConfig::from_json("m/config.json", &json).unwrap_err().to_string();
            assert!(message.starts_with("m/config.json: ") && message.contains(expected), "{key}: {message}");
        }
    }
}
