//! Every command opens a model by the same check: a tensor that no layer reads, that is missing or has another shape makes
//! another model than the published one, and is refused by name, with exit code 2, before any work.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod tiny_model;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quantbench::checkpoint::Checkpoint;
use quantbench::network::Architecture;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tiny_model::{Place, said};

/// Type, shape and bytes of tensors by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors();
    tensors.into_iter().map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write(folder: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn set(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

fn floats(shape: &[usize], value: f32) -> (Dtype, Vec<usize>, Vec<u8>) {
    let count = shape.iter().product();
    (Dtype::F32, shape.to_vec(), std::iter::repeat_n(value.to_le_bytes(), count).flatten().collect())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = ["tiny_models", "tiny_encoders"].into_iter().flat_map(|kind| fs::read_dir(root.join(kind)).unwrap());
    folders.map(|entry| entry.unwrap().path()).collect()
}

fn check(folder: &Path) -> Result<(), String> {
    let opened = Checkpoint::open(folder).and_then(|checkpoint| Architecture::of(&checkpoint));
    opened.map(|_| ()).map_err(|error| {
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    })
}

/// Names that models have, and others.
const ADDED: [&str; 14] = [
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.1.mlp.down_proj.bias",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.7.mlp.up_proj.weight",
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.0.self_attn.q_proj.weight_scale",
    "model.layers.0.mlp.up_proj.qweight",
    "model.layers.0.pre_feedforward_layernorm.weight",
    "model.layers.0.self_attn.bias",
    "encoder.layer.0.attention.self.query.lora_B.weight",
    "encoder.layer.9.output.dense.weight",
    "score.weight",
    "_orig_mod.lm_head.weight",
    "x",
];

#[test]
fn a_tensor_too_many_is_refused_by_name_in_every_architecture() {
    let root = tempfile::tempdir().unwrap();
    for (at, fixture) in fixtures().iter().enumerate() {
        let (folder, tensors) = (root.path().join(at.to_string()), read(fixture));
        copy(fixture, &folder);
        check(&folder).unwrap();
        for name in ADDED.iter().filter(|name| !tensors.contains_key(**name)) {
            for shape in [&[8, 8][..], &[8], &[1]] {
                let mut more = tensors.clone();
                more.insert((*name).into(), floats(shape, 1.0));
                write(&folder, &more);
                let message = check(&folder).expect_err(name);
                assert!(message.contains(name), "{}: {message}", fixture.display());
            }
        }
    }
}

#[test]
fn a_tensor_that_is_missing_or_of_another_shape_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    for (at, fixture) in fixtures().iter().enumerate() {
        let (folder, tensors) = (root.path().join(at.to_string()), read(fixture));
        copy(fixture, &folder);
        let unread =
            |name: &str| name.starts_with("pooler.") || name.contains(".pooler.") || name.contains("position_ids");
        let classifies = fixture.to_string_lossy().contains("classifier");
        for name in tensors.keys().filter(|name| classifies || !unread(name)) {
            let mut damaged = tensors.clone();
            damaged.remove(name);
            write(&folder, &damaged);
            let bare = name.trim_start_matches("bert.").trim_start_matches("roberta.");
            assert!(check(&folder).expect_err(name).contains(bare), "{name}");
            let (dtype, mut shape, mut bytes) = tensors[name].clone();
            bytes.extend_from_slice(&bytes.clone());
            shape[0] *= 2;
            damaged.insert(name.clone(), (dtype, shape, bytes));
            write(&folder, &damaged);
            // The rows of the last layer are the classes.
            if !name.contains("classifier") {
                assert!(check(&folder).expect_err(name).contains(name.as_str()), "{name}");
            }
        }
    }
}

#[test]
fn what_changes_nothing_may_stay_and_is_left_out_of_artefacts() {
    let place = Place::new();
    let model = place.path("model");
    let mut tensors = read(&model);
    let plain = tensors.clone();
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), floats(&[8], 0.5));
    tensors.insert("model.layers.0.self_attn.masked_bias".into(), floats(&[1], -1e9));
    tensors.insert("model.layers.0.attn.bias".into(), (Dtype::BOOL, vec![1, 1, 4, 4], vec![1; 16]));
    tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), floats(&[64], 0.0));
    let head = plain["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), head.clone());
    write(&model, &tensors);
    let recipe = "method=\"rtn\", weights={bits=8,granularity=\"channel\"}";
    let output = place.run(&["quantize", "model", "-o", "int8", "--recipe", recipe]);
    assert!(output.status.success(), "{}", said(&output));
    let names: Vec<String> = read(&place.path("int8")).into_keys().collect();
    for name in tensors.keys().filter(|name| !plain.contains_key(*name)) {
        assert!(!names.contains(name), "{name}");
    }

    // Of another type, but of the same values.
    let halves = |bytes: &[u8]| -> Vec<u8> {
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect()
    };
    let widened: Vec<u8> = halves(&head.2)
        .chunks_exact(2)
        .flat_map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32().to_le_bytes())
        .collect();
    tensors.insert("lm_head.weight".into(), (Dtype::BF16, head.1.clone(), halves(&head.2)));
    write(&model, &tensors);
    assert!(check(&model).unwrap_err().contains("set tie_word_embeddings to false"));
    tensors.insert("model.embed_tokens.weight".into(), (Dtype::F32, head.1.clone(), widened));
    write(&model, &tensors);
    check(&model).unwrap();
}

