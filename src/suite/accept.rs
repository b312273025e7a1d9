//! `[accept]`: thresholds and the rule that combines them; `[gate]`: limits of a regression gate.
//!
//! | key | form |
//! |---|---|
//! | `accuracy` | `{ task, metric, margin }`, required; `task` may be left out where there is one |
//! | `speed` | `{ metric = "decode"` or `"prefill"` or `"total", min_speedup, threads }`; `threads` the largest; for an encoder `metric = "latency"` |
//! | `memory` | `{ metric = "weights"` or `"peak_rss"` or `"file", max = "80 MiB" }` |
//! | `confidence` | 0.95; above 0.5, below 1 |
//! | `rule` | one of [`RULES`]; by default the one over the thresholds that are given, speed *or* memory |
//!
//! The margin's key names its unit: `max_increase_percent` for metric `perplexity`, `max_drop_points` for
//! `token_accuracy` (or, as a share of what the reference reaches, `max_drop_percent` of its right answers or
//! `max_error_increase_percent` of its wrong ones), `max_drop` (nats per token) for `log_likelihood`; a task of kind `choice` has the metrics
//! `accuracy` and `accuracy_norm`, both with `max_drop_points`; one of kind `similarity` has the metric `similarity` with
//! `max_drop` (of the mean cosine, below 1).

use super::fields::{At, Fields, list_names, suggestion};
use super::schema::{
    Accept, AccuracyLimit, AccuracyMetric, GateLimits, MarginOf, MemoryLimit, MemoryMetric, RelativeMargin,
};
use super::schema::{SpeedLimit, SpeedMetric, Task, Workload};
use crate::error::{Error, Result};
use crate::units;

/// The rules there are, each with whether it asks for speed and for memory.
pub const RULES: [(&str, bool, bool); 5] = [
    ("accuracy", false, false),
    ("accuracy and speed", true, false),
    ("accuracy and memory", false, true),
    ("accuracy and (speed or memory)", true, true),
    ("accuracy and speed and memory", true, true),
];

/// Reads the section; `workload` and `tasks` are what it may refer to.
pub(super) fn read(top: &Fields<'_>, workload: Option<&Workload>, tasks: &[At<Task>]) -> Option<Accept> {
    if !top.has("accept") {
        top.missing("[accept]", "one with accuracy = { metric = \"perplexity\", max_increase_percent = 1.0 } at least");
    }
    let table = top.table("accept")?;
    if !table.has("accuracy") {
        table.missing("accuracy", "accuracy = { metric = \"perplexity\", max_increase_percent = 1.0 }");
    }
    let accuracy = table.table("accuracy").and_then(|a| read_accuracy(a, tasks));
    let speed = table.table("speed").and_then(|s| read_speed(s, workload));
    let memory = table.table("memory").and_then(read_memory);
    let confidence = table.positive("confidence", 1.0).unwrap_or(0.95);
    if !(confidence > 0.5 && confidence < 1.0) {
        table.fault(format!("`confidence` is {confidence}; expected a number between 0.5 and 1, such as 0.95"));
    }
    let rule = read_rule(&table);
    table.finish();
    Some(Accept { rule: rule?, accuracy: accuracy?, speed, memory, confidence })
}

/// Reads `[gate]`, which may be left out.
pub(super) fn read_gate(top: &Fields<'_>) -> GateLimits {
    let Some(table) = top.table("gate") else { return GateLimits::default() };
    let limits = GateLimits {
        max_flips_percent: table.positive("max_flips_percent", 100.0),
        max_kl_p99: table.positive("max_kl_p99", 100.0),
        max_worst_increase_percent: table.positive("max_worst_increase_percent", 1000.0),
        max_worst_drop_points: table.positive("max_worst_drop_points", 100.0),
        max_length_change_percent: table.positive("max_length_change_percent", 1000.0),
        max_slowdown_percent: table.positive("max_slowdown_percent", 100.0),
    };
    table.finish();
    limits
}

