//! The real program from suite to report on a tiny encoder.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::path::Path;

use quantbench::results::Built;
use serde_json::{Map, Value, json};
use tiny_model::{Place, ended, said};

const SUITE: &str = r#"
title = "a tiny encoder"
model = "path:encoder"
reference = "fp32"
[[task]]
kind = "similarity"
data = { source = "path:sentences/*.txt" }
length = 30
sentences = 40
[workload]
length = 12
batch = [1, 3]
threads = [1]
iterations = 2
blocks = 2
[accept]
accuracy = { metric = "similarity", max_drop = 0.05 }
speed = { metric = "latency", min_speedup = 1.01 }
[[variant]]
name = "int8"
method = "rtn"
weights = { bits = 8, granularity = "channel" }
activations = { bits = 8, granularity = "token", mode = "dynamic" }
[[variant]]
name = "int2"
method = "rtn"
weights = { bits = 2, granularity = "tensor" }
"#;

/// The encoder of the golden tests with a tokenizer of single characters, and texts of a few sentences.
fn place() -> Place {
    let place = Place::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_encoders/bert");
    let encoder = place.path("encoder");
    fs::create_dir_all(encoder.join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        fs::copy(golden.join(file), encoder.join(file)).unwrap();
    }
    fs::write(encoder.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    fs::create_dir(place.path("sentences")).unwrap();
    for document in 0..8 {
        let sentences = (0..6)
            .map(|i| format!("{} is sentence {} of document {document}.", "the quick brown fox ".repeat(i), i * 7));
        fs::write(place.path(&format!("sentences/{document}.txt")), sentences.collect::<Vec<_>>().join(" ")).unwrap();
    }
    fs::write(place.path("encoder.toml"), SUITE).unwrap();
    place
}

fn tokenizer() -> Value {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from).into_iter();
    let characters = ('a'..='z').chain('0'..='9').chain([' ', '.']).map(String::from);
    let vocabulary: Map<String, Value> = words.chain(characters).zip(0..).map(|(w, id)| (w, json!(id))).collect();
    let special = |id: u32, token: &str| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special(2, "[CLS]"), "[SEP]": special(3, "[SEP]")}
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    })
}

