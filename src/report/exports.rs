//! `summary.csv` and `junit.xml`: the verdicts for other programs. Numbers are those of `run.json`, in base units.

use std::fmt::Write;

use crate::decide::{accuracy_question, judged_speedup};
use crate::error::{Error, Result};
use crate::results::{Estimate, Outcome, Run, VariantResult};
use crate::text::{csv_cell, one_line};

/// One row a variant: verdict, the rule's accuracy and speed with their intervals, memory in bytes.
///
/// # Errors
/// The CSV writer's, which a buffer in memory does not have.
pub(super) fn csv(run: &Run) -> Result<Vec<u8>> {
    let failed = |e: ::csv::Error| Error::input("report/summary.csv", e.to_string());
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer
        .write_record([
            "variant",
            "outcome",
            "recommended",
            "accuracy_change",
            "accuracy_low",
            "accuracy_high",
            "speedup",
            "speedup_low",
            "speedup_high",
            "weight_bytes",
            "peak_rss",
            "file_bytes",
            "frontier_probability",
            "reason",
        ])
        .map_err(failed)?;
    for variant in &run.variants {
        writer.write_record(row(run, variant)).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::input("report/summary.csv", e.to_string()))
}

fn row(run: &Run, variant: &VariantResult) -> Vec<String> {
    let accept = &run.suite.accept;
    let verdict = variant.verdict.as_ref();
    let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let bytes = |value: Option<u64>| value.map_or(String::new(), |v| v.to_string());
    let three = |e: Option<&Estimate>| {
        [number(e.map(|e| e.value)), number(e.and_then(|e| e.low)), number(e.and_then(|e| e.high))]
    };
    let mut row = vec![
        csv_cell(&variant.name),
        verdict.map_or("reference".into(), |v| v.outcome.to_string()),
        (run.recommendation.variant.as_ref() == Some(&variant.name)).to_string(),
    ];
    row.extend(three(accuracy_question(&accept.accuracy, variant).estimate));
    row.extend(three(judged_speedup(run, variant)));
    row.extend([
        bytes(variant.memory.map(|m| m.weight_bytes)),
        bytes(variant.memory.and_then(|m| m.peak_rss)),
        bytes(variant.artefact.as_ref().map(|a| a.file_bytes)),
        number(variant.frontier_probability),
        csv_cell(verdict.map_or("", |v| v.reason.as_str())),
    ]);
    row
}

/// One test case a candidate: rejected is a failure, failed to measure or accepted in an invalid run an error, inconclusive
/// skipped.
pub(super) fn junit(run: &Run) -> String {
    let candidates: Vec<&VariantResult> = run.variants.iter().filter(|v| !v.reference).collect();
    let outcome = |v: &VariantResult| v.verdict.as_ref().map(|v| v.outcome);
    let count = |test: &dyn Fn(&VariantResult) -> bool| candidates.iter().filter(|v| test(v)).count();
    let untrusted = |v: &VariantResult| !run.invalid.is_empty() && outcome(v) == Some(Outcome::Accept);
    let errors = count(&|v| !v.failures.is_empty() || untrusted(v));
    let failures = count(&|v| v.failures.is_empty() && outcome(v) == Some(Outcome::Reject));
    let skipped = count(&|v| v.failures.is_empty() && outcome(v) == Some(Outcome::Inconclusive));
    let suite = escape(&run.suite.name);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">",
        candidates.len()
    );
    for variant in candidates {
        let reason = escape(variant.verdict.as_ref().map_or("", |v| v.reason.as_str()));
        let inside = match (variant.failures.is_empty(), outcome(variant)) {
            (false, _) => format!("<error message=\"{reason}\"/>"),
            (true, Some(Outcome::Reject)) => format!("<failure message=\"{reason}\"/>"),
            (true, Some(Outcome::Inconclusive) | None) => format!("<skipped message=\"{reason}\"/>"),
            (true, Some(Outcome::Accept)) if untrusted(variant) => {
                format!("<error message=\"the run is invalid: {}\"/>", escape(&run.invalid.join("; ")))
            }
            (true, Some(Outcome::Accept)) => format!("<system-out>{reason}</system-out>"),
        };
        let _ =
            writeln!(out, "  <testcase classname=\"{suite}\" name=\"{}\">{inside}</testcase>", escape(&variant.name));
    }
    out.push_str("</testsuite>\n");
    out
}

/// Text for XML, in attributes too.
pub(super) fn escape(text: &str) -> String {
    let escapes = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&apos;")];
    escapes.into_iter().fold(one_line(text), |text, (c, code)| text.replace(c, code))
}
