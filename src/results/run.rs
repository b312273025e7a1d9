//! The judged run, as written to `run.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::estimates::{
    CalibrationDraws, ChoiceEstimates, Estimate, PointEstimates, ScoreEstimates, SimilarityEstimates,
};
use super::event::{Artefact, Fit, KernelUse, Memory, Stage};
use crate::machine::MachineRecord;
use crate::suite::Suite;

/// Version of `run.json` and `journal.jsonl`.
pub const SCHEMA_VERSION: u32 = 2;

/// Answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Proven.
    Yes,
    /// Disproven.
    No,
    /// Neither; also where data is missing.
    Unknown,
}

/// Answers to the rule's questions; `None` where the suite sets no threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// Drop of accuracy at most dAcc_max.
    pub accuracy: Answer,
    /// Speedup at least S_min.
    pub speed: Option<Answer>,
    /// Memory at most M_max.
    pub memory: Option<Answer>,
}

/// Outcome of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The rule is proven to hold.
    Accept,
    /// The rule is proven not to hold.
    Reject,
    /// Neither.
    Inconclusive,
}

/// For which thresholds a question is answered yes or no; in between it is unknown. For dAcc_max and M_max: yes from
/// `yes` on, no below `no`. For S_min: yes up to `yes`, no above `no`. In the threshold's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TurningPoint {
    /// The strictest threshold that is met.
    pub yes: f64,
    /// Stricter than this the answer is no.
    pub no: f64,
}

/// Turning points of the rule's questions; `None` where a question is unknown at every threshold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TurningPoints {
    /// Of dAcc_max.
    pub accuracy: Option<TurningPoint>,
    /// Of S_min.
    pub speed: Option<TurningPoint>,
    /// Of M_max, bytes.
    pub memory: Option<TurningPoint>,
}

/// Outcome with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Outcome.
    pub outcome: Outcome,
    /// The answers behind it; `None` when the variant failed.
    pub answers: Option<Answers>,
    /// One sentence with the numbers that decided.
    pub reason: String,
    /// What an inconclusive outcome leaves open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenQuestion>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A measurement is missing, failed or is not a number.
    MeasurementMissing,
    /// The A/A control does not tie, or is missing, or too many blocks were disturbed.
    NoisyMachine,
    /// The reference broken on purpose is not rejected.
    BlindRule,
    /// The blocks do not suffice.
    TooFewBlocks,
    /// The budget of time was used up before the blocks sufficed.
    Budget,
    /// The texts or items do not suffice.
    TooFewItems,
    /// It lies so near to the threshold that the difference does not matter (1 % of speed).
    Borderline,
}

/// A question of the rule without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenQuestion {
    /// Which.
    pub question: Question,
    /// Why.
    pub why: Why,
    /// About how many more blocks (speed) or documents (accuracy) would answer it, if they are like those so far; `None`
    /// where no number is foreseen.
    pub more: Option<usize>,
}

/// A question of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Drop of accuracy at most dAcc_max.
    Accuracy,
    /// Speedup at least S_min.
    Speed,
    /// Memory at most M_max.
    Memory,
}

/// Place on the Pareto frontier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "place")]
pub enum Frontier {
    /// No variant is at least as good everywhere and better somewhere.
    On,
    /// Dominated beyond noise.
    Dominated {
        /// By which.
        by: Vec<String>,
    },
    /// Another is proven better in something and worse in nothing, or dominates it by the points, but not beyond the
    /// intervals.
    DominatedWithinNoise {
        /// By which.
        by: Vec<String>,
    },
    /// A number is missing.
    Unknown,
}

/// Everything about one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantResult {
    /// Name.
    pub name: String,
    /// The variant that others are compared with.
    pub reference: bool,
    /// Recipe in words.
    pub recipe: String,
    /// The artefact, where it was built.
    pub artefact: Option<Artefact>,
    /// Estimates by task that scores text.
    pub scores: BTreeMap<String, ScoreEstimates>,
    /// Estimates by multiple-choice task.
    #[serde(default)]
    pub choices: BTreeMap<String, ChoiceEstimates>,
    /// Estimates by task that compares embeddings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub similarities: BTreeMap<String, SimilarityEstimates>,
    /// The rule's difference from the reference for each draw of calibration windows, where it was made of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draws: Option<CalibrationDraws>,
    /// Estimates by point of the workload.
    pub points: Vec<PointEstimates>,
    /// Largest over slots.
    pub memory: Option<Memory>,
    /// Kernels that ran in the timed region.
    pub kernels: Vec<KernelUse>,
    /// Verdict; `None` for the reference.
    pub verdict: Option<Verdict>,
    /// What other thresholds would have answered.
    #[serde(default)]
    pub turning_points: TurningPoints,
    /// Candidates that are not proven slower than this one in the judged time, itself among them.
    #[serde(default)]
    pub not_proven_slower: Vec<String>,
    /// Place on the Pareto frontier.
    pub frontier: Frontier,
    /// Share of joint draws of all measurements in which it is on the frontier.
    #[serde(default)]
    pub frontier_probability: Option<f64>,
    /// Whether it ran under a limit of its memory, where that was asked.
    #[serde(default)]
    pub fit: Option<Fit>,
    /// Failures as `stage: reason`.
    pub failures: Vec<String>,
}

