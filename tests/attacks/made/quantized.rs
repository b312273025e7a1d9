//! Quantized folders that contradict themselves.

use std::fs;
use std::path::Path;

use quantbench::checkpoint::Checkpoint;
use serde_json::json;

use super::spoilt_model;
use crate::check::assert_all;
use crate::{inputs, merge};

/// A file's name is its fixture and what is changed: `gptq.w4_v1.bits-0.json` changes `tests/fixtures/gptq/w4_v1/config.json`.
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
