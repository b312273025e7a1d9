//! The command line as a user types it; no network.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};

const COMMANDS: [&str; 15] = [
    "run",
    "report",
    "compare",
    "gate",
    "baseline",
    "plan",
    "machine",
    "fetch",
    "init",
    "quantize",
    "sensitivity",
    "eval",
    "kernels",
    "speed",
    "completions",
];

fn bench() -> Command {
    let mut command = Command::cargo_bin("bench").unwrap();
    command.env_remove("BENCH_ISA").env("COLUMNS", "100");
    command
}

/// A suite in a folder of its own, with parts replaced.
fn suite(replacements: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let mut text = r#"title = "a test"
model = "path:model.gguf"

[[task]]
kind = "perplexity"
data = "path:heldout/*.txt"

[accept]
accuracy = { metric = "perplexity", max_increase_percent = 5 }

[[variant]]
name = "int4"
method = "rtn"
weights = { bits = 4, granularity = "group", group_size = 64 }
"#
    .to_string();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lm.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn without_a_command_the_help_is_shown() {
    bench().assert().code(2).stderr(contains("Usage: bench"));
    bench().arg("--version").assert().success().stdout(starts_with("bench "));
}

#[test]
fn help_names_every_command_and_exit_code() {
    let output = bench().arg("--help").assert().success().get_output().stdout.clone();
    let help = String::from_utf8(output).unwrap();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in\n{help}");
    }
    assert!(help.contains("Exit codes:") && help.contains("3  inconclusive"), "{help}");
    assert!(!help.contains("__worker"), "{help}");
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in COMMANDS {
        let output = bench().args([command, "--help"]).assert().success().get_output().stdout.clone();
        let help = String::from_utf8(output).unwrap();
        let paragraph = help.split("Usage:").next().unwrap();
        assert!(paragraph.trim().len() > 80, "{command}: {paragraph}");
        assert!(help.contains(&format!("bench {command} ")) && help.contains("Examples:"), "{help}");
    }
}

#[test]
fn unknown_commands_and_options_are_usage_errors() {
    bench().arg("reprot").assert().code(2).stderr(contains("'report'"));
    bench().args(["machine", "--jsno"]).assert().code(2).stderr(contains("--json"));
    bench().args(["run", "lm.toml", "--budget", "10"]).assert().code(2).stderr(contains("90s, 10m or 1h"));
    bench().args(["run", "lm.toml", "--out", "a", "--resume", "b"]).assert().code(2);
}

#[test]
fn a_missing_suite_is_one_message_and_code_2() {
    for command in ["plan", "fetch"] {
        bench()
            .args([command, "nowhere/lm.toml"])
            .assert()
            .code(2)
            .stdout(is_empty())
            .stderr(starts_with("error: nowhere/lm.toml: cannot read").and(contains("\n").count(1)));
    }
}

#[test]
fn faults_of_a_suite_are_listed_with_file_and_line() {
    let (_folder, path) = suite(&[("title", "titel"), ("group_size = 64", "group_size = 40")]);
    let place = path.display();
    bench()
        .args(["plan".as_ref(), path.as_os_str()])
        .assert()
        .code(2)
        .stderr(contains(format!("{place}:1: suite: unknown key `titel`")))
        .stderr(contains("did you mean `title`?"))
        .stderr(contains(format!("{place}:14: variant \"int4\" weights: `group_size` is 40")))
        .stderr(contains("use 32 or 48"));
}

#[test]
fn a_plan_without_the_model_says_what_is_missing() {
    let (_folder, path) = suite(&[]);
    bench()
        .args(["plan".as_ref(), path.as_os_str()])
        .assert()
        .success()
        .stdout(contains("model: path:model.gguf\n    missing: no such file"))
        .stdout(contains("fp16 (reference)"))
        .stdout(contains("RTN, 4 bits symmetric, groups of 64"))
        .stdout(contains("6 to 30 blocks of 3 slots"))
        .stdout(contains("unknown until the model is here"));
}

#[test]
fn fetching_a_missing_file_says_where_it_should_be() {
    let (_folder, path) = suite(&[]);
    bench().args(["fetch".as_ref(), path.as_os_str()]).assert().code(2).stderr(contains("model.gguf"));
}

#[test]
fn the_machine_describes_itself_for_people_and_programs() {
    bench().arg("machine").assert().success().stdout(contains("what could disturb timing"));
    let output = bench().args(["machine", "--json"]).assert().success().get_output().stdout.clone();
    let record: quantbench::machine::MachineRecord = serde_json::from_slice(&output).unwrap();
    assert_eq!(record.instruction_sets[0], "scalar");
    assert!(record.instruction_sets.contains(&record.isa));
    assert!(record.cores >= 1);
    let limits: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let read = limits["limits"][0]["reading"][0]["bytes_per_s"].as_f64().unwrap();
    assert!(read > 1e6, "{read}");
}

