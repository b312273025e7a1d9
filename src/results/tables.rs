//! `samples.csv` and `scores.csv`: the raw numbers of a run, one row each, so that every interval can be recomputed
//! elsewhere.

use super::event::{ItemScore, Score};
use super::evidence::Evidence;
use crate::error::{Error, Result};
use crate::text::csv_cell;

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
            slot.kernels.iter().filter(|k| k.phase != "prefill").map(|k| k.kernel.as_str()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let kernels = kernels.join(" ");
        for (iteration, sample) in slot.samples.iter().enumerate() {
            rows.push(vec![
                csv_cell(&slot.variant),
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
                csv_cell(&kernels),
            ]);
        }
    }
    table(&header, &rows)
}

/// Every window, item or sentence of every variant and task, as CSV; what was not measured is an empty cell. The log-likelihoods
/// of an item's continuations share a cell, separated by spaces.
///
/// # Errors
/// As [`samples_csv`].
pub fn scores_csv(evidence: &Evidence) -> Result<Vec<u8>> {
    let header = [
        "variant",
        "task",
        "window",
        "document",
        "tokens",
        "nll",
        "correct",
        "kl",
        "agree",
        "lost",
        "won",
        "genre",
        "answer",
        "picked",
        "picked_norm",
        "log_likelihoods",
        "cosine",
        "squared_difference",
    ];
    let mut rows = Vec::new();
    for (name, found) in in_suite_order(evidence) {
        for (task, score) in &found.scores {
            for (window, w) in score.windows.iter().enumerate() {
                let genre = score.genres.of.get(window).and_then(|genre| score.genres.names.get(*genre));
                let own = [
                    csv_cell(name),
                    csv_cell(task),
                    window.to_string(),
                    w.document.to_string(),
                    w.tokens.to_string(),
                    w.nll.to_string(),
                    w.correct.to_string(),
                    optional(w.kl),
                    optional(w.agree),
                    optional(w.flips.map(|f| f.0)),
                    optional(w.flips.map(|f| f.1)),
                    genre.map_or_else(String::new, |genre| csv_cell(genre)),
                ];
                let of_items = std::iter::repeat_n(String::new(), 5);
                rows.push(own.into_iter().chain(of_items).chain([optional(w.squared_difference)]).collect());
            }
            rows.extend(score.items.iter().enumerate().map(|(at, item)| item_row([name, task], score, at, item)));
            for (at, sentence) in score.sentences.iter().enumerate() {
                let head = [csv_cell(name), csv_cell(task), at.to_string(), sentence.document.to_string()];
                let unknown = std::iter::repeat_n(String::new(), 11);
                let own = head.into_iter().chain([sentence.tokens.to_string()]).chain(unknown);
                rows.push(own.chain([optional(sentence.cosine), String::new()]).collect());
            }
        }
    }
    table(&header, &rows)
}

/// The row of an item: `window` is its number, `correct` 0 or 1.
fn item_row([name, task]: [&str; 2], score: &Score, at: usize, item: &ItemScore) -> Vec<String> {
    let genre = score.genres.of.get(at).and_then(|genre| score.genres.names.get(*genre));
    let sums: Vec<String> = item.log_likelihoods.iter().map(f64::to_string).collect();
    let correct = usize::from(item.picked == item.answer);
    let head = [csv_cell(name), csv_cell(task), at.to_string(), item.document.to_string()];
    let unknown = || String::new();
    let middle = [unknown(), unknown(), correct.to_string(), unknown(), unknown(), unknown(), unknown()];
    let own = [
        genre.map_or_else(String::new, |genre| csv_cell(genre)),
        item.answer.to_string(),
        item.picked.to_string(),
        item.picked_norm.to_string(),
        sums.join(" "),
        unknown(),
        unknown(),
    ];
    head.into_iter().chain(middle).chain(own).collect()
}

fn in_suite_order(evidence: &Evidence) -> impl Iterator<Item = (&str, &super::evidence::VariantEvidence)> {
    evidence.suite.variants.iter().filter_map(|v| evidence.variants.get(&v.name).map(|found| (v.name.as_str(), found)))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
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
