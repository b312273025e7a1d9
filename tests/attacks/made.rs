//! Inputs that are made: special files, sizes beyond reason, tensors that do not belong, damaged GGUF files, archives.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use quantbench::assets;
use quantbench::checkpoint::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Value, json};

use crate::check::{Attack, Expected, assert_all};
use crate::tiny_model::{self, Place};
use crate::{eval, inputs, merge, words};

/// An attack on a place that `change` spoils.
fn spoilt(name: &str, expected: &str, arguments: &[&str], change: impl FnOnce(&Place)) -> Attack {
    let place = Place::new();
    change(&place);
    Attack { name: name.into(), place, arguments: words(arguments), expected: Expected::parse(expected) }
}

/// As [`spoilt`], scored.
fn spoilt_model(name: &str, expected: &str, change: impl FnOnce(&Place)) -> Attack {
    let arguments = eval("model", "text/0.txt");
    spoilt(name, expected, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), change)
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn link(to: &str, path: &Path) {
    let _ = fs::remove_file(path);
    symlink(to, path).unwrap();
}

/// A file of so many bytes that takes no room on the disk.
fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

const REFUSED: &str = "2\nexpected a file";

#[test]
fn special_files_of_a_model() {
    let mut attacks = Vec::new();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let file = format!("model/{name}");
        let attack = |kind: &str, expected: &str, change: &dyn Fn(&Path)| {
            spoilt_model(&format!("{kind} as {name}"), expected, |place| change(&place.path(&file)))
        };
        attacks.push(attack("a pipe", "2", &pipe));
        attacks.push(attack("a link to /dev/zero", "2", &|path| link("/dev/zero", path)));
        attacks.push(attack("a link to itself", "2", &|path| link(name, path)));
        attacks.push(attack("a dangling link", "2", &|path| link("nowhere", path)));
        attacks.push(attack("nothing", "2", &|path| fs::write(path, "").unwrap()));
        attacks.push(attack("a folder", "2", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }));
        if name != "model.safetensors" {
            attacks.push(attack("8 GB of zeros", "2", &|path| sparse(path, 8 << 30)));
        }
    }
    assert_all(attacks);
}

/// What lies beside a sound model is no part of it.
#[test]
fn special_files_beside_a_model() {
    let plan = ["plan", "suite.toml"];
    let beside: [(&str, &dyn Fn(&Path)); 5] = [
        ("a pipe", &|folder| pipe(&folder.join("extra"))),
        ("a link to /dev/zero", &|folder| link("/dev/zero", &folder.join("extra"))),
        ("links in a circle", &|folder| link(".", &folder.join("extra"))),
        ("a link out of the folder", &|folder| link("/", &folder.join("extra"))),
        ("a terabyte of zeros", &|folder| sparse(&folder.join("extra"), 1 << 40)),
    ];
    let mut attacks = Vec::new();
    for (kind, change) in beside {
        attacks.push(spoilt_model(&format!("{kind} beside, eval"), "0 2", |place| change(&place.path("model"))));
        attacks.push(spoilt(&format!("{kind} beside, plan"), "0 2", &plan, |place| change(&place.path("model"))));
    }
    assert_all(attacks);
}

