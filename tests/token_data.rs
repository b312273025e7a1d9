//! Data as token ids: the same results as from the text, and plain refusals of what is not this model's.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::path::Path;
use std::process::Output;

use quantbench::checkpoint::Checkpoint;
use quantbench::kernels::Pool;
use quantbench::network::{self, Continuations, Decoder, LoadOptions, Model};
use quantbench::suite::TextSource;
use quantbench::tasks::Encoder;
use serde_json::{Value, json};
use tiny_model::{Place, ended, said};

/// A place whose text is there as tokens, too.
fn place_with_tokens() -> Place {
    let place = Place::new();
    let root = place.root.path();
    fs::create_dir_all(root.join("suites/data/tiny")).unwrap();
    let tokenizer = tiny_model::tokenizer_sha256(root);
    tiny_model::write_tokens(root, Path::new("suites/data/tiny/text.safetensors"), &tokenizer);
    place
}

fn source(text: &str) -> TextSource {
    TextSource { source: text.into(), documents: None, field: None }
}

#[test]
fn tokens_are_the_text_and_other_models_tokens_are_refused() {
    let place = place_with_tokens();
    let encoder = Encoder::of(&Model::open(&place.path("model")).unwrap());
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
    let place = place_with_tokens();
    let tokens = tiny_model::SUITE.replace("path:text/*.txt", "bundled:tiny/text");
    fs::write(place.path("tokens.toml"), &tokens).unwrap();
    for suite in ["suite", "tokens"] {
        let output = place.run(&["run", &format!("{suite}.toml"), "--out", suite, "--quiet"]);
        assert!(ended(&output), "{}", said(&output));
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
    perplexity_is_compared_in_pairs(&place);
}

/// `--reference` scores the same windows with both models: the model against itself differs by nothing, and 2 bits lose.
fn perplexity_is_compared_in_pairs(place: &Place) {
    let recipe = r#"method = "rtn", weights = { bits = 2, granularity = "channel" }"#;
    let output = place.run(&["quantize", "model", "--recipe", recipe, "-o", "two-bits"]);
    assert!(output.status.success(), "{}", said(&output));
    let against = |model: &str| -> Value {
        let output =
            place.run(&["eval", model, "--reference", "model", "--text", "text/*.txt", "--length", "32", "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (same, worse) = (&against("model")["against"], against("two-bits"));
    assert_eq!((&same["documents"], &same["increase_percent"]), (&json!(8), &json!(0.0)));
    assert_eq!(same["interval"], json!([0.0, 0.0]));
    let scores = |length: &str, more: [&str; 2]| {
        place.run(&[&["eval", "model", "--text", "text/*.txt", "--length", length, "--json"][..], &more].concat())
    };
    assert!(scores("32", ["--per-token", "scores.csv"]).status.success());
    let output = scores("32", ["--reference", "scores.csv"]);
    let from_file: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(from_file["against"]["increase_percent"], json!(0.0), "{}", said(&output));
    let refused = scores("16", ["--reference", "scores.csv"]);
    assert!(!refused.status.success() && said(&refused).contains("scores of other windows"), "{}", said(&refused));
    fs::write(place.path("broken.csv"), "window,position\n1,x\n").unwrap();
    let refused = scores("32", ["--reference", "broken.csv"]);
    assert!(!refused.status.success() && said(&refused).contains("broken.csv"), "{}", said(&refused));
    let ratio = worse["perplexity"].as_f64().unwrap() / worse["against"]["perplexity"].as_f64().unwrap();
    let increase = worse["against"]["increase_percent"].as_f64().unwrap();
    assert!(increase > 1.0 && (increase - 100.0 * (ratio - 1.0)).abs() < 1e-9 * increase, "{worse}");
    let bound = |at: usize| worse["against"]["interval"][at].as_f64().unwrap();
    assert!(bound(0) < increase && increase < bound(1), "{worse}");
}

#[test]
fn calibration_on_scored_tokens_is_noticed() {
    let place = place_with_tokens();
    fs::copy(place.path("suites/data/tiny/text.safetensors"), place.path("copy.safetensors")).unwrap();
    let suite = tiny_model::SUITE
        .replacen("path:text/*.txt\", documents = \"0..3\"", "path:copy.safetensors\", documents = \"2..5\"", 1)
        .replace("path:text/*.txt", "bundled:tiny/text");
    fs::write(place.path("leak.toml"), &suite).unwrap();
    let output = place.run(&["run", "leak.toml", "--out", "refused", "--quiet"]);
    assert!(!output.status.success() && said(&output).contains("allow_leak = true"), "{}", said(&output));
    assert!(said(&output).contains("2 of 3 calibration documents are also scored"), "{}", said(&output));

    fs::write(place.path("leak.toml"), suite.replacen("windows = 8,", "windows = 8, allow_leak = true,", 1)).unwrap();
    let output = place.run(&["run", "leak.toml", "--out", "leak", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let leak = place.judged("leak").leak.unwrap();
    assert!(leak.contains("sequences of task \"perplexity\" have passages that are calibrated on"), "{leak}");
    let page = fs::read_to_string(place.path("leak/report/index.html")).unwrap();
    assert!(page.contains("calibrated on what is scored"), "the page is marked");
}

/// The log-likelihood of a continuation is what scoring passage and continuation as one window gives its tokens.
#[test]
fn continuations_score_as_windows_do() {
    let place = place_with_tokens();
    let checkpoint = Checkpoint::open(&place.path("model")).unwrap();
    let decoder = Decoder::load(&checkpoint, LoadOptions::default()).unwrap();
    let pool = Pool::new(1);
    let bytes = |text: &String| text.bytes().map(u32::from).collect::<Vec<_>>();
    let item = |(passage, continuations, ..): &(String, Vec<String>, usize, usize)| Continuations {
        passage: bytes(passage),
        continuations: continuations.iter().map(bytes).chain([vec![7]]).collect(),
    };
    let items: Vec<Continuations> = tiny_model::items().iter().map(item).collect();
    let mut scored = 0;
    network::score_continuations(&decoder, &pool, &items, &mut |at, sums| {
        for (continuation, sum) in items[at].continuations.iter().zip(&sums) {
            let window = [items[at].passage.as_slice(), continuation].concat();
            let mut losses = Vec::new();
            network::score(&decoder, &pool, &[window], &mut |chunk| {
                losses.extend(chunk.scores(&pool).iter().map(|s| s.nll));
                Ok(())
            })?;
            let expected: f64 = -losses[items[at].passage.len() - 1..].iter().sum::<f64>();
            assert!((sum - expected).abs() < 1e-4, "item {at}: {sum} {expected}");
        }
        assert_eq!((at, sums.len()), (scored, 5));
        scored += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(scored, 48);
    for wrong in
        [(vec![], vec![vec![1]]), (vec![1], vec![vec![]]), (vec![1], vec![vec![256]]), (vec![256], vec![vec![1]])]
    {
        let item = Continuations { passage: wrong.0, continuations: wrong.1 };
        assert!(network::score_continuations(&decoder, &pool, &[item], &mut |_, _| Ok(())).is_err());
    }
}

const CHOICE: &str = r#"
[[task]]
kind = "choice"
data = "path:choice.safetensors"
items = 40
[[task]]
name = "lines"
kind = "choice"
data = "path:choice.jsonl"
"#;

#[test]
fn a_choice_is_scored_judged_and_reported() {
    let place = place_with_tokens();
    tiny_model::write_choices(place.root.path());
    let rule = r#"accuracy = { task = "lines", metric = "accuracy", max_drop_points = 99 }"#;
    let suite = tiny_model::SUITE
        .replace(r#"accuracy = { metric = "perplexity", max_increase_percent = 5 }"#, rule)
        .replace("[workload]", &format!("{CHOICE}[workload]"));
    fs::write(place.path("choice.toml"), suite).unwrap();
    let output = place.run(&["run", "choice.toml", "--out", "run", "--quiet"]);
    // A rule with so wide a margin does not reject a broken model either, which makes the run invalid.
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("INVALID: the reference broken on purpose is not rejected"), "{}", said(&output));
    assert!(said(&output).contains("guessing would be right in 25.0 %"), "{}", said(&output));
    let (evidence, run) = (place.evidence("run"), place.judged("run"));
    for (name, found) in &evidence.variants {
        let (tokens, lines) = (&found.scores["choice"], &found.scores["lines"]);
        assert_eq!((tokens.items.len(), lines.items.len(), tokens.genres.of.len()), (40, 48, 40), "{name}");
        for item in lines.items.iter().chain(&tokens.items) {
            let best = item.log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(item.log_likelihoods[item.picked], best);
            assert!(item.log_likelihoods.len() == 4 && best < 0.0);
        }
    }
    let int8 = run.variants.iter().find(|v| v.name == "int8").unwrap();
    let lines = &int8.choices["lines"];
    let right = evidence.variants["int8"].scores["lines"].items.iter().filter(|i| i.picked == i.answer).count();
    assert!((lines.accuracy.value - right as f64 / 48.0).abs() < 1e-12 && lines.chance == 0.25);
    let difference = lines.accuracy_difference.as_ref().unwrap();
    assert!(
        difference.low.unwrap() < difference.value && difference.value < difference.high.unwrap(),
        "{difference:?}"
    );
    assert_eq!(int8.choices["choice"].genres.iter().map(|g| g.items).sum::<usize>(), 40);
    let reason = &int8.verdict.as_ref().unwrap().reason;
    assert!(reason.contains("accuracy") && reason.contains(">= -99 points: yes"), "{reason}");
    let rows = csv::Reader::from_path(place.path("run/scores.csv")).unwrap().records().count();
    assert_eq!(rows, 3 * (20 + 40 + 48));
    let page = fs::read_to_string(place.path("run/report/index.html")).unwrap();
    assert!(page.contains("Guessing would be right in 25.0 %") && page.contains("change of accuracy, points"));

    // Taken up after the first score: picks are the same, and nothing is scored twice.
    let journal = fs::read_to_string(place.path("run/journal.jsonl")).unwrap();
    let kept =
        journal.lines().position(|line| line.contains("\"event\":\"scored\"") && line.contains("lines")).unwrap();
    let cut: String = journal.lines().take(kept + 1).flat_map(|line| [line, "\n"]).collect();
    fs::write(place.path("run/journal.jsonl"), cut).unwrap();
    let output = place.run(&["run", "choice.toml", "--resume", "run", "--quiet"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    for (name, found) in &place.evidence("run").variants {
        assert_eq!(found.scores["lines"].items, evidence.variants[name].scores["lines"].items, "{name}");
    }
}
