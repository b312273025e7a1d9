//! A threshold that is loosened until the gate is green must be loosened for a reason that is written down.

use super::verdict::{Check, Level, State};
use crate::suite::{Accept, Suite};

/// Compares what the suite asks with what it asked when the baseline was accepted.
pub fn thresholds(old: &Suite, new: &Suite) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name: &str, state, message: String| {
        checks.push(Check::new(Level::Thresholds, "", name, state, message));
    };
    for (name, before, after) in limits(old, new) {
        match (before, after) {
            (before, after) if before == after => {}
            (Some(before), None) => check(name, State::Fail, loosened(format!("was {before}, now there is none"))),
            (None, Some(after)) => check(name, State::Notice, tightened(format!("was none, now {after}"))),
            (Some(before), Some(after)) if after > before => {
                check(name, State::Fail, loosened(format!("was {}, now {}", before.abs(), after.abs())));
            }
            (before, after) => {
                let shown = |limit: Option<f64>| limit.map_or("none".into(), |l| l.abs().to_string());
                check(name, State::Notice, tightened(format!("was {}, now {}", shown(before), shown(after))));
            }
        }
    }
    for (name, before, after) in questions(old, new) {
        if before != after {
            check(name, State::Fail, loosened(format!("was {before}, now {after}")));
        }
    }
    if checks.is_empty() {
        checks.push(Check::new(Level::Thresholds, "", "thresholds", State::Pass, "as they were"));
    }
    checks
}

fn loosened(what: String) -> String {
    format!("loosened: {what}; put it back, or accept it with `bench baseline accept --reason`")
}

fn tightened(what: String) -> String {
    format!("tightened: {what}; `bench baseline update` keeps it")
}

/// Limits with their values, signed so that a larger one is looser.
fn limits(old: &Suite, new: &Suite) -> Vec<(&'static str, Option<f64>, Option<f64>)> {
    let of = |accept: &Accept| {
        [
            Some(accept.accuracy.metric.margin()),
            accept.speed.as_ref().map(|s| -s.min_speedup),
            accept.memory.as_ref().map(|m| m.max_bytes as f64),
            Some(-accept.confidence),
        ]
    };
    let names = ["dAcc_max", "S_min", "M_max", "confidence"];
    let rule = names.into_iter().zip(of(&old.accept).into_iter().zip(of(&new.accept)));
    let gate = old.gate.named().into_iter().zip(new.gate.named());
    let gate = gate.map(|((name, before), (_, after))| (name, before, after));
    rule.map(|(name, (before, after))| (name, before, after)).chain(gate).collect()
}

/// What is asked, in words; any other question is a looser one as long as nobody said why.
fn questions(old: &Suite, new: &Suite) -> Vec<(&'static str, String, String)> {
    let accuracy = |s: &Suite| format!("{} of {}", s.accept.accuracy.metric.margin_key(), s.accept.accuracy.task);
    let metric = |s: &Suite| {
        let speed = s.accept.speed.as_ref().map(|s| format!("{:?} at {} threads", s.metric, s.threads));
        format!("{}, {:?}", speed.unwrap_or_default(), s.accept.memory.as_ref().map(|m| m.metric))
    };
    let tasks = |s: &Suite| {
        s.tasks.iter().map(|t| format!("{} {:?} {:?}", t.name, t.kind, t.text)).collect::<Vec<_>>().join("; ")
    };
    let both = |name, of: &dyn Fn(&Suite) -> String| (name, of(old), of(new));
    vec![
        both("rule", &|s| s.accept.rule.clone()),
        both("reference", &|s| s.reference.clone()),
        both("accuracy", &accuracy),
        both("metrics", &metric),
        both("tasks", &tasks),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::from_text;

    fn suite(replace: (&str, &str)) -> Suite {
        let text = r#"
model = "path:model"
[[task]]
kind = "perplexity"
data = "path:a.txt"
[accept]
accuracy = { metric = "perplexity", max_increase_percent = 1 }
speed = { metric = "decode", min_speedup = 1.3 }
memory = { metric = "weights", max = "8 MiB" }
[gate]
max_kl_p99 = 0.5
[[variant]]
name = "int8"
method = "rtn"
weights = { bits = 8, granularity = "channel" }
"#;
        assert!(text.contains(replace.0));
        from_text("s.toml", "s", &text.replace(replace.0, replace.1), None).unwrap()
    }

    #[test]
    fn loosening_fails_and_tightening_is_noted() {
        let old = suite(("", ""));
        assert_eq!(thresholds(&old, &old)[0].state, State::Pass);
        for (replace, name, state) in [
            (("max_increase_percent = 1", "max_increase_percent = 2"), "dAcc_max", State::Fail),
            (("max_increase_percent = 1", "max_increase_percent = 0.5"), "dAcc_max", State::Notice),
            (("min_speedup = 1.3", "min_speedup = 1.2"), "S_min", State::Fail),
            (("min_speedup = 1.3", "min_speedup = 1.4"), "S_min", State::Notice),
            (("8 MiB", "9 MiB"), "M_max", State::Fail),
            (("max_kl_p99 = 0.5", ""), "max_kl_p99", State::Fail),
            (("max_kl_p99 = 0.5", "max_kl_p99 = 0.4"), "max_kl_p99", State::Notice),
            (("[gate]", "[gate]\nmax_flips_percent = 3"), "max_flips_percent", State::Notice),
            (("[accept]", "[accept]\nconfidence = 0.9"), "confidence", State::Fail),
            (("[accept]", "[accept]\nrule = \"accuracy and speed and memory\""), "rule", State::Fail),
            (("path:a.txt", "path:b.txt"), "tasks", State::Fail),
        ] {
            let checks = thresholds(&old, &suite(replace));
            assert_eq!(checks.len(), 1, "{checks:?}");
            assert_eq!((checks[0].name.as_str(), checks[0].state), (name, state));
        }
        let other_metric = suite(("metric = \"decode\"", "metric = \"prefill\""));
        assert!(thresholds(&old, &other_metric)[0].message.contains("Prefill"));
    }
}