/// `accept` with one key given another value: a margin by its name in the suite, `min_speedup`, `max_memory`,
/// `confidence` or `rule`.
///
/// # Errors
/// An unknown key, a value of the wrong form, a threshold or rule that the suite cannot answer.
pub fn changed(accept: &Accept, key: &str, value: &str) -> Result<Accept> {
    let fault = |expected: &str| Error::Usage(format!("--accept {key}={value}: expected {expected}"));
    let number = |most: f64| {
        let number = value.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= most);
        number.ok_or_else(|| fault(&format!("a number above 0, at most {most}")))
    };
    let mut accept = accept.clone();
    match (key, &mut accept.accuracy.metric, &mut accept.speed, &mut accept.memory) {
        ("max_increase_percent", AccuracyMetric::Perplexity { max_increase_percent: max }, ..) => {
            *max = number(1000.0)?
        }
        (
            "max_drop_points",
            AccuracyMetric::TokenAccuracy { max_drop_points: max }
            | AccuracyMetric::Accuracy { max_drop_points: max }
            | AccuracyMetric::AccuracyNorm { max_drop_points: max },
            ..,
        ) => {
            *max = number(100.0)?;
            accept.accuracy.relative = None;
        }
        (
            "max_drop",
            AccuracyMetric::LogLikelihood { max_drop: max } | AccuracyMetric::Similarity { max_drop: max },
            ..,
        ) => {
            *max = number(10.0)?;
        }
        ("min_speedup", _, Some(speed), _) => speed.min_speedup = number(1000.0)?,
        ("max_memory", _, _, Some(memory)) => {
            let bytes = units::parse_bytes(value).filter(|bytes| *bytes > 0);
            memory.max_bytes = bytes.ok_or_else(|| fault("a size above 0 with its unit, such as 80MiB"))?;
        }
        ("confidence", ..) => {
            let confidence = value.parse().ok().filter(|c| *c > 0.5 && *c < 1.0);
            accept.confidence = confidence.ok_or_else(|| fault("a number between 0.5 and 1, such as 0.95"))?;
        }
        ("rule", ..) => {
            let rule = value.split_whitespace().collect::<Vec<_>>().join(" ");
            let (speed, memory) = (accept.speed.is_some(), accept.memory.is_some());
            let known = RULES.iter().find(|(text, s, m)| *text == rule && (speed || !s) && (memory || !m));
            let (text, ..) = known.ok_or_else(|| fault("a rule over the thresholds that the suite sets"))?;
            accept.rule = (*text).into();
        }
        _ => {
            let margin = accept.accuracy.metric.margin_key();
            let speed = if accept.speed.is_some() { ", min_speedup" } else { "" };
            let memory = if accept.memory.is_some() { ", max_memory" } else { "" };
            return Err(Error::Usage(format!(
                "--accept {key}={value}: this run's rule has no `{key}`; it has {margin}{speed}{memory}, confidence, rule"
            )));
        }
    }
    Ok(accept)
}

impl AccuracyMetric {
    /// Its name in suite files.
    pub fn key(self) -> &'static str {
        match self {
            AccuracyMetric::Perplexity { .. } => "perplexity",
            AccuracyMetric::TokenAccuracy { .. } => "token_accuracy",
            AccuracyMetric::LogLikelihood { .. } => "log_likelihood",
            AccuracyMetric::Accuracy { .. } => "accuracy",
            AccuracyMetric::AccuracyNorm { .. } => "accuracy_norm",
            AccuracyMetric::Similarity { .. } => "similarity",
        }
    }

    /// Whether a worse model has more of it.
    pub fn rises_with_loss(self) -> bool {
        matches!(self, AccuracyMetric::Perplexity { .. })
    }

    /// Name of its margin in suite files.
    pub fn margin_key(self) -> &'static str {
        match self {
            AccuracyMetric::Perplexity { .. } => "max_increase_percent",
            AccuracyMetric::TokenAccuracy { .. }
            | AccuracyMetric::Accuracy { .. }
            | AccuracyMetric::AccuracyNorm { .. } => "max_drop_points",
            AccuracyMetric::LogLikelihood { .. } | AccuracyMetric::Similarity { .. } => "max_drop",
        }
    }

    /// The same metric with another margin, where that is in points.
    #[must_use]
    pub fn with_points(self, points: f64) -> Self {
        match self {
            AccuracyMetric::TokenAccuracy { .. } => AccuracyMetric::TokenAccuracy { max_drop_points: points },
            AccuracyMetric::Accuracy { .. } => AccuracyMetric::Accuracy { max_drop_points: points },
            AccuracyMetric::AccuracyNorm { .. } => AccuracyMetric::AccuracyNorm { max_drop_points: points },
            other => other,
        }
    }

    /// dAcc_max, in the unit that its key names.
    pub fn margin(self) -> f64 {
        match self {
            AccuracyMetric::Perplexity { max_increase_percent: max }
            | AccuracyMetric::TokenAccuracy { max_drop_points: max }
            | AccuracyMetric::Accuracy { max_drop_points: max }
            | AccuracyMetric::AccuracyNorm { max_drop_points: max }
            | AccuracyMetric::LogLikelihood { max_drop: max }
            | AccuracyMetric::Similarity { max_drop: max } => max,
        }
    }
}

