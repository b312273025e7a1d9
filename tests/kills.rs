//! Kills at named points of the program: before and after lines of the journal and renames, at starts and answers of workers.
//! `tools/kill_campaign.py` does this a thousand times; here are the moments that once lost something.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests stop at what they did not expect")]

mod tiny_model;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use quantbench::results::{Evidence, JOURNAL};
use tiny_model::{Place, ended, said};

/// The start of a run, or its resumption, that is killed when `point` is reached for the `number`th time.
fn killed(place: &Place, point: &str, number: usize, signal: &str, target: &str) -> Output {
    let file = place.path("reached");
    // What an earlier kill has counted.
    let _ = fs::remove_file(&file);
    let crash = format!("{point}:{number}:{signal}:{target}:{}", file.display());
    // In a process group of its own: `group` shall not end this test.
    let mut command = place.bench(&arguments(place));
    let output = command.env("BENCH_CRASH_AT", crash).process_group(0).output().unwrap();
    assert!(fs::read(&file).is_ok_and(|reached| reached.len() >= number), "{point} was not reached: {}", said(&output));
    output
}

fn arguments(place: &Place) -> Vec<&'static str> {
    match place.path("run").join(JOURNAL).exists() {
        true => vec!["run", "suite.toml", "--resume", "run", "--quiet"],
        false => vec!["run", "suite.toml", "--out", "run", "--quiet"],
    }
}

/// Goes on to the end and holds the run against an undisturbed one.
fn finish(place: &Place, whole: &Evidence, case: &str) {
    let output = place.run(&arguments(place));
    assert!(ended(&output), "{case}: {}", said(&output));
    same(place, whole, case);
}

fn same(place: &Place, whole: &Evidence, case: &str) {
    let evidence = place.evidence("run");
    assert!(evidence.finished_unix_s.is_some(), "{case}");
    for (name, expected) in &whole.variants {
        let found = &evidence.variants[name];
        assert!(found.failures.is_empty(), "{case} {name}: {:?}", found.failures);
        assert_eq!(found.scores["perplexity"].windows, expected.scores["perplexity"].windows, "{case} {name}");
        assert_eq!(found.slots.len(), expected.slots.len(), "{case} {name}");
    }
    assert!(!place.path("run/scratch").exists(), "{case}");
    let left = fs::read_dir(place.path("cache/artefacts")).unwrap().map(|e| e.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with('.')), "{case}");
}

fn undisturbed() -> Evidence {
    let place = Place::new();
    let output = place.run(&["run", "suite.toml", "--out", "run", "--quiet"]);
    assert!(ended(&output), "{}", said(&output));
    place.evidence("run")
}

#[test]
fn a_run_killed_at_any_moment_ends_as_an_undisturbed_one() {
    let whole = undisturbed();
    let place = Place::new();
    // One run, killed again and again: while it prepares, builds, stores the reference's states, scores and times.
    let kills = [
        ("rename-before", 2, "KILL", "group"),
        ("journal-before", 3, "KILL", "self"),
        ("rename-before", 1, "KILL", "parent"),
        ("description-before", 1, "KILL", "group"),
        ("rename-after", 4, "KILL", "parent"),
        ("worker-answered", 4, "KILL", "parent"),
        ("journal-after", 3, "TERM", "self"),
        ("worker-answer", 5, "KILL", "group"),
    ];
    for (point, number, signal, target) in kills {
        if place.path("run").exists() && !place.path("run").join(JOURNAL).exists() {
            fs::remove_dir(place.path("run")).unwrap();
        }
        let output = killed(&place, point, number, signal, target);
        assert!(!output.status.success(), "{point} {number}: {}", said(&output));
    }
    finish(&place, &whole, "after all kills");
}

#[test]
fn a_reference_whose_states_are_stored_is_scored_when_the_journal_lacks_its_score() {
    let whole = undisturbed();
    let place = Place::new();
    // Preparing writes four token files, each of three artefacts has a rename and a description, then come the states.
    let mut at = 1;
    loop {
        killed(&place, "rename-after", at, "KILL", "parent");
        if place.path("run/scratch/0.hidden").exists() {
            break;
        }
        at += 1;
        assert!(at < 30, "the reference's states were never stored");
        let _ = fs::remove_dir_all(place.path("run"));
        let _ = fs::remove_dir_all(place.path("cache"));
    }
    assert!(place.evidence("run").variants["fp16"].scores.is_empty(), "killed before the score was recorded");
    finish(&place, &whole, "states without a score");
}

#[test]
fn a_worker_that_is_killed_costs_nothing() {
    let whole = undisturbed();
    for (number, what) in [(1, "prepare"), (2, "build"), (5, "score"), (10, "time")] {
        let place = Place::new();
        let output = killed(&place, "worker-answer", number, "KILL", "self");
        assert!(ended(&output), "{what}: {}", said(&output));
        same(&place, &whole, what);
        let warnings = place.evidence("run").warnings;
        assert!(
            warnings.iter().any(|text| text.contains("SIGKILL") && text.contains("tried once more")),
            "{warnings:?}"
        );
    }
}

#[test]
fn a_request_to_end_loses_at_most_the_job_in_flight_and_says_how_to_go_on() {
    let whole = undisturbed();
    let place = Place::new();
    // The worker has answered: its answer is recorded before the run ends.
    let output = killed(&place, "worker-answered", 6, "TERM", "parent");
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("go on with: bench run suite.toml --resume run"), "{}", said(&output));
    let journal = fs::read_to_string(place.path("run").join(JOURNAL)).unwrap();
    let answers = ["prepared", "built", "scored"];
    let recorded = |kind: &str| journal.matches(&format!("\"event\":\"{kind}\"")).count();
    assert_eq!(answers.map(recorded).iter().sum::<usize>(), 6, "{journal}");
    finish(&place, &whole, "after SIGTERM");
}

#[test]
fn runs_that_share_a_cache_share_its_work() {
    let whole = undisturbed();
    let place = Place::new();
    let start = |out: &str| place.bench(&["run", "suite.toml", "--out", out]).spawn().unwrap();
    let mut runs: Vec<_> = ["run", "second", "third"].map(start).into();
    for run in &mut runs {
        assert!(run.wait().unwrap().code().is_some_and(|code| [0, 1, 3, 5].contains(&code)));
    }
    same(&place, &whole, "one of three");
    for out in ["second", "third"] {
        let evidence = place.evidence(out);
        assert!(evidence.variants.values().all(|found| found.failures.is_empty()), "{out}");
        assert!(evidence.finished_unix_s.is_some());
    }
}

#[test]
fn the_program_of_a_run_is_the_one_that_began_it() {
    let whole = undisturbed();
    let place = Place::new();
    let program = place.path("bench");
    fs::copy(assert_cmd::cargo::cargo_bin!("bench"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(arguments(&place)).current_dir(place.root.path()).env("BENCH_CACHE", place.path("cache"));
    let mut run = command.spawn().unwrap();
    // Another file in its place, as an installation does it.
    while !place.path("run").join(JOURNAL).exists() {
        assert!(run.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    fs::write(place.path("other"), "#!/bin/sh\necho another program\n").unwrap();
    fs::rename(place.path("other"), &program).unwrap();
    assert!(run.wait().unwrap().code().is_some_and(|code| [0, 1, 3, 5].contains(&code)));
    same(&place, &whole, "replaced");
}
