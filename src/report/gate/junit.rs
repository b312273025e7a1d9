//! A gate as JUnit XML: a test suite for each level, a test case for each check. Schema: `tests/fixtures/junit.xsd`.

use std::fmt::Write;

use super::super::exports::escape;
use crate::gate::{Check, GateReport, State};

/// What fails is a failure, what has nothing to compare with an error, what is undecided or only said is skipped.
pub(super) fn junit(report: &GateReport) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all: Vec<&Check> = report.checks.iter().collect();
    let _ = writeln!(out, "<testsuites name=\"{}\" {}>", escape(&report.suite), counts(&all));
    let mut levels: Vec<_> = report.checks.iter().map(|check| check.level).collect();
    levels.sort();
    levels.dedup();
    for level in levels {
        let checks: Vec<&Check> = report.checks.iter().filter(|check| check.level == level).collect();
        let _ = writeln!(out, "  <testsuite name=\"{}\" {}>", level.name(), counts(&checks));
        let _ = writeln!(out, "    <properties>");
        for (name, value) in [("machine", &report.machine_class), ("command", &report.command)] {
            let _ = writeln!(out, "      <property name=\"{name}\" value=\"{}\"/>", escape(value));
        }
        let _ = writeln!(out, "    </properties>");
        for check in checks {
            let variant = if check.variant.is_empty() { "suite" } else { &check.variant };
            let class = escape(&format!("{}.{variant}", report.suite));
            let (name, inside) = (escape(&check.name), inside(check));
            let _ = writeln!(out, "    <testcase classname=\"{class}\" name=\"{name}\">{inside}</testcase>");
        }
        let _ = writeln!(out, "  </testsuite>");
    }
    out.push_str("</testsuites>\n");
    out
}

fn counts(checks: &[&Check]) -> String {
    let count = |states: &[State]| checks.iter().filter(|check| states.contains(&check.state)).count();
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        checks.len(),
        count(&[State::Fail]),
        count(&[State::NotComparable]),
        count(&[State::Inconclusive, State::Advisory])
    )
}

fn inside(check: &Check) -> String {
    let message = escape(&check.message);
    match check.state {
        State::Fail => format!("<failure type=\"regression\" message=\"{message}\"/>"),
        State::NotComparable => format!("<error type=\"not comparable\" message=\"{message}\"/>"),
        State::Inconclusive | State::Advisory => format!("<skipped message=\"{message}\"/>"),
        State::Pass | State::Notice => format!("<system-out>{message}</system-out>"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn every_check_is_a_test_case_and_text_is_escaped() {
        let xml = junit(&report());
        assert!(
            xml.contains("<testsuites name=\"quick\" tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"1\">"),
            "{xml}"
        );
        assert_eq!(xml.matches("<testcase ").count(), 4);
        assert!(xml.contains("1 of 8 items &lt;changed&gt; sides | 100 % ::error::x\"/>"), "{xml}");
    }
}
