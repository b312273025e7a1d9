//! A Llama of a few thousand weights with a byte-level tokenizer, a text and a suite, so that the real program can be
//! run from end to end in seconds.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quantbench::results::{Evidence, Run, read_journal};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

const HIDDEN: usize = 64;
const FFN: usize = 128;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const LAYERS: usize = 2;
const VOCABULARY: usize = 256;

/// A folder with model, text, suite and a cache of its own.
pub struct Place {
    pub root: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        write(root.path());
        Place { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn bench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("bench"));
        command.args(arguments).current_dir(self.root.path()).env("BENCH_CACHE", self.path("cache"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.bench(arguments).output().unwrap()
    }

    pub fn evidence(&self, run: &str) -> Evidence {
        Evidence::from_events(read_journal(&self.path(run)).unwrap().events).unwrap()
    }

    pub fn judged(&self, run: &str) -> Run {
        serde_json::from_slice(&fs::read(self.path(run).join("run.json")).unwrap()).unwrap()
    }
}

pub fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a run came to its end, whatever its verdict. One of a few blocks on a busy machine may be judged invalid, as the
/// reference does not tie with itself in time: no test rests on that.
pub fn ended(output: &Output) -> bool {
    match output.status.code() {
        Some(0 | 1 | 3) => true,
        Some(5) => said(output).contains("INVALID: the reference does not tie"),
        _ => false,
    }
}

/// Writes `model/`, `text/*.txt` and `suite.toml` into `folder`.
pub fn write(folder: &Path) {
    let model = folder.join("model");
    fs::create_dir_all(&model).unwrap();
    fs::create_dir_all(folder.join("text")).unwrap();
    write_config(&model);
    write_weights(&model);
    write_tokenizer(&model);
    for document in 0..8 {
        fs::write(folder.join(format!("text/{document}.txt")), text(document)).unwrap();
    }
    fs::write(folder.join("suite.toml"), SUITE).unwrap();
}

pub const SUITE: &str = r#"
title = "a tiny model"
model = "path:model"
[data]
calibration = { source = "path:text/*.txt", documents = "0..3", windows = 8, length = 32 }
[[task]]
kind = "perplexity"
data = { source = "path:text/*.txt", documents = "3..8" }
length = 32
windows = 20
[workload]
prompt = 16
generate = 4
threads = [1]
iterations = 2
blocks = 2
[accept]
accuracy = { metric = "perplexity", max_increase_percent = 5 }
speed = { metric = "decode", min_speedup = 1.01 }
[[variant]]
name = "int8"
method = "rtn"
weights = { bits = 8, granularity = "channel" }
activations = { bits = 8, granularity = "token", mode = "dynamic" }
[[variant]]
name = "int4-gptq"
method = "gptq"
weights = { bits = 4, granularity = "group", group_size = 32 }
"#;

/// Names of the suite's variants, the reference included.
pub const VARIANTS: [&str; 3] = ["fp16", "int4-gptq", "int8"];

fn write_config(model: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
    });
    fs::write(model.join("config.json"), config.to_string()).unwrap();
}

fn write_weights(model: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut state = 1_u32;
    let mut add = |name: String, shape: Vec<usize>| {
        let norm = shape.len() == 1;
        let scale = if norm { 0.1 } else { 1.5 / (*shape.last().unwrap() as f32).sqrt() };
        let values = (0..shape.iter().product()).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale;
            (if norm { 1.0 + value } else { value }).to_le_bytes()
        });
        tensors.push((name, shape, values.collect()));
    };
    add("model.embed_tokens.weight".into(), vec![VOCABULARY, HIDDEN]);
    add("model.norm.weight".into(), vec![HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("input_layernorm"), vec![HIDDEN]);
        add(name("post_attention_layernorm"), vec![HIDDEN]);
        add(name("self_attn.q_proj"), vec![HEADS * HEAD_DIM, HIDDEN]);
        add(name("self_attn.k_proj"), vec![KV_HEADS * HEAD_DIM, HIDDEN]);
        add(name("self_attn.v_proj"), vec![KV_HEADS * HEAD_DIM, HIDDEN]);
        add(name("self_attn.o_proj"), vec![HIDDEN, HEADS * HEAD_DIM]);
        add(name("mlp.gate_proj"), vec![FFN, HIDDEN]);
        add(name("mlp.up_proj"), vec![FFN, HIDDEN]);
        add(name("mlp.down_proj"), vec![HIDDEN, FFN]);
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &model.join("model.safetensors")).unwrap();
}