#[test]
fn sources_without_an_end() {
    let none = |_: &Place| {};
    let source = |source: &'static str| {
        move |place: &Place| {
            let suite = tiny_model::SUITE.replace("path:model", source);
            fs::write(place.path("suite.toml"), suite).unwrap();
        }
    };
    let eval_of = |text: &'static str| ["eval", "model", "--text", text, "--length", "32", "--threads", "1"];
    assert_all([
        spoilt("plan /dev/zero", REFUSED, &["plan", "/dev/zero"], none),
        spoilt("plan of a pipe", REFUSED, &["plan", "pipe"], |place| pipe(&place.path("pipe"))),
        spoilt("plan of a sparse file", "2", &["plan", "big.toml"], |place| sparse(&place.path("big.toml"), 1 << 40)),
        spoilt("plan of a folder", "2", &["plan", "text"], none),
        spoilt("recipe @/dev/zero", REFUSED, &["quantize", "model", "--recipe", "@/dev/zero", "-o", "q"], none),
        spoilt("recipe @/dev/stdin", "2", &["quantize", "model", "--recipe", "@/dev/stdin", "-o", "q"], none),
        spoilt("path:/dev/zero", "2", &["plan", "suite.toml"], source("path:/dev/zero")),
        spoilt("path:/", "2", &["plan", "suite.toml"], source("path:/")),
        spoilt("path:/proc", "2", &["plan", "suite.toml"], source("path:/proc")),
        spoilt("path:/proc/self/mem", "2", &["plan", "suite.toml"], source("path:/proc/self/mem")),
        spoilt("text /dev/zero", REFUSED, &eval_of("/dev/zero"), none),
        spoilt("text /dev/urandom", REFUSED, &eval_of("/dev/urandom"), none),
        spoilt("text of a pipe", REFUSED, &eval_of("pipe"), |place| pipe(&place.path("pipe"))),
        spoilt("text of 8 GB", "2", &eval_of("big.txt"), |place| sparse(&place.path("big.txt"), 8 << 30)),
        spoilt("tokens of 8 GB", "2", &eval_of("big.safetensors"), |place| {
            sparse(&place.path("big.safetensors"), 8 << 30);
        }),
        spoilt("text of links in a circle", "0 2", &eval_of("text"), |place| link(".", &place.path("text/extra"))),
        spoilt("hidden files in a folder of texts", "0", &eval_of("text"), |place| {
            fs::write(place.path("text/.DS_Store"), b"\0\0\0\x01Bud1\xff").unwrap();
            fs::write(place.path("text/.0.txt.swp"), b"b0VIM \xff\xfe").unwrap();
        }),
        spoilt("baseline /dev/zero", "2", &["baseline", "show", "/dev/zero"], none),
        spoilt("baseline of a sparse file", "2", &["baseline", "show", "big.json"], |place| {
            sparse(&place.path("big.json"), 8 << 30);
        }),
        spoilt("journal of a pipe", "2", &["report", "run"], |place| {
            fs::create_dir(place.path("run")).unwrap();
            pipe(&place.path("run/journal.jsonl"));
        }),
        spoilt("journal is /dev/zero", "2", &["report", "run"], |place| {
            fs::create_dir(place.path("run")).unwrap();
            link("/dev/zero", &place.path("run/journal.jsonl"));
        }),
        spoilt("journal of 8 GB", "2", &["report", "run"], |place| {
            fs::create_dir(place.path("run")).unwrap();
            sparse(&place.path("run/journal.jsonl"), 8 << 30);
        }),
        spoilt("gguf is /dev/zero", "2", &eval_gguf("zero.gguf"), |place| link("/dev/zero", &place.path("zero.gguf"))),
        spoilt("gguf of a pipe", "2", &eval_gguf("x.gguf"), |place| pipe(&place.path("x.gguf"))),
    ]);
}

fn eval_gguf(file: &str) -> [&str; 8] {
    ["eval", file, "--text", "text/0.txt", "--length", "32", "--threads", "1"]
}

