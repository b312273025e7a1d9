//! `samples.csv` and `scores.csv`: the raw numbers of a run, one row each, so that every interval can be recomputed
//! elsewhere.

use super::evidence::Evidence;
use crate::error::{Error, Result};

/// Every timed iteration of every slot, as CSV.
///
/// # Errors
/// Never for evidence of a journal; the writer's own errors are passed on.
pub fn samples_csv(evidence: &Evidence) -> Result<Vec<u8>> {
    let header = [
        "variant",
        "control",
        "block",
        "position",
        "batch",
        "threads",
        "iteration",
        "ttft_s",
        "decode_s",
        "prompt_tokens",
        "generated_tokens",
        "kernels",
    ];
    let mut rows = Vec::new();
    for slot in in_suite_order(evidence).flat_map(|(_, found)| &found.slots) {
        let mut kernels: Vec<&str> =
            slot.kernels.iter().filter(|k| k.phase == "decode").map(|k| k.kernel.as_str()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let kernels = kernels.join(" ");
        for (iteration, sample) in slot.samples.iter().enumerate() {
            rows.push(vec![
                cell(&slot.variant),
                slot.control.to_string(),
                slot.block.to_string(),
                slot.position.to_string(),
                slot.batch.to_string(),
                slot.threads.to_string(),
                iteration.to_string(),
                sample.ttft_s.to_string(),
                sample.decode_s.to_string(),
                sample.prompt_tokens.to_string(),
                sample.generated_tokens.to_string(),
                cell(&kernels),
            ]);
        }
    }
    table(&header, &rows)
}

/// Every window of every variant and task, as CSV; what was not measured is an empty cell.
///
/// # Errors
/// As [`samples_csv`].
pub fn scores_csv(evidence: &Evidence) -> Result<Vec<u8>> {
    let header = ["variant", "task", "window", "document", "tokens", "nll", "correct", "kl", "agree", "lost", "won"];
    let mut rows = Vec::new();
    for (name, found) in in_suite_order(evidence) {
        for (task, score) in &found.scores {
            for (window, w) in score.windows.iter().enumerate() {
                rows.push(vec![
                    cell(name),
                    cell(task),
                    window.to_string(),
                    w.document.to_string(),
                    w.tokens.to_string(),
                    w.nll.to_string(),
                    w.correct.to_string(),
                    optional(w.kl),
                    optional(w.agree),
                    optional(w.flips.map(|f| f.0)),
                    optional(w.flips.map(|f| f.1)),
                ]);
            }
        }
    }
    table(&header, &rows)
}

fn in_suite_order(evidence: &Evidence) -> impl Iterator<Item = (&str, &super::evidence::VariantEvidence)> {
    evidence.suite.variants.iter().filter_map(|v| evidence.variants.get(&v.name).map(|found| (v.name.as_str(), found)))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

/// Text from a suite as a cell. Spreadsheets run a cell that starts with `=`, `+`, `-`, `@` or a control character as
/// a formula; an apostrophe in front makes it text.
fn cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text.to_string() }
}

fn table(header: &[&str], rows: &[Vec<String>]) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::input("CSV table", e.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).map_err(failed)?;
    for row in rows {
        writer.write_record(row).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::input("CSV table", e.to_string()))
}
