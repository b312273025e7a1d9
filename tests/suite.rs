//! Suite files as people write them, rightly and wrongly.

use std::path::Path;

use proptest::prelude::*;
use quantbench::error::Error;
use quantbench::kernels::KvFormat;
use quantbench::quantize;
use quantbench::suite::{
    self, AccuracyMetric, Budget, InputObserver, InputScheme, MemoryMetric, Recipe, SpeedMetric, StaticInputs, Suite,
    Task, TaskKind, recipe_from_text,
};
use quantbench::tensor::{DenseFormat, Granularity};

/// A small suite without faults; tests replace parts of it.
const GOOD: &str = r#"title = "a test"
model = "path:model.gguf"

[data]
calibration = { source = "path:text/*.txt", documents = "0..10" }

[[task]]
kind = "perplexity"
data = { source = "path:text/*.txt", documents = "10..20" }

[workload]
threads = [1]

[accept]
accuracy = { metric = "perplexity", max_increase_percent = 5 }

[[variant]]
name = "int4"
method = "gptq"
weights = { bits = 4, granularity = "group", group_size = 64 }
"#;

fn read(text: &str) -> quantbench::error::Result<Suite> {
    suite::from_text("lm.toml", "lm", text, Some(2))
}

/// All faults of a text, as printed.
fn faults(text: &str) -> Vec<String> {
    match read(text) {
        Err(Error::Suite(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

/// The single fault after replacing `from` by `to` in the good suite.
fn fault_of(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} is not once in the good suite");
    let found = faults(&GOOD.replace(from, to));
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[test]
fn defaults_are_filled_in() {
    let suite = read(GOOD).unwrap();
    assert_eq!(suite.name, "lm");
    assert_eq!(suite.seed, 1);
    assert_eq!(suite.reference, "fp16");
    assert_eq!(suite.variants[0].name, "fp16");
    assert_eq!(suite.variants[0].recipe, Recipe::Cast { dtype: DenseFormat::F16 });
    let calibration = suite.calibration.unwrap();
    assert_eq!((calibration.windows, calibration.length, calibration.seed), (64, 512, 1));
    assert_eq!(calibration.text.documents, Some((0, 10)));
    let Task { name, kind, .. } = &suite.tasks[0];
    assert_eq!((name.as_str(), *kind), ("perplexity", TaskKind::Perplexity { length: 512, windows: None }));
    let workload = suite.workload;
    assert_eq!((workload.prompt, workload.generate, workload.iterations), (128, 32, 3));
    assert_eq!((workload.batch, workload.blocks), (vec![1], (6, 30)));
    assert_eq!(suite.accept.rule, "accuracy");
    assert_eq!(suite.accept.confidence, 0.95);
    assert_eq!(suite.accept.accuracy.task, "perplexity");
    assert_eq!(suite.accept.accuracy.metric, AccuracyMetric::Perplexity { max_increase_percent: 5.0 });
}

#[test]
fn every_form_of_a_variant_is_read() {
    let text = GOOD.replace(
        "[[variant]]\nname = \"int4\"",
        r#"[[variant]]
name = "w8a8"
method = "rtn"
weights = { bits = 8, granularity = "channel", symmetric = false }
activations = {}
overrides = [
    { tensors = "lm_head", weights = { bits = 8, granularity = "tensor" }, activations = "none" },
    { tensors = "*.down_proj", keep = "dense" },
]
dense = "bf16"

[[variant]]
name = "published <q4_1> & \"friends\""
import = "model"
activations = { bits = 8, granularity = "token", mode = "dynamic" }

[[variant]]
name = "bf16"
method = "cast"
dtype = "bf16"
kv_cache = "int8"

[[variant]]
name = "int4""#,
    );
    let suite = read(&text).unwrap();
    let names: Vec<&str> = suite.variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["fp16", "w8a8", "published <q4_1> & \"friends\"", "bf16", "int4"]);
    let Recipe::Quantize(w8a8) = &suite.variants[1].recipe else { panic!("w8a8 is quantized") };
    assert_eq!(w8a8.activations, InputScheme::DynamicToken);
    assert_eq!((w8a8.weights.granularity, w8a8.weights.symmetric), (Granularity::Channel, false));
    assert_eq!(w8a8.overrides[0].activations, Some(InputScheme::None));
    assert_eq!(w8a8.overrides[0].weights.unwrap().granularity, Granularity::Tensor);
    assert_eq!((w8a8.overrides[1].weights, w8a8.overrides[1].activations), (None, None));
    assert_eq!(w8a8.dense, DenseFormat::Bf16);
    let import = Recipe::Import { source: "model".into(), activations: InputScheme::DynamicToken };
    assert_eq!(suite.variants[2].recipe, import);
    let caches: Vec<_> = suite.variants.iter().map(|v| v.kv_cache).collect();
    assert_eq!(caches, [None, None, None, Some(KvFormat::Int8), None]);
}

#[test]
fn static_inputs_are_read_with_their_observer() {
    let recipe = |activations: &str| {
        let weights = "weights = { bits = 8, granularity = \"channel\" }";
        let text = format!("method = \"rtn\"\n{weights}\nactivations = {{ {activations} }}\nbias_correction = true");
        suite::recipe_from_text("recipe", &text)
    };
    for (keys, observer, symmetric) in [
        ("", InputObserver::MinMax, true),
        (", observer = \"moving_average\"", InputObserver::MovingAverage, true),
        (", observer = \"percentile\"", InputObserver::Percentile(99.99), true),
        (", observer = \"percentile\", percentile = 99.5, symmetric = false", InputObserver::Percentile(99.5), false),
        (", observer = \"entropy\", granularity = \"tensor\"", InputObserver::Entropy, true),
        (", observer = \"mse\", bits = 8", InputObserver::Mse, true),
    ] {
        let Recipe::Quantize(method) = recipe(&format!("mode = \"static\"{keys}")).unwrap() else { panic!("{keys}") };
        assert_eq!(method.activations, InputScheme::Static(StaticInputs { observer, symmetric }), "{keys}");
        assert!(method.bias_correction && method.learns().is_some());
        let json = serde_json::to_string(&method).unwrap();
        assert_eq!(serde_json::from_str::<suite::Method>(&json).unwrap(), method, "{json}");
    }
    let words = recipe("mode = \"static\", observer = \"percentile\", symmetric = false").unwrap().to_string();
    assert!(words.ends_with("8-bit asymmetric static inputs over 99.99 % of all, biases corrected"), "{words}");
    for (keys, expected) in [
        ("mode = \"static\", granularity = \"token\"", "`granularity` is \"token\"; expected `tensor`"),
        ("mode = \"static\", percentile = 99.0", "only for observer = \"percentile\""),
        (
            "mode = \"static\", observer = \"guess\"",
            "expected `minmax`, `moving_average`, `percentile`, `entropy` or `mse`",
        ),
        ("observer = \"mse\"", "unknown key `observer`"),
    ] {
        let message = recipe(keys).unwrap_err().to_string();
        assert!(message.contains(expected), "{keys}: {message}");
    }
}

#[test]
fn thresholds_are_read_and_name_their_rule() {
    let with = |more: &str| read(&GOOD.replace("[[variant]]", &format!("{more}\n[[variant]]"))).unwrap().accept;
    let speed = "speed = { metric = \"prefill\", min_speedup = 1.5 }";
    let memory = "memory = { metric = \"peak_rss\", max = \"1.5 GiB\" }";
    assert_eq!(with(speed).rule, "accuracy and speed");
    assert_eq!(with(memory).rule, "accuracy and memory");
    let both = with(&format!("{speed}\n{memory}\nconfidence = 0.9"));
    assert_eq!(both.rule, "accuracy and (speed or memory)");
    assert_eq!(both.confidence, 0.9);
    let limit = both.speed.unwrap();
    assert_eq!((limit.metric, limit.min_speedup, limit.threads), (SpeedMetric::Prefill, 1.5, 1));
    let limit = both.memory.unwrap();
    assert_eq!((limit.metric, limit.max_bytes), (MemoryMetric::PeakRss, 3 << 29));
    let strict = with(&format!("{speed}\n{memory}\nrule = \"accuracy  and speed and memory\""));
    assert_eq!(strict.rule, "accuracy and speed and memory");
}

#[test]
fn a_fault_says_where_what_and_how_to_mend_it() {
    let fault = fault_of("group_size = 64", "group_size = 40");
    assert_eq!(
        fault,
        "lm.toml:20: variant \"int4\" weights: `group_size` is 40; kernels take multiples of 16; use 32 or 48"
    );
}

#[test]
fn all_faults_are_listed_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("title", "titel")
        .replace("perplexity\"\ndata", "perplexty\"\ndata")
        .replace("threads = [1]", "threads = [0, 3]")
        .replace("max_increase_percent = 5", "max_increase_percent = -5")
        .replace("\"gptq\"", "\"gptk\"")
        .replace("bits = 4", "bits = 9");
    let found = faults(&text);
    let expected = [
        "lm.toml:1: suite: unknown key `titel`",
        "lm.toml:8: [[task]] 1: `kind` is \"perplexty\"; expected `perplexity`, `choice` or `similarity`; did you mean `perplexity`?",
        "lm.toml:12: [workload]: `threads` is 0; expected a whole number from 1 to 4096",
        "lm.toml:15: [accept] accuracy: `max_increase_percent` is -5; expected a number above 0",
        "lm.toml:19: variant \"int4\": `method` is \"gptk\"; expected `rtn`, `gptq`, `awq`, `hqq`, `cast` or `search`; did you mean `gptq`?",
        "lm.toml:20: variant \"int4\" weights: `bits` is 9; expected a whole number from 2 to 8",
    ];
    for expected in expected {
        assert!(found.iter().any(|f| f.starts_with(expected)), "no {expected:?} in {found:#?}");
    }
    assert!(found[0].contains("did you mean `title`?"), "{}", found[0]);
    let lines: Vec<usize> = found.iter().map(|f| f.split(':').nth(1).unwrap().parse().unwrap()).collect();
    assert!(lines.is_sorted(), "{found:#?}");
}

#[test]
fn each_wrong_value_is_one_fault_with_its_remedy() {
    let cases = [
        ("model = \"path:model.gguf\"", "", "`model` is missing"),
        ("path:model.gguf", "model.gguf", "expected a source: path:FILE-OR-FOLDER"),
        ("path:model.gguf", "ftp:model.gguf", "expected a source"),
        ("title = \"a test\"", "title = 3", "`title` is 3; expected a text in quotes"),
        ("title = \"a test\"", "seed = -1", "`seed` is -1; expected a whole number"),
        ("title = \"a test\"", "reference = \"fp8\"", "no [[variant]] has this name"),
        ("\"0..10\"", "\"10..0\"", "half-open range"),
        ("\"0..10\"", "\"ten\"", "half-open range"),
        ("\"10..20\"", "\"9..20\"", "do not overlap"),
        ("threads = [1]", "threads = [3]", "this process may use 2"),
        ("threads = [1]", "threads = []", "`threads` is empty"),
        ("threads = [1]", "threads = [1, 1]", "names 1 twice"),
        ("threads = [1]", "threads = 1", "expected a list"),
        ("threads = [1]", "generate = 1", "a whole number from 2"),
        ("threads = [1]", "blocks = 1", "a whole number from 2"),
        ("threads = [1]", "blocks = [9, 6]", "fewest below most"),
        ("threads = [1]", "promt = 128", "did you mean `prompt`?"),
        ("max_increase_percent = 5", "max_increase_percent = nan", "a number above 0"),
        ("max_increase_percent = 5", "max_increase_percent = 1e9", "at most 1000"),
        ("max_increase_percent = 5", "max_drop_points = 1, max_increase_percent = 5", "belongs to another metric"),
        ("max_increase_percent = 5", "task = \"choice\", max_increase_percent = 5", "expected `perplexity`"),
        (", max_increase_percent = 5", "", "`max_increase_percent` is missing"),
        (", max_increase_percent = 5", ", max_drop_percent = 1", "a metric whose margin is in points"),
        ("[[variant]]", "confidence = 0.5\n[[variant]]", "between 0.5 and 1"),
        ("[[variant]]", "rule = \"accuracy and speed\"\n[[variant]]", "`rule` asks for speed"),
        ("[[variant]]", "rule = \"speed\"\n[[variant]]", "`rule` is \"speed\"; expected"),
        ("[[variant]]", "speed = { metric = \"decode\", min_speedup = 0 }\n[[variant]]", "a number above 0"),
        ("[[variant]]", "speed = { metric = \"decode\" }\n[[variant]]", "`min_speedup` is missing"),
        (
            "[[variant]]",
            "speed = { metric = \"decode\", min_speedup = 2, threads = 2 }\n[[variant]]",
            "[workload] threads measures [1] only",
        ),
        ("[[variant]]", "memory = { metric = \"weights\", max = \"80\" }\n[[variant]]", "such as \"80 MiB\""),
        ("[[variant]]", "memory = { metric = \"ram\", max = \"80 MiB\" }\n[[variant]]", "`metric` is \"ram\""),
        ("name = \"int4\"", "name = \"\"", "1 to 64 printable characters"),
        ("name = \"int4\"", "name = \"a\\nb\"", "not visible"),
        ("name = \"int4\"", "", "`name` is missing"),
        (", group_size = 64", "", "`group_size` is missing"),
        ("granularity = \"group\"", "granularity = \"channel\"", "only for granularity = \"group\""),
        ("granularity = \"group\"", "granularity = \"row\"", "`granularity` is \"row\""),
        ("bits = 4, ", "", "`bits` is missing"),
        ("method = \"gptq\"", "method = \"gptq\"\nimport = \"model\"", "both `method` and `import`"),
        ("method = \"gptq\"", "method = \"gptq\"\ndense = \"fp16\"", "did you mean `f16`?"),
        ("method = \"gptq\"", "method = \"gptq\"\nactivations = { bits = 4 }", "a whole number from 8 to 8"),
        ("method = \"gptq\"", "method = \"gptq\"\noverrides = [{ tensors = \"x\" }]", "keep = \"dense\""),
        ("method = \"gptq\"", "method = \"gptq\"\noverrides = [3]", "expected a list of tables"),
    ];
    for (from, to, expected) in cases {
        let fault = fault_of(from, to);
        assert!(fault.contains(expected), "{from} -> {to}: {fault}");
        assert!(fault.starts_with("lm.toml:"), "{fault}");
        assert!(!fault.contains('\n'), "{fault}");
    }
}

#[test]
fn missing_sections_are_named() {
    let found = faults("title = \"nothing else\"");
    for section in ["`model`", "`[[task]]`", "`[accept]`", "`[[variant]]`"] {
        assert!(found.iter().any(|f| f.contains(&format!("{section} is missing; add"))), "{section}: {found:#?}");
    }
}

#[test]
fn a_method_that_learns_needs_calibration() {
    let text = GOOD.replace("calibration = { source = \"path:text/*.txt\", documents = \"0..10\" }", "");
    assert!(faults(&text)[0].contains("gptq learns from text"), "{:?}", faults(&text));
    let rounded = text.replace("gptq", "rtn");
    assert!(read(&rounded).is_ok());
    let observed = |name: &str| rounded.replace("bits = 4,", &format!("bits = 4, observer = \"{name}\","));
    assert!(read(&observed("mse")).is_ok());
    assert!(faults(&observed("imatrix_mse"))[0].contains("imatrix_mse learns from text"));
    assert!(faults(&observed("best"))[0].contains("expected `minmax`, `mse` or `imatrix_mse`"));
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let with = |method: &str, keys: &str| GOOD.replace("method = \"gptq\"", &format!("method = \"{method}\"")) + keys;
    let inputs = "activations = { bits = 8 }\n";
    for (method, keys) in [("awq", ""), ("hqq", ""), ("rtn", inputs), ("gptq", inputs)] {
        assert!(read(&with(method, keys)).is_ok(), "{method} {keys}");
    }
    for smooth in ["smooth = \"search\"\n", "smooth = 0.5\n"] {
        assert!(read(&with("rtn", &format!("{inputs}{smooth}"))).is_ok());
        assert!(faults(&with("rtn", smooth))[0].contains("`smooth` is for inputs in 8 bits"));
        assert!(faults(&with("awq", &format!("{inputs}{smooth}")))[0].contains("rescales inputs by itself"));
    }
    assert!(faults(&with("rtn", &format!("{inputs}smooth = 2\n")))[0].contains("at most 1"));
    assert!(faults(&with("rtn", &format!("{inputs}smooth = \"best\"\n")))[0].contains("expected `search`"));
    for method in ["awq", "hqq"] {
        let observed = with(method, "").replace("bits = 4,", "bits = 4, observer = \"mse\",");
        assert!(faults(&observed)[0].contains("ranges of their own"), "{method}");
    }
    let suite = read(&with("awq", "rotation = \"hadamard\"\n")).unwrap();
    assert!(suite.variants.last().unwrap().describe().ends_with("weight-only, rotated by Hadamard matrices"));
    assert!(faults(&with("rtn", "rotation = \"hadamart\"\n"))[0].contains("expected `hadamard`"));
    let import = format!("{GOOD}\n[[variant]]\nname = \"as-it-is\"\nimport = \"model\"\nrotation = \"hadamard\"\n");
    assert!(faults(&import)[0].contains("an import is taken as it is; remove it"));
    let cast =
        format!("{GOOD}\n[[variant]]\nname = \"cast\"\nmethod = \"cast\"\ndtype = \"f32\"\nrotation = \"hadamard\"\n");
    assert!(faults(&cast)[0].contains("unknown key `rotation`"));
}

#[test]
fn a_search_has_keys_of_its_own() {
    let with = |keys: &str| {
        let variant = format!("\n[[variant]]\nname = \"mixed\"\nmethod = \"search\"\n{keys}\n");
        format!("{GOOD}{variant}")
    };
    let suite = read(&with("budget = { bytes = \"90 MiB\" }")).unwrap();
    let Recipe::Search(search) = &suite.variants.last().unwrap().recipe else { panic!("a search") };
    let names: Vec<String> = search.formats.iter().map(|format| format.name()).collect();
    assert_eq!((names, search.quantizer.as_str()), (["4g32", "4g64", "8"].map(String::from).into(), "gptq"));
    assert_eq!((search.budget, search.probe_windows, search.check_windows), (Budget::Bytes(90 << 20), 4, 16));
    assert_eq!(suite.held_out_windows(), 20);
    for (keys, problem) in [
        ("", "`budget` is missing"),
        ("budget = {}", "expected one of `bytes`, `speedup` and `divergence`"),
        ("budget = { speedup = 2, divergence = 0.1 }", "expected one of"),
        ("budget = { bytes = \"90\" }", "expected a size above 0 with its unit"),
        ("budget = { speedup = 2 }\nformats = []", "name at least one"),
        ("budget = { speedup = 2 }\nformats = [\"4g32\", \"5g32\"]", "5 bits have no kernel of their own"),
        ("budget = { speedup = 2 }\nformats = [\"8\", \"8\"]", "names 8 twice"),
        ("budget = { speedup = 2 }\nquantizer = \"awq\"", "expected `rtn`, `gptq` or `hqq`"),
        ("budget = { speedup = 2 }\nquantizer = \"hqq\"\nobserver = \"mse\"", "ranges of its own"),
        ("budget = { speedup = 2 }\nweights = { bits = 4 }", "unknown key `weights`"),
    ] {
        assert!(faults(&with(keys))[0].contains(problem), "{keys}: {:?}", faults(&with(keys)));
    }
    let uncalibrated: String = with("budget = { speedup = 2 }")
        .lines()
        .filter(|line| !line.starts_with("calibration"))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(faults(&uncalibrated).iter().any(|fault| fault.contains("search learns from text")), "{uncalibrated}");
}

#[test]
fn an_override_may_name_several_tensors() {
    let text = "method = \"rtn\"\nweights = { bits = 8, granularity = \"channel\" }\n\
                overrides = [{ tensors = [\"*.q_proj\", \"*.o_proj\"], keep = \"dense\" }]";
    let Ok(Recipe::Quantize(method)) = recipe_from_text("test", text) else { panic!("a method") };
    assert_eq!(method.overrides.iter().map(|rule| rule.tensors.as_str()).collect::<Vec<_>>(), ["*.q_proj", "*.o_proj"]);
    let empty = text.replace("\"*.o_proj\"", "\" \"");
    assert!(recipe_from_text("test", &empty).unwrap_err().to_string().contains("`tensors` is empty"));
}

#[test]
fn duplicate_names_are_refused() {
    let again = "\n[[variant]]\nname = \"int4\"\nmethod = \"cast\"\ndtype = \"f32\"\n";
    let found = faults(&format!("{GOOD}{again}"));
    assert_eq!(found, ["lm.toml:23: variant \"int4\": a second variant named \"int4\"; give each its own `name`"]);
    let task = "\n[[task]]\nkind = \"perplexity\"\ndata = \"path:other.txt\"\n";
    let found = faults(&format!("{GOOD}{task}"));
    assert!(found.iter().any(|f| f.contains("a second task named \"perplexity\"")), "{found:?}");
}

#[test]
fn names_are_visible_and_of_different_looks() {
    let variant = |name: &str| format!("\n[[variant]]\nname = {name:?}\nmethod = \"cast\"\ndtype = \"f32\"\n");
    for c in ['\u{200b}', '\u{202e}', '\u{ad}', '\u{e0041}', '\u{fe0f}', '\u{3164}', '\u{e000}', '\u{378}', '\u{2028}']
    {
        let written = variant("x").replace("\"x\"", &format!("\"a\\U{:08x}b\"", c as u32));
        let found = faults(&format!("{GOOD}{written}"));
        assert!(found.len() == 1 && found[0].contains("that are not visible"), "{c:?}: {found:?}");
    }
    for start in ["=", "+", "-", "@"] {
        let found = faults(&format!("{GOOD}{}", variant(&format!("{start}a"))));
        assert!(found[0].contains("starts with =, +, - or @"), "{found:?}");
    }
    for (other, kind) in [("int４", "variant \"int4\""), ("ínt4", "variant \"int4\""), ("fp１6", "reference \"fp16\"")]
    {
        let found = faults(&format!("{GOOD}{}", variant(other)));
        assert!(found[0].contains(&format!("looks like the {kind}")), "{found:?}");
    }
    for sound in ["INT4", "größe", "模型", "int4 g64", "int4.1"] {
        read(&format!("{GOOD}{}", variant(sound))).unwrap();
    }
}

#[test]
fn more_threads_than_the_machine_has_are_a_fault_only_where_it_runs() {
    let text = GOOD.replace("threads = [1]", "threads = [1, 64]");
    assert!(read(&text).is_err());
    let elsewhere = suite::from_text("lm.toml", "lm", &text, None).unwrap();
    assert_eq!(elsewhere.workload.threads, [1, 64]);
}

#[test]
fn syntax_errors_carry_their_line() {
    let found = faults("title = \"x\"\nmodel = \n");
    assert!(found[0].starts_with("lm.toml:2: not valid TOML"), "{found:?}");
    let twice = faults("title = \"x\"\ntitle = \"y\"\n");
    assert!(twice[0].starts_with("lm.toml:2: not valid TOML: duplicate key"), "{twice:?}");
}

#[test]
fn files_that_are_no_suites_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(suite::read(&binary).unwrap_err().to_string().contains("not UTF-8"));
    let huge = folder.path().join("huge.toml");
    std::fs::write(&huge, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(suite::read(&huge).unwrap_err().to_string().contains("at most 1.0 MiB"));
    let missing = suite::read(Path::new("/nowhere/suite.toml")).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/suite.toml: cannot read"), "{missing}");
    assert!(suite::read(folder.path()).is_err());
}

#[test]
fn a_recipe_is_read_alone() {
    let recipe = recipe_from_text("--recipe", "method = \"rtn\"\nweights = { bits = 8, granularity = \"channel\" }");
    assert!(matches!(recipe, Ok(Recipe::Quantize(_))), "{recipe:?}");
    let error = recipe_from_text("--recipe", "method = \"rtn\"").unwrap_err().to_string();
    assert!(error.starts_with("--recipe:1: recipe: `weights` is missing"), "{error}");
}

#[test]
fn the_suite_knows_the_quantizers_there_are() {
    let mut known: Vec<(&str, bool)> = suite::METHODS.to_vec();
    let mut built: Vec<(&str, bool)> = quantize::METHODS.iter().map(|q| (q.name(), q.needs_calibration())).collect();
    known.sort_unstable();
    built.sort_unstable();
    assert_eq!(known, built);
}

#[test]
fn shipped_suites_have_no_faults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            suite::read_for_any_machine(&path).unwrap_or_else(|e| panic!("{e}"));
            read += 1;
        }
    }
    assert!(read >= 2, "found {read} suites");
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    assert!(read(&"[".repeat(100_000)).is_err());
    assert!(read(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(read(&format!("a = {}", "{b=".repeat(100_000))).is_err());
    assert!(read(&"a.".repeat(100_000)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_suite_or_faults(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    /// Damage to a good suite: cut it, drop a part, put something else in.
    #[test]
    fn any_damage_gives_a_suite_or_faults(
        from in 0..GOOD.len(),
        length in 0..80usize,
        with in "[\\[\\]{}=\",.a-z0-9\\-\n]{0,12}",
    ) {
        let mut text = GOOD.to_string();
        text.replace_range(from..(from + length).min(GOOD.len()), &with);
        if let Err(error) = read(&text) {
            let Error::Suite(faults) = error else { panic!("{error:?}") };
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(!fault.to_string().contains(['\n', '\r']), "{}", fault);
            }
        }
    }

    /// Values of every type under every key.
    #[test]
    fn any_value_under_any_key_gives_a_suite_or_faults(
        line in 0..GOOD.lines().count(),
        value in prop_oneof![
            Just("1"), Just("-1"), Just("99999999999999999999"), Just("0xffffffffffffffff"), Just("1e308"), Just("nan"),
            Just("-inf"), Just("true"), Just("\"\""), Just("\"\\u0000\""), Just("[]"), Just("{}"), Just("[[1], [2]]"),
            Just("1979-05-27"), Just("{ a = 1 }"), Just("[{}]"),
        ],
    ) {
        let lines: Vec<String> = GOOD.lines().enumerate().map(|(i, text)| match text.split_once(" = ") {
            Some((key, _)) if i == line => format!("{key} = {value}"),
            _ => text.to_string(),
        }).collect();
        if let Err(Error::Suite(faults)) = read(&lines.join("\n")) {
            prop_assert!(!faults.is_empty());
        }
    }
}

#[test]
fn a_choice_has_its_own_keys_and_metrics() {
    let with = |task: &str, accuracy: &str| {
        let text = format!(
            "model = \"bundled:m\"\n[[task]]\nkind = \"choice\"\ndata = \"bundled:m/choice\"\n{task}\n[accept]\n\
             accuracy = {{ {accuracy} }}\n[[variant]]\nname = \"int8\"\nmethod = \"cast\"\ndtype = \"bf16\"\n"
        );
        suite::from_text("s.toml", "s", &text, Some(1))
    };
    let suite = with("items = 800", "metric = \"accuracy\", max_drop_points = 1.0").unwrap();
    assert_eq!((suite.tasks[0].name.as_str(), suite.tasks[0].kind), ("choice", TaskKind::Choice { items: Some(800) }));
    assert_eq!(suite.accept.accuracy.metric, AccuracyMetric::Accuracy { max_drop_points: 1.0 });
    let stored = serde_json::to_string(&suite).unwrap();
    assert_eq!(serde_json::from_str::<Suite>(&stored).unwrap(), suite);
    for (task, accuracy, expected) in [
        ("length = 32", "metric = \"accuracy\", max_drop_points = 1.0", "unknown key `length`"),
        ("items = 0", "metric = \"accuracy\", max_drop_points = 1.0", "`items` is 0"),
        ("", "metric = \"accuracy\", max_drop = 1.0", "`max_drop_points` is missing"),
        (
            "",
            "metric = \"perplexity\", max_increase_percent = 1.0",
            "asks a task of kind perplexity; task \"choice\" has `accuracy` or `accuracy_norm`",
        ),
    ] {
        let faults = with(task, accuracy).unwrap_err().to_string();
        assert!(faults.contains(expected), "{expected}: {faults}");
    }
}

/// A run that an earlier version stored has its task's keys side by side.
#[test]
fn tasks_of_earlier_runs_are_read() {
    let stored = r#"{"name":"p","kind":"perplexity","text":{"source":"path:t","documents":null,"field":null},"length":32,"windows":20}"#;
    let task: Task = serde_json::from_str(stored).unwrap();
    assert_eq!(task.kind, TaskKind::Perplexity { length: 32, windows: Some(20) });
}

#[test]
fn an_encoders_suite_has_tasks_workload_and_metrics_of_its_own() {
    let good = GOOD
        .replace("[workload]", "[workload]\nlength = 64")
        .replace("kind = \"perplexity\"", "kind = \"similarity\"")
        .replace(
            "{ metric = \"perplexity\", max_increase_percent = 5 }",
            "{ metric = \"similarity\", max_drop = 0.01 }\nspeed = { metric = \"latency\", min_speedup = 1.5 }",
        );
    let suite = read(&good).unwrap();
    assert!(suite.workload.encodes());
    assert_eq!((suite.workload.prompt, suite.workload.generate), (64, 0));
    assert_eq!(suite.tasks[0].kind, TaskKind::Similarity { length: None, sentences: None });
    assert_eq!(suite.accept.accuracy.metric, AccuracyMetric::Similarity { max_drop: 0.01 });
    assert_eq!(suite.accept.speed.unwrap().metric, SpeedMetric::Latency);
    for (from, to, expected) in [
        ("length = 64", "prompt = 64", "asks an encoder; give [workload] `length`"),
        ("length = 64", "length = 64\nprompt = 3", "`length` is an encoder's"),
        ("kind = \"similarity\"", "kind = \"perplexity\"", "asks a decoder"),
        ("\"latency\"", "\"decode\"", "latency"),
        ("name = \"int4\"", "name = \"int4\"\nkv_cache = \"int8\"", "an encoder has no KV cache"),
        ("max_drop", "max_drop_points", "max_drop"),
    ] {
        let found = faults(&good.replace(from, to));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{from} -> {to}: {found:#?}");
    }
}