/// What is published under the name of a model and is none that the program reads.
#[test]
fn folders_of_other_kinds() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let pointer = |name: &'static str| move |place: &Place| fs::write(place.path(name), POINTER).unwrap();
    let only = |files: &'static [&'static str]| {
        move |place: &Place| {
            fs::remove_file(place.path("model/model.safetensors")).unwrap();
            files.iter().for_each(|file| fs::write(place.path("model").join(file), "x").unwrap());
        }
    };
    assert_all([
        spoilt_model("a Git LFS pointer as weights", "2\ngit lfs pull", pointer("model/model.safetensors")),
        spoilt_model("a Git LFS pointer as tokenizer", "2\ngit lfs pull", pointer("model/tokenizer.json")),
        spoilt("a Git LFS pointer as GGUF", "2\ngit lfs pull", &eval_gguf("x.gguf"), pointer("x.gguf")),
        spoilt_model("pickled weights", "2\npickle", only(&["pytorch_model.bin"])),
        spoilt_model("an ONNX folder", "2\nONNX", only(&["model.onnx"])),
        spoilt_model("an OpenVINO folder", "2\nOpenVINO", only(&["openvino_model.xml", "openvino_model.bin"])),
        spoilt_model("a LoRA adapter", "2\nadapter", |place| {
            only(&["adapter_model.safetensors", "adapter_config.json"])(place);
            fs::remove_file(place.path("model/config.json")).unwrap();
        }),
        spoilt_model("no weights", "2", only(&[])),
        spoilt_model("a zip as weights", "2\nzip or pickle", |place| {
            fs::write(place.path("model/model.safetensors"), b"PK\x03\x04pickle and more").unwrap();
        }),
        spoilt("a name without an end", "2", &["plan", "suite.toml"], |place| {
            let suite = tiny_model::SUITE.replace("path:model", &format!("path:{}", "a/".repeat(100_000)));
            fs::write(place.path("suite.toml"), suite).unwrap();
        }),
        spoilt("an index of 30,000 shards", "2", &eval_words(), |place| {
            fs::remove_file(place.path("model/model.safetensors")).unwrap();
            let map: serde_json::Map<String, Value> =
                (0..30_000).map(|at| (format!("t{at}"), format!("s{at}.safetensors").into())).collect();
            fs::write(place.path("model/model.safetensors.index.json"), json!({ "weight_map": map }).to_string())
                .unwrap();
        }),
        spoilt("an index that leaves the folder", "2\nwithout a path", &eval_words(), |place| {
            fs::remove_file(place.path("model/model.safetensors")).unwrap();
            let index = json!({ "weight_map": { "a": "../model.safetensors" } });
            fs::write(place.path("model/model.safetensors.index.json"), index.to_string()).unwrap();
        }),
    ]);
}

fn eval_words() -> [&'static str; 8] {
    eval_gguf("model")
}

/// Tensors of a model, to be changed.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Writes the weights again with a change.
fn change_weights(place: &Place, change: impl FnOnce(&mut Tensors)) {
    let path = place.path("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
}

fn ones(name: &str, shape: &[usize]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    let data = std::iter::repeat_n(1f32.to_le_bytes(), shape.iter().product()).flatten().collect();
    (name.into(), Dtype::F32, shape.to_vec(), data)
}

/// Weights that the configuration does not call for, or not so: refused by whatever opens a model.
#[test]
fn tensors_that_do_not_fit() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let add = |name: String, shape: &'static [usize]| move |tensors: &mut Tensors| tensors.push(ones(&name, shape));
    let rename = |change: fn(&str) -> String| {
        move |tensors: &mut Tensors| tensors.iter_mut().for_each(|tensor| tensor.0 = change(&tensor.0))
    };
    type Change<'a> = (&'a str, &'a str, Box<dyn Fn(&mut Tensors)>);
    let changes: Vec<Change<'_>> = vec![
        ("a bias of q that no key asks for", "q_proj.bias", Box::new(add(format!("{Q}.bias"), &[64]))),
        ("a bias of the mlp", "up_proj.bias", Box::new(add("model.layers.1.mlp.up_proj.bias".into(), &[128]))),
        ("a norm of queries", "q_norm", Box::new(add("model.layers.0.self_attn.q_norm.weight".into(), &[16]))),
        ("left-over LoRA", "lora_A", Box::new(add(format!("{Q}.lora_A.weight"), &[4, 64]))),
        ("a left-over scale", "weight_scale", Box::new(add(format!("{Q}.weight_scale"), &[64, 1]))),
        ("a left-over zero point", "weight_zero_point", Box::new(add(format!("{Q}.weight_zero_point"), &[64, 1]))),
        ("a left-over input scale", "input_scale", Box::new(add(format!("{Q}.input_scale"), &[1]))),
        ("a third block", "model.layers.2", Box::new(add("model.layers.2.input_layernorm.weight".into(), &[64]))),
        ("experts", "experts", Box::new(add("model.layers.0.mlp.experts.0.up_proj.weight".into(), &[128, 64]))),
        ("another head beside a tied one", "lm_head", Box::new(add("lm_head.weight".into(), &[256, 64]))),
        ("prefixed names", "", Box::new(rename(|name| format!("base_model.model.{name}")))),
        ("names of torch.compile", "", Box::new(rename(|name| format!("_orig_mod.{name}")))),
        ("names without model.", "", Box::new(rename(|name| name.trim_start_matches("model.").into()))),
        ("a matrix is missing", "k_proj", Box::new(|tensors| tensors.retain(|t| !t.0.contains("1.self_attn.k_proj")))),
        ("a norm is missing", "norm", Box::new(|tensors| tensors.retain(|t| t.0 != "model.norm.weight"))),
        (
            "a matrix of another shape",
            "down_proj",
            Box::new(|tensors| {
                let matrix = tensors.iter_mut().find(|t| t.0.contains("0.mlp.down_proj")).unwrap();
                matrix.2.reverse();
            }),
        ),
        (
            "integers as weights",
            "q_proj",
            Box::new(|tensors| {
                let matrix = tensors.iter_mut().find(|t| t.0.contains(Q)).unwrap();
                matrix.1 = Dtype::I32;
            }),
        ),
    ];
    let recipe = "method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }";
    let commands: [(&str, &[&str]); 4] = [
        ("eval", &eval_words()),
        ("quantize", &["quantize", "model", "--recipe", recipe, "-o", "out"]),
        ("plan", &["plan", "suite.toml"]),
        ("init", &["init", "model", "-o", "new.toml"]),
    ];
    let mut attacks = Vec::new();
    for (name, phrase, change) in &changes {
        for (command, arguments) in commands {
            attacks.push(spoilt(&format!("{name}, {command}"), &format!("2\n{phrase}"), arguments, |place| {
                change_weights(place, change);
            }));
        }
    }
    assert_all(attacks);
}