#[test]
fn the_instruction_set_can_be_lowered_but_not_misspelt() {
    let output = bench().args(["machine", "--json"]).env("BENCH_ISA", "scalar").assert().success();
    let record: quantbench::machine::MachineRecord = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(record.isa, "scalar");
    bench().arg("machine").env("BENCH_ISA", "avx1024").assert().code(2).stderr(contains("scalar"));
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let (folder, path) = suite(&[]);
    let before = fs::read_to_string(&path).unwrap();
    bench().args(["init", "model.gguf", "-o"]).arg(&path).assert().code(2).stderr(contains("exists already"));
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    bench()
        .args(["quantize", "model.gguf", "--recipe", "method = \"cast\"\ndtype = \"f16\"", "-o"])
        .arg(folder.path())
        .assert()
        .code(2)
        .stderr(contains("exists already"));
}

#[test]
fn a_gguf_file_is_named_as_one() {
    bench()
        .args([
            "quantize",
            "model.gguf",
            "--format",
            "gguf",
            "--recipe",
            "method = \"cast\"\ndtype = \"f16\"",
            "-o",
            "x",
        ])
        .assert()
        .code(2)
        .stderr(contains("add .gguf"));
}

#[test]
fn a_missing_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("suite.toml");
    bench().args(["init", "nowhere.gguf", "-o"]).arg(&out).assert().code(2).stderr(contains("nowhere.gguf"));
    assert!(!out.exists());
}

#[test]
fn a_wrong_recipe_is_refused_before_any_work() {
    bench()
        .args(["quantize", "nowhere.gguf", "-o", "nowhere", "--recipe", "method = \"rtm\""])
        .assert()
        .code(2)
        .stderr(contains("did you mean `rtn`?"));
    bench()
        .args(["eval", "nowhere.gguf", "--text", "nowhere.txt", "--threads", "0"])
        .assert()
        .code(2)
        .stderr(contains("--threads 0: expected 1 to"));
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        bench().args(["completions", shell]).assert().success().stdout(contains("quantize"));
    }
    bench().args(["completions", "tcsh"]).assert().code(2);
}

#[test]
fn kernels_are_listed_at_every_shape_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.csv");
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites/models/scribe-7m");
    bench()
        .args(["kernels", "--tokens", "1", "--csv"])
        .arg(&path)
        .arg(model)
        .assert()
        .success()
        .stdout(contains("reading, 4.0 MiB a thread").and(contains("16 x 704x256")));
    let mut rows = csv::Reader::from_path(&path).unwrap();
    let header = rows.headers().unwrap().clone();
    let at = |row: &csv::StringRecord, name: &str| row[header.iter().position(|h| h == name).unwrap()].to_string();
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5 * 7, "five shapes in seven formats");
    for row in &rows {
        let [seconds, bytes, rate, share] =
            ["seconds", "bytes", "gb_per_s", "share_of_limit"].map(|name| at(row, name).parse::<f64>().unwrap());
        assert!(seconds > 0.0 && share > 0.0 && (rate - bytes / seconds / 1e9).abs() <= 1e-9 * rate, "{row:?}");
    }
    bench().args(["kernels", "nowhere", "--tokens", "0"]).assert().code(2).stderr(contains("1..=4096"));
}

