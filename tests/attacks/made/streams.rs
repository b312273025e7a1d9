//! Outputs: streams that are full, files that are someone's own.

use std::fs::{self, File};

use crate::tiny_model::{self, Place};

/// Standard streams that are closed or full.
#[test]
fn streams() {
    let place = Place::new();
    let sink = |name: &str| File::options().write(true).open(name).unwrap();
    let code = |arguments: &[&str], full_error: bool| {
        let mut command = place.bench(arguments);
        match full_error {
            true => command.stderr(sink("/dev/full")).stdout(sink("/dev/null")),
            false => command.stdout(sink("/dev/full")).stderr(sink("/dev/null")),
        };
        command.status().unwrap().code()
    };
    assert_eq!(code(&["plan", "nosuch"], true), Some(2));
    assert_eq!(code(&["eval", "model", "--text", "text/0.txt", "--length", "32", "--threads", "1"], true), Some(0));
    assert!(matches!(code(&["plan", "suite.toml"], false), Some(2 | 5)));
}

/// Outputs never overwrite what they did not write.
#[test]
fn precious_files() {
    let place = Place::new();
    fs::write(place.path("precious"), "mine").unwrap();
    let recipe = "method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }";
    for arguments in [
        &["eval", "model", "--text", "text/0.txt", "--length", "32", "--per-token", "precious"][..],
        &["quantize", "model", "--recipe", recipe, "-o", "precious"],
        &["init", "model", "-o", "precious"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", tiny_model::said(&output));
        assert_eq!(fs::read(place.path("precious")).unwrap(), b"mine", "{arguments:?}");
    }
}
