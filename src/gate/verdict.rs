//! What a gate says: one [`Check`] a question, and what they come to.

use serde::{Deserialize, Serialize};

use super::baseline::Change;
use super::tier::Tier;

/// Version of `gate.json`.
pub const REPORT_SCHEMA: u32 = 1;

/// Group of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Each variant of the baseline is there.
    Variants,
    /// No threshold was loosened.
    Thresholds,
    /// Numbers that repeat to the last bit.
    Exact,
    /// Differences of accuracy on paired items.
    Accuracy,
    /// Limits beside the averages.
    Behaviour,
    /// Against the anchor.
    Drift,
    /// The same under every instruction set.
    InstructionSets,
    /// Time.
    Timing,
}

impl Level {
    /// Name in tables and test suites.
    pub fn name(self) -> &'static str {
        match self {
            Level::Variants => "variants",
            Level::Thresholds => "thresholds",
            Level::Exact => "exact",
            Level::Accuracy => "accuracy",
            Level::Behaviour => "behaviour",
            Level::Drift => "drift",
            Level::InstructionSets => "instruction sets",
            Level::Timing => "timing",
        }
    }
}

/// Answer of a check, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it was, or proven not worse.
    Pass,
    /// Passes, but something should be known: an improvement that asks for a new baseline, a new variant.
    Notice,
    /// Looked at, but not gated.
    Advisory,
    /// Neither proven better nor worse.
    Inconclusive,
    /// There is nothing to compare with.
    NotComparable,
    /// Worse, missing or failed.
    Fail,
}

impl State {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            State::Pass => "pass",
            State::Notice => "notice",
            State::Advisory => "advisory",
            State::Inconclusive => "inconclusive",
            State::NotComparable => "not comparable",
            State::Fail => "fail",
        }
    }
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Group.
    pub level: Level,
    /// Variant; empty for the suite as a whole.
    pub variant: String,
    /// What is asked: `artefact`, `items of choice`, `decode b1t2`.
    pub name: String,
    /// Answer.
    pub state: State,
    /// The numbers behind it, and for anything but a pass what to do.
    pub message: String,
}

impl Check {
    /// A check.
    pub fn new(level: Level, variant: &str, name: impl Into<String>, state: State, message: impl Into<String>) -> Self {
        Check { level, variant: variant.into(), name: name.into(), state, message: message.into() }
    }
}

/// A number for dashboards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Variant.
    pub variant: String,
    /// What: `file-bytes`, `perplexity of heldout`, `decode b1t2`.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// Value; smaller is better.
    pub value: f64,
    /// Lower bound, where there is an interval.
    pub low: Option<f64>,
    /// Upper bound.
    pub high: Option<f64>,
}

/// What exit code an inconclusive gate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inconclusive {
    /// 1.
    Fail,
    /// 3.
    Neutral,
    /// 0.
    Pass,
}

/// What a gate says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// [`REPORT_SCHEMA`].
    pub schema_version: u32,
    /// Version of the program.
    pub tool_version: String,
    /// Start, seconds since 1970-01-01 UTC.
    pub unix_s: f64,
    /// Suite.
    pub suite: String,
    /// How much was measured.
    pub tier: Tier,
    /// What it was held against, in words.
    pub against: Vec<String>,
    /// Checksum of the baseline; `None` where there is none.
    pub baseline_sha256: Option<String>,
    /// Class of this machine for exact numbers.
    pub number_class: String,
    /// Class of this machine for time.
    pub machine_class: String,
    /// Worst answer of all checks; advisory ones count as passed.
    pub outcome: State,
    /// Exit code of the program.
    pub exit_code: u8,
    /// All checks, the worst first.
    pub checks: Vec<Check>,
    /// Numbers for dashboards.
    pub metrics: Vec<Metric>,
    /// What was accepted before, the latest first.
    pub history: Vec<Change>,
    /// What disturbed or is to be known.
    pub warnings: Vec<String>,
    /// The command that repeats it.
    pub command: String,
}

impl GateReport {
    /// Orders the checks and works out outcome and exit code.
    pub fn conclude(mut self, inconclusive: Inconclusive) -> GateReport {
        self.checks.sort_by(|a, b| b.state.cmp(&a.state).then(a.level.cmp(&b.level)));
        let worst = self.checks.iter().map(|check| check.state).max();
        self.outcome = match worst {
            // A gate that asked nothing has proven nothing.
            None => State::NotComparable,
            Some(State::Advisory) => State::Notice,
            Some(state) => state,
        };
        self.exit_code = match (self.outcome, inconclusive) {
            (State::Fail, _) | (State::Inconclusive, Inconclusive::Fail) => 1,
            (State::NotComparable, _) => 4,
            (State::Inconclusive, Inconclusive::Neutral) => 3,
            _ => 0,
        };
        self
    }

    /// Whether its numbers may become the baseline without a reason.
    pub fn passed(&self) -> bool {
        matches!(self.outcome, State::Pass | State::Notice)
    }

    /// Checks in a state.
    pub fn count(&self, state: State) -> usize {
        self.checks.iter().filter(|check| check.state == state).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> GateReport {
        let check = |state: &State| Check::new(Level::Exact, "v", "artefact", *state, "m");
        GateReport {
            schema_version: REPORT_SCHEMA,
            tool_version: "0".into(),
            unix_s: 0.0,
            suite: "s".into(),
            tier: Tier::Smoke,
            against: Vec::new(),
            baseline_sha256: None,
            number_class: "n".into(),
            machine_class: "m".into(),
            outcome: State::Pass,
            exit_code: 0,
            checks: states.iter().map(check).collect(),
            metrics: Vec::new(),
            history: Vec::new(),
            warnings: Vec::new(),
            command: "bench gate s.toml".into(),
        }
    }

    #[test]
    fn the_worst_answer_decides_and_no_answer_is_no_pass() {
        use State::{Advisory, Fail, Inconclusive as Open, NotComparable, Notice, Pass};
        let code = |states: &[State], open| report(states).conclude(open).exit_code;
        for (states, expected) in [
            (&[Pass, Notice, Advisory][..], 0),
            (&[Pass, Open], 3),
            (&[Open, NotComparable], 4),
            (&[NotComparable, Fail, Pass], 1),
            (&[], 4),
        ] {
            assert_eq!(code(states, Inconclusive::Neutral), expected, "{states:?}");
        }
        assert_eq!((code(&[Open], Inconclusive::Fail), code(&[Open], Inconclusive::Pass)), (1, 0));
        let report = report(&[Pass, Open, Fail]).conclude(Inconclusive::Pass);
        assert_eq!(report.checks.iter().map(|c| c.state).collect::<Vec<_>>(), [Fail, Open, Pass]);
        assert!(!report.passed() && report.count(Fail) == 1);
    }
}