/// The rule as written, whose thresholds must all be given; without one, the rule over the given thresholds.
fn read_rule(table: &Fields<'_>) -> Option<String> {
    let given = (table.has("speed"), table.has("memory"));
    if !table.has("rule") {
        let rule = RULES.iter().find(|(_, speed, memory)| (*speed, *memory) == given);
        return rule.map(|(text, ..)| (*text).to_string());
    }
    let text = table.text("rule")?;
    let words: Vec<&str> = text.value.split_whitespace().collect();
    let normal = words.join(" ");
    let Some((rule, speed, memory)) = RULES.iter().find(|(rule, ..)| *rule == normal) else {
        let names: Vec<&str> = RULES.iter().map(|(rule, ..)| *rule).collect();
        let hint = suggestion(&normal, &names);
        table.fault_at(text.at, format!("`rule` is {:?}; expected {}{hint}", text.value, list_names(&names)));
        return None;
    };
    for (name, asked, given, remedy) in [
        ("speed", *speed, given.0, "speed = { metric = \"decode\", min_speedup = 1.5 }"),
        ("memory", *memory, given.1, "memory = { metric = \"weights\", max = \"100 MiB\" }"),
    ] {
        if asked && !given {
            table.fault_at(text.at, format!("`rule` asks for {name}, but `{name}` is missing; add {remedy}"));
        }
        if given && !asked {
            table.fault_at(text.at, format!("`{name}` is given, but `rule` does not ask for it; add it or remove it"));
        }
    }
    Some((*rule).to_string())
}

fn read_accuracy(table: Fields<'_>, tasks: &[At<Task>]) -> Option<AccuracyLimit> {
    const MARGINS: [&str; 3] = ["max_increase_percent", "max_drop_points", "max_drop"];
    /// Metrics with the kind of task that has them and their margin.
    const METRICS: [(&str, (&str, &str)); 6] = [
        ("perplexity", ("perplexity", MARGINS[0])),
        ("token_accuracy", ("perplexity", MARGINS[1])),
        ("log_likelihood", ("perplexity", MARGINS[2])),
        ("accuracy", ("choice", MARGINS[1])),
        ("accuracy_norm", ("choice", MARGINS[1])),
        ("similarity", ("similarity", MARGINS[2])),
    ];
    let task = read_task_name(&table, tasks);
    if !table.has("metric") {
        table.missing(
            "metric",
            "metric = \"perplexity\", \"token_accuracy\", \"log_likelihood\", \"accuracy\" or \"similarity\"",
        );
    }
    let metric = table.choice("metric", &METRICS.map(|(name, (kind, margin))| (name, (name, kind, margin))));
    let key = metric.map(|(_, _, margin)| margin);
    let asked = tasks.iter().map(|t| &t.value).find(|t| Some(&t.name) == task.as_ref());
    if let (Some((name, kind, _)), Some(asked)) = (metric, asked)
        && kind != asked.kind.name()
    {
        let known: Vec<&str> = METRICS.iter().filter(|(_, (k, _))| *k == asked.kind.name()).map(|(n, _)| *n).collect();
        let (task, has) = (&asked.name, list_names(&known));
        table.fault(format!("`metric` is {name:?}, which asks a task of kind {kind}; task {task:?} has {has}"));
    }
    let max_increase_percent = table.positive(MARGINS[0], 1000.0);
    let relative = read_relative(&table, key == Some(MARGINS[1]));
    let max_drop_points = relative.map(|margin| margin.percent).or_else(|| table.positive(MARGINS[1], 100.0));
    let max_drop = table.positive(MARGINS[2], 10.0);
    if let Some(key) = key {
        if !table.has(key) && relative.is_none() {
            table.missing(key, &format!("{key} = 1.0, the largest loss you accept"));
        }
        for other in MARGINS.into_iter().filter(|m| *m != key && table.has(m)) {
            table.fault(format!("`{other}` belongs to another metric; this one takes `{key}`"));
        }
    }
    table.finish();
    let metric = match metric?.0 {
        "perplexity" => AccuracyMetric::Perplexity { max_increase_percent: max_increase_percent? },
        "token_accuracy" => AccuracyMetric::TokenAccuracy { max_drop_points: max_drop_points? },
        "accuracy" => AccuracyMetric::Accuracy { max_drop_points: max_drop_points? },
        "accuracy_norm" => AccuracyMetric::AccuracyNorm { max_drop_points: max_drop_points? },
        "similarity" => AccuracyMetric::Similarity { max_drop: max_drop? },
        _ => AccuracyMetric::LogLikelihood { max_drop: max_drop? },
    };
    Some(AccuracyLimit { task: task?, metric, relative })
}