#[test]
fn speed_says_how_fast_a_model_is_and_where_the_time_goes() {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites/models/scribe-7m");
    let run = |options: &[&str]| {
        let output = bench().arg("speed").arg(&model).args(options).assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let small = ["--prompt", "8", "--generate", "4", "--threads", "1", "--repeat", "6"];
    let text = run(&small);
    assert!(text.contains("prefill 8") && text.contains("decode 4") && text.contains("% interval"), "{text}");

    let json = run(&[&small[..], &["--as", "f32", "--depth", "0,3", "--batch", "2", "--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let speeds = report["speeds"].as_array().unwrap();
    assert_eq!(speeds.len(), 4, "two phases at two depths");
    for speed in speeds {
        assert_eq!(speed["seconds"].as_array().unwrap().len(), 6);
        let (low, rate) = (speed["interval"][0].as_f64().unwrap(), speed["tokens_per_s"].as_f64().unwrap());
        assert!(0.0 < low && low <= rate, "{speed}");
        let shares: f64 = speed["profile"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9 && speed["profile"]["linear"].as_f64().unwrap() > 0.0, "{speed}");
        assert!(speed["kernels"][0]["kernel"].as_str().unwrap().contains("f32"), "{speed}");
    }
    assert_eq!(
        (&speeds[3]["phase"], &speeds[3]["depth"], &speeds[3]["batch"]),
        (&"decode".into(), &3.into(), &2.into())
    );
    bench()
        .arg("speed")
        .arg(&model)
        .args(["--prompt", "0", "--generate", "0"])
        .assert()
        .code(2)
        .stderr(contains("nothing to time"));
}

#[test]
fn sensitivity_is_a_table_a_page_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("sensitivity.html");
    let sensitivity = |more: &[&str]| {
        let mut command = bench();
        command.env("BENCH_CACHE", folder.path()).args(["sensitivity", "bundled:scribe-7m", "--windows", "1"]);
        command.args(["--length", "32", "--calibration-windows", "2", "--formats", "4g64,8a8", "--method", "rtn"]);
        command.args(more).assert().success()
    };
    let text = sensitivity(&["--html", page.to_str().unwrap()]);
    text.stdout(contains("4g64: sum").and(contains("gate_up")).and(contains("most harmful")))
        .stderr(contains("passes of 32 tokens through a block"));
    assert!(fs::read_to_string(&page).unwrap().contains("Sensitivity of bundled:scribe-7m"));
    let output = sensitivity(&["--json"]).get_output().stdout.clone();
    let json: serde_json::Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((json["schema_version"].as_u64(), json["units"].as_array().unwrap().len()), (Some(1), 8 * 4 + 1));
    assert!(json["units"][0]["effects"][0]["kl"].as_f64().unwrap() > 0.0);
    bench()
        .args(["sensitivity", "bundled:scribe-7m", "--formats", "3g32"])
        .assert()
        .code(2)
        .stderr(contains("3 bits have no kernel of their own"));
}

#[test]
fn a_search_prints_what_it_tried_and_a_recipe_to_paste() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = r#"method = "search", quantizer = "rtn", formats = ["4g64", "8"], budget = { bytes = "5 MiB" }, probe_windows = 1, check_windows = 2"#;
    bench()
        .env("BENCH_CACHE", folder.path())
        .args(["quantize", "bundled:scribe-7m", "--recipe", recipe, "--calibration", "bundled:scribe-7m/calibration"])
        .args(["--windows", "2", "--length", "32", "-o"])
        .arg(folder.path().join("mixed"))
        .assert()
        .success()
        .stdout(contains("knapsack: ").and(contains("  taken")).and(contains("method = \"rtn\"\nweights = {")));
    assert!(folder.path().join("mixed/model.safetensors").exists());
    bench()
        .args(["quantize", "bundled:scribe-7m", "--recipe", recipe, "-o", "unmade"])
        .assert()
        .code(2)
        .stderr(contains("search learns from text; add --calibration FILE"));
}

/// scribe-7m in a folder of its own, its configuration changed as text.
fn scribe(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites/models/scribe-7m");
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(model.join(name), folder.path().join(name)).unwrap();
    }
    let config = change(fs::read_to_string(model.join("config.json")).unwrap());
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("text.txt"), "The committee met again in the spring. ".repeat(4)).unwrap();
    folder
}

#[test]
fn keys_that_change_the_network_are_refused_and_unknown_ones_named() {
    let with = |key: &str| scribe(|config| config.replacen('{', &format!("{{{key},"), 1));
    let eval = |folder: &tempfile::TempDir| {
        let mut command = bench();
        command.current_dir(folder.path()).args(["eval", ".", "--text", "text.txt", "--length", "32", "--json"]);
        command.assert()
    };
    let plain = eval(&scribe(|config| config)).success().stderr(contains("warning").not()).get_output().stdout.clone();
    let perplexity = |output: &[u8]| serde_json::from_slice::<serde_json::Value>(output).unwrap()["perplexity"].clone();
    let odd = with(r#""wobble": Infinity, "logit_scale": 1.0"#);
    let output =
        eval(&odd).success().stderr(contains("warning: .").and(contains("\"wobble\""))).get_output().stdout.clone();
    assert_eq!(perplexity(&output), perplexity(&plain));
    for (key, expected) in [
        (r#""logit_scale": 0.5"#, "\"logit_scale\" is 0.5, which is not supported; expected 1"),
        (r#""partial_rotary_factor": NaN"#, "\"partial_rotary_factor\" is \"NaN\""),
        (r#""rope_scaling": []"#, "\"rope_scaling\" is []; expected an object"),
        (r#""mlp_bias": true"#, "key \"mlp_bias\" appears twice with different values"),
    ] {
        eval(&with(key)).code(2).stderr(contains(expected));
    }
}

#[test]
fn weights_of_odd_bits_come_with_a_release_and_a_note() {
    let folder = scribe(|config| config);
    let quantize = |bits: u8, out: &str| {
        let recipe = format!("method = \"rtn\", weights = {{ bits = {bits}, granularity = \"channel\" }}");
        bench().current_dir(folder.path()).args(["quantize", ".", "-o", out, "--recipe", &recipe]).assert().success()
    };
    quantize(5, "five")
        .stdout(contains("note: weights of 5 bits are packed as compressed-tensors 0.18 and later does"));
    quantize(4, "four").stdout(contains("note").not());
    for (out, version) in [("five", serde_json::json!("0.20.1")), ("four", serde_json::Value::Null)] {
        let config = fs::read(folder.path().join(out).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["quantization_config"]["version"], version);
    }
}
