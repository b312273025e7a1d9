//! The layers of DESIGN: imports go down only, and `unsafe` lives where it is allowed.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the top layer to the bottom one, as `src/lib.rs` lists them.
const LAYERS: [&str; 23] = [
    "cli",
    "pipeline",
    "report",
    "gate",
    "decide",
    "measure",
    "worker",
    "tasks",
    "variant",
    "quantize",
    "network",
    "checkpoint",
    "assets",
    "results",
    "suite",
    "machine",
    "kernels",
    "stats",
    "tensor",
    "files",
    "text",
    "units",
    "error",
];

/// Rooms whose files may hold `unsafe`: kernels, the mapped-file reader, and the calls into the C library.
const UNSAFE_ROOMS: [&str; 3] = ["kernels", "checkpoint", "machine"];

/// Rooms that judge or show stored results; they must not be able to reach a kernel or a model.
const READERS: [&str; 3] = ["report", "gate", "decide"];

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The room of a file: `src/network/decoder.rs` and `src/network.rs` belong to `network`.
fn room(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_string()
}

/// Code without line comments, so that prose and documentation links do not count.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Rooms that the code names as `crate::room` (also inside `use crate::{a, b}`).
fn imports(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            rooms.push(item);
        } else {
            rooms.push(rest.to_string());
        }
    }
    let name = |text: String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    rooms.into_iter().map(name).filter(|r| !r.is_empty()).collect()
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|l| *l == room)
}

fn all_sources() -> (PathBuf, Vec<PathBuf>) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    assert!(files.len() > LAYERS.len(), "found only {} files in {}", files.len(), src.display());
    (src, files)
}

#[test]
fn every_room_has_a_layer_and_the_front_page_lists_them_in_order() {
    let (src, files) = all_sources();
    for file in &files {
        let room = room(file, &src);
        assert!(room == "lib" || room == "main" || layer(&room).is_some(), "{} is in no layer", file.display());
    }
    let front = fs::read_to_string(src.join("lib.rs")).unwrap();
    let listed: Vec<&str> = front.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(listed, LAYERS);
}

#[test]
fn imports_go_down_only() {
    let (src, files) = all_sources();
    let mut wrong = Vec::new();
    for file in files {
        let from = room(&file, &src);
        let Some(from_layer) = layer(&from) else { continue };
        for to in imports(&code(&file)) {
            if let Some(to_layer) = layer(&to)
                && to_layer < from_layer
            {
                wrong.push(format!("{} ({from}) imports {to}", file.display()));
            }
            if READERS.contains(&from.as_str())
                && ["kernels", "network", "checkpoint", "variant"].contains(&to.as_str())
            {
                wrong.push(format!("{} ({from}) must not know {to}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let (src, files) = all_sources();
    let wrong: Vec<String> = files
        .iter()
        .filter(|f| !UNSAFE_ROOMS.contains(&room(f, &src).as_str()))
        .filter(|f| code(f).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"))
        .map(|f| f.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "unsafe outside {UNSAFE_ROOMS:?}:\n{}", wrong.join("\n"));
}

/// Where files are read without `src/files.rs`, and why.
const READS_OF_ITS_OWN: [(&str, &str); 5] = [
    ("src/files.rs", "the one place"),
    ("src/machine", "/proc and /sys are the system's own"),
    ("src/results/whole.rs", "opens a folder to flush it"),
    ("src/variant/build.rs", "opens what it wrote to flush it"),
    ("src/variant/gguf_export.rs", "opens a folder to flush it"),
];

/// What a file says outside its tests.
fn without_tests(path: &Path) -> String {
    let code = code(path);
    let tests =
        ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(super) mod tests {", "#[cfg(all(test, unix))]\nmod tests {"];
    match tests.iter().find_map(|start| code.find(start)) {
        Some(at) => code[..at].to_owned(),
        None => code,
    }
}

/// Whether a function is called whose path ends with `call`, and not one whose name only ends with it.
fn calls(code: &str, call: &str) -> bool {
    let starts = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(call).any(|(at, _)| call.starts_with(':') || starts(at))
}

/// Files of `src` but those that hold tests alone, as `src/...`.
fn program() -> Vec<(String, String)> {
    let (src, files) = all_sources();
    let of_tests = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    let named = files.iter().map(|f| (format!("src/{}", f.strip_prefix(&src).unwrap().display()), without_tests(f)));
    named.filter(|(name, _)| !of_tests(name)).collect()
}

#[test]
fn files_of_others_are_opened_in_one_place() {
    const READING: [&str; 7] = [
        "fs::read(",
        "fs::read_to_string(",
        "File::open(",
        "::from_path(",
        "fs::copy(",
        "io::read_to_string(",
        "SafeTensors::from_file(",
    ];
    let mut wrong = Vec::new();
    for (name, code) in program() {
        if READS_OF_ITS_OWN.iter().any(|(place, _)| name.starts_with(place)) {
            continue;
        }
        wrong.extend(READING.iter().filter(|call| calls(&code, call)).map(|call| format!("{name}: {call}")));
    }
    assert!(wrong.is_empty(), "read through `crate::files`:\n{}", wrong.join("\n"));
}

#[test]
fn everything_that_is_printed_is_cleaned_in_one_place() {
    const PRINTING: [&str; 4] = ["eprintln!(", "println!(", "eprint!(", "print!("];
    let prints = |code: &str| PRINTING.iter().any(|call| calls(code, call));
    let wrong: Vec<String> = program().into_iter().filter(|(_, code)| prints(code)).map(|(name, _)| name).collect();
    assert!(wrong.is_empty(), "print through `crate::text` or `cli::print`: {wrong:?}");
}

#[test]
fn the_import_reader_sees_what_it_should() {
    let text = "use crate::{error::Error, suite::{Suite, Task}, stats}; let x = crate::kernels::Isa::active();";
    assert_eq!(imports(text), ["error", "suite", "stats", "kernels"]);
}
