//! Why two made-up runs differ: environment, data, numbers, in this order.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod synthetic;

use quantbench::decide::{judge, together};
use quantbench::report::Comparison;
use quantbench::results::{Answer, Evidence};
use synthetic::{SETTING, Setting, accept, evidence, truths};

#[test]
fn a_comparison_says_environment_then_data_then_numbers() {
    let e = evidence(&truths(), SETTING);
    let run = judge(&e, &accept());
    let same = Comparison::of(&run, &run);
    assert!(
        same.is_fair() && same.numbers.len() == run.variants.len() && !same.text().contains("(!)"),
        "{}",
        same.text()
    );

    let mut changed = truths();
    changed[4].decode = 2.0;
    changed[4].loss = 0.12;
    let slower = judge(&evidence(&changed, SETTING), &accept());
    let numbers = Comparison::of(&run, &slower);
    assert!(numbers.is_fair(), "{}", numbers.text());
    let line = numbers.numbers.iter().find(|l| l.starts_with("int4-gptq")).unwrap();
    assert_eq!(line.matches("(!)").count(), 3, "accuracy, speed and verdict moved: {line}");

    let mut elsewhere = run.clone();
    elsewhere.machine.cpu = "another\nprocessor".into();
    elsewhere.suite.workload.prompt = 64;
    elsewhere.suite.variants.pop();
    let different = Comparison::of(&run, &elsewhere);
    assert_eq!(different.environment, ["processor: Made-Up 9000, now another processor"]);
    assert_eq!(different.data.len(), 2, "{}", different.text());
    let text = different.text();
    let places: Vec<usize> =
        ["environment", "data", "numbers"].iter().map(|t| text.find(&format!("{t}\n")).unwrap()).collect();
    assert!(places.is_sorted() && text.trim_end().ends_with("not comparable"), "{text}");
}

/// Four blocks cannot prove that a variant is faster; three such runs together can, and one run shown three times cannot.
#[test]
fn evidence_of_runs_multiplies_and_a_run_counts_once() {
    let short = |seed: u64, at: f64| {
        let mut run = evidence(&truths(), Setting { blocks: 6, seed, ..SETTING });
        run.started_unix_s = at;
        run
    };
    let mut rule = accept();
    rule.speed.as_mut().unwrap().min_speedup = 1.5;
    let runs: Vec<Evidence> = (1..=4).map(|seed| short(seed, seed as f64)).collect();
    let answers = |runs: &[&Evidence]| -> Vec<Answer> { together(runs, &rule).into_iter().map(|t| t.answer).collect() };
    let one = answers(&[&runs[0]]);
    let thrice = answers(&[&runs[0], &runs[0], &runs[0]]);
    let all = answers(&[&runs[0], &runs[1], &runs[2], &runs[3]]);
    assert_eq!(one, thrice);
    assert_eq!(one.len(), truths().len() - 1);
    let known = |answers: &[Answer]| answers.iter().filter(|answer| **answer != Answer::Unknown).count();
    assert!(known(&all) > known(&one), "{one:?} {all:?}");
    for (name, answer) in truths().iter().skip(1).zip(&all) {
        let truth = if name.decode > 1.5 { Answer::Yes } else { Answer::No };
        assert!([truth, Answer::Unknown].contains(answer), "{}: {answer:?}", name.name);
    }
    rule.speed = None;
    assert!(together(&[&runs[0]], &rule).is_empty());
}
