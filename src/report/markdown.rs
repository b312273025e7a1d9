//! `summary.md`: the answer, the rule, the table and the machine, short enough for a comment on a pull request.

use std::fmt::Write;

use super::view;
use crate::results::Run;

/// Warnings that a comment shows; the report has all.
const MOST_WARNINGS: usize = 5;

/// The summary as GitHub-flavoured Markdown.
pub(super) fn summary(run: &Run) -> String {
    let answer = view::answer(run);
    let mut out = String::new();
    let ship = match &answer.variant {
        Some(variant) => format!("ship {}", escape(variant)),
        None => "no variant is proven to meet the rule".into(),
    };
    let _ = writeln!(out, "## {}: {ship}\n", escape(&answer.title));
    if let Some(leak) = &run.leak {
        let _ = writeln!(out, "**Calibrated on what is scored**: {}.\n", escape(&crate::text::one_line(leak)));
    }
    for fault in &run.invalid {
        let _ = writeln!(out, "**The run is invalid**: {}.\n", escape(&crate::text::one_line(fault)));
    }
    let _ = writeln!(out, "{}.\n", escape(&answer.reason));
    let thresholds = answer.thresholds.iter().map(|t| escape(t)).collect::<Vec<_>>().join("; ");
    let _ = writeln!(out, "Rule: **{}**, at {} confidence ({thresholds}).\n", escape(&answer.rule), answer.confidence);
    let kinds = [("accuracy", answer.choice), ("perplexity", answer.perplexity), ("cosine", answer.similarity)];
    let shown = || kinds.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    let second = |name: &str| if name == "cosine" { "worst" } else { "change" };
    let headers: String = shown().map(|name| format!(" {name} | {} |", second(name))).collect();
    let (rate, time) = if answer.encodes { ("tok/s", "latency") } else { ("decode tok/s", "TTFT") };
    let _ = writeln!(
        out,
        "| variant |{headers} speedup ({}) | {rate} | {time} | weights | peak RSS | verdict | why |",
        answer.metric
    );
    let _ = writeln!(out, "|---|{}---:|---:|---:|---:|---:|---|---|", "---:|---:|".repeat(shown().count()));
    for row in view::rows(run) {
        let name = if row.recommended { format!("**{}**", escape(&row.name)) } else { escape(&row.name) };
        let none = String::new();
        let accuracy = |kind: &str| match kind {
            "accuracy" => (&row.choice, &row.choice_difference, &row.choice_difference_interval),
            "cosine" => (&row.cosine, &row.worst_cosine, &none),
            _ => (&row.perplexity, &row.increase, &row.increase_interval),
        };
        let cells: String = shown()
            .map(accuracy)
            .map(|(value, change, interval)| format!(" {value} | {change} {} |", escape(interval)))
            .collect();
        let _ = writeln!(
            out,
            "| {name} |{cells} {} {} | {} | {} | {} | {} | {} | {} |",
            row.speedup,
            escape(&row.speedup_interval),
            if answer.encodes { &row.prefill } else { &row.decode },
            row.ttft,
            row.weights,
            row.peak_rss,
            row.outcome,
            escape(&row.reason)
        );
    }
    if let Some(broken) = run.broken.as_ref().filter(|broken| broken.rejected) {
        let _ = writeln!(out, "\nControl: the reference broken on purpose is rejected ({}).", escape(&broken.reason));
    }
    if answer.choice {
        let _ = writeln!(out, "\nGuessing would be right in {}.", answer.chance);
    }
    outlook(run, &mut out);
    let _ = writeln!(out, "\nMachine: {}. Times at {}.", escape(&answer.machine), answer.point);
    warnings(run, &mut out);
    out
}

/// What would change the answer, what more accuracy costs, what to try next.
fn outlook(run: &Run, out: &mut String) {
    let outlook = super::outlook::outlook(run);
    let sentences: Vec<&String> = outlook.changes.iter().chain(&outlook.price).collect();
    if !sentences.is_empty() {
        out.push('\n');
    }
    for sentence in sentences {
        let _ = writeln!(out, "- {}", escape(sentence));
    }
    for (why, entry) in &outlook.attempts {
        let _ = writeln!(out, "\nTry next ({}):\n\n```toml\n{}\n```", escape(why), entry.replace("```", ""));
    }
}

fn warnings(run: &Run, out: &mut String) {
    if run.warnings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nWarnings:\n");
    for warning in run.warnings.iter().take(MOST_WARNINGS) {
        let _ = writeln!(out, "- {}", escape(&crate::text::one_line(warning)));
    }
    if run.warnings.len() > MOST_WARNINGS {
        let _ = writeln!(out, "- and {} more in the report", run.warnings.len() - MOST_WARNINGS);
    }
}

/// Text that Markdown shows as it is: no HTML, no table cell, no markup, no mention, no link.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '@' => out.push_str("&#64;"),
            ':' => out.push_str("&#58;"),
            '#' => out.push_str("&#35;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out.replace("www.", "www&#46;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_shown_not_obeyed() {
        assert_eq!(escape("<b>|`x`|@me"), "&lt;b&gt;\\|\\`x\\`\\|&#64;me");
        assert_eq!(escape("![i](http://a)"), "\\!\\[i\\](http&#58;//a)");
        assert_eq!(escape("int4-gptq >= 1.5x"), "int4-gptq &gt;= 1.5x");
    }
}
