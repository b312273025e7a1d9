//! Models beyond the range of a format that the program chose: named for what they are, with the remedy.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::process::Output;

use serde_json::{Value, json};
use tiny_model::{Place, ended, said};

const VALUES: &str = "model.layers.1.self_attn.v_proj.weight";

/// The tiny model with values of block 1 that f16 does not hold.
fn beyond_f16() -> Place {
    let place = Place::new();
    tiny_model::set_weight(place.root.path(), VALUES, 7, 6.4e4);
    place
}

fn eval(place: &Place, model: &str, more: &[&str]) -> Output {
    place.run(&[&["eval", model, "--text", "text/*.txt", "--length", "32", "--json"], more].concat())
}

#[test]
fn an_overflow_is_named_with_its_block_and_its_remedy() {
    let place = beyond_f16();
    let output = eval(&place, "model", &["--as", "fp16"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("values of block 1 reach ") && text.contains("beyond 65504, the largest f16"), "{text}");
    assert!(text.contains("--kv-cache bf16") && !text.contains("damaged"), "{text}");
    for remedy in [&["--as", "fp16", "--kv-cache", "bf16"][..], &["--as", "bf16"], &["--as", "fp32"]] {
        assert!(eval(&place, "model", remedy).status.success(), "{remedy:?}");
    }
}

#[test]
fn a_weight_that_a_cast_cannot_hold_is_named_and_so_is_nan() {
    let place = Place::new();
    tiny_model::set_weight(place.root.path(), VALUES, 7, 7e4);
    let text = said(&eval(&place, "model", &["--as", "fp16"]));
    assert!(text.contains(VALUES) && text.contains("weight (0, 7) is 7e4"), "{text}");
    assert!(text.contains("beyond 65504, the largest f16; take bf16 or f32") && !text.contains("damaged"), "{text}");
    assert!(eval(&place, "model", &["--as", "bf16"]).status.success());
    let recipe = r#"method = "cast", dtype = "f16""#;
    let output = place.run(&["quantize", "model", "--recipe", recipe, "-o", "cast"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains(VALUES) && said(&output).contains("65504"), "{}", said(&output));
    assert!(!place.path("cast").exists());
    for (tensor, value) in [(VALUES, f32::NAN), ("model.norm.weight", f32::INFINITY)] {
        let place = Place::new();
        tiny_model::set_weight(place.root.path(), tensor, 3, value);
        for form in ["stored", "fp16", "bf16"] {
            let output = eval(&place, "model", &["--as", form]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(tensor) && text.contains(&format!(") is {value}")), "{text}");
        }
    }
}

#[test]
fn a_model_published_in_bfloat16_keeps_keys_and_values_in_it() {
    let place = beyond_f16();
    let recipe = r#"method = "rtn", weights = { bits = 8, granularity = "channel" }"#;
    let quantize = |into: &str| place.run(&["quantize", "model", "--recipe", recipe, "-o", into]);
    assert!(quantize("of-f32").status.success());
    assert!(said(&eval(&place, "of-f32", &[])).contains("values of block 1 reach"));
    tiny_model::set_config(place.root.path(), "torch_dtype", json!("bfloat16"));
    assert!(quantize("of-bf16").status.success());
    assert!(eval(&place, "of-bf16", &[]).status.success());
    let config: Value = serde_json::from_slice(&fs::read(place.path("of-bf16/config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
    assert!(place.run(&["init", "model", "-o", "started.toml"]).status.success());
    assert!(fs::read_to_string(place.path("started.toml")).unwrap().contains("reference = \"bf16\""));
}

/// A reference without a score answers nothing: no advice, exit code 5; candidates that overflow say why.
#[test]
fn a_run_whose_reference_overflows_ends_with_code_5() {
    let place = beyond_f16();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(!text.contains("QAT") && !text.contains("qat"), "{text}");
    let suite = tiny_model::SUITE.replace("[data]", "reference = \"bf16\"\n[data]")
        + "[[variant]]\nname = \"bf16\"\nmethod = \"cast\"\ndtype = \"bf16\"\n";
    fs::write(place.path("bf16.toml"), suite).unwrap();
    let output = place.run(&["run", "bf16.toml", "--out", "second", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let run = place.judged("second");
    let failed = |name: &str| run.variants.iter().find(|v| v.name == name).unwrap().failures.join("; ");
    assert!(failed("int4-gptq").contains("values of block 1 reach"), "{}", failed("int4-gptq"));
    assert!(failed("int8").is_empty(), "keys and values are in bfloat16 where inputs have 8 bits");
}