/// The frame of a safetensors file.
#[test]
fn safetensors_frames() {
    let file = |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        file(&header, &vec![0; data])
    };
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let files: [(&str, Vec<u8>); 16] = [
        ("three bytes", b"abc".to_vec()),
        ("a header of 2^64 bytes", vec![0xff; 64]),
        ("a header of 100 MB", [&100_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header cut off", [&64u64.to_le_bytes()[..], b"{\"a\":{"].concat()),
        ("no JSON", file("not JSON at all ", b"")),
        ("a list", file("[]", b"")),
        ("nested a thousand deep", file(&"[".repeat(100_000), b"")),
        ("an unknown type", one("F7", "[1]", "[0,4]", 4)),
        ("a shape of 2^128", one("F32", "[18446744073709551615,18446744073709551615]", "[0,4]", 4)),
        ("a negative shape", one("F32", "[-1]", "[0,4]", 4)),
        ("a shape that is no number", one("F32", "[1e3]", "[0,4]", 4)),
        ("offsets backwards", one("F32", "[1]", "[4,0]", 4)),
        ("offsets beyond the end", one("F32", "[2]", "[0,8]", 4)),
        ("bytes that nobody owns", one("F32", "[1]", "[0,4]", 64)),
        ("tensors that overlap", file(twice, &[0])),
        (
            "a name of escape sequences",
            one("F32", "[1]", "[0,4]", 3).iter().map(|b| if *b == b'a' { 0x1b } else { *b }).collect(),
        ),
    ];
    assert_all(files.into_iter().map(|(name, bytes)| {
        spoilt_model(name, "2\nmodel.safetensors", |place| {
            fs::write(place.path("model/model.safetensors"), bytes).unwrap()
        })
    }));
}

/// A GGUF file of raw parts.
fn gguf(version: u32, tensors: u64, metadata: &[(&[u8], u32, &[u8])], rest: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(tensors.to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, kind, value) in metadata {
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(*key);
        file.extend(kind.to_le_bytes());
        file.extend(*value);
    }
    file.extend(rest);
    file
}

