//! The real program from suite to report on a tiny model: whole runs, killed runs, damaged files.

#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use quantbench::results::{Built, Evidence, JOURNAL};
use tiny_model::{Place, ended, said};

/// All slots as (variant, control, block, position).
fn slots(evidence: &Evidence) -> BTreeSet<(String, bool, usize, usize)> {
    let slots = evidence.variants.values().flat_map(|v| &v.slots);
    slots.map(|s| (s.variant.clone(), s.control, s.block, s.position)).collect()
}

fn assert_complete(place: &Place, run: &str) {
    let evidence = place.evidence(run);
    assert_eq!(evidence.variants.keys().map(String::as_str).collect::<Vec<_>>(), tiny_model::VARIANTS);
    let count: usize = evidence.variants.values().map(|v| v.slots.len()).sum();
    // 3 variants and the control, 2 blocks.
    assert_eq!((slots(&evidence).len(), count), (8, 8));
    for (name, found) in &evidence.variants {
        assert!(found.failures.is_empty(), "{name}: {:?}", found.failures);
        let score = &found.scores["perplexity"];
        assert_eq!(score.windows.len(), 20);
        assert!(score.windows.iter().all(|w| w.tokens == 31 && w.nll > 0.0), "{name}");
        assert_eq!(score.windows.iter().all(|w| w.kl.is_some()), name != "fp16", "{name}");
    }
    assert!(evidence.finished_unix_s.is_some());
    assert!(!place.path(run).join("scratch").exists());
    assert_eq!(place.judged(run).variants.len(), 3);
    for file in ["samples.csv", "scores.csv", "report/index.html", "report/summary.md"] {
        assert!(place.path(run).join(file).is_file(), "{file}");
    }
}

fn rows(path: &Path) -> usize {
    csv::Reader::from_path(path).unwrap().records().map(Result::unwrap).count()
}

