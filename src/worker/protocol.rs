//! What parent and child say to each other: one JSON line with a job down, JSON lines with messages up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::FailureKind;
use crate::kernels::KvFormat;
use crate::machine::Covariates;
use crate::program;
use crate::results::{Artefact, FileHash, KernelUse, Memory, PhaseProfile, Sample};
use crate::suite::{Recipe, Suite, TaskKind};
use crate::tasks::TokenFiles;

/// What a worker is asked to do: the one line on its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "job")]
#[allow(clippy::large_enum_variant, reason = "one job per process")]
pub enum Job {
    /// Reads and tokenizes the suite's texts; answers [`Prepared`].
    Prepare(PrepareJob),
    /// Makes a variant's artefact; answers [`BuildOutcome`].
    Build(BuildJob),
    /// Scores a variant on a task; answers a [`crate::results::Score`].
    Score(ScoreJob),
    /// Times a variant; answers a [`Timing`].
    Time(TimeJob),
}

/// A line on a worker's standard output: first `{"identity":...}`, then `{"progress":{"done":3,"total":30}}`,
/// `{"waiting":"..."}` and `"ready"`, and last `{"result":...}` or `{"failed":{"kind":"input","reason":"..."}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Which program the worker is.
    Identity(Identity),
    /// Work done so far, in units of the job (tensors, windows, texts).
    Progress {
        /// Units done.
        done: usize,
        /// Units in all.
        total: usize,
    },
    /// Waits for another process, in words.
    Waiting(String),
    /// Waits for a line on standard input, its turn.
    Ready,
    /// The job's answer.
    Result(serde_json::Value),
    /// Why there is none.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The message.
        reason: String,
    },
    /// Why there is none, as builds before this protocol had kinds tell it.
    Error(String),
}

/// Which program a worker is. The parent goes on only with one that is itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`program::VERSION`].
    pub version: String,
    /// [`program::BUILD`].
    pub build: String,
}

impl Identity {
    /// This program.
    pub fn own() -> Identity {
        Identity { version: program::VERSION.into(), build: program::BUILD.into() }
    }
}

/// What a worker tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// Units done, units in all.
    Done(usize, usize),
    /// It waits for another process, in words.
    Waiting(&'a str),
}

/// Texts to token files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrepareJob {
    /// The suite.
    pub suite: Suite,
    /// Folder that relative sources start from.
    pub base: PathBuf,
    /// The model's file or folder, for its tokenizer.
    pub model: PathBuf,
    /// Where the token files go.
    pub files: TokenFiles,
}

/// What was prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// What a reader of the report must know.
    pub warnings: Vec<String>,
    /// Scored text that is also calibrated on, which the suite allows.
    #[serde(default)]
    pub leak: Option<String>,
    /// The token files; builds before this one do not tell.
    #[serde(default)]
    pub files: Vec<FileHash>,
    /// VmHWM of the worker.
    pub peak_rss: Option<u64>,
}

/// A model under a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildJob {
    /// The model's file or folder.
    pub model: PathBuf,
    /// SHA-256 over its files.
    pub model_sha256: String,
    /// The recipe.
    pub recipe: Recipe,
    /// Resolved path of an imported artefact.
    pub import: Option<PathBuf>,
    /// Token file of the calibration windows.
    pub calibration: Option<PathBuf>,
    /// Token file of the windows on which a search compares.
    pub held_out: Option<PathBuf>,
    /// Threads.
    pub threads: usize,
}

/// A variant on disk, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildOutcome {
    /// The artefact.
    pub artefact: Artefact,
    /// What a reader of the report must know, such as a damaged copy in the cache.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// VmHWM of the worker.
    pub peak_rss: Option<u64>,
}

/// What a score does with the reference's hidden states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// This is the reference: store its final hidden states in this file.
    Store(PathBuf),
    /// Compare with the reference, whose logits are `head(hidden states)`.
    Compare {
        /// The reference's artefact, of which only the output head is loaded.
        artefact: PathBuf,
        /// Its hidden states, as [`Reference::Store`] wrote them.
        hidden: PathBuf,
    },
    /// Score alone: the reference's states are not to be had.
    Absent,
}

/// Accuracy of a variant on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreJob {
    /// The variant's artefact.
    pub artefact: PathBuf,
    /// Storage of its keys and values, where the suite says.
    pub kv_cache: Option<KvFormat>,
    /// Task name.
    pub task: String,
    /// What it asks.
    pub kind: TaskKind,
    /// Token file of the task's windows or items.
    pub windows: PathBuf,
    /// The reference's part.
    pub reference: Reference,
    /// Break the network on purpose, and score these windows, items or sentences only.
    #[serde(default)]
    pub broken: Option<Vec<usize>>,
    /// Threads.
    pub threads: usize,
}

impl ScoreJob {
    /// Those of the task's questions that are asked.
    pub(super) fn asked<T>(&self, all: Vec<T>) -> Vec<T> {
        match &self.broken {
            None => all,
            Some(places) => {
                let asked = all.into_iter().enumerate().filter(|(at, _)| places.contains(at));
                asked.map(|(_, question)| question).collect()
            }
        }
    }
}

/// Speed and memory of a variant at one point of the workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimeJob {
    /// The variant's artefact.
    pub artefact: PathBuf,
    /// Storage of its keys and values, where the suite says.
    pub kv_cache: Option<KvFormat>,
    /// Token file of the prompts.
    pub prompts: PathBuf,
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Tokens to generate, the first included; at least 2, but 0 for an encoder.
    pub generate: usize,
    /// Timed iterations.
    pub iterations: usize,
    /// Most bytes of address space that the process may use.
    #[serde(default)]
    pub memory_limit: Option<u64>,
    /// Wait for a turn before each timed iteration, of which there may then be fewer.
    #[serde(default)]
    pub in_turns: bool,
    /// Also profile one more iteration.
    pub profile: bool,
    /// Also measure how fast memory is read.
    #[serde(default)]
    pub bandwidth: bool,
}

/// A slot as its worker saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Timed iterations, in order.
    pub samples: Vec<Sample>,
    /// Memory at the end.
    pub memory: Memory,
    /// Kernels that ran.
    pub kernels: Vec<KernelUse>,
    /// State of the machine around the timed iterations.
    pub covariates: Covariates,
    /// Where the time goes, phase by phase; empty unless asked for.
    pub phases: Vec<PhaseProfile>,
    /// Processors that the slot was kept on.
    #[serde(default)]
    pub processors: Option<Vec<usize>>,
    /// Seconds to load and pack the weights.
    pub load_s: f64,
    /// Warm-up iterations.
    pub warmup_iterations: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
        let lines = [
            (Message::Progress { done: 3, total: 30 }, r#"{"progress":{"done":3,"total":30}}"#),
            (Message::Ready, r#""ready""#),
            (Message::Result(serde_json::json!([1])), r#"{"result":[1]}"#),
            (Message::Waiting("a".into()), r#"{"waiting":"a"}"#),
            (
                Message::Failed { kind: FailureKind::Input, reason: "no".into() },
                r#"{"failed":{"kind":"input","reason":"no"}}"#,
            ),
            (Message::Error("no \"x\"".into()), r#"{"error":"no \"x\""}"#),
        ];
        for (message, line) in lines {
            assert_eq!(serde_json::to_string(&message).unwrap(), line);
            assert_eq!(serde_json::from_str::<Message>(line).unwrap(), message);
        }
    }
}