#[test]
fn gguf_files() {
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let huge = u64::MAX.to_le_bytes();
    let nested = array(9, 1).repeat(100_000);
    let architecture = [&5u64.to_le_bytes()[..], b"llama"].concat();
    let tensor = |name: &[u8], shape: &[u64], kind: u32, offset: u64| {
        let mut bytes = [&(name.len() as u64).to_le_bytes()[..], name, &(shape.len() as u32).to_le_bytes()].concat();
        shape.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.resize(bytes.len() + 4096, 0);
        bytes
    };
    let whole = [(&b"general.architecture"[..], 8, &architecture[..])];
    let name = b"token_embd.weight";
    let files: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another magic", "", b"GGML\x03\0\0\0".to_vec()),
        ("version 0", "version", gguf(0, 0, &[], b"")),
        ("version 99", "version", gguf(99, 0, &[], b"")),
        ("2^64 tensors", "", gguf(3, u64::MAX, &[], b"")),
        ("a key of 2^64 bytes", "", [&b"GGUF\x03\0\0\0"[..], &[0; 8], &1u64.to_le_bytes(), &huge].concat()),
        ("a text of 2^64 bytes", "", gguf(3, 0, &[(b"a", 8, &huge)], b"")),
        ("an array of 2^64 numbers", "", gguf(3, 0, &[(b"a", 9, &array(4, u64::MAX))], b"")),
        ("an array of 2^61 numbers", "", gguf(3, 0, &[(b"a", 9, &array(12, 1 << 61))], b"")),
        ("arrays in arrays", "", gguf(3, 0, &[(b"a", 9, &nested)], b"")),
        ("an unknown type of value", "", gguf(3, 0, &[(b"a", 77, &huge)], b"")),
        ("a key twice", "", gguf(3, 0, &[(b"a", 7, b"\x01"), (b"a", 7, b"\x01")], b"")),
        ("a key of escape sequences", "", gguf(3, 0, &[(b"\x1b[31ma", 7, b"\x01"), (b"\x1b[31ma", 7, b"\x01")], b"")),
        ("a key that is no text", "", gguf(3, 0, &[(b"\xff\xfe", 7, b"\x01")], b"")),
        ("no architecture", "", gguf(3, 0, &[], &[0; 64])),
        ("alignment 0", "", gguf(3, 0, &[whole[0], (b"general.alignment", 4, &[0; 4])], &[0; 64])),
        ("alignment 3", "", gguf(3, 0, &[whole[0], (b"general.alignment", 4, &[3, 0, 0, 0])], &[0; 64])),
        ("a shape of 2^128", "", gguf(3, 1, &whole, &tensor(name, &[1 << 63, 1 << 63], 0, 0))),
        ("no dimension", "", gguf(3, 1, &whole, &tensor(name, &[], 0, 0))),
        ("99 dimensions", "", gguf(3, 1, &whole, &tensor(name, &[1; 99], 0, 0))),
        ("an unknown type of tensor", "", gguf(3, 1, &whole, &tensor(name, &[32], 999, 0))),
        ("an offset beyond the end", "", gguf(3, 1, &whole, &tensor(name, &[32], 0, 1 << 40))),
        ("a block cut", "", gguf(3, 1, &whole, &tensor(name, &[33], 8, 0))),
        ("a name of escape sequences", "", gguf(3, 1, &whole, &tensor(b"\x1b]0;a\x07", &[32], 0, 0))),
        ("a name of right-to-left marks", "", gguf(3, 1, &whole, &tensor("\u{202e}a\u{200b}".as_bytes(), &[32], 0, 0))),
    ];
    let mut attacks: Vec<Attack> = files
        .into_iter()
        .map(|(name, phrase, bytes)| {
            let expected = format!("2\nx.gguf\n{phrase}");
            spoilt(name, &expected, &eval_gguf("x.gguf"), |place| fs::write(place.path("x.gguf"), bytes).unwrap())
        })
        .collect();
    // A gigabyte of numbers under a key that nobody reads: a byte each, not sixteen.
    attacks.push(spoilt("an array of 10^9 bytes", "2", &eval_gguf("x.gguf"), |place| {
        fs::write(place.path("x.gguf"), gguf(3, 0, &[(b"a", 9, &array(0, 1_000_000_000))], b"")).unwrap();
        File::options().write(true).open(place.path("x.gguf")).unwrap().set_len(1_000_000_100).unwrap();
    }));
    assert_all(attacks);
}

