//! Hostile inputs, each with the answer that the program owes: one line that says what is wrong, and an exit code.
//!
//! A folder holds a class of inputs; beside each lies its expectation (`.expected`): the exit codes that are right, then
//! phrases of the answer, one a line. Inputs that are large, binary or no files at all are made in `made.rs`. Models are
//! the tiny one of the tests with one thing changed: a `.json` of `configs` and `tokenizers` is merged into the sound
//! file as RFC 7386 says (`null` removes a key).
//!
//! `ATTACK=part-of-a-name cargo test --test attacks -- --nocapture` shows the answers of some.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod check;
mod made;
#[path = "../tiny_model/mod.rs"]
mod tiny_model;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use check::{Attack, Expected, assert_all};
use tiny_model::Place;

/// The inputs of a class: name without extension, path, expectation.
fn inputs(class: &str) -> Vec<(String, PathBuf, Expected)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks").join(class);
    let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e != "expected")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no input", folder.display());
    let named = |path: PathBuf| {
        let expected = fs::read_to_string(path.with_extension("expected"));
        let expected = expected.unwrap_or_else(|_| panic!("{} has no .expected beside it", path.display()));
        (format!("{class}/{}", path.file_stem().unwrap().to_str().unwrap()), path, Expected::parse(&expected))
    };
    paths.into_iter().map(named).collect()
}

/// Every input of a class as the arguments that `arguments` makes of it in a place of its own.
fn attack(class: &str, arguments: impl Fn(&Place, &Path) -> Vec<String>) {
    let attacks = inputs(class).into_iter().map(|(name, path, expected)| {
        let place = Place::new();
        let arguments = arguments(&place, &path);
        Attack { name, place, arguments, expected }
    });
    assert_all(attacks);
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|word| (*word).to_owned()).collect()
}

/// What scores a model or a text.
fn eval(model: &str, text: &str) -> Vec<String> {
    words(&["eval", model, "--text", text, "--length", "32", "--threads", "1"])
}

/// Merges a change into a JSON file, as RFC 7386 says.
fn merge(file: &Path, change: &Path) {
    fn merged(old: &mut Value, change: Value) {
        let Value::Object(changes) = change else {
            *old = change;
            return;
        };
        if !old.is_object() {
            *old = Value::Object(Default::default());
        }
        let all = old.as_object_mut().unwrap();
        for (key, value) in changes {
            match value {
                Value::Null => drop(all.remove(&key)),
                value => merged(all.entry(key).or_insert(Value::Null), value),
            }
        }
    }
    let mut document: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    merged(&mut document, serde_json::from_slice(&fs::read(change).unwrap()).unwrap());
    fs::write(file, document.to_string()).unwrap();
}

/// Planned, beside a sound model and text.
fn plan(place: &Place, suite: &Path) -> Vec<String> {
    fs::copy(suite, place.path("suite.toml")).unwrap();
    words(&["plan", "suite.toml"])
}

#[test]
fn suites() {
    attack("suites", plan);
}

#[test]
fn names() {
    attack("names", plan);
}

#[test]
fn recipes() {
    attack("recipes", |_, recipe| {
        let recipe = fs::read_to_string(recipe).unwrap();
        words(&["quantize", "model", "--recipe", recipe.trim_end(), "-o", "out"])
    });
}

#[test]
fn configs() {
    attack("configs", |place, change| {
        merge(&place.path("model/config.json"), change);
        eval("model", "text/0.txt")
    });
}

/// Configurations that are no well-formed JSON.
#[test]
fn config_texts() {
    attack("config_texts", |place, config| {
        fs::copy(config, place.path("model/config.json")).unwrap();
        eval("model", "text/0.txt")
    });
}

#[test]
fn tokenizers() {
    attack("tokenizers", |place, change| {
        merge(&place.path("model/tokenizer.json"), change);
        eval("model", "text/0.txt")
    });
}

#[test]
fn texts() {
    attack("texts", |place, text| {
        let name = text.file_name().unwrap().to_str().unwrap();
        fs::copy(text, place.path(name)).unwrap();
        eval("model", name)
    });
}

#[test]
fn choices() {
    attack("choices", |place, items| {
        fs::copy(items, place.path("items.jsonl")).unwrap();
        let suite =
            tiny_model::SUITE.replace("[workload]", CHOICE).replace("accuracy = {", "accuracy = { task = \"choice\",");
        let suite = suite.replace("perplexity\", max_increase_percent", "accuracy\", max_drop_points");
        fs::write(place.path("suite.toml"), suite).unwrap();
        words(&["run", "suite.toml", "--out", "run", "--quiet"])
    });
}

const CHOICE: &str = "[[task]]\nkind = \"choice\"\ndata = \"path:items.jsonl\"\n[workload]";

#[test]
fn baselines() {
    attack("baselines", |place, baseline| {
        fs::copy(baseline, place.path("baseline.json")).unwrap();
        words(&["baseline", "show", "baseline.json"])
    });
}

#[test]
fn judged_runs() {
    attack("judged_runs", |place, run| {
        fs::create_dir_all(place.path("runs/a")).unwrap();
        fs::copy(run, place.path("runs/a/run.json")).unwrap();
        fs::write(place.path("runs/a/journal.jsonl"), "").unwrap();
        words(&["report", "--index", "runs"])
    });
}

#[test]
fn journals() {
    attack("journals", |place, journal| {
        fs::create_dir_all(place.path("run")).unwrap();
        fs::copy(journal, place.path("run/journal.jsonl")).unwrap();
        words(&["report", "run"])
    });
}
