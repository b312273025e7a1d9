//! Journals of a finished run whose checksums hold, and whose lines do not.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::spoilt;
use crate::check::{Attack, assert_all};

/// The events of a run, which fuzzing edits too.
fn events() -> Vec<Value> {
    let lines = include_str!("../../../fuzz/bases/journal.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Lines as a run writes them, each with its checksum.
fn journal(events: &[Value]) -> String {
    let (mut lines, mut last) = (String::new(), String::new());
    for event in events {
        let event = event.to_string();
        let digest = Sha256::new().chain_update(&last).chain_update(&event).finalize();
        last = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push_str(&format!("{},\"check\":\"{last}\"}}\n", &event[..event.len() - 1]));
    }
    lines
}

fn is(event: &Value, kind: &str) -> bool {
    event["event"] == kind
}

/// Reported after `change`.
fn reported(name: &str, expected: &str, change: impl FnOnce(&mut Vec<Value>)) -> Attack {
    let mut events = events();
    change(&mut events);
    spoilt(name, expected, &["report", "run"], |place| {
        fs::create_dir(place.path("run")).unwrap();
        fs::write(place.path("run/journal.jsonl"), journal(&events)).unwrap();
    })
}

/// Reported after `change` of each event of a kind.
fn changed(name: &str, kind: &str, change: impl Fn(&mut Value)) -> Attack {
    reported(name, "2\njournal.jsonl", |events| events.iter_mut().filter(|event| is(event, kind)).for_each(change))
}

#[test]
fn lines_that_no_run_writes() {
    let samples = |event: &mut Value, key: &str, value: Value| {
        event["samples"].as_array_mut().unwrap().iter_mut().for_each(|sample| sample[key] = value.clone());
    };
    assert_all([
        reported("sound", "0 1 3 5", |_| {}),
        reported("every slot twice", "2", |events| {
            let twins: Vec<Value> = events.iter().filter(|event| is(event, "slot")).cloned().collect();
            events.extend(twins);
        }),
        reported("started twice", "2", |events| events.insert(1, events[0].clone())),
        reported("not started", "2", |events| drop(events.remove(0))),
        reported("finished first", "2", |events| events.rotate_right(1)),
        reported("a suite of one variant", "2", |events| {
            events[0]["suite"]["variants"].as_array_mut().unwrap().truncate(1);
        }),
        reported("another schema", "2 4\nschema", |events| events[0]["schema_version"] = json!(99)),
        changed("block 1e9", "slot", |event| event["block"] = json!(1_000_000_000)),
        changed("block 2^53", "slot", |event| event["block"] = json!(1u64 << 53)),
        changed("times of -1 s", "slot", |event| samples(event, "ttft_s", json!(-1.0))),
        changed("times of 0 s", "slot", |event| samples(event, "decode_s", json!(0.0))),
        changed("times of 1e300 s", "slot", |event| samples(event, "ttft_s", json!(1e300))),
        changed("no time", "slot", |event| samples(event, "ttft_s", Value::Null)),
        changed("no sample", "slot", |event| event["samples"] = json!([])),
        changed("threads 0", "slot", |event| event["threads"] = json!(0)),
        changed("threads of no workload", "slot", |event| event["threads"] = json!(77)),
        changed("a variant of no suite", "slot", |event| event["variant"] = json!("other")),
        changed("a variant of escape sequences", "slot", |event| event["variant"] = json!("\u{1b}[31mother")),
        changed("blocks planned: 0", "planned", |event| event["blocks"] = json!(0)),
        changed("blocks planned: 1e12", "planned", |event| event["blocks"] = json!(1_000_000_000_000u64)),
        changed("a task of no suite", "scored", |event| event["score"]["task"] = json!("other")),
    ]);
}
