//! Finds out which program is being built: the commit, whether its sources were changed since, and hashes of sources.
//!
//! It runs again only when a source, the lock file or the commit has changed. Without git, as in a package from a registry,
//! the commit is the one that `cargo package` noted, or unknown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// What makes an artefact: with other sources it may have other numbers or files.
const MAKER: [&str; 6] =
    ["src/checkpoint", "src/kernels", "src/network", "src/quantize", "src/tensor.rs", "src/variant"];

/// Libraries whose arithmetic or format goes into an artefact.
const NUMERIC: [&str; 7] = ["faer", "half", "ndarray", "safetensors", "serde_json", "statrs", "tokenizers"];

/// What the program is built from.
const SOURCES: [&str; 4] = ["Cargo.lock", "Cargo.toml", "build.rs", "src"];

fn main() {
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let mut build = Sha256::new();
    hash_files(&mut build, &SOURCES, |_| true);
    for name in ["TARGET", "PROFILE", "OPT_LEVEL", "CARGO_CFG_TARGET_FEATURE"] {
        build.update(std::env::var(name).unwrap_or_default());
        build.update([0]);
    }
    let mut maker = Sha256::new();
    maker.update(versions(&lock));
    hash_files(&mut maker, &MAKER, is_no_test);
    let (commit, state) = commit();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = if commit.is_empty() { "unknown commit".to_owned() } else { format!("{:.7}, {state}", commit) };
    println!("cargo::rustc-env=BENCH_VERSION={version} ({shown})");
    println!("cargo::rustc-env=BENCH_COMMIT={commit}");
    println!("cargo::rustc-env=BENCH_BUILD={}", hex(build));
    println!("cargo::rustc-env=BENCH_MAKER={}", hex(maker));
}

/// Hashes the files of `paths` that `counts`, with their names, in the order of names.
fn hash_files(hash: &mut Sha256, paths: &[&str], counts: fn(&Path) -> bool) {
    let mut files = Vec::new();
    for path in paths {
        collect(Path::new(path), &mut files);
    }
    files.retain(|file| counts(file));
    files.sort();
    for file in files {
        let bytes = fs::read(&file).unwrap_or_default();
        // A checkout on another system has other separators and line ends.
        let text: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\r').collect();
        let name = file.to_string_lossy().replace('\\', "/");
        hash.update(format!("{name} {}\n", text.len()));
        hash.update(text);
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| collect(&entry.path(), files)),
        Err(_) => files.push(path.to_path_buf()),
    }
}

fn is_no_test(path: &Path) -> bool {
    let is_test = |name: &str| name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs");
    !path.components().any(|part| part.as_os_str().to_str().is_some_and(is_test))
}

/// `name version` of the numeric libraries in a lock file.
fn versions(lock: &str) -> String {
    let mut versions = String::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(text) = line.strip_prefix("name = ") {
            name = text.trim_matches('"');
        } else if let Some(version) = line.strip_prefix("version = ").filter(|_| NUMERIC.contains(&name)) {
            versions.push_str(&format!("{name} {version}\n"));
        }
    }
    versions
}

/// The commit and `clean` or `modified`; an empty commit where none is known.
fn commit() -> (String, &'static str) {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    // A copy of this crate inside another project's repository has that project's commits, not its own.
    let is_own = git(&["rev-parse", "--show-toplevel"])
        .is_some_and(|top| fs::canonicalize(top).ok() == fs::canonicalize(&here).ok());
    let Some(commit) = git(&["rev-parse", "HEAD"]).filter(|_| is_own) else {
        return (packaged().unwrap_or_default(), "clean");
    };
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    let is_clean = git(&status).is_some_and(|changes| changes.is_empty());
    (commit, if is_clean { "clean" } else { "modified" })
}

/// The commit that `cargo package` noted.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\": \"")?;
    let commit = rest.split('"').next()?;
    (commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| commit.to_owned())
}

/// What git prints; `None` where it is not installed or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
