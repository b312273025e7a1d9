//! Workflow commands that GitHub shows as annotations.

use super::counts;
use crate::gate::{GateReport, State};
use crate::text::one_line;

/// Annotations of one kind that GitHub shows for a step; the worst come first, and the last one counts the rest.
const MOST_SHOWN: usize = 10;

/// One line an annotation: failures are errors, what is undecided or not comparable a warning, what is to be known a notice.
pub fn annotations(report: &GateReport) -> String {
    let kinds: [(&str, &[State]); 3] = [
        ("error", &[State::Fail]),
        ("warning", &[State::NotComparable, State::Inconclusive]),
        ("notice", &[State::Notice]),
    ];
    let mut lines = Vec::new();
    for (kind, states) in kinds {
        let found: Vec<_> = report.checks.iter().filter(|check| states.contains(&check.state)).collect();
        let room = if found.len() > MOST_SHOWN { MOST_SHOWN - 1 } else { MOST_SHOWN };
        for check in found.iter().take(room) {
            let title = format!("{} {}: {}", report.suite, check.variant, check.name);
            lines.push(format!("::{kind} title={}::{}", property(&title), data(&check.message)));
        }
        if found.len() > room {
            let rest = format!("{} more; {}", found.len() - room, counts(report));
            lines.push(format!("::{kind} title={}::{}", property(&report.suite), data(&rest)));
        }
    }
    lines.join("\n")
}

/// The text of a command; lines are one already.
fn data(text: &str) -> String {
    one_line(text).replace('%', "%25")
}

/// The same for a property, where colons and commas end it.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn text_cannot_start_another_command_and_the_rest_is_counted() {
        let lines = annotations(&report());
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(
            lines[0],
            "::error title=quick int4%3A items of choice::1 of 8 items <changed> sides | 100 %25 ::error::x"
        );
        assert!(lines[1].starts_with("::warning ") && lines[2].starts_with("::notice "));
        let mut many = report();
        many.checks = vec![many.checks[0].clone(); 30];
        let lines = annotations(&many);
        assert_eq!(lines.lines().count(), 10);
        assert!(lines.ends_with("::error title=quick::21 more; checks: 30 fail"), "{lines}");
    }
}
