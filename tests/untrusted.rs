//! Hostile files, environments and outputs, as a user meets them: one clear line, the right exit code, nothing that hangs.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A folder with a text and the bundled model, whose `tokenizer.json` and other files a test may change.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("model")).unwrap();
        let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/models/scribe-7m");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(bundled.join(file), place.path("model").join(file)).unwrap();
        }
        fs::write(place.path("text.txt"), "The quick brown fox jumps over the lazy dog. ".repeat(2)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("BENCH_ISA");
        command.env("BENCH_CACHE", self.path("cache")).env_remove("RUST_BACKTRACE");
        command
    }

    fn eval(&self, more: &[&str]) -> Output {
        let usual = ["eval", "model", "--length", "32", "--threads", "1", "--json"];
        let text: &[&str] = if more.contains(&"--text") { &[] } else { &["--text", "text.txt"] };
        self.bench(&[&usual, text, more].concat()).output().unwrap()
    }

    fn change_tokenizer(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("model/tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut tokenizer);
        fs::write(path, tokenizer.to_string()).unwrap();
    }

    fn suite(&self, model: &str, variant: &str) {
        let text = format!(
            "model = \"{model}\"\n[[task]]\nkind = \"perplexity\"\ndata = \"path:text.txt\"\n[accept]\naccuracy = {{ metric \
             = \"perplexity\", max_increase_percent = 5 }}\n[[variant]]\nname = \"{variant}\"\nmethod = \"rtn\"\nweights = {{ \
             bits = 8, granularity = \"channel\" }}\n"
        );
        fs::write(self.path("suite.toml"), text).unwrap();
    }
}

/// Standard error of a command that must end with `code` and lines that are clean.
fn error(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains("internal fault") && text.len() < 4000, "{text}");
    text
}

fn perplexity(output: &Output) -> f64 {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["perplexity"].as_f64().unwrap()
}

#[test]
fn what_is_no_regular_file_is_passed_over_or_refused_at_once() {
    let place = Place::new();
    let fifo = |path: PathBuf| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    fifo(place.path("model/pipe"));
    symlink("/dev/zero", place.path("model/zero")).unwrap();
    symlink(".", place.path("model/circle")).unwrap();
    error(&place.eval(&[]), 0);
    assert!(error(&place.eval(&["--text", "/dev/zero"]), 2).contains("got a device"));
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let (path, kept) = (place.path("model").join(file), place.path("kept"));
        fs::rename(&path, &kept).unwrap();
        for other in 0..2 {
            if other == 0 {
                fifo(path.clone())
            } else {
                symlink("/dev/zero", &path).unwrap()
            }
            error(&place.eval(&[]), 2);
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&kept, &path).unwrap();
    }
    for arguments in [["plan", "/dev/zero"], ["quantize", "model"]] {
        let mut command = place.bench(&arguments);
        if arguments[0] == "quantize" {
            command.args(["--recipe", "@/dev/zero", "--out", "q"]);
        }
        assert!(error(&command.output().unwrap(), 2).contains("got a device"));
    }
    for model in ["path:/dev/zero", "path:/"] {
        place.suite(model, "int8");
        error(&place.bench(&["plan", "suite.toml"]).output().unwrap(), 2);
    }
}

#[test]
fn sizes_are_looked_at_before_files_are_read() {
    let place = Place::new();
    File::create(place.path("sparse.txt")).unwrap().set_len(4 << 30).unwrap();
    assert!(error(&place.eval(&["--text", "sparse.txt"]), 2).contains("expected at most 1.0 GiB"));
    fs::rename(place.path("sparse.txt"), place.path("model/tokenizer.json")).unwrap();
    assert!(error(&place.eval(&[]), 2).contains("expected at most 256.0 MiB"));
}

#[test]
fn hidden_files_beside_texts_are_passed_over() {
    let place = Place::new();
    fs::create_dir(place.path("texts")).unwrap();
    fs::copy(place.path("text.txt"), place.path("texts/a.txt")).unwrap();
    let expected = perplexity(&place.eval(&["--text", "texts"]));
    fs::write(place.path("texts/.DS_Store"), b"\0\0\0\x01Bud1\xff").unwrap();
    fs::write(place.path("texts/.a.txt.swp"), b"\xff\xfe").unwrap();
    for text in ["texts", "texts/*", "texts/*.txt"] {
        assert_eq!(perplexity(&place.eval(&["--text", text])), expected);
    }
}