/// A change of the folder, and what the message says.
type Damage = (&'static str, fn(&Path), &'static str);

const DAMAGES: [Damage; 8] = [
    (
        "left-over scale",
        |folder| add(folder, "model.layers.0.self_attn.q_proj.weight_scale", &[64, 1]),
        "quantization_config",
    ),
    ("prefix", |folder| rename(folder, |name| format!("base_model.model.{name}")), "\"base_model.model.\" in front"),
    ("no prefix", |folder| rename(folder, |name| name.replacen("model.", "", 1)), "lacks \"model.\""),
    ("one layer of two", |folder| set(folder, "num_hidden_layers", json!(1)), "num_hidden_layers is 1"),
    ("three layers of two", |folder| set(folder, "num_hidden_layers", json!(3)), "num_hidden_layers is 3"),
    ("another head", |folder| add(folder, "lm_head.weight", &[256, 64]), "set tie_word_embeddings to false"),
    ("a head too few", |folder| set(folder, "tie_word_embeddings", json!(false)), "set tie_word_embeddings to true"),
    ("no tokenizer", |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(), "no tokenizer"),
];

fn add(folder: &Path, name: &str, shape: &[usize]) {
    let mut tensors = read(folder);
    tensors.insert(name.into(), floats(shape, 1.0));
    write(folder, &tensors);
}

fn rename(folder: &Path, name: fn(&str) -> String) {
    let tensors = read(folder).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
    write(folder, &tensors);
}

#[test]
fn every_command_refuses_the_same_folders_before_any_work() {
    let place = Place::new();
    let suite = place.path("suite.toml");
    copy(&place.path("model"), &place.path("whole"));
    let recipe = "method=\"rtn\", weights={bits=8,granularity=\"channel\"}";
    for (what, damage, expected) in DAMAGES {
        fs::remove_dir_all(place.path("model")).unwrap();
        copy(&place.path("whole"), &place.path("model"));
        damage(&place.path("model"));
        for command in [
            &["init", "model", "-o", "new.toml"][..],
            &["plan", "suite.toml"],
            &["speed", "model", "--prompt", "8", "--generate", "1"],
            &["kernels", "model"],
            &["quantize", "model", "-o", "new", "--recipe", recipe],
            &["quantize", "model", "-o", "new.gguf", "--recipe", recipe],
            &["eval", "model", "--text", "text/0.txt"],
            &["embed", "model", "--text", "text/0.txt"],
            &["sensitivity", "model", "--text", "text/0.txt"],
            &["run", "suite.toml", "--out", "new", "-q"],
            &["gate", "suite.toml", "--out", "new", "-q"],
        ] {
            let output = place.run(command);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{what}: {command:?}: {said}");
            if command[0] != "gate" || !said.contains("baseline") {
                assert!(said.contains(expected), "{what}: {command:?}: {said}");
            }
            for made in ["new", "new.toml", "new.gguf"] {
                assert!(!place.path(made).exists(), "{what}: {command:?} made {made}");
            }
        }
    }
    assert!(suite.exists());
}

#[test]
fn the_format_of_an_artefact_is_that_of_its_name() {
    let place = Place::new();
    let recipe = "method=\"rtn\", weights={bits=8,granularity=\"group\",group_size=32}";
    let output = place.run(&["quantize", "model", "-o", "int8.gguf", "--recipe", recipe]);
    assert!(output.status.success() && place.path("int8.gguf").is_file(), "{}", said(&output));
    let output =
        place.run(&["quantize", "model", "-o", "x.gguf", "--format", "compressed-tensors", "--recipe", recipe]);
    assert!(output.status.code() == Some(2) && said(&output).contains("choose another name"), "{}", said(&output));
}
