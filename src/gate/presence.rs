//! A variant that disappears must not pass because nothing was measured of it.

use super::baseline::Baseline;
use super::observed::Observed;
use super::verdict::{Check, Level, State};

/// One check for each variant of the baseline and of the run.
pub fn presence(observed: &Observed, baseline: Option<&Baseline>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name: &str, state, message: String| {
        checks.push(Check::new(Level::Variants, name, "presence", state, message));
    };
    for (name, reason) in &observed.failures {
        check(name, State::Fail, format!("failed: {reason}"));
    }
    let asked = |name: &str| observed.suite.variants.iter().any(|v| v.name == name);
    let known = |name: &str| baseline.is_some_and(|b| b.suite.variants.iter().any(|v| v.name == name));
    for old in baseline.iter().flat_map(|b| &b.suite.variants).filter(|old| !asked(&old.name)) {
        let renamed = observed.suite.variants.iter().find(|new| new.recipe == old.recipe && !known(&new.name));
        let message = match renamed {
            Some(new) => format!(
                "missing; \"{}\" has its recipe: a renamed variant would pass ungated, so call it as before or accept the \
                 change with `bench baseline accept --reason`",
                new.name
            ),
            None => {
                "missing: the suite no longer has it; put it back or accept the change with `bench baseline accept \
                     --reason`"
                    .into()
            }
        };
        check(&old.name, State::Fail, message);
    }
    for variant in observed.suite.variants.iter().filter(|v| !observed.failures.contains_key(&v.name)) {
        if !observed.record.variants.contains_key(&variant.name) {
            check(&variant.name, State::Fail, "was not measured".into());
        } else if baseline.is_some() && !known(&variant.name) {
            let message = "new: the baseline does not know it, so nothing of it is gated until `bench baseline update`";
            check(&variant.name, State::Notice, message.into());
        } else {
            check(&variant.name, State::Pass, "built and scored".into());
        }
    }
    checks
}
