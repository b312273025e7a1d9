//! Why two runs differ: first the environment, then the data, then the numbers, since a number can only be blamed on a
//! variant where all before it is the same.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::decide::{Together, accuracy_question, judged_speedup, metric_name};
use crate::results::{Estimate, Run, VariantResult};
use crate::suite::{Suite, Task};
use crate::text::one_line;
use crate::units;

/// What differs between two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Machine and program.
    pub environment: Vec<String>,
    /// Model, text, workload, rule, recipes.
    pub data: Vec<String>,
    /// Estimates and verdicts of the variants that both runs have.
    pub numbers: Vec<String>,
    /// What both runs prove together, where they measured the same in the same place.
    pub together: Vec<String>,
}

impl Comparison {
    /// Differences of `new` from `old`.
    pub fn of(old: &Run, new: &Run) -> Self {
        Comparison {
            environment: differing(&environment(old), &environment(new)),
            data: differing(&data(&old.suite, &old.model_sha256), &data(&new.suite, &new.model_sha256)),
            numbers: numbers(old, new),
            together: Vec::new(),
        }
    }

    /// With what both runs prove together, unless they did not measure the same.
    pub fn with(mut self, together: &[Together]) -> Self {
        if self.is_fair() {
            self.together = together.iter().map(|t| format!("{}: {}", one_line(&t.variant), t.reason)).collect();
        }
        self
    }

    /// Whether the runs measured the same thing in the same place, so that their numbers may be compared.
    pub fn is_fair(&self) -> bool {
        self.environment.is_empty() && self.data.is_empty()
    }

    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let parts = [
            ("environment", &self.environment, "the same machine and program"),
            ("data", &self.data, "the same model, text, workload, rule and recipes"),
            ("numbers", &self.numbers, "no variant is in both runs"),
        ];
        for (title, lines, none) in parts {
            let _ = writeln!(out, "{title}");
            if lines.is_empty() {
                let _ = writeln!(out, "  {none}");
            }
            lines.iter().for_each(|line| {
                let _ = writeln!(out, "  {line}");
            });
        }
        if !self.together.is_empty() {
            let _ = writeln!(out, "both runs together, their evidence multiplied");
            self.together.iter().for_each(|line| {
                let _ = writeln!(out, "  {line}");
            });
        }
        let verdict = match (self.environment.is_empty(), self.data.is_empty()) {
            (true, true) => "differences of numbers are due to noise or to a change that the runs do not record",
            (false, true) => "the environment differs: compare ratios with care, and no absolute times",
            (_, false) => "the runs did not measure the same thing; their numbers are not comparable",
        };
        let _ = writeln!(out, "{verdict}");
        out
    }
}

/// (what, value) of everything about machine and program that moves numbers.
fn environment(run: &Run) -> Vec<(String, String)> {
    let machine = &run.machine;
    let mut facts = vec![
        ("program".into(), run.tool_version.clone()),
        ("processor".into(), machine.cpu.clone()),
        ("architecture".into(), machine.arch.clone()),
        ("kernels for".into(), machine.isa.clone()),
        ("processors usable".into(), machine.cores.to_string()),
        ("memory".into(), units::bytes(machine.memory_bytes)),
        ("system".into(), machine.os.clone()),
        ("host".into(), machine.host.clone()),
    ];
    // What changes from minute to minute is no difference of environment.
    let lasting = machine.facts.iter().filter(|(name, _)| !name.contains("load"));
    facts.extend(lasting.map(|(name, value)| (name.replace('_', " "), value.clone())));
    facts
}

