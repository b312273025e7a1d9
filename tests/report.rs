//! The report of a made-up run: whole, self-contained, true to `run.json`, inert against hostile names, byte-stable.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod synthetic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use quantbench::decide::judge;
use quantbench::report;
use quantbench::results::{Answer, Answers, Evidence, Outcome, Run, TurningPoint, TurningPoints};
use quantbench::suite::{Accept, AccuracyMetric};
use serde_json::{Value, json};
use synthetic::{MIB, SETTING, accept, evidence, truths};

const FILES: [&str; 9] = [
    "index.html",
    "frontier.svg",
    "memory.svg",
    "accuracy.svg",
    "latency.svg",
    "roofline.svg",
    "summary.md",
    "summary.csv",
    "junit.xml",
];

fn written(folder: &Path, evidence: &Evidence) -> Run {
    let run = judge(evidence, &accept());
    report::write(folder, &run, evidence).unwrap();
    run
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join("report").join(file)).unwrap()
}

/// Evidence whose every name and message is an attack.
fn hostile() -> Evidence {
    const ATTACK: &str =
        "<script>alert(1)</script>|\"'>\n\u{1b}[31m\u{202e}&amp;{{ 7*7 }}]]><img src=x onerror=alert(2)>";
    let mut e = evidence(&truths(), SETTING);
    let long = format!("{ATTACK}{}", "x".repeat(5000));
    for (old, new) in [("int8", ATTACK), ("int4-gptq", long.as_str())] {
        let mut v = e.variants.remove(old).unwrap();
        v.slots.iter_mut().for_each(|s| s.variant = new.into());
        v.slots.iter_mut().flat_map(|s| &mut s.kernels).for_each(|k| k.kernel = ATTACK.into());
        e.variants.insert(new.into(), v);
        e.suite.variants.iter_mut().find(|v| v.name == old).unwrap().name = new.into();
    }
    e.variants.get_mut("q4_1-import").unwrap().failures.push(("time".into(), ATTACK.into()));
    e.suite.title = ATTACK.into();
    e.suite.name = ATTACK.into();
    e.suite.model = ATTACK.into();
    e.machine.cpu = ATTACK.into();
    e.machine.facts.insert(ATTACK.into(), ATTACK.into());
    e.machine.disturbances.push(ATTACK.into());
    e.warnings.push(ATTACK.into());
    e.stages[0].name = ATTACK.into();
    e
}

