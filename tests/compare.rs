//! Why two made-up runs differ: environment, data, numbers, in this order.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod synthetic;

use quantbench::decide::judge;
use quantbench::report::Comparison;
use synthetic::{SETTING, accept, evidence, truths};

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