fn data(suite: &Suite, model_sha256: &str) -> Vec<(String, String)> {
    let text = |t: &crate::suite::TextSource| match t.documents {
        Some((first, last)) => format!("{} documents {first} to {last}", t.source),
        None => t.source.clone(),
    };
    let mut facts = vec![("model".into(), suite.model.clone()), ("SHA-256 of the model".into(), model_sha256.into())];
    let task = |t: &Task| (format!("task {}", t.name), format!("{:?} over {}", t.kind, text(&t.text)));
    facts.extend(suite.tasks.iter().map(task));
    facts.extend(suite.calibration.iter().map(|c| {
        let windows = format!("{} windows of {} tokens, seed {}", c.windows, c.length, c.seed);
        ("calibration".into(), format!("{}, {windows}", text(&c.text)))
    }));
    let w = &suite.workload;
    let work = format!("prompt {}, generate {}, batch {:?}, threads {:?}", w.prompt, w.generate, w.batch, w.threads);
    facts.push(("workload".into(), format!("{work}, {} iterations", w.iterations)));
    let accept = &suite.accept;
    let mut rule = format!(
        "{} at {} %, {} {}",
        accept.rule,
        100.0 * accept.confidence,
        accept.accuracy.metric.margin_key(),
        accept.accuracy.metric.margin()
    );
    if let Some(speed) = &accept.speed {
        let _ = write!(rule, ", {} {}x", metric_name(speed.metric), speed.min_speedup);
    }
    if let Some(memory) = &accept.memory {
        let _ = write!(rule, ", memory {}", units::bytes(memory.max_bytes));
    }
    facts.push(("rule".into(), rule));
    facts.push(("reference".into(), suite.reference.clone()));
    facts.extend(suite.variants.iter().map(|v| (format!("variant {}", v.name), v.describe())));
    facts
}

/// `what: old, now new`, for everything that is not in both with the same value.
fn differing(old: &[(String, String)], new: &[(String, String)]) -> Vec<String> {
    let find = |list: &[(String, String)], what: &str| list.iter().find(|(w, _)| w == what).map(|(_, v)| v.clone());
    let mut seen = BTreeSet::new();
    let names = old.iter().chain(new).map(|(what, _)| what.as_str()).filter(|what| seen.insert(*what));
    let line = |what: &str| {
        let (before, after) = (find(old, what), find(new, what));
        let shown = |value: Option<String>| value.map_or("nothing".into(), |v| one_line(&v));
        (before != after).then(|| format!("{}: {}, now {}", one_line(what), shown(before), shown(after)))
    };
    names.filter_map(line).collect()
}

fn numbers(old: &Run, new: &Run) -> Vec<String> {
    let find = |name: &str| old.variants.iter().find(|v| v.name == name);
    new.variants.iter().filter_map(|v| Some(numbers_of((old, find(&v.name)?), (new, v)))).collect()
}

/// One line of a variant's numbers, what moved beyond its intervals marked.
fn numbers_of((old_run, old): (&Run, &VariantResult), (new_run, new): (&Run, &VariantResult)) -> String {
    let mut parts = Vec::new();
    let accuracy = |run: &Run, v| accuracy_question(&run.suite.accept.accuracy, v).estimate.cloned();
    parts.extend(moved("accuracy", accuracy(old_run, old), accuracy(new_run, new)));
    parts.extend(moved("speedup", judged_speedup(old_run, old).cloned(), judged_speedup(new_run, new).cloned()));
    let weights = |v: &VariantResult| v.memory.map(|m| m.weight_bytes);
    if let (Some(before), Some(after)) = (weights(old), weights(new))
        && before != after
    {
        parts.push(format!("weights {}, now {} (!)", units::bytes(before), units::bytes(after)));
    }
    let outcome = |v: &VariantResult| v.verdict.as_ref().map(|v| v.outcome);
    if let (Some(before), Some(after)) = (outcome(old), outcome(new))
        && before != after
    {
        parts.push(format!("{before}, now {after} (!)"));
    }
    let parts = if parts.is_empty() { "nothing to compare".into() } else { parts.join("; ") };
    format!("{}: {parts}", one_line(&new.name))
}

fn moved(what: &str, old: Option<Estimate>, new: Option<Estimate>) -> Option<String> {
    let (old, new) = (old?, new?);
    let apart = match (old.low.zip(old.high), new.low.zip(new.high)) {
        (Some((a, b)), Some((c, d))) => b < c || d < a,
        _ => false,
    };
    Some(format!("{what} {old}, now {new}{}", if apart { " (!)" } else { "" }))
}