#[test]
fn tokenizers_without_measure() {
    let change = |change: Value| {
        move |place: &Place| {
            fs::write(place.path("change.json"), change.to_string()).unwrap();
            merge(&place.path("model/tokenizer.json"), &place.path("change.json"));
        }
    };
    let grow = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "e".repeat(50) });
    let added = |id: usize| {
        json!({ "id": 5000 + id, "content": format!("tok{id}"), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let nested =
        (0..10_000).fold(json!({ "type": "NFC" }), |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }));
    assert_all([
        spoilt_model(
            "a normalizer that grows by 50^8",
            "2\ntokenizer",
            change(json!({ "normalizer": { "type": "Sequence", "normalizers": vec![grow; 8] } })),
        ),
        spoilt_model(
            "100,000 added tokens",
            "0 2",
            change(json!({ "added_tokens": (0..100_000).map(added).collect::<Vec<_>>() })),
        ),
        spoilt_model(
            "a token of a megabyte",
            "0 2",
            change(json!({ "added_tokens": [{ "id": 5000, "content": "a".repeat(1 << 20),
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }] })),
        ),
        spoilt_model("normalizers nested 10,000 deep", "2", move |place| {
            // Written by hand: a nested value of this depth cannot be dropped by recursion either.
            let text = nested_text(10_000);
            std::mem::forget(nested);
            let file = place.path("model/tokenizer.json");
            let sound = fs::read_to_string(&file).unwrap();
            fs::write(&file, sound.replace("\"normalizer\":null", &format!("\"normalizer\":{text}"))).unwrap();
        }),
    ]);
}