#[test]
fn every_file_is_there_and_the_page_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &evidence(&truths(), SETTING));
    for file in FILES {
        assert!(read(folder.path(), file).len() > 500, "{file}");
    }
    let html = read(folder.path(), "index.html");
    for loader in
        ["src=", "url(", "@import", "<link rel=\"stylesheet", "<iframe", "<object", "<embed", "fetch(", "import("]
    {
        assert!(!html.contains(loader), "{loader}");
    }
    assert_eq!(html.matches("<script").count(), 2, "the data and the page's own script");
    let outside: Vec<&str> = html.split("http").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(outside.iter().all(|o| *o == "-equiv=" || *o == "://www.w3.org/2000/svg"), "{outside:?}");
    let sections =
        ["answer", "outlook", "whatif", "charts", "variants", "layers", "machine", "warnings", "stages", "reproduce"];
    let places: Vec<usize> = sections.iter().map(|s| html.find(&format!("<section id=\"{s}\"")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn where_the_time_goes_is_shown_for_every_variant_and_phase() {
    let folder = tempfile::tempdir().unwrap();
    let run = written(folder.path(), &evidence(&truths(), SETTING));
    let html = read(folder.path(), "index.html");
    let points: usize = run.variants.iter().map(|v| v.points.len()).sum();
    let shares = ["80 %", "50 %", "12 %", "25 %", "6 %", "6 %"].map(|share| format!("<td>{share}</td>")).concat();
    for (phase, bound) in [("prefill", "arithmetic"), ("decode", "reading")] {
        let rows = html.matches(&format!("<td>{phase}</td>")).count();
        assert!(rows >= points, "{phase}: {rows} rows for {points} points");
        assert_eq!(html.matches(&format!("<td>{bound}</td>{shares}")).count(), points, "{phase}");
    }
}

#[test]
fn the_table_shows_the_numbers_of_run_json() {
    let folder = tempfile::tempdir().unwrap();
    let run = written(folder.path(), &evidence(&truths(), SETTING));
    let run: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
    let html = read(folder.path(), "index.html").replace("&#x2f;", "/");
    let table = &html[..html.find("</table>").unwrap()];
    for v in &run.variants {
        let row = table.split("<tbody").find(|r| r.contains(&format!("data-variant=\"{}\"", v.name))).unwrap();
        let (score, point) = (&v.scores["perplexity"], v.points.iter().find(|p| p.threads == 2).unwrap());
        let mut expected = vec![
            format!(">{:.2}<", score.perplexity),
            point.ttft.point(),
            point.tpot.as_ref().unwrap().point(),
            format!(">{:.1}<", point.prefill_rate.value),
            format!(">{:.1}<", point.decode_rate.as_ref().unwrap().value),
            quantbench::units::bytes(v.memory.unwrap().weight_bytes),
            quantbench::units::bytes(v.memory.unwrap().peak_rss.unwrap()),
        ];
        if !v.reference {
            let increase = score.perplexity_increase.as_ref().unwrap();
            expected.extend([increase.point(), increase.interval().unwrap(), point.speedup["decode"].point()]);
            expected.push(point.speedup["decode"].interval().unwrap());
            expected.push(v.verdict.as_ref().unwrap().outcome.to_string());
        }
        for number in expected {
            assert!(row.contains(&number), "{}: {number} is missing in {row}", v.name);
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(a.path(), &evidence(&truths(), SETTING));
    written(b.path(), &evidence(&truths(), SETTING));
    for file in FILES {
        assert!(read(a.path(), file) == read(b.path(), file), "{file} differs");
    }
}

/// The files that people look at, as they were when somebody last looked at them: `INSTA_UPDATE=always cargo test --release
/// --test report charts` writes them anew to tests/snapshots.
#[test]
fn charts_and_summaries_are_the_goldens() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &evidence(&truths(), SETTING));
    // summary.csv holds every digit, of which the last is the mathematical library's.
    for file in FILES.into_iter().filter(|file| !["index.html", "summary.csv"].contains(file)) {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(file, read(folder.path(), file));
        });
    }
}

#[test]
fn energy_is_an_axis_where_the_machine_tells_it() {
    let axis = "energy of a token, batch 1, 2 threads";
    let folder = tempfile::tempdir().unwrap();
    let mut evidence = evidence(&truths(), SETTING);
    written(folder.path(), &evidence);
    assert!(!read(folder.path(), "index.html").contains(axis), "what was not measured is no axis");
    let slots = evidence.variants.values_mut().flat_map(|variant| &mut variant.slots);
    slots.for_each(|slot| slot.covariates.energy_j = Some(2.0));
    written(folder.path(), &evidence);
    assert!(read(folder.path(), "index.html").contains(axis));
}

#[test]
fn hostile_names_are_inert_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let run = written(folder.path(), &hostile());
    for file in FILES {
        let text = read(folder.path(), file);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{file}");
        // A table of values is no markup: its cells are the names as they are, on one line.
        if file == "summary.csv" {
            let rows = csv::Reader::from_reader(text.as_bytes()).into_records().map(Result::unwrap);
            assert_eq!(rows.filter(|row| row.iter().all(|c| !c.contains('\n'))).count(), run.variants.len());
            continue;
        }
        let scripts = if file == "index.html" { 2 } else { 0 };
        assert_eq!(text.matches("<script").count(), scripts, "{file}");
        assert!(!text.contains("<img") && !text.contains("onerror=alert(2)>"), "{file}");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{file}");
        assert!(!text.contains(" 49 "), "{file}: a template inside a name was evaluated");
    }
    for svg in FILES.into_iter().filter(|file| file.ends_with(".svg")) {
        assert_eq!(read(folder.path(), svg).matches("</svg>").count(), 1, "{svg}");
    }
    let summary = read(folder.path(), "summary.md");
    let table: Vec<&str> = summary.lines().filter(|l| l.starts_with('|')).collect();
    assert_eq!(table.len(), 2 + run.variants.len());
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(table.iter().all(|line| cells(line) == 11), "{summary}");
    let terminal = report::terminal(&run, 120);
    assert!(!terminal.chars().any(|c| c.is_control() && c != '\n') && !terminal.contains('\u{202e}'));
}