/// A margin in percent of what the reference reaches, instead of points.
fn read_relative(table: &Fields<'_>, of_points: bool) -> Option<RelativeMargin> {
    const KEYS: [(&str, MarginOf); 2] =
        [("max_drop_percent", MarginOf::Accuracy), ("max_error_increase_percent", MarginOf::Errors)];
    let mut found = None;
    for (key, of) in KEYS {
        let Some(percent) = table.positive(key, 100.0) else { continue };
        if !of_points {
            table.fault(format!("`{key}` belongs to a metric whose margin is in points"));
        } else if table.has("max_drop_points") || found.is_some() {
            table.fault(format!("`{key}` is one of several margins; give one"));
        }
        found = Some(RelativeMargin { percent, of });
    }
    found
}

/// The task's name, which may be left out where there is only one.
fn read_task_name(table: &Fields<'_>, tasks: &[At<Task>]) -> Option<String> {
    let names: Vec<&str> = tasks.iter().map(|t| t.value.name.as_str()).collect();
    match (table.text("task"), names.as_slice()) {
        (Some(text), _) if names.contains(&text.value) || names.is_empty() => Some(text.value.into()),
        (Some(text), _) => {
            let hint = suggestion(text.value, &names);
            table.fault_at(text.at, format!("`task` is {:?}; expected {}{hint}", text.value, list_names(&names)));
            None
        }
        (None, [only]) => Some((*only).to_string()),
        (None, []) => None,
        (None, _) => {
            table.missing("task", &format!("the task that decides: {}", list_names(&names)));
            None
        }
    }
}

fn read_speed(table: Fields<'_>, workload: Option<&Workload>) -> Option<SpeedLimit> {
    let encodes = workload.is_some_and(Workload::encodes);
    let metrics = match encodes {
        true => vec![("latency", SpeedMetric::Latency)],
        false => {
            vec![("decode", SpeedMetric::Decode), ("prefill", SpeedMetric::Prefill), ("total", SpeedMetric::Total)]
        }
    };
    let metric = table.choice("metric", &metrics);
    if !table.has("metric") {
        let names = if encodes { "metric = \"latency\"" } else { "metric = \"decode\", \"prefill\" or \"total\"" };
        table.missing("metric", names);
    }
    if !table.has("min_speedup") {
        table.missing("min_speedup", "min_speedup = 1.5, the smallest ratio of reference time to variant time");
    }
    let min_speedup = table.positive("min_speedup", 1000.0);
    let threads = table.whole("threads", 1..=4096);
    let measured = workload.map_or(&[][..], |w| &w.threads);
    if let Some(n) = threads.filter(|n| !measured.is_empty() && !measured.iter().any(|t| *t as u64 == n.value)) {
        table.fault_at(n.at, format!("`threads` is {}, but [workload] threads measures {measured:?} only", n.value));
    }
    table.finish();
    let largest = measured.iter().copied().max();
    let threads = threads.map(|n| n.value as usize).or(largest);
    Some(SpeedLimit { metric: metric?, min_speedup: min_speedup?, threads: threads? })
}

fn read_memory(table: Fields<'_>) -> Option<MemoryLimit> {
    let metrics =
        [("weights", MemoryMetric::Weights), ("peak_rss", MemoryMetric::PeakRss), ("file", MemoryMetric::File)];
    let metric = table.choice("metric", &metrics);
    if !table.has("metric") {
        table.missing("metric", "metric = \"weights\", \"peak_rss\" or \"file\"");
    }
    if !table.has("max") {
        table.missing("max", "max = \"100 MiB\"");
    }
    let max = table.text("max");
    let max_bytes = max.and_then(|text| units::parse_bytes(text.value).filter(|bytes| *bytes > 0));
    if let (Some(text), None) = (max, max_bytes) {
        let problem = format!("`max` is {:?}; expected a size above 0 with its unit, such as \"80 MiB\"", text.value);
        table.fault_at(text.at, problem);
    }
    table.finish();
    Some(MemoryLimit { metric: metric?, max_bytes: max_bytes? })
}
