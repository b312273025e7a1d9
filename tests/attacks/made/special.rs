//! What is no regular file, has no end, or is another program's.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{eval_gguf, eval_words, spoilt, spoilt_model};
use crate::check::assert_all;
use crate::tiny_model::{self, Place};

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
    type Beside<'a> = (&'a str, &'a dyn Fn(&Path));
    let beside: [Beside<'_>; 5] = [
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
        spoilt("a name without an end", "0 2", &["plan", "suite.toml"], |place| {
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