#[test]
fn terminal_fits_its_width_and_ends_with_the_answer() {
    let e = evidence(&truths(), SETTING);
    let run = judge(&e, &accept());
    for width in [80, 100, 120, 200] {
        let text = report::terminal(&run, width);
        let widest = text.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(widest <= width, "{widest} columns at {width}:\n{text}");
        assert!(text.trim_end().lines().last().unwrap().len() > 5);
        assert!(text.contains("ship int4-gptq: int4-gptq is the fastest of the 4 accepted"), "{text}");
    }
    let wide = report::terminal(&run, 200);
    for column in ["perplexity", "token acc.", "KL", "TTFT", "TPOT", "prefill tok/s", "speedup", "weights", "peak RSS"]
    {
        assert!(wide.contains(column), "{column}");
    }
}

#[test]
fn a_run_without_any_numbers_still_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut e = evidence(&truths(), SETTING);
    e.variants.clear();
    e.machine.facts.clear();
    e.stages.clear();
    written(folder.path(), &e);
    assert!(read(folder.path(), "index.html").contains("Nothing is proven to ship"));
    assert!(read(folder.path(), "frontier.svg").contains("nothing was measured"));
}

#[test]
fn tables_for_other_programs_hold_the_verdicts() {
    let folder = tempfile::tempdir().unwrap();
    let mut e = evidence(&truths(), SETTING);
    e.variants.get_mut("q4_1-import").unwrap().failures.push(("time".into(), "killed".into()));
    let run = written(folder.path(), &e);
    let mut table = csv::Reader::from_path(folder.path().join("report/summary.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), run.variants.len());
    for (row, v) in rows.iter().zip(&run.variants) {
        let outcome = v.verdict.as_ref().map_or("reference".into(), |v| v.outcome.to_string());
        assert_eq!(
            (&row[0], &row[1], &row[2]),
            (v.name.as_str(), outcome.as_str(), if v.name == "int4-gptq" { "true" } else { "false" })
        );
        let speedup = v.points.iter().find(|p| p.threads == 2).and_then(|p| p.speedup.get("decode"));
        assert_eq!(row[6].parse().ok(), speedup.map(|e| e.value));
    }
    let junit = read(folder.path(), "junit.xml");
    assert!(junit.contains("tests=\"5\" failures=\"1\" errors=\"1\" skipped=\"0\""), "{junit}");
    assert!(junit.contains("name=\"int4-rtn\"><failure message=\"perplexity +"), "{junit}");
    assert!(junit.contains("name=\"q4_1-import\"><error message=\"failed: time: killed\""), "{junit}");
}

/// Turning points say what the rule answers at any threshold, on and beside them most of all.
#[test]
fn turning_points_answer_as_the_rule_does() {
    let e = evidence(&truths(), SETTING);
    let run = judge(&e, &accept());
    for thresholds in grid(&run) {
        let other = judge(&e, &with_thresholds(&accept(), thresholds));
        let [accuracy, speed, memory] = thresholds;
        for (v, expected) in run.variants.iter().zip(&other.variants).filter(|(v, _)| !v.reference) {
            let turning = v.turning_points;
            let loose = |turn: Option<TurningPoint>, t: f64| match turn {
                Some(turn) if t >= turn.yes => Answer::Yes,
                Some(turn) if t < turn.no => Answer::No,
                _ => Answer::Unknown,
            };
            let strict = turning.speed.map(|turn| TurningPoint { yes: -turn.yes, no: -turn.no });
            let answers = Answers {
                accuracy: loose(turning.accuracy, accuracy),
                speed: Some(loose(strict, -speed)),
                memory: Some(loose(turning.memory, memory)),
            };
            assert_eq!(expected.verdict.as_ref().unwrap().answers, Some(answers), "{} at {thresholds:?}", v.name);
        }
    }
}

/// Beyond each change the program recommends what it said, and just before it what it recommends now.
#[test]
fn the_thresholds_that_change_the_answer_are_where_it_changes() {
    let e = evidence(&truths(), SETTING);
    let mut questions = std::collections::BTreeSet::new();
    for rule in ["accuracy and (speed or memory)", "accuracy and speed and memory"] {
        let accept = Accept { rule: rule.into(), ..accept() };
        let run = judge(&e, &accept);
        let now = &run.recommendation.variant;
        for change in &run.recommendation.changes {
            questions.insert(change.threshold.clone());
            let with = |value: f64| {
                let mut thresholds = [5.0, 1.5, 100.0 * MIB as f64];
                let keys = ["max_increase_percent", "min_speedup", "max_memory"];
                thresholds[keys.iter().position(|key| *key == change.threshold).unwrap()] = value;
                judge(&e, &with_thresholds(&accept, thresholds)).recommendation.variant
            };
            let little = if change.threshold == "max_memory" { 1.0 } else { 1e-9 };
            // S_min is stricter the larger it is.
            let stricter = change.at + if change.threshold == "min_speedup" { little } else { -little };
            let (before, beyond) = if change.looser { (stricter, change.at) } else { (change.at, stricter) };
            assert_eq!((&with(before), &with(beyond)), (now, &change.variant), "{rule}: {change:?}");
        }
    }
    assert_eq!(questions.len(), 3, "{questions:?}");
}

#[test]
fn when_nothing_passes_the_report_says_what_to_try() {
    let e = evidence(&truths(), SETTING);
    let run = judge(&e, &with_thresholds(&accept(), [0.01, 20.0, MIB as f64]));
    assert_eq!(run.recommendation.variant, None);
    assert!(!run.recommendation.attempts.is_empty());
    for attempt in &run.recommendation.attempts {
        let keys: String = attempt.entry.lines().skip(2).map(|line| format!("{line}\n")).collect();
        quantbench::suite::recipe_from_text("entry", &keys).unwrap();
    }
    assert!(run.recommendation.attempts.iter().any(|attempt| attempt.entry.contains("import = ")), "training is one");
    let folder = tempfile::tempdir().unwrap();
    report::write(folder.path(), &run, &e).unwrap();
    assert!(read(folder.path(), "index.html").contains("What to try next"));
    assert!(read(folder.path(), "summary.md").contains("```toml\n[[variant]]"));
}

/// dAcc_max in percent, S_min, M_max in bytes: some of every size, and every turning point with its neighbours.
fn grid(run: &Run) -> Vec<[f64; 3]> {
    let turning = |of: fn(&TurningPoints) -> Option<TurningPoint>| {
        let points = run.variants.iter().filter_map(move |v| of(&v.turning_points));
        points.flat_map(|t| [t.yes, t.no]).flat_map(|t| [t.next_down(), t, t.next_up()])
    };
    let accuracy: Vec<f64> = turning(|t| t.accuracy).filter(|t| *t > 0.0).chain([0.1, 1.0, 5.0, 40.0]).collect();
    let speed: Vec<f64> = turning(|t| t.speed).chain([0.5, 1.5, 9.0]).collect();
    let memory: Vec<f64> = turning(|t| t.memory).map(f64::round).chain([1.0, 100.0 * MIB as f64, 1e9]).collect();
    let longest = accuracy.len().max(speed.len()).max(memory.len());
    let at = |list: &[f64], i: usize| list[i % list.len()];
    (0..5 * longest).map(|i| [at(&accuracy, i), at(&speed, i * 7 + i / 11), at(&memory, i * 5 + i / 13)]).collect()
}

fn with_thresholds(accept: &Accept, [accuracy, speed, memory]: [f64; 3]) -> Accept {
    let mut other = accept.clone();
    other.accuracy.metric = AccuracyMetric::Perplexity { max_increase_percent: accuracy };
    other.speed.as_mut().unwrap().min_speedup = speed;
    other.memory.as_mut().unwrap().max_bytes = memory as u64;
    other
}

/// `REPORT_TEST_FOLDER` keeps the made-up reports, to be looked at.
#[test]
#[ignore = "needs chromium; .ci/run runs it"]
fn a_browser_shows_the_page_without_errors_requests_or_sideways_scrolling() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("REPORT_TEST_FOLDER").map_or(temporary.path().into(), PathBuf::from);
    for (name, e) in [("sound", evidence(&truths(), SETTING)), ("hostile", hostile())] {
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        let run = written(&folder, &e);
        let found = probed(
            &folder,
            "({ width: d.documentElement.scrollWidth, of: d.documentElement.clientWidth, images: d.images.length, \
              scripts: d.scripts.length, marks: d.querySelectorAll('#chart .mark').length, \
              requests: w.performance.getEntriesByType('resource').length, \
              names: [...d.querySelectorAll('#chart .mark')].map(m => m.getAttribute('aria-label').split('; ')[0]) })",
        );
        assert_eq!(found["width"], 400, "{name}: {found}");
        let counts = ["of", "images", "scripts", "marks", "requests"].map(|key| found[key].as_u64().unwrap());
        let marks = if name == "sound" { run.variants.len() as u64 } else { counts[3] };
        assert_eq!(counts, [400, 0, 2, marks, 0], "{name}: {found}");
        let shown = chromium(&folder, &folder.join("report/index.html"));
        assert!(shown.contains("How to reproduce"), "{name}");
    }
}

#[test]
#[ignore = "needs chromium; .ci/run runs it"]
fn the_pages_rule_and_recommendation_are_those_of_the_program() {
    let e = evidence(&truths(), SETTING);
    for rule in [
        "accuracy",
        "accuracy and speed",
        "accuracy and memory",
        "accuracy and (speed or memory)",
        "accuracy and speed and memory",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let accept = Accept { rule: rule.into(), ..accept() };
        let run = judge(&e, &accept);
        report::write(folder.path(), &run, &e).unwrap();
        let (mut thresholds, mut expected) = (Vec::new(), Vec::new());
        for [accuracy, speed, memory] in grid(&run) {
            let other = judge(&e, &with_thresholds(&accept, [accuracy, speed, memory]));
            let outcomes = other.variants.iter().map(|v| {
                v.verdict.as_ref().map(|v| match v.outcome {
                    Outcome::Accept => 1,
                    Outcome::Inconclusive => 0,
                    Outcome::Reject => -1,
                })
            });
            let ship = other.recommendation.variant;
            let ship = other.variants.iter().position(|v| Some(&v.name) == ship.as_ref()).map_or(-1, |at| at as i64);
            expected.push(json!({ "outcomes": outcomes.collect::<Vec<_>>(), "ship": ship }));
            thresholds.push(json!({ "accuracy": accuracy, "speed": speed, "memory": memory }));
        }
        let found = probed(folder.path(), &format!("({}).map(t => w.judge(t))", json!(thresholds)));
        let different: Vec<_> = (0..expected.len())
            .filter(|i| found[i] != expected[*i])
            .map(|i| (&thresholds[i], &found[i], &expected[i]))
            .collect();
        assert!(different.is_empty(), "{rule}: {:?}", &different[..different.len().min(3)]);
        let ships: std::collections::BTreeSet<i64> = expected.iter().map(|e| e["ship"].as_i64().unwrap()).collect();
        assert!(ships.len() > 2, "{rule}: the thresholds try too little, {ships:?}");
    }
}

#[test]
#[ignore = "needs chromium; .ci/run runs it"]
fn sliders_axes_sorting_and_filters_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let run = written(folder.path(), &evidence(&truths(), SETTING));
    let found = probed(
        folder.path(),
        r##"(() => {
        const input = (field, value) => { field.value = value; field.dispatchEvent(new w.Event("input")); };
        const text = id => d.getElementById(id).textContent;
        const names = () => [...d.querySelectorAll(".verdicts tbody")].filter(b => !b.hidden).map(b => b.dataset.variant);
        const badges = () => [...d.querySelectorAll("[data-whatif]")].filter(b => !b.hidden).length;
        const out = { ship: text("whatif-ship"), quiet: badges() };
        input(d.querySelector("[data-question=accuracy]"), 1.0);
        Object.assign(out, { strictShip: text("whatif-ship"), changes: text("whatif-changes"), badges: badges(),
          command: text("whatif-command") });
        d.getElementById("whatif-reset").click();
        Object.assign(out, { resetShip: text("whatif-ship"), resetBadges: badges() });
        const axis = d.getElementById("axis-x"), before = d.querySelector("#chart .title").textContent;
        axis.selectedIndex = [...axis.options].findIndex(o => o.text === "weights");
        axis.dispatchEvent(new w.Event("change"));
        Object.assign(out, { before, after: d.querySelector("#chart .title").textContent });
        const radii = () => [...d.querySelectorAll("#chart .area")].map(disc => Number(disc.getAttribute("r")));
        const area = d.getElementById("axis-area");
        out.areas = { of: area.selectedOptions[0].text, radii: radii() };
        area.selectedIndex = area.options.length - 1;
        area.dispatchEvent(new w.Event("change"));
        out.areas.none = radii().length;
        area.selectedIndex = [...area.options].findIndex(o => o.text === "weights");
        area.dispatchEvent(new w.Event("change"));
        const heading = [...d.querySelectorAll(".verdicts th button")].find(b => b.textContent.startsWith("speedup"));
        heading.click();
        out.rising = names();
        heading.click();
        out.falling = names();
        input(d.querySelector(".verdicts .filter"), "rtn, 4 bits");
        out.filtered = names();
        const mark = d.querySelector("#chart .mark.accept");
        mark.dispatchEvent(new w.Event("focus"));
        out.tip = d.getElementById("tip").hidden ? "" : text("tip");
        return out; })()"##,
    );
    assert_eq!(found["ship"], "Ship int4-gptq");
    assert_eq!((&found["quiet"], &found["resetBadges"]), (&json!(0), &json!(0)));
    let strict = judge(&evidence(&truths(), SETTING), &with_thresholds(&accept(), [1.0, 1.5, 100.0 * MIB as f64]));
    let ship = strict.recommendation.variant.unwrap();
    assert_ne!(ship, "int4-gptq");
    assert_eq!(found["strictShip"], format!("Ship {ship}"));
    assert!(found["changes"].as_str().unwrap().contains("int4-gptq: accept → reject"), "{found}");
    assert!(found["badges"].as_u64().unwrap() >= 1 && found["resetShip"] == "Ship int4-gptq", "{found}");
    assert_eq!(
        found["command"],
        "bench report RUN --accept max_increase_percent=1 --accept min_speedup=1.5 --accept max_memory=100MiB"
    );
    assert!(found["before"].as_str().unwrap().starts_with("decode speedup"), "{found}");
    assert!(found["after"].as_str().unwrap().starts_with("weights, MiB"), "{found}");
    assert_eq!((&found["areas"]["of"], &found["areas"]["none"]), (&json!("weights"), &json!(0)));
    let largest = run.variants.iter().filter_map(|v| v.memory).map(|m| m.weight_bytes).max().unwrap() as f64;
    for (variant, radius) in run.variants.iter().zip(found["areas"]["radii"].as_array().unwrap()) {
        let expected = 30.0 * (variant.memory.unwrap().weight_bytes as f64 / largest).sqrt();
        assert!((radius.as_f64().unwrap() - expected).abs() < 1e-6, "{}: {found}", variant.name);
    }
    assert!(found["tip"].as_str().unwrap().contains("all three"), "{found}");
    let mut order: Vec<(f64, &str)> = run
        .variants
        .iter()
        .map(|v| (v.points[1].speedup.get("decode").map_or(1.0, |e| e.value), v.name.as_str()))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rising: Vec<&str> = order.iter().map(|(_, name)| *name).collect();
    assert_eq!(found["rising"], json!(rising));
    assert_eq!(found["falling"], json!(rising.iter().rev().collect::<Vec<_>>()));
    assert_eq!(found["filtered"], json!(["int4-rtn"]));
    assert!(
        found["tip"].as_str().unwrap().contains("decode speedup") || found["tip"].as_str().unwrap().contains("weights"),
        "{found}"
    );
}

/// The value of a script's expression over the window `w` and document `d` of a report, 400 pixels wide, as JSON.
fn probed(folder: &Path, expression: &str) -> Value {
    let probe = folder.join("report/probe.html");
    let script = format!(
        r#"<!doctype html><meta charset="utf-8"><title>probe</title>
<iframe id="f" src="index.html" style="width:400px;height:900px;border:0"></iframe><p id="out"></p><script>
document.getElementById("f").onload = e => {{
  const w = e.target.contentWindow, d = w.document;
  document.getElementById("out").textContent = JSON.stringify({expression});
}};
</script>"#
    );
    fs::write(&probe, script).unwrap();
    let dom = chromium(folder, &probe);
    let out = dom.split("<p id=\"out\">").nth(1).unwrap().split("</p>").next().unwrap();
    let out = out.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u{a0}").replace("&amp;", "&");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

/// The page's document after loading, as Chromium sees it; fails on anything the console reports.
fn chromium(folder: &Path, page: &Path) -> String {
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("chromium is installed");
    let log = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = log.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