#[test]
fn a_hostile_tokenizer_costs_one_error() {
    let grows = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "e".repeat(50) });
    let normalizers = [
        json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA".repeat(100) }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "/////AAA" }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAP////8=" }),
        json!({ "type": "Sequence", "normalizers": vec![grows; 8] }),
    ];
    for normalizer in normalizers {
        let place = Place::new();
        place.change_tokenizer(|tokenizer| tokenizer["normalizer"] = normalizer.clone());
        let text = error(&place.eval(&[]), 2);
        let last = text.trim_end().lines().next_back().unwrap();
        assert!(last.starts_with("error: ") && last.contains("model/tokenizer.json: "), "{text}");
    }
}

#[test]
fn dropout_of_merges_is_off() {
    let place = Place::new();
    let expected = perplexity(&place.eval(&[]));
    place.change_tokenizer(|tokenizer| tokenizer["model"]["dropout"] = json!(0.5));
    assert_eq!(perplexity(&place.eval(&[])), expected);
}

#[test]
fn texts_of_a_model_cannot_steer_the_terminal() {
    let place = Place::new();
    let path = place.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["model_type"] = format!("lla\u{1b}[31m\u{202e}{}", "x".repeat(100_000)).into();
    fs::write(&path, config.to_string()).unwrap();
    let text = error(&place.eval(&[]), 2);
    assert!(text.lines().count() == 1 && text.len() < 1500 && !text.contains('\u{202e}'), "{text}");
    place.suite("bundled:\\u001b[31mx", "int8");
    error(&place.bench(&["plan", "suite.toml"]).output().unwrap(), 2);
    place.suite("bundled:nosuch", "int8");
    let text = error(&place.bench(&["plan", "suite.toml"]).output().unwrap(), 2);
    assert!(text.contains("a clone of the repository"), "{text}");
    place.suite("hf:org/name", "int8");
    error(&place.bench(&["plan", "suite.toml"]).output().unwrap(), 2);
    place.suite("path:model", "a\\u200bb");
    assert!(error(&place.bench(&["plan", "suite.toml"]).output().unwrap(), 2).contains("not visible"));
}

#[test]
fn a_closed_or_full_output_is_no_fault_of_the_program() {
    let place = Place::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let code = |command: &mut Command| command.status().unwrap().code();
    assert_eq!(code(place.bench(&["plan", "nosuch"]).stderr(full())), Some(2));
    let eval = ["eval", "model", "--text", "text.txt", "--length", "32", "--threads", "1"];
    assert_eq!(code(place.bench(&eval).stderr(full()).stdout(Stdio::null())), Some(0));
    for arguments in [&eval[..], &["--help"], &["completions", "bash"]] {
        let output = place.bench(arguments).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        assert!(error(&output, 2).contains("error: standard output: cannot write"));
    }
    assert_eq!(code(place.bench(&["plan", "nosuch"]).stderr(full()).stdout(full())), Some(2));
}

#[test]
fn tables_of_scores_replace_nothing() {
    let place = Place::new();
    fs::write(place.path("precious"), "x").unwrap();
    assert!(error(&place.eval(&["--per-token", "precious"]), 2).contains("exists already"));
    assert_eq!(fs::read(place.path("precious")).unwrap(), b"x");
    error(&place.eval(&["--per-token", "new.csv"]), 0);
    assert!(fs::read_to_string(place.path("new.csv")).unwrap().starts_with("window,"));
}

#[test]
fn clients_run_nothing_from_the_working_folder() {
    let place = Place::new();
    for module in ["pip.py", "queue.py", "types.py"] {
        fs::write(place.path(module), "open('PWNED', 'w')\n").unwrap();
    }
    // An index that answers nothing: pip must not get further, whatever the network allows.
    let run = |variable: Option<&str>| {
        let mut command = place.bench(&["eval", "pypi:nosuchpkg==1.0#a", "--text", "text.txt"]);
        command.env("PIP_NO_INDEX", "1");
        variable.map(|name| command.env(name, place.folder.path()));
        error(&command.output().unwrap(), 2)
    };
    run(None);
    run(Some("PYTHONPATH"));
    assert!(!place.path("PWNED").exists());
}

#[test]
fn a_cache_that_cannot_be_trusted_names_its_variable() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::create_dir(place.path("cache")).unwrap();
    fs::set_permissions(place.path("cache"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = || place.bench(&["eval", "pypi:a==1.0#a", "--text", "text.txt"]);
    assert!(error(&run().output().unwrap(), 2).contains("BENCH_CACHE"));
    let mut command = run();
    command.env_remove("BENCH_CACHE").env_remove("XDG_CACHE_HOME").env("HOME", "/proc");
    assert!(error(&command.output().unwrap(), 2).contains("BENCH_CACHE"));
}
