//! The table and the answer for a terminal.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table};

use super::outlook::outlook;
use super::plot;
use super::view::{self, Row};
use crate::results::Run;
use crate::units;

/// A column: its header and what it shows of a row.
type Column = (&'static str, fn(&Row) -> String);

const NAME: Column = ("variant", |r| if r.recommended { format!("* {}", r.name) } else { r.name.clone() });
const VERDICT: Column = ("verdict", |r| r.outcome.clone());
const CHOICE: [Column; 2] = [
    ("accuracy", |r| joined(&r.choice, &r.choice_interval)),
    ("change", |r| joined(&r.choice_difference, &r.choice_difference_interval)),
];
const TEXT: [Column; 4] = [
    ("perplexity", |r| r.perplexity.clone()),
    ("change", |r| joined(&r.increase, &r.increase_interval)),
    ("token acc.", |r| r.token_accuracy.clone()),
    ("KL", |r| r.kl.clone()),
];
const SIMILARITY: [Column; 3] = [
    ("cosine", |r| joined(&r.cosine, &r.cosine_interval)),
    ("worst", |r| r.worst_cosine.clone()),
    ("rank corr.", |r| r.rank_correlation.clone()),
];
const LATENCY: [Column; 3] = [
    ("latency", |r| r.ttft.clone()),
    ("tok/s", |r| r.prefill.clone()),
    ("speedup", |r| joined(&r.speedup, &r.speedup_interval)),
];
const SPEED: [Column; 5] = [
    ("TTFT", |r| r.ttft.clone()),
    ("TPOT", |r| r.tpot.clone()),
    ("prefill tok/s", |r| r.prefill.clone()),
    ("decode tok/s", |r| r.decode.clone()),
    ("speedup", |r| joined(&r.speedup, &r.speedup_interval)),
];
const MEMORY: [Column; 2] = [("weights", |r| r.weights.clone()), ("peak RSS", |r| r.peak_rss.clone())];

fn joined(point: &str, interval: &str) -> String {
    format!("{point} {interval}").trim_end().to_string()
}

/// The table and the answer for a terminal of `width` columns (40 at least), without colours.
pub fn terminal(run: &Run, width: usize) -> String {
    let width = width.max(40);
    let rows = view::rows(run);
    let answer = view::answer(run);
    let mut out = String::new();
    let _ = writeln!(out, "{}", wrapped(&answer.title, width, 0));
    let mut groups: Vec<&[Column]> = Vec::new();
    groups.extend(answer.perplexity.then_some(&TEXT[..]));
    groups.extend(answer.choice.then_some(&CHOICE[..]));
    groups.extend(answer.similarity.then_some(&SIMILARITY[..]));
    groups.extend([if answer.encodes { &LATENCY[..] } else { &SPEED[..] }, &MEMORY]);
    for columns in tables(&groups, &rows, width) {
        let _ = writeln!(out, "{}", table(&columns, &rows, width));
    }
    let _ = writeln!(out, "{}", wrapped(&format!("times at {}; speedup of {}", answer.point, answer.metric), width, 0));
    if answer.choice {
        let _ = writeln!(out, "guessing would be right in {}", answer.chance);
    }
    if width > plot::WIDTH {
        out.push_str(&frontier_plot(run, answer.metric, width));
    }
    if let Some(broken) = run.broken.as_ref().filter(|broken| broken.rejected) {
        let line = format!("control: the reference broken on purpose is rejected ({})", broken.reason);
        let _ = writeln!(out, "{}", wrapped(&line, width, 2));
    }
    for (variant, fit) in run.variants.iter().filter_map(|v| Some((v, v.fit.as_ref()?))) {
        let outcome = fit.failure.as_ref().map_or("runs".into(), |why| format!("does not run ({why})"));
        let (name, limit) = (crate::text::name(&variant.name), units::bytes(fit.limit_bytes));
        let line = format!("{name} {} in {limit} of address space", crate::text::one_line(&outcome));
        let _ = writeln!(out, "{}", wrapped(&line, width, 2));
    }
    for row in rows.iter().filter(|r| !r.reason.is_empty()) {
        let line = format!("{} {}: {}", row.outcome, row.name, row.reason);
        let _ = writeln!(out, "{}", wrapped(&line, width, 2));
    }
    if let Some(leak) = &run.leak {
        let line = format!("CALIBRATED ON WHAT IS SCORED: {}", crate::text::one_line(leak));
        let _ = writeln!(out, "{}", wrapped(&line, width, 2));
    }
    for fault in &run.invalid {
        let line = format!("INVALID: {}", crate::text::one_line(fault));
        let _ = writeln!(out, "{}", wrapped(&line, width, 2));
    }
    for warning in &run.warnings {
        let _ = writeln!(out, "{}", wrapped(&format!("warning: {}", crate::text::one_line(warning)), width, 2));
    }
    let rule = format!("rule: {} at {} confidence ({})", answer.rule, answer.confidence, answer.thresholds.join("; "));
    let _ = writeln!(out, "{}", wrapped(&rule, width, 2));
    let outlook = outlook(run);
    for sentence in outlook.changes.iter().chain(&outlook.price) {
        let _ = writeln!(out, "{}", wrapped(sentence, width, 2));
    }
    for (why, entry) in &outlook.attempts {
        let _ = writeln!(out, "{}\n{entry}", wrapped(&format!("try next, since {why}:"), width, 2));
    }
    let ship = match &answer.variant {
        Some(variant) => format!("ship {variant}: {}", answer.reason),
        None => answer.reason.clone(),
    };
    let _ = writeln!(out, "{}", wrapped(&ship, width, 2));
    out
}

/// The plot with the names of its letters.
fn frontier_plot(run: &Run, metric: &str, width: usize) -> String {
    let places = super::charts::places(run);
    let plot = plot::plot(&places, metric);
    if plot.is_empty() {
        return plot;
    }
    let names = places.iter().zip(plot::letters()).map(|((name, ..), letter)| format!("{letter} {name}"));
    format!("{plot}{}\n", wrapped(&names.collect::<Vec<_>>().join(", "), width, 2))
}

/// Groups of columns put into as few tables as fit into the width, each beginning with the name, the first one with the
/// verdict too.
fn tables(groups: &[&[Column]], rows: &[Row], width: usize) -> Vec<Vec<Column>> {
    let natural = |columns: &[Column]| -> usize {
        let cells = |(header, of): &Column| rows.iter().map(|r| of(r).chars().count()).fold(header.len(), usize::max);
        columns.iter().map(|column| cells(column) + 3).sum()
    };
    let mut tables = vec![vec![NAME, VERDICT]];
    for (at, group) in groups.iter().enumerate() {
        match tables.last_mut() {
            Some(last) if at == 0 || natural(last) + natural(group) <= width => last.extend_from_slice(group),
            _ => tables.push([&[NAME], *group].concat()),
        }
    }
    tables
}

fn table(columns: &[Column], rows: &[Row], width: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(columns.iter().map(|(header, _)| *header));
    for row in rows {
        table.add_row(columns.iter().map(|(_, of)| of(row)));
    }
    for (at, (header, _)) in columns.iter().enumerate() {
        let text = ["variant", "verdict"].contains(header);
        if let Some(column) = table.column_mut(at).filter(|_| !text) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `text` broken at spaces into lines of at most `width` characters, all but the first indented.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let line = lines.last().map_or(0, |l| l.chars().count());
            let gap = usize::from(line > indent || (lines.len() == 1 && line > 0));
            let room = width.saturating_sub(line + gap);
            let fits = rest.len() <= room;
            if !fits && line > indent {
                lines.push(" ".repeat(indent));
                continue;
            }
            let taken: String = rest.drain(..rest.len().min(room.max(1))).collect();
            if let Some(last) = lines.last_mut() {
                last.push_str(&" ".repeat(gap));
                last.push_str(&taken);
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_at_spaces_and_long_words_cut() {
        assert_eq!(wrapped("one two three", 8, 2), "one two\n  three");
        assert_eq!(wrapped("abcdefghij", 4, 0), "abcd\nefgh\nij");
        assert_eq!(wrapped("", 9, 2), "");
        let text = "perplexity +2.1 % [1.6, 2.6] <= 5 %: yes; decode 2.31x".repeat(3);
        assert!(wrapped(&text, 40, 2).lines().all(|l| l.chars().count() <= 40));
    }
}