#[test]
fn a_suite_of_an_encoder_runs_from_its_file_to_its_report() {
    let place = place();
    let output = place.run(&["run", "encoder.toml", "--out", "run", "--quiet"]);
    assert!(ended(&output), "{:?}: {}", output.status, said(&output));
    let evidence = place.evidence("run");
    let cosines = |name: &str| -> Vec<f64> {
        let score = &evidence.variants[name].scores["similarity"];
        score.sentences.iter().map(|sentence| sentence.cosine.unwrap()).collect()
    };
    let mean = |name: &str| cosines(name).iter().sum::<f64>() / 40.0;
    assert!(cosines("fp32").len() == 40 && cosines("fp32").iter().all(|c| (c - 1.0).abs() < 1e-12));
    assert!(mean("int2") < mean("int8") && mean("int8") < 1.0, "{} {}", mean("int2"), mean("int8"));
    assert!(mean("int8") > 0.99, "{}", mean("int8"));
    let rank = |name: &str| evidence.variants[name].scores["similarity"].rank_correlation.unwrap();
    assert!(rank("int2") < rank("int8") && rank("int8") <= rank("fp32"));
    // Special tokens are around every sentence, cut ones too.
    let score = &evidence.variants["fp32"].scores["similarity"];
    assert!(score.sentences.iter().all(|s| (20..=30).contains(&s.tokens)) && score.sentences[0].tokens == 30);

    for (name, found) in &evidence.variants {
        assert!(found.failures.is_empty(), "{name}: {:?}", found.failures);
        let controls = if name == "fp32" { 2 } else { 1 };
        assert_eq!(found.slots.len(), 2 * 2 * controls, "{name}");
        for slot in &found.slots {
            assert!(slot.kernels.iter().all(|k| k.phase == "encode") && slot.memory.kv_bytes == 0);
            for sample in &slot.samples {
                assert_eq!((sample.prompt_tokens, sample.generated_tokens), (slot.batch * 12, 0));
                assert!(sample.ttft_s > 0.0 && sample.decode_s == 0.0);
            }
        }
        let Built::Ready(artefact) = &found.built else { panic!("{name} was not built") };
        assert!(Path::new(&artefact.path).join("1_Pooling/config.json").is_file(), "{name}");
    }
    let run = place.judged("run");
    let int8 = run.variants.iter().find(|v| v.name == "int8").unwrap();
    let point = &int8.points[0];
    assert!(point.tpot.is_none() && point.speedup.keys().eq(["latency"]), "{point:?}");
    let difference = int8.similarities["similarity"].cosine_difference.as_ref().unwrap();
    assert!((difference.value - (mean("int8") - 1.0)).abs() < 1e-12 && difference.low.is_some());
    for file in ["report/index.html", "report/summary.md", "report/latency.svg"] {
        let text = fs::read_to_string(place.path("run").join(file)).unwrap();
        assert!(!text.contains("TTFT") && !text.contains("TPOT") && !text.contains("decode tok/s"), "{file}");
    }

    let output = place.run(&["run", "encoder.toml", "--out", "again", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    for (name, found) in &place.evidence("again").variants {
        let Built::Ready(artefact) = &found.built else { panic!("{name} was not built") };
        assert!(artefact.cached, "{name}");
        assert_eq!(found.scores["similarity"].sentences, evidence.variants[name].scores["similarity"].sentences);
    }
}

#[test]
fn networks_and_suites_of_different_kinds_are_told_apart() {
    let place = place();
    let swapped = SUITE.replace("path:encoder", "path:model");
    fs::write(place.path("swapped.toml"), swapped).unwrap();
    let output = place.run(&["run", "swapped.toml", "--out", "run", "--quiet"]);
    assert!(output.status.code() != Some(0) && said(&output).contains("is a decoder"), "{}", said(&output));
    let swapped = tiny_model::SUITE.replace("path:model", "path:encoder");
    fs::write(place.path("swapped.toml"), swapped).unwrap();
    let output = place.run(&["run", "swapped.toml", "--out", "run2", "--quiet"]);
    assert!(output.status.code() != Some(0) && said(&output).contains("is an encoder"), "{}", said(&output));
}

#[test]
fn an_encoder_learns_from_sentences() {
    let place = place();
    let cosine = |recipe: &str, name: &str| -> f64 {
        let out = place.run(&[
            "quantize",
            "encoder",
            "-o",
            name,
            "--recipe",
            recipe,
            "--calibration",
            "sentences/*.txt",
            "--windows",
            "40",
            "--length",
            "30",
        ]);
        assert!(out.status.success(), "{recipe}: {}", said(&out));
        let out = place.run(&[
            "eval",
            name,
            "--reference",
            "encoder",
            "--text",
            "sentences/*.txt",
            "--length",
            "30",
            "--json",
        ]);
        assert!(out.status.success(), "{recipe}: {}", said(&out));
        let found: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(found["sentences"], 48);
        assert!(found["least_cosine"].as_f64() <= found["mean_cosine"].as_f64());
        found["mean_cosine"].as_f64().unwrap()
    };
    let weights = |extra: &str| format!("weights = {{ bits = 3, granularity = \"channel\"{extra} }}");
    let plain = weights("");
    let rounded = cosine(&format!("method = \"rtn\", {plain}"), "rtn");
    let learned = cosine(&format!("method = \"gptq\", {plain}"), "gptq");
    let searched = cosine(&format!("method = \"rtn\", {}", weights(", observer = \"imatrix_mse\"")), "imatrix");
    assert!(learned > rounded && searched > rounded, "GPTQ {learned}, searched {searched}, rounded {rounded}");
    let eight = "weights = { bits = 8, granularity = \"channel\" }, activations = { bits = 8 }, smooth = \"search\"";
    for (method, rest, name) in [("awq", plain.as_str(), "awq"), ("gptq", eight, "smooth")] {
        let cosine = cosine(&format!("method = \"{method}\", {rest}"), name);
        assert!(cosine > if name == "smooth" { 0.99 } else { 0.5 }, "{method}: {cosine}");
    }

    let alone = place.run(&["eval", "rtn", "--text", "sentences/*.txt"]);
    assert!(!alone.status.success() && said(&alone).contains("add --reference"), "{}", said(&alone));
    let data = "[data]\ncalibration = { source = \"path:sentences/*.txt\", windows = 2, length = 8 }\n[[task]]";
    let learns = SUITE.replacen("method = \"rtn\"", "method = \"gptq\"", 1);
    fs::write(place.path("learns.toml"), learns.replace("[[task]]", data)).unwrap();
    let output = place.run(&["run", "learns.toml", "--out", "run", "--quiet"]);
    assert!(said(&output).contains("do not overlap"), "{}", said(&output));
}

/// The first line of `bench embed` of `model` on `text`: number of tokens, whether it was cut, the vector.
fn embed(place: &Place, model: &str, text: &str, more: &[&str]) -> (u64, bool, Vec<f64>) {
    fs::write(place.path("one.txt"), text).unwrap();
    let output = place.run(&[&["embed", model, "--text", "one.txt"], more].concat());
    let line: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    let vector = serde_json::from_value(line["vector"].clone()).unwrap();
    (line["tokens"].as_u64().unwrap(), line["cut"].as_bool().unwrap(), vector)
}

#[test]
fn side_files_bound_and_change_the_text_as_sentence_transformers_does() {
    let place = place();
    let (text, short) = ("the quick brown fox", "the qu");
    assert_eq!(embed(&place, "encoder", text, &[]).0, 21);
    let write = |file: &str, json: Value| fs::write(place.path("encoder").join(file), json.to_string()).unwrap();
    write("tokenizer_config.json", json!({"model_max_length": 10}));
    assert_eq!(embed(&place, "encoder", text, &[]).0, 10);
    write("sentence_bert_config.json", json!({"max_seq_length": 8, "do_lower_case": false}));
    let cut = embed(&place, "encoder", text, &[]);
    let (tokens, _, vector) = embed(&place, "encoder", short, &[]);
    assert_eq!(cut, (8, true, vector));
    assert_eq!(tokens, 8);
    assert_eq!(embed(&place, "encoder", text, &["--length", "12"]).0, 12, "a longer length that is asked for is used");

    write("sentence_bert_config.json", json!({"max_seq_length": 8, "do_lower_case": true}));
    assert_eq!(embed(&place, "encoder", "THE QU", &[]), embed(&place, "encoder", short, &[]));
    let prompts = json!({"prompts": {"query": "the "}, "default_prompt_name": "query"});
    write("config_sentence_transformers.json", prompts);
    assert_eq!(embed(&place, "encoder", "qu", &[]), (8, false, embed(&place, "encoder", "Qu", &[]).2));

    // What `quantize` writes behaves as the model.
    let recipe = r#"method = "cast", dtype = "f32""#;
    let output = place.run(&["quantize", "encoder", "-o", "cast", "--recipe", recipe]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(embed(&place, "cast", text, &[]), embed(&place, "encoder", text, &[]));

    write("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true, "include_prompt": false}));
    let refused = place.run(&["embed", "encoder", "--text", "one.txt"]);
    assert!(said(&refused).contains("\"include_prompt\": false with a default prompt"), "{}", said(&refused));
    write("config_sentence_transformers.json", json!({"prompts": {}, "default_prompt_name": "query"}));
    let refused = place.run(&["embed", "encoder", "--text", "one.txt"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}

#[test]
fn a_suite_cuts_sentences_where_the_model_does_and_says_so() {
    let place = place();
    let length = json!({"max_seq_length": 16}).to_string();
    fs::write(place.path("encoder/sentence_bert_config.json"), length).unwrap();
    for (suite, tokens, warning) in [
        (SUITE.replacen("length = 30\n", "", 1), 16, "sentences are longer than 16 tokens and lose their end"),
        (SUITE.to_string(), 30, "cut at 30 tokens as the suite says; the model's side files say 16"),
    ] {
        fs::write(place.path("encoder.toml"), suite).unwrap();
        let out = format!("run-{tokens}");
        let output = place.run(&["run", "encoder.toml", "--out", &out, "--quiet"]);
        assert!(ended(&output), "{}", said(&output));
        let evidence = place.evidence(&out);
        let sentences = &evidence.variants["fp32"].scores["similarity"].sentences;
        assert_eq!(sentences.iter().map(|sentence| sentence.tokens).max(), Some(tokens));
        assert!(evidence.warnings.iter().any(|text| text.contains(warning)), "{:?}", evidence.warnings);
    }
}

#[test]
fn special_tokens_that_a_sentence_has_are_not_doubled() {
    let place = place();
    let mut json = tokenizer();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json["added_tokens"] = json!([special(2, "[CLS]"), special(3, "[SEP]")]);
    fs::write(place.path("encoder/tokenizer.json"), json.to_string()).unwrap();
    let plain = embed(&place, "encoder", "the fox", &[]);
    assert_eq!(plain.0, 9);
    for text in ["[CLS]the fox[SEP]", "[CLS]the fox", "the fox[SEP]"] {
        assert_eq!(embed(&place, "encoder", text, &[]), plain, "{text}");
    }
    assert_eq!(embed(&place, "encoder", "the[SEP]fox", &[]).0, 9, "inside a text it is one token");
}