#[test]
fn a_suite_runs_from_its_file_to_its_report() {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    // Two blocks prove nothing about speed, so nothing can be recommended for certain: 1 or 3.
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{:?}: {}", output.status, said(&output));
    assert_complete(&place, "run");
    assert_eq!(rows(&place.path("run/samples.csv")), 8 * 2);
    assert_eq!(rows(&place.path("run/scores.csv")), 3 * 20);

    let evidence = place.evidence("run");
    let fp16 = &evidence.variants["fp16"];
    for (name, found) in &evidence.variants {
        let windows = &found.scores["perplexity"].windows;
        let same = |w: &quantbench::results::WindowScore| (w.document, w.tokens);
        assert!(windows.iter().map(same).eq(fp16.scores["perplexity"].windows.iter().map(same)), "{name}");
        for slot in &found.slots {
            assert!(slot.memory.weight_bytes > 0 && slot.memory.kv_bytes > 0 && slot.memory.peak_rss.is_some());
            assert!(slot.warmup_iterations >= 2 && !slot.kernels.is_empty());
            for sample in &slot.samples {
                assert_eq!((sample.prompt_tokens, sample.generated_tokens), (16, 4));
                assert!(sample.ttft_s > 0.0 && sample.decode_s > 0.0);
            }
        }
    }
    // Eight bits stay nearer to the reference than four.
    let kl = |name: &str| evidence.variants[name].scores["perplexity"].windows.iter().filter_map(|w| w.kl).sum::<f64>();
    assert!(0.0 < kl("int8") && kl("int8") < kl("int4-gptq"), "{} {}", kl("int8"), kl("int4-gptq"));

    // A second run takes everything from the cache and measures the same accuracy to the last bit.
    let output = place.run(&["run", "suite.toml", "--out", "again", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let again = place.evidence("again");
    for (name, found) in &again.variants {
        let Built::Ready(artefact) = &found.built else { panic!("{name} was not built") };
        assert!(artefact.cached, "{name}");
        assert_eq!(found.scores["perplexity"].windows, evidence.variants[name].scores["perplexity"].windows, "{name}");
    }
}

#[test]
fn further_draws_of_calibration_windows_show_what_the_draw_changes() {
    let place = Place::new();
    fs::write(place.path("suite.toml"), tiny_model::SUITE.replace("length = 32 }", "length = 32, seeds = 3 }"))
        .unwrap();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let evidence = place.evidence("run");
    for (name, found) in &evidence.variants {
        let draws: Vec<usize> = found.redrawn.keys().copied().collect();
        assert_eq!(draws, if name == "int4-gptq" { vec![1, 2] } else { vec![] }, "{name}");
        let nll = |score: &quantbench::results::Score| score.windows.iter().map(|w| w.nll).sum::<f64>();
        for score in found.redrawn.values() {
            let score = score.as_ref().unwrap();
            assert_eq!(score.windows.len(), 20);
            assert_ne!(nll(score), nll(&found.scores["perplexity"]), "another draw gives other weights");
        }
    }
    let judged = place.judged("run");
    let draws = judged.variants.iter().find(|v| v.name == "int4-gptq").unwrap().draws.as_ref().unwrap();
    assert_eq!((draws.differences.len(), draws.failures.len()), (3, 0));
    assert!(draws.deviation > 0.0);
    let page = fs::read_to_string(place.path("run/report/index.html")).unwrap();
    assert!(page.contains("by draw of calibration windows"));
    assert!(said(&place.run(&["plan", "suite.toml"])).contains("2 variants more are made and scored on perplexity"));
}

#[test]
#[cfg(unix)]
fn a_limit_of_memory_is_tried_and_costs_nothing_where_it_does_not_hold() {
    let place = Place::new();
    for (limit, holds) in [("16GiB", true), ("12MiB", false)] {
        let output =
            place.run(&["run", "suite.toml", "--out", limit, "--quiet", "--only", "int8", "--prove-fit", limit]);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{}", said(&output));
        for found in place.evidence(limit).variants.values().filter(|v| v.built != Built::Missing) {
            assert_eq!(found.fit.as_ref().map(|fit| fit.failure.is_none()), Some(holds), "{limit}: {:?}", found.fit);
            assert!(found.failures.is_empty() && !found.slots.is_empty());
        }
        assert!(said(&output).contains(if holds { "int8 runs in" } else { "int8 does not run" }), "{}", said(&output));
    }
}

#[test]
fn a_run_is_judged_again_from_its_journal_alone() {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet", "--only", "int8"]);
    assert!(ended(&output), "{}", said(&output));
    let before = fs::read(place.path("run/run.json")).unwrap();
    assert_eq!(place.judged("run").variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["fp16", "int8"]);
    for name in ["run.json", "samples.csv", "scores.csv"] {
        fs::remove_file(place.path("run").join(name)).unwrap();
    }
    fs::remove_dir_all(place.path("model")).unwrap();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let run = quantbench::pipeline::report(&place.path("run")).unwrap();
    assert_eq!(run, serde_json::from_slice(&before).unwrap());
    assert_eq!(fs::read(place.path("run/run.json")).unwrap(), before);

    // The same run compared with itself, and the page over the folder.
    let same = place.run(&["compare", "run", "run"]);
    assert_eq!(same.status.code(), Some(0), "{}", said(&same));
    assert!(said(&same).contains("the same machine and program"), "{}", said(&same));
    let index = place.run(&["report", "--index", "."]);
    assert_eq!(index.status.code(), Some(0), "{}", said(&index));
    let page = fs::read_to_string(place.path("index.html")).unwrap();
    assert!(page.contains("1 runs") && page.contains("run&#x2f;report&#x2f;index.html"), "{page}");

    // Under another threshold: the question is answered anew beside the run, whose own answer stays.
    let strict = place.run(&["report", "run", "--accept", "max_increase_percent=0.25", "--accept", "min_speedup=3"]);
    assert!(matches!(strict.status.code(), Some(0 | 1 | 3)), "{}", said(&strict));
    let other: quantbench::results::Run =
        serde_json::from_slice(&fs::read(place.path("run/rejudged/run.json")).unwrap()).unwrap();
    let reason = &other.variants[1].verdict.as_ref().unwrap().reason;
    assert!(reason.contains("<= 0.25 %"), "{reason}");
    assert_eq!(other.suite.accept.speed.as_ref().unwrap().min_speedup, 3.0);
    assert!(
        other.warnings.iter().any(|w| w.contains("max_increase_percent=0.25, min_speedup=3")),
        "{:?}",
        other.warnings
    );
    assert!(place.path("run/rejudged/report/index.html").is_file());
    assert_eq!(fs::read(place.path("run/run.json")).unwrap(), before);
    let unknown = place.run(&["report", "run", "--accept", "max_memory=2MiB"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        said(&unknown).contains("it has max_increase_percent, min_speedup, confidence, rule"),
        "{}",
        said(&unknown)
    );
}

#[test]
fn a_run_goes_on_from_any_line_of_its_journal() {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let whole = place.evidence("run");
    let journal = fs::read_to_string(place.path("run").join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    // After the first build, the first score, the first slot, and in the middle of the last slot.
    let first = |event: &str| lines.iter().position(|l| l.contains(&format!("\"event\":\"{event}\""))).unwrap() + 1;
    for kept in [first("built"), first("scored"), first("slot"), lines.len() - 4] {
        let cut = format!("{}\n{}", lines[..kept].join("\n"), &lines[kept][..lines[kept].len() / 2]);
        fs::write(place.path("run").join(JOURNAL), cut).unwrap();
        let output = place.run(&["run", "suite.toml", "--resume", "run", "--quiet"]);
        assert!(ended(&output), "{kept}: {}", said(&output));
        assert_complete(&place, "run");
        let evidence = place.evidence("run");
        assert_eq!(slots(&evidence), slots(&whole), "{kept}");
        assert!(evidence.warnings.iter().any(|w| w.contains("that line was dropped")), "{:?}", evidence.warnings);
        for (name, found) in &evidence.variants {
            assert_eq!(found.scores["perplexity"].windows, whole.variants[name].scores["perplexity"].windows, "{kept}");
        }
    }
    let changed = tiny_model::SUITE.replace("prompt = 16", "prompt = 8");
    fs::write(place.path("suite.toml"), changed).unwrap();
    let output = place.run(&["run", "suite.toml", "--resume", "run", "--quiet"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

/// Starts a run and kills it with SIGKILL as soon as its journal holds `slots` slots.
#[cfg(unix)]
fn run_and_kill(place: &Place, slots: usize) {
    let mut child: Child = place
        .bench(&["run", "suite.toml", "--out", "run"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        let journal = fs::read_to_string(place.path("run").join(JOURNAL)).unwrap_or_default();
        if journal.matches("\"event\":\"slot\"").count() >= slots {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none(), "{journal}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[cfg(unix)]
fn a_killed_run_loses_the_slot_in_flight_at_most_and_leaves_no_worker() {
    let place = Place::new();
    run_and_kill(&place, 3);
    let kept = slots(&place.evidence("run"));
    assert!(kept.len() >= 3 && kept.len() < 8);
    let began = Instant::now();
    while workers_of(&place) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "a worker outlived its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = place.run(&["run", "suite.toml", "--resume", "run", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    assert_complete(&place, "run");
    assert!(slots(&place.evidence("run")).is_superset(&kept));
}

/// Processes that work in this place's folder; Linux only, elsewhere none are seen.
#[cfg(unix)]
fn workers_of(place: &Place) -> usize {
    let here = fs::canonicalize(place.root.path()).unwrap();
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    processes.flatten().filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == here)).count()
}

#[test]
fn a_damaged_artefact_is_noticed_and_made_again() {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    let whole = place.evidence("run");
    let Built::Ready(artefact) = &whole.variants["fp16"].built else { panic!("fp16 was not built") };
    // Same size, same shape: signs of the reference's last weights.
    let weights = Path::new(&artefact.path).join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 1000..].iter_mut().skip(1).step_by(2).for_each(|byte| *byte ^= 0x80);
    fs::write(&weights, bytes).unwrap();

    let output = place.run(&["run", "suite.toml", "--out", "second"]);
    assert!(ended(&output), "{}", said(&output));
    let second = place.evidence("second");
    assert!(second.warnings.iter().any(|text| text.contains("not as it was made")), "{:?}", second.warnings);
    for (name, found) in &second.variants {
        assert!(found.failures.is_empty(), "{name}: {:?}", found.failures);
        assert_eq!(found.scores["perplexity"].windows, whole.variants[name].scores["perplexity"].windows, "{name}");
    }
}

#[test]
fn an_import_that_changes_between_two_parts_of_a_run_is_noticed() {
    let place = Place::new();
    let suite = format!("{}[[variant]]\nname = \"imported\"\nimport = \"path:import\"\n", tiny_model::SUITE);
    fs::write(place.path("suite.toml"), suite).unwrap();
    fs::create_dir(place.path("import")).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(place.path("model").join(name), place.path("import").join(name)).unwrap();
    }
    let run = ["run", "suite.toml", "--out", "run", "--quiet", "--only", "imported"];
    let output = place.run(&run);
    assert!(ended(&output), "{}", said(&output));
    let journal = fs::read_to_string(place.path("run").join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    let scored = lines.iter().position(|line| line.contains("\"event\":\"scored\"")).unwrap();
    fs::write(place.path("run").join(JOURNAL), lines[..scored].join("\n") + "\n").unwrap();
    let weights = place.path("import/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(&weights, bytes).unwrap();
    let output = place.run(&["run", "suite.toml", "--resume", "run", "--quiet"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("are not those that the run was started with"), "{}", said(&output));
}

#[test]
fn a_fault_of_input_that_a_worker_finds_is_exit_code_2() {
    let place = Place::new();
    fs::write(place.path("text/5.txt"), b"not UTF-8: \xff").unwrap();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("5.txt: byte 11: not UTF-8"), "{}", said(&output));
}

#[test]
fn what_cannot_run_is_said_before_anything_runs() {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--only", "int9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("has no variant \"int9\"; it has fp16, int8, int4-gptq"), "{}", said(&output));

    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/note"), "mine").unwrap();
    let output = place.run(&["run", "suite.toml", "--out", "full"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("not empty"), "{}", said(&output));

    let output = place.run(&["run", "suite.toml", "--resume", "full"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no run folder"), "{}", said(&output));
}
