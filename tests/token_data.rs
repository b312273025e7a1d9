//! Data as token ids: the same results as from the text, and plain refusals of what is not this model's.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quantbench::checkpoint::Checkpoint;
use quantbench::results::{Evidence, Run, read_journal};
use quantbench::suite::TextSource;
use quantbench::tasks::Encoder;

/// A folder with a tiny model, its text, and the same text as tokens.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        tiny_model::write(root.path());
        fs::create_dir_all(root.path().join("suites/data/tiny")).unwrap();
        let tokenizer = tiny_model::tokenizer_sha256(root.path());
        tiny_model::write_tokens(root.path(), Path::new("suites/data/tiny/text.safetensors"), &tokenizer);
        Place { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("bench"));
        command.args(arguments).current_dir(self.root.path()).env("BENCH_CACHE", self.path("cache")).output().unwrap()
    }

    fn evidence(&self, run: &str) -> Evidence {
        Evidence::from_events(read_journal(&self.path(run)).unwrap().events).unwrap()
    }

    fn judged(&self, run: &str) -> Run {
        serde_json::from_slice(&fs::read(self.path(run).join("run.json")).unwrap()).unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn source(text: &str) -> TextSource {
    TextSource { source: text.into(), documents: None, field: None }
}

#[test]
fn tokens_are_the_text_and_other_models_tokens_are_refused() {
    let place = Place::new();
    let encoder = Encoder::of(&Checkpoint::open(&place.path("model")).unwrap()).unwrap();
    let read = |text: &str| encoder.read(&source(text), place.root.path());
    let (text, tokens) = (read("path:text/*.txt").unwrap(), read("bundled:tiny/text").unwrap());
    assert_eq!((&tokens.documents, &tokens.names), (&text.documents, &text.names));
    assert_eq!(tokens.genre_of, [0, 1, 0, 1, 0, 1, 0, 1]);
    tiny_model::write_tokens(place.root.path(), Path::new("other.safetensors"), "00ff");
    let refused = read("path:other.safetensors").unwrap_err().to_string();
    assert!(refused.contains("other.safetensors") && refused.contains("sha256 00ff, not to this model's"), "{refused}");
}

/// The suite with its text replaced by tokens gives the same scores, by genre, and no download is needed.
#[test]
fn a_suite_on_tokens_measures_what_the_suite_on_text_does() {
    let place = Place::new();
    let tokens = tiny_model::SUITE.replace("path:text/*.txt", "bundled:tiny/text");
    fs::write(place.path("tokens.toml"), &tokens).unwrap();
    for suite in ["suite", "tokens"] {
        let output = place.run(&["run", &format!("{suite}.toml"), "--out", suite, "--quiet"]);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{}", said(&output));
    }
    let (text, tokens) = (place.evidence("suite"), place.evidence("tokens"));
    for (name, found) in &tokens.variants {
        let (score, expected) = (&found.scores["perplexity"], &text.variants[name].scores["perplexity"]);
        assert_eq!(score.windows, expected.windows, "{name}");
        assert_eq!((score.genres.names.len(), score.genres.of.len()), (2, 20));
        assert!(expected.genres.names.is_empty());
    }
    assert!(!tokens.warnings.iter().any(|w| w.contains("also scored")), "{:?}", tokens.warnings);
    for command in [&["plan", "tokens.toml"][..], &["fetch", "tokens.toml"]] {
        let output = place.run(command);
        assert!(output.status.success() && said(&output).contains("bundled:tiny/text"), "{}", said(&output));
    }
    let eval = |data: &str| place.run(&["eval", "model", "--text", data, "--length", "32", "--json"]);
    let perplexity = |output: &Output| said(output).lines().find(|l| l.contains("nll_sum")).map(str::to_owned);
    let (from_text, from_tokens) = (eval("text/*.txt"), eval("bundled:tiny/text"));
    assert!(perplexity(&from_text).is_some(), "{}", said(&from_text));
    assert_eq!(perplexity(&from_text), perplexity(&from_tokens), "{}", said(&from_tokens));
}

#[test]
fn calibration_on_scored_tokens_is_noticed() {
    let place = Place::new();
    fs::copy(place.path("suites/data/tiny/text.safetensors"), place.path("copy.safetensors")).unwrap();
    let suite = tiny_model::SUITE
        .replacen("path:text/*.txt\", documents = \"0..3\"", "path:copy.safetensors\", documents = \"2..5\"", 1)
        .replace("path:text/*.txt", "bundled:tiny/text");
    fs::write(place.path("leak.toml"), suite).unwrap();
    let output = place.run(&["run", "leak.toml", "--out", "leak", "--quiet"]);
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{}", said(&output));
    let warnings = place.judged("leak").warnings;
    assert!(warnings.iter().any(|w| w.contains("2 of 3 calibration documents are also scored")), "{warnings:?}");
}