fn nested_text(depth: usize) -> String {
    let open = r#"{"type":"Sequence","normalizers":["#;
    format!("{}{}{}", open.repeat(depth), r#"{"type":"NFC"}"#, "]}".repeat(depth))
}

/// Patterns of a quantization: each small, together without measure.
#[test]
fn patterns_without_measure() {
    let targets: Vec<String> = (0..1000).map(|at| format!("re:\\w{{60}}x{at}")).collect();
    let quantization = json!({ "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
        { "g": { "targets": targets, "weights": { "num_bits": 4, "group_size": 64, "strategy": "group" } } } });
    let one = spoilt_model("1,000 patterns of \\w{60}", "2", |place| {
        fs::write(place.path("change.json"), json!({ "quantization_config": quantization }).to_string()).unwrap();
        merge(&place.path("model/config.json"), &place.path("change.json"));
    });
    assert_all([one]);
}

/// Standard streams that are closed or full.
#[test]
fn streams() {
    let place = Place::new();
    let sink = |name: &str| File::options().write(true).open(name).unwrap();
    let code = |arguments: &[&str], full_error: bool| {
        let mut command = place.bench(arguments);
        match full_error {
            true => command.stderr(sink("/dev/full")).stdout(sink("/dev/null")),
            false => command.stdout(sink("/dev/full")).stderr(sink("/dev/null")),
        };
        command.status().unwrap().code()
    };
    assert_eq!(code(&["plan", "nosuch"], true), Some(2));
    assert_eq!(code(&["eval", "model", "--text", "text/0.txt", "--length", "32", "--threads", "1"], true), Some(0));
    assert!(matches!(code(&["plan", "suite.toml"], false), Some(2 | 5)));
}

/// Outputs never overwrite what they did not write.
#[test]
fn precious_files() {
    let place = Place::new();
    fs::write(place.path("precious"), "mine").unwrap();
    let recipe = "method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }";
    for arguments in [
        &["eval", "model", "--text", "text/0.txt", "--length", "32", "--per-token", "precious"][..],
        &["quantize", "model", "--recipe", recipe, "-o", "precious"],
        &["init", "model", "-o", "precious"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", tiny_model::said(&output));
        assert_eq!(fs::read(place.path("precious")).unwrap(), b"mine", "{arguments:?}");
    }
}

/// Quantized folders that contradict themselves. A file's name is its fixture and what is changed:
/// `gptq.w4_v1.bits-0.json` changes `tests/fixtures/gptq/w4_v1/config.json`.
#[test]
fn quantized() {
    let mut wrong = Vec::new();
    for (name, change, expected) in inputs("quantized") {
        let fixture: Vec<&str> = name.trim_start_matches("quantized/").split('.').collect();
        let fixture = fixture[..fixture.len() - 1].join("/");
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        merge(&folder.path().join("config.json"), &change);
        let read = || {
            let checkpoint = Checkpoint::open(folder.path())?;
            checkpoint.names().iter().try_for_each(|name| checkpoint.tensor(name).map(drop))
        };
        let answer = read().map_err(|error| (i32::from(error.exit_code()), error.to_string()));
        wrong.extend(expected.refused(&answer).map(|problem| format!("{name}: {problem}")));
    }
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}

/// Packages whose entries leave their folder, are no files, or have no measure.
#[test]
fn archives() {
    let mut wrong = Vec::new();
    let mut check = |name: &str, expected: &str, wheel: bool, bytes: Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let (archive, into) = (folder.path().join("archive"), folder.path().join("a/b/into"));
        fs::create_dir_all(&into).unwrap();
        fs::write(&archive, bytes).unwrap();
        let unpack: fn(&Path, &Path) -> quantbench::error::Result<()> =
            if wheel { assets::unpack_wheel } else { assets::unpack_tarball };
        let answer = unpack(&archive, &into).map_err(|error| (i32::from(error.exit_code()), error.to_string()));
        wrong.extend(Expected::parse(expected).refused(&answer).map(|problem| format!("{name}: {problem}")));
        if fs::read_dir(folder.path().join("a")).unwrap().count()
            + fs::read_dir(folder.path().join("a/b")).unwrap().count()
            != 2
        {
            wrong.push(format!("{name}: wrote outside its folder"));
        }
    };
    for entry in ["../up", "m/../../up", "/tmp/quantbench-up", "m\\..\\up", "C:\\up", "..", "m/\0up"] {
        check(&format!("wheel: {entry:?}"), "2\nleaves the folder", true, wheel(&[(entry, b"x")]));
        if !entry.contains('\0') {
            check(&format!("npm: {entry:?}"), "2\nleaves the folder", false, package(&[(entry, b'0', b"x")]));
        }
    }
    for kind in *b"1234567" {
        let kinds = package(&[("package/a", kind, b"")]);
        check(&format!("npm: entry of kind {}", char::from(kind)), if kind == b'5' { "0" } else { "2" }, false, kinds);
    }
    check("wheel: cut off", "2", true, wheel(&[("m/a", &[7; 1000])])[..500].to_vec());
    check("wheel: no zip", "2", true, b"no zip at all".to_vec());
    check("npm: no gzip", "2", false, b"no gzip at all".to_vec());
    check("npm: cut off", "2", false, package(&[("package/a", b'0', &[7; 100_000])])[..300].to_vec());
    check("npm: a name of 3 GB", "2", false, long_name());
    let names: Vec<String> = (0..200_000).map(|at| format!("m/f{at}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    check("wheel: 200,000 entries", "2", true, wheel(&many));
    let zeros = vec![0; 64 << 20];
    let entries: Vec<(&str, &[u8])> = names.iter().take(4).map(|name| (name.as_str(), &zeros[..])).collect();
    check("wheel: 256 MiB out of 256 KiB", "2", true, wheel(&entries));
    check("npm: 64 MiB out of 64 KiB", "2", false, package(&[("package/a", b'0', &zeros)]));
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}

fn wheel(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// One header of a tar.
fn header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..5].copy_from_slice(b"../up");
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    *header.as_bytes()
}

fn package(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (name, kind, data) in entries {
        gzip.write_all(&header(name, *kind, data.len() as u64)).unwrap();
        gzip.write_all(data).unwrap();
        gzip.write_all(&vec![0; data.len().next_multiple_of(512) - data.len()]).unwrap();
    }
    gzip.write_all(&[0; 1024]).unwrap();
    gzip.finish().unwrap()
}

/// An entry whose name, stored as the data of another, is said to take 3 GB.
fn long_name() -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&header("././@LongLink", b'L', 3 << 30)).unwrap();
    let zeros = vec![b'a'; 1 << 20];
    (0..512).for_each(|_| gzip.write_all(&zeros).unwrap());
    gzip.finish().unwrap()
}
