//! Why a checkpoint has tensors that its network does not read, or lacks some: the remedy, with the key of the config
//! that belongs to it.

use crate::network::Architecture;
use crate::network::pre_quant_scales::PRE_QUANT_SCALE;
use crate::network::tensor_list::{HEAD, TensorList};

/// Names listed in a message.
const LISTED: usize = 3;

/// Parts of names that adapters have and no network.
const ADAPTER: [&str; 7] =
    ["lora_", "modules_to_save", "base_layer", "original_module", "prompt_encoder", "ia3_", "oft_"];

/// Parts of quantized weights, by the formats that are in use.
const QUANTIZED: [&str; 28] = [
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "output_zero_point",
    "qweight",
    "qzeros",
    "scales",
    "biases",
    "g_idx",
    "scale",
    "zero_point",
    "k_scale",
    "v_scale",
    "SCB",
    "absmax",
    "quant_map",
    "nested_absmax",
    "_weight_qdata",
    "weight_format",
];

/// Says that `unread` are read by no layer, and why that may be; `missing` are the tensors that the network lacks.
pub(super) fn explain(list: &TensorList<'_>, unread: &[&str], missing: &[&str]) -> String {
    let reason = reason(list, unread[0]);
    let same = unread.iter().filter(|name| self::reason(list, name) == reason).copied().collect::<Vec<_>>();
    let others = unread.len() - same.len();
    let also =
        if others > 0 { format!("; {others} more tensors are not read for other reasons") } else { String::new() };
    let lacks = match missing {
        [] => String::new(),
        [first, ..] => format!("; {}\"{first}\" is missing", count_before(missing.len())),
    };
    format!("no layer reads it{}: {reason}{also}{lacks}", list_of(&same[1..]))
}

/// Says that `missing` are missing, and what the config has to do with it.
pub(super) fn explain_missing(list: &TensorList<'_>, missing: &[&str]) -> String {
    let remedy = "fetch the model again, or check that its config belongs to it";
    let (layers, present) = (list.architecture().layers(), list.blocks_in_file());
    let beyond = |name: &&str| list.block_of(name).is_some_and(|block| block >= present);
    let problem = if missing == [HEAD] {
        "the head has no weights; if it is the embedding, set tie_word_embeddings to true in config.json".to_owned()
    } else if present < layers && missing.iter().any(beyond) {
        format!("num_hidden_layers is {layers}, the file has {present} blocks; {remedy}")
    } else {
        remedy.to_owned()
    };
    format!("is missing{}; {problem}", list_of(&missing[1..]))
}

/// ` (also "a", "b" and 7 more)`.
fn list_of(names: &[&str]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let listed: Vec<String> = names.iter().take(LISTED - 1).map(|name| format!("\"{name}\"")).collect();
    let more = names.len() - listed.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(" (also {}{more})", listed.join(", "))
}

fn count_before(count: usize) -> String {
    if count > 1 { format!("{count} tensors, of which ") } else { String::new() }
}

/// Why no layer reads a tensor, and what to do.
fn reason(list: &TensorList<'_>, name: &str) -> String {
    let architecture = list.architecture();
    let part = name.rsplit('.').next().unwrap_or(name);
    if name.ends_with(PRE_QUANT_SCALE) {
        return "explicit scales of inputs are supported in the blocks of encoders only; fold it into a weight".into();
    }
    if ADAPTER.iter().any(|part| name.split('.').any(|piece| piece.starts_with(part))) {
        return "it belongs to an adapter; merge the adapter into the model first (merge_and_unload of peft)".into();
    }
    if let Some(prefix) = prefix(list, name) {
        return prefix;
    }
    if QUANTIZED.contains(&part) || name.contains("fake_quant") || name.contains(".quant_state") {
        return "it is part of a quantized weight, but the quantization_config of config.json is missing or does not \
                explain it; add the configuration, or remove what an earlier quantization left behind"
            .into();
    }
    if let Some(block) = list.block_of(name).filter(|block| *block >= architecture.layers()) {
        let layers = architecture.layers();
        return format!(
            "it belongs to block {block}, but num_hidden_layers is {layers}; check that the config is the model's"
        );
    }
    match architecture {
        Architecture::Decoder(config) => of_decoder(&config.model_type, name),
        Architecture::Encoder { config, .. } => of_encoder(config.classifies, name, part),
    }
}

/// A name that would be read behind another prefix.
fn prefix(list: &TensorList<'_>, name: &str) -> Option<String> {
    let published = format!("model.{name}");
    if list.reads(&published) {
        let problem = "its name lacks \"model.\" in front, as where the network was saved without its head; save the whole \
                       model (AutoModelForCausalLM)";
        return Some(problem.into());
    }
    let places = name.match_indices('.').map(|(at, _)| at + 1);
    let at = places.into_iter().find(|&at| list.reads(&name[at..]) || list.reads(&format!("model.{}", &name[at..])))?;
    let (prefix, rest) = name.split_at(at);
    // What is left of `x.model.layers...` begins with `model.`.
    let prefix = if list.reads(rest) { prefix } else { prefix.strip_suffix("model.").unwrap_or(prefix) };
    let (prefix, how) = match prefix {
        "" => return None,
        "_orig_mod." => (prefix, "torch.compile put it there; save the model that was compiled"),
        "module." => (prefix, "a parallel wrapper put it there; save the model inside"),
        _ if prefix.starts_with("base_model.") => {
            (prefix, "an adapter put it there; merge it (merge_and_unload of peft)")
        }
        _ => (prefix, "a wrapper put it there"),
    };
    Some(format!("its name has \"{prefix}\" in front; {how}, or rename the tensors"))
}

fn of_decoder(model_type: &str, name: &str) -> String {
    let layer = name.strip_suffix(".bias").and_then(|module| module.rsplit('.').next());
    let key = match layer {
        Some("q_proj" | "k_proj" | "v_proj") if model_type != "qwen2" => {
            "attention_bias is not true in config.json, and model_type is not qwen2"
        }
        Some("o_proj") => "attention_bias is not true in config.json",
        Some("gate_proj" | "up_proj" | "down_proj") => "mlp_bias is not true in config.json",
        _ if name.contains("q_norm") || name.contains("k_norm") => {
            "its layers normalize heads only as model_type qwen3"
        }
        _ if name == HEAD => "tie_word_embeddings is true in config.json",
        _ => "a model of this kind has no such tensor; check model_type and architectures",
    };
    format!("model_type is {model_type}; {key}; check that the config is the model's")
}

fn of_encoder(classifies: bool, name: &str, part: &str) -> String {
    if matches!(part, "gamma" | "beta") {
        return "gamma and beta are former names of a norm's weight and bias; save the model again with transformers"
            .into();
    }
    if name.starts_with("classifier.") && !classifies {
        return "architectures in config.json does not say ...ForSequenceClassification; check that the config is the model's"
            .into();
    }
    "a model of this kind has no such tensor; check model_type and architectures in config.json".into()
}