/// Which variant to ship.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The variant; `None` when nothing is proven to meet the rule.
    pub variant: Option<String>,
    /// One or two sentences: the reason, or what stands in the way.
    pub reason: String,
    /// Nearest thresholds at which another variant, or none, would be recommended.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// What more accuracy than the recommended variant's costs.
    #[serde(default)]
    pub price: Option<Price>,
    /// What to try next, where nothing is recommended.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// A threshold at which the recommendation would be another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Key of `bench report RUN --accept KEY=VALUE`.
    pub threshold: String,
    /// Stricter than this, or from this on looser; bytes for `max_memory`.
    pub at: f64,
    /// Whether the threshold is looser than the run's.
    pub looser: bool,
    /// What would be recommended; `None` for nothing.
    pub variant: Option<String>,
}

/// The step along the Pareto frontier to the next more accurate variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// The next more accurate variant.
    pub variant: String,
    /// By how much it is more accurate, in the unit of the rule's threshold.
    pub gain: f64,
    /// Its judged time over the recommended variant's.
    pub time_ratio: Option<f64>,
    /// Bytes by which its weights are larger.
    pub more_weight_bytes: i64,
}

/// A variant to try next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Why.
    pub why: String,
    /// Entry for the suite file.
    pub entry: String,
}

/// Share of the box between the ideal point and the reference (at twice dAcc_max) that the variants dominate in accuracy
/// loss, time and weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Hypervolume {
    /// Of the estimates.
    pub value: f64,
    /// 5 % quantile of the draws.
    pub low: f64,
    /// 95 % quantile.
    pub high: f64,
}

/// The negative control of accuracy, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokenControl {
    /// Rejected, as it must be.
    pub rejected: bool,
    /// The numbers that decided.
    pub reason: String,
}

/// A judged run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the program that measured.
    pub tool_version: String,
    /// Start, seconds since 1970-01-01 UTC.
    pub started_unix_s: f64,
    /// End; `None` for an interrupted run.
    pub finished_unix_s: Option<f64>,
    /// Suite as resolved.
    pub suite: Suite,
    /// SHA-256 of the model's files.
    pub model_sha256: String,
    /// Machine.
    pub machine: MachineRecord,
    /// Variants in the suite's order.
    pub variants: Vec<VariantResult>,
    /// Speed ratio of the A/A control by point `b1t2` and metric; must contain 1.
    pub control: BTreeMap<String, Estimate>,
    /// Blocks measured.
    pub blocks: usize,
    /// Blocks that were set aside because the machine was disturbed, and measured again.
    #[serde(default)]
    pub blocks_redone: usize,
    /// What the rule says of the reference broken on purpose, which it must reject.
    #[serde(default)]
    pub broken: Option<BrokenControl>,
    /// Scored text that was also calibrated on, which the suite allows.
    #[serde(default)]
    pub leak: Option<String>,
    /// Controls that did not come out as they must: the run is invalid.
    #[serde(default)]
    pub invalid: Vec<String>,
    /// Recommendation.
    pub recommendation: Recommendation,
    /// Score of the suite.
    #[serde(default)]
    pub hypervolume: Option<Hypervolume>,
    /// Stages with their wall time.
    pub stages: Vec<Stage>,
    /// Largest resident set of the parent.
    pub parent_peak_rss: Option<u64>,
    /// What a reader must know.
    pub warnings: Vec<String>,
}

impl Run {
    /// Result of the reference.
    pub fn reference(&self) -> Option<&VariantResult> {
        self.variants.iter().find(|v| v.reference)
    }

    /// Whether the reference was scored on the rule's task: without, no accuracy can be judged.
    pub fn reference_is_scored(&self) -> bool {
        let task = &self.suite.accept.accuracy.task;
        self.reference().is_some_and(|reference| {
            reference.scores.contains_key(task)
                || reference.choices.contains_key(task)
                || reference.similarities.contains_key(task)
        })
    }

    /// Exit code: 0 when a variant is recommended, 3 when inconclusive verdicts stand in the way, 1 when every
    /// candidate is rejected, 5 when nothing could be measured, the reference has no score on the rule's task, or the run's
    /// own controls failed.
    pub fn exit_code(&self) -> u8 {
        if !self.invalid.is_empty() || !self.reference_is_scored() {
            return 5;
        }
        if self.recommendation.variant.is_some() {
            return 0;
        }
        let outcomes: Vec<Outcome> = self
            .variants
            .iter()
            .filter_map(|v| v.verdict.as_ref())
            .filter(|v| v.answers.is_some())
            .map(|v| v.outcome)
            .collect();
        if outcomes.is_empty() {
            5
        } else if outcomes.iter().all(|o| *o == Outcome::Reject) {
            1
        } else {
            3
        }
    }
}
