//! How texts are cut and scored: one rule for `eval` and `run`, nothing doubled, nothing dropped without a count, nothing
//! beyond what the model was made for.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::process::Output;

use quantbench::network::Model;
use quantbench::suite::TextSource;
use quantbench::tasks::{ChoiceItems, Encoder};
use serde_json::{Value, json};
use tiny_model::{Place, ended, said};

const SUITE: &str = r#"
model = "path:model"
[[task]]
kind = "perplexity"
data = "path:text/*.txt"
length = 32
[workload]
prompt = 8
generate = 2
threads = [1]
iterations = 1
blocks = 2
[accept]
rule = "accuracy"
accuracy = { metric = "perplexity", max_increase_percent = 5 }
[[variant]]
name = "int8"
method = "rtn"
weights = { bits = 8, granularity = "channel" }
"#;

fn eval(place: &Place, more: &[&str]) -> Output {
    place.run(&[&["eval", "model", "--text", "text/*.txt", "--length", "32"], more].concat())
}

fn number(output: &Output, key: &str) -> f64 {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)));
    json[key].as_f64().unwrap()
}

#[test]
fn eval_and_run_give_one_perplexity_of_a_text_and_count_what_is_not_predicted() {
    for bos in [false, true] {
        let place = Place::new();
        if bos {
            tiny_model::add_bos(place.root.path());
        }
        fs::write(place.path("text/short.txt"), "brief").unwrap();
        fs::write(place.path("text/void.txt"), "").unwrap();
        fs::write(place.path("suite.toml"), SUITE).unwrap();
        let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
        assert!(ended(&output), "{}", said(&output));
        let run = place.judged("run");
        let scored = &run.reference().unwrap().scores["perplexity"];
        let output = eval(&place, &["--as", "fp16", "--json"]);
        assert_eq!(number(&output, "tokens"), scored.tokens as f64, "{}", said(&output));
        let difference = number(&output, "perplexity") / scored.perplexity - 1.0;
        assert!(difference.abs() < 1e-9, "{difference}");
        let bytes: u64 = fs::read_dir(place.path("text")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        let left_out = if bos { 0.0 } else { number(&output, "windows") };
        assert_eq!(number(&output, "tokens_not_predicted"), left_out, "{}", said(&output));
        assert_eq!(scored.tokens as f64 + left_out, bytes as f64, "every token is predicted or counted");
        assert_eq!(number(&output, "documents_left_out"), 1.0, "{}", said(&output));
        let warned = run.warnings.iter().any(|w| w.contains("1 of 10 documents have nothing to predict"));
        assert!(warned, "{:?}", run.warnings);
    }
}

#[test]
fn a_beginning_token_that_a_text_has_is_not_doubled() {
    let place = Place::new();
    tiny_model::add_bos(place.root.path());
    let encoder = Encoder::of(&Model::open(&place.path("model")).unwrap());
    assert_eq!(encoder.bos(), Some(255));
    let source = |text: &str| TextSource { source: text.into(), documents: None, field: None };
    let read = |text: &str| {
        fs::write(place.path("one.txt"), text).unwrap();
        encoder.read(&source("path:one.txt"), place.root.path()).unwrap().documents.remove(0)
    };
    assert_eq!(read("<s>scale zero"), read("scale zero"));
    assert_eq!(read("scale <s>zero")[6], 255, "inside a text it is one token");
    let choices = |passage: &str| {
        let item = json!({ "passage": passage, "continuations": [" point", " block"], "answer": 0 });
        fs::write(place.path("choice.jsonl"), format!("{item}\n")).unwrap();
        ChoiceItems::read(&encoder, &source("path:choice.jsonl"), place.root.path(), None).unwrap().0
    };
    assert_eq!(choices("<s>zero"), choices("zero"));
}

#[test]
fn items_beyond_the_models_positions_are_counted_not_scored() {
    let place = Place::new();
    let encoder = Encoder::of(&Model::open(&place.path("model")).unwrap());
    let item = |length: usize| json!({ "passage": "p".repeat(length), "continuations": ["ab", "c"], "answer": 0 });
    // 128 positions: the last token of a continuation is predicted, not read.
    fs::write(place.path("choice.jsonl"), format!("{}\n{}\n{}\n", item(127), item(128), item(5))).unwrap();
    let source = TextSource { source: "path:choice.jsonl".into(), documents: None, field: None };
    let (found, too_long) = ChoiceItems::read(&encoder, &source, place.root.path(), None).unwrap();
    assert_eq!((found.items.len(), too_long), (2, 1));
}

#[test]
fn a_suite_beyond_the_models_positions_is_refused_and_eval_says_so() {
    let place = Place::new();
    for (from, to, what) in [
        ("length = 32", "length = 129", "`length` of 129 tokens"),
        ("prompt = 8", "prompt = 127", "together of 129 tokens"),
    ] {
        fs::write(place.path("suite.toml"), SUITE.replace(from, to)).unwrap();
        for command in [&["plan", "suite.toml"][..], &["run", "suite.toml", "--out", "run", "--quiet"]] {
            let output = place.run(command);
            let text = said(&output);
            assert!(text.contains(what) && text.contains("exceed the model's 128 positions"), "{text}");
            assert_eq!(output.status.code(), Some(2), "{text}");
        }
    }
    let long = |length| place.run(&["eval", "model", "--text", "text/0.txt", "--length", length, "--json"]);
    assert_eq!(number(&long("160"), "beyond_positions"), 128.0);
    assert!(!said(&long("128")).contains("beyond_positions"));
    // Linear stretching is on top of the positions.
    tiny_model::set_config(place.root.path(), "rope_scaling", json!({ "type": "linear", "factor": 2.0 }));
    assert!(!said(&long("160")).contains("beyond_positions"));
}
