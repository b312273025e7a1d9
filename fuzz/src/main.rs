//! Fuzzing of every reader of untrusted files: any input gives a value or an error; a panic, an abort, more than ten
//! seconds or more than 2 GiB of memory are findings.
//!
//! One program holds all targets; the environment variable `FUZZ_TARGET` names the one to run. `fuzz/run` builds it with
//! libFuzzer's counters of covered edges, which needs no nightly toolchain.
//!
//! Bytes that are changed at random rarely get past the outermost check of a format (a header's length, a checksum, a
//! bracket). So most targets take their input as a list of edits on a small valid file (`edits`, `tensors`): the file stays
//! well-formed, and what it says becomes absurd.
#![no_main]

mod edits;
mod scratch;
mod targets;
mod tensors;

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    // libFuzzer's own hook ends the program at every panic, even one that the reader catches; those that nobody catches
    // end it without that hook, too.
    drop(std::panic::take_hook());
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some((_, target)) = targets::TARGETS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = targets::TARGETS.iter().map(|(known, _)| *known).collect();
        eprintln!("FUZZ_TARGET is {name:?}, expected one of\n{}", names.join("\n"));
        std::process::exit(2);
    };
    *target
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
