//! A gate as Markdown: the comment on a pull request, and GitHub's step summary.

use std::fmt::Write;

use super::super::markdown::escape;
use super::{answer, counts, in_words};
use crate::gate::{GateReport, State};
use crate::text::one_line;

/// Rows that a table shows; GitHub takes at most 64 KiB of a comment.
const MOST_ROWS: usize = 60;

/// Changes of the baseline that are shown.
const MOST_CHANGES: usize = 5;

/// The gate in Markdown.
pub fn markdown(report: &GateReport) -> String {
    let mut out = format!("### {}\n\n{}\n\n", cell(&answer(report)), counts(report));
    let shown: Vec<_> = report.checks.iter().filter(|check| check.state != State::Pass).collect();
    if !shown.is_empty() {
        out.push_str("| answer | variant | check | why |\n|---|---|---|---|\n");
        for check in shown.iter().take(MOST_ROWS) {
            let name = format!("{}: {}", check.level.name(), check.name);
            let row = [check.state.name(), &check.variant, &name, &check.message].map(cell);
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        if shown.len() > MOST_ROWS {
            let _ = writeln!(out, "\n{} more are in `gate.json`.", shown.len() - MOST_ROWS);
        }
        out.push('\n');
    }
    if !report.history.is_empty() {
        out.push_str("Changes of the baseline, the latest first:\n\n");
        for change in report.history.iter().take(MOST_CHANGES) {
            let _ = writeln!(out, "- {}", cell(&in_words(change)));
        }
        out.push('\n');
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "- warning: {}", cell(warning));
    }
    let _ = writeln!(
        out,
        "\nMachine: {}. Again: `{}`",
        cell(&report.machine_class),
        one_line(&report.command).replace('`', "'")
    );
    out
}

/// Text that cannot leave its cell nor become markup.
fn cell(text: &str) -> String {
    escape(&one_line(text))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_comment_has_the_answer_the_table_and_the_history() {
        let text = markdown(&report());
        assert!(text.starts_with("### gate quick (pr) against"), "{text}");
        assert!(
            text.contains("| fail | int4 | exact&#58; items of choice | 1 of 8 items &lt;changed&gt; sides \\| 100 %"),
            "{text}"
        );
        assert!(
            text.contains("- accepted 20000229T000000Z by 0.1.0&#58; a faster kernel (int4&#58; other kernels)"),
            "{text}"
        );
        assert!(text.contains("Again: `bench gate suites/quick.toml`"), "{text}");
        let mut many = report();
        many.checks = vec![many.checks[0].clone(); 100];
        assert!(markdown(&many).contains("40 more are in `gate.json`"));
    }
}
