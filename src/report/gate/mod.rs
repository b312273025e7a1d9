//! What a gate says, for people and for the programs of continuous integration.

mod dashboards;
mod github;
mod junit;
mod markdown;

use std::fmt::Write;
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

use crate::error::Result;
use crate::gate::{Change, GateReport, State};
use crate::results::{utc, write_whole};
use crate::text::{name, one_line};

pub use github::annotations;
pub use markdown::markdown;

/// Writes `gate.md`, `gate-junit.xml`, `bencher.json` and `github-action-benchmark.json` into a gate's folder.
///
/// # Errors
/// When a file cannot be written.
pub fn write_gate(folder: &Path, report: &GateReport) -> Result<()> {
    write_whole(&folder.join("gate.md"), markdown(report).as_bytes())?;
    write_whole(&folder.join("gate-junit.xml"), junit::junit(report).as_bytes())?;
    write_whole(&folder.join("bencher.json"), &dashboards::bencher(report)?)?;
    write_whole(&folder.join("github-action-benchmark.json"), &dashboards::github_action_benchmark(report)?)
}

/// The table and the answer for a terminal of `width` columns; what passed is only counted.
pub fn terminal(report: &GateReport, width: usize) -> String {
    let mut out = String::new();
    let shown: Vec<_> = report.checks.iter().filter(|check| check.state != State::Pass).collect();
    if !shown.is_empty() {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width.max(60)).unwrap_or(u16::MAX));
        table.set_header(["answer", "variant", "check", "why"]);
        for check in shown {
            let check_name = format!("{}: {}", check.level.name(), check.name);
            table.add_row([
                check.state.name().to_string(),
                name(&check.variant),
                one_line(&check_name),
                one_line(&check.message),
            ]);
        }
        let _ = writeln!(out, "{table}");
    }
    let _ = writeln!(out, "{}", counts(report));
    if let Some(change) = report.history.first() {
        let _ = writeln!(out, "baseline last {}", in_words(change));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "warning: {}", one_line(warning));
    }
    let _ = write!(out, "{}", answer(report));
    out
}

/// `3 fail, 41 pass`.
fn counts(report: &GateReport) -> String {
    let states = [State::Fail, State::NotComparable, State::Inconclusive, State::Advisory, State::Notice, State::Pass];
    let count = |state: State| match report.count(state) {
        0 => None,
        n => Some(format!("{n} {}", state.name())),
    };
    format!("checks: {}", states.into_iter().filter_map(count).collect::<Vec<_>>().join(", "))
}

/// One line with the outcome and its exit code.
fn answer(report: &GateReport) -> String {
    let against = match report.against.as_slice() {
        [] => "nothing".into(),
        list => one_line(&list.join(" and ")),
    };
    let outcome = match report.outcome {
        State::Pass | State::Notice | State::Advisory => "pass",
        other => other.name(),
    };
    format!(
        "gate {} ({}) against {against}: {outcome} (exit code {})",
        one_line(&report.suite),
        report.tier.name(),
        report.exit_code
    )
}

/// A change of the baseline on one line.
fn in_words(change: &Change) -> String {
    let mut words = format!("{} {} by {}", change.event.name(), utc(change.unix_s), one_line(&change.tool_version));
    if let Some(reason) = &change.reason {
        let _ = write!(words, ": {}", one_line(reason));
    }
    if !change.what.is_empty() {
        let _ = write!(words, " ({})", one_line(&change.what.join("; ")));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Check, Event, Inconclusive, Level, Metric, REPORT_SCHEMA, Tier};

    pub(super) fn report() -> GateReport {
        let check =
            |variant: &str, state, message: &str| Check::new(Level::Exact, variant, "items of choice", state, message);
        GateReport {
            schema_version: REPORT_SCHEMA,
            tool_version: "0.1.0".into(),
            unix_s: 0.0,
            suite: "quick".into(),
            tier: Tier::Pr,
            against: vec!["the baseline results/baselines/quick.json".into()],
            baseline_sha256: None,
            number_class: "x86_64 avx2".into(),
            machine_class: "a CPU".into(),
            outcome: State::Pass,
            exit_code: 0,
            checks: vec![
                check("int8", State::Pass, "as before"),
                check("int4", State::Fail, "1 of 8 items <changed> sides | 100 %\n::error::x"),
                check("new", State::Notice, "new: not gated"),
                check("odd", State::Inconclusive, "too few"),
            ],
            metrics: vec![Metric {
                variant: "int4".into(),
                name: "time per output token b1t2".into(),
                unit: "s".into(),
                value: 0.002,
                low: Some(0.0019),
                high: Some(0.0022),
            }],
            history: vec![Change {
                unix_s: 951_782_400.0,
                event: Event::Accepted,
                reason: Some("a faster kernel".into()),
                tool_version: "0.1.0".into(),
                what: vec!["int4: other kernels".into()],
            }],
            warnings: Vec::new(),
            command: "bench gate suites/quick.toml".into(),
        }
        .conclude(Inconclusive::Neutral)
    }

    #[test]
    fn the_terminal_shows_what_did_not_pass_the_reason_and_the_answer() {
        let text = terminal(&report(), 120);
        assert!(text.contains("1 of 8 items <changed> sides"), "{text}");
        assert!(text.contains("checks: 1 fail, 1 inconclusive, 1 notice, 1 pass"), "{text}");
        assert!(text.contains("baseline last accepted 20000229T000000Z by 0.1.0: a faster kernel"), "{text}");
        assert!(text.ends_with("against the baseline results/baselines/quick.json: fail (exit code 1)"), "{text}");
        assert!(!text.contains("as before"), "{text}");
    }
}
