//! What a run left: journal, judged run, baseline.

use std::sync::LazyLock;

use quantbench::gate::Baseline;
use quantbench::results::{Evidence, Run, read_journal};
use quantbench::{decide, report};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::edits::{self, Input};
use crate::scratch;

/// A valid document with its words.
struct Base {
    document: Value,
    words: Vec<String>,
}

impl Base {
    fn new(document: Value) -> Self {
        let words = edits::words([&document].into_iter());
        Base { document, words }
    }

    /// Any bytes that are JSON, or edits where the first byte is none of a text.
    fn edited(&self, data: &[u8]) -> Option<Value> {
        if data.first().is_some_and(|first| *first > 31) {
            return serde_json::from_slice(data).ok();
        }
        let (mut document, mut input) = (self.document.clone(), Input::new(data));
        for _ in 0..input.byte() % 8 {
            edits::edit(&mut document, &mut input, &self.words);
        }
        Some(document)
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("a committed document is JSON")
}

static JOURNAL: LazyLock<Base> = LazyLock::new(|| {
    let lines = include_str!("../../bases/journal.jsonl").lines();
    Base::new(lines.map(parsed).collect())
});

/// The lines of a journal, each with its checksum.
fn lines(events: &Value) -> Vec<u8> {
    let (mut lines, mut last) = (String::new(), String::new());
    for event in events.as_array().into_iter().flatten() {
        let event = event.to_string();
        let digest = Sha256::new().chain_update(&last).chain_update(&event).finalize();
        last = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push_str(&format!("{},\"check\":\"{last}\"}}\n", event.strip_suffix('}').unwrap_or(&event)));
    }
    lines.into_bytes()
}

/// Any bytes as a journal.
pub fn journal(data: &[u8]) {
    scratch::file("journal.jsonl", data);
    if let Ok(recorded) = read_journal(scratch::folder()) {
        let _ = Evidence::from_events(recorded.events);
    }
}

/// Edits of a journal, which is judged and shown.
pub fn evidence(data: &[u8]) {
    let Some(events) = JOURNAL.edited(data) else { return };
    scratch::file("journal.jsonl", &lines(&events));
    let Ok(recorded) = read_journal(scratch::folder()) else { return };
    let Ok(evidence) = Evidence::from_events(recorded.events) else { return };
    let run = decide::judge(&evidence, &evidence.suite.accept);
    report::terminal(&run, 80);
}

/// A judged run.
pub fn run_json(data: &[u8]) {
    static BASE: LazyLock<Base> = LazyLock::new(|| Base::new(parsed(include_str!("../../bases/run.json"))));
    let Some(document) = BASE.edited(data) else { return };
    let Ok(run) = serde_json::from_value::<Run>(document) else { return };
    report::terminal(&run, 80);
}

/// A baseline; its checksum is made right, or nothing behind it would be reached.
pub fn baseline(data: &[u8]) {
    static BASE: LazyLock<Base> = LazyLock::new(|| Base::new(parsed(include_str!("../../bases/baseline.json"))));
    let Some(mut document) = BASE.edited(data) else { return };
    if let Some(all) = document.as_object_mut() {
        all.remove("sha256");
        let sum = Sha256::digest(Value::Object(all.clone()).to_string());
        all.insert("sha256".into(), sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into());
    }
    let _ = Baseline::read(&scratch::file("baseline.json", document.to_string().as_bytes()));
}