/// Byte-level BPE without merges: a token a byte.
fn write_tokenizer(model: &Path) {
    // The printable form that byte-level BPE gives every byte: itself where it prints, else 256 and up in order.
    let prints = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let vocabulary: BTreeMap<String, u32> = (0..256)
        .map(|byte| {
            let form = if prints(byte) { byte } else { (next, next += 1).0 };
            (char::from_u32(form).unwrap().to_string(), byte)
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": [] },
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Multiple-choice items as texts: passage, continuations, answer, document. The right continuation is the text's own.
pub fn items() -> Vec<(String, Vec<String>, usize, usize)> {
    let item = |at: usize| {
        let (document, place) = (at / 6, 40 * (at % 6));
        let part = |document: usize, from: usize| text(document)[from..from + 8 + at % 2].to_string();
        let mut continuations: Vec<String> = (1..4).map(|other| part((document + other) % 8, place + 24)).collect();
        continuations.insert(at % 4, part(document, place + 24));
        (text(document)[place..place + 24].to_string(), continuations, at % 4, document)
    };
    (0..48).map(item).collect()
}

/// Writes [`items`] as a choice file and as lines of JSON.
pub fn write_choices(folder: &Path) {
    let (mut ids, mut bounds, mut lines) = (Vec::new(), Vec::new(), String::new());
    let items = items();
    for (passage, continuations, answer, document) in &items {
        for part in std::iter::once(passage).chain(continuations) {
            bounds.push(ids.len() as u32);
            ids.extend(part.bytes().map(u32::from));
        }
        bounds.push(ids.len() as u32);
        let line = json!({ "passage": passage, "continuations": continuations, "answer": answer,
                           "document": document.to_string() });
        lines.push_str(&format!("{line}\n"));
    }
    let vector = |name, dtype, values: Vec<u32>| Numbers { name, dtype, shape: vec![values.len()], values };
    let tensors = [
        vector("ids", Dtype::U16, ids),
        Numbers { name: "items", dtype: Dtype::U32, shape: vec![items.len(), 6], values: bounds },
        vector("answers", Dtype::U8, items.iter().map(|i| i.2 as u32).collect()),
        vector("genres", Dtype::U8, items.iter().map(|i| i.3 as u32 % 2).collect()),
        vector("documents", Dtype::U32, items.iter().map(|i| i.3 as u32).collect()),
    ];
    let metadata = [
        ("kind", "choice".into()),
        ("genres", json!(["even", "odd"]).to_string()),
        ("tokenizer", tokenizer_sha256(folder)),
    ];
    write_numbers(&folder.join("choice.safetensors"), &tensors, &metadata);
    fs::write(folder.join("choice.jsonl"), lines).unwrap();
}

fn text(document: usize) -> String {
    let words = ["scale", "zero", "point", "group", "tensor", "weight", "token", "block"];
    (0..60).map(|i| words[(i * (document + 3) + i / 7 + document) % words.len()]).collect::<Vec<_>>().join(" ")
}

/// SHA-256 of the tiny model's `tokenizer.json`, as token files name it.
pub fn tokenizer_sha256(folder: &Path) -> String {
    use sha2::{Digest, Sha256};
    let json = fs::read(folder.join("model/tokenizer.json")).unwrap();
    Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An unsigned tensor of a data file.
pub struct Numbers {
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub values: Vec<u32>,
}

/// Writes a data file: unsigned tensors and metadata.
pub fn write_numbers(path: &Path, tensors: &[Numbers], metadata: &[(&str, String)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()[..t.dtype.bitsize() / 8].to_vec()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes);
    let views = views.map(|(t, bytes)| (t.name, TensorView::new(t.dtype, t.shape.clone(), bytes).unwrap()));
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_string(), value.clone())).collect();
    serialize_to_file(views, Some(metadata), path).unwrap();
}

/// Writes the documents of `text/` as a token file; a byte is a token.
pub fn write_tokens(folder: &Path, path: &Path, tokenizer: &str) {
    let (mut ids, mut starts) = (Vec::new(), vec![0]);
    for document in 0..8 {
        ids.extend(text(document).bytes().map(u32::from));
        starts.push(ids.len() as u32);
    }
    let genres = (0..8).map(|document| document % 2).collect();
    let vector = |name, dtype, values: Vec<u32>| Numbers { name, dtype, shape: vec![values.len()], values };
    let names: Vec<String> = (0..8).map(|document| format!("{document}.txt")).collect();
    let metadata = [
        ("kind", "tokens".into()),
        ("genres", json!(["even", "odd"]).to_string()),
        ("names", json!(names).to_string()),
        ("tokenizer", tokenizer.to_string()),
    ];
    let tensors =
        [vector("ids", Dtype::U16, ids), vector("starts", Dtype::U32, starts), vector("genres", Dtype::U8, genres)];
    write_numbers(&folder.join(path), &tensors, &metadata);
}

/// Gives a tensor of `model/` this value at place `at`.
pub fn set_weight(folder: &Path, tensor: &str, at: usize, value: f32) {
    let path = folder.join("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header + 4 * at;
    bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Sets a key of `model/config.json`.
pub fn set_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("model/config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

/// Makes byte 255, which no UTF-8 text has, the beginning-of-sequence token `<s>`, which the tokenizer puts before texts.
pub fn add_bos(folder: &Path) {
    let path = folder.join("model/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.retain(|_, id| *id != 255);
    vocabulary.insert("<s>".into(), 255.into());
    json["added_tokens"] = json!([{ "id": 255, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                                    "normalized": false, "special": true }]);
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                 { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [255], "tokens": ["<s>"] } },
    });
    fs::write(path, json.to_string()).unwrap();
}
