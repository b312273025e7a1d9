//! Lines of the journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Mixture;
use crate::error::FailureKind;
use crate::kernels::Profile;
use crate::kernels::roofline::Bound;
use crate::machine::{Covariates, MachineRecord};
use crate::suite::Suite;

/// One line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[allow(clippy::large_enum_variant, reason = "few, short-lived, and the suite is the small one's context")]
pub enum Event {
    /// First line: what was asked and where it runs.
    Started {
        /// Version of this file's schema.
        schema_version: u32,
        /// Version of the program, with its commit.
        tool_version: String,
        /// Hash of the program's sources, libraries and target ([`crate::program::BUILD`]).
        #[serde(default)]
        build: String,
        /// Start, seconds since 1970-01-01 UTC.
        unix_s: f64,
        /// The suite as resolved.
        suite: Suite,
        /// SHA-256 of the model's files.
        model_sha256: String,
        /// The machine.
        machine: MachineRecord,
    },
    /// A stage of the pipeline ended.
    Stage(Stage),
    /// Texts are token files in the run's `data/`: those that every later worker reads.
    Prepared {
        /// The files.
        files: Vec<FileHash>,
        /// What a reader of the report must know.
        warnings: Vec<String>,
        /// Scored text that was also calibrated on, which the suite allows.
        leak: Option<String>,
    },
    /// How many blocks will be timed, fixed before any result was looked at. A second one goes on with a finished run.
    Planned {
        /// Blocks; the most, where candidates may leave earlier.
        blocks: usize,
        /// Candidates leave the blocks as soon as their verdict needs no more of them.
        #[serde(default)]
        racing: bool,
    },
    /// How many iterations each slot has from here on, chosen from the pilot blocks.
    Iterations {
        /// Iterations.
        count: usize,
    },
    /// A candidate left the blocks.
    Left {
        /// Variant.
        variant: String,
        /// Blocks that were measured until then.
        blocks: usize,
        /// Why.
        why: Leaving,
    },
    /// A variant's artefact is ready.
    Built {
        /// Variant.
        variant: String,
        /// The artefact.
        artefact: Artefact,
    },
    /// A variant's accuracy on a task.
    Scored {
        /// Variant.
        variant: String,
        /// The score.
        score: Score,
    },
    /// A variant that was made and scored again with other calibration windows.
    Redrawn {
        /// Variant.
        variant: String,
        /// Number of the draw, from 1; 0 is that of the variant itself.
        draw: usize,
        /// Its score on the rule's task, or why there is none.
        score: std::result::Result<Score, String>,
        /// What kind of failure it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FailureKind>,
    },
    /// The score of the reference broken on purpose, on a sample of the rule's task: it must be rejected.
    Broken(BrokenScore),
    /// One slot's measurement.
    Slot(Slot),
    /// Whether a variant ran under a limit of its memory.
    Fit {
        /// Variant.
        variant: String,
        /// The outcome.
        fit: Fit,
    },
    /// A block during which the machine was disturbed: its slots are set aside, and it is measured again.
    SetAside {
        /// Block.
        block: usize,
        /// Which signals, in words.
        why: String,
    },
    /// A slot whose threads ran nearer together or farther apart than those that its block ended with: it is set aside and
    /// measured again.
    Moved {
        /// Variant.
        variant: String,
        /// Whether it is the A/A control.
        control: bool,
        /// Block.
        block: usize,
        /// Sequences at once.
        batch: usize,
        /// Threads.
        threads: usize,
    },
    /// A variant failed: it costs its own result, never the run.
    Failed {
        /// Variant.
        variant: String,
        /// `build`, `score` or `time`.
        stage: String,
        /// The worker's message, or how it died.
        reason: String,
        /// What kind of failure it is: a resumed run tries again what may pass.
        #[serde(default)]
        kind: FailureKind,
    },
    /// The run took up again after an interruption.
    Resumed {
        /// Seconds since 1970-01-01 UTC.
        unix_s: f64,
    },
    /// Something a reader of the report must know.
    Warning {
        /// The text.
        text: String,
    },
    /// Last line.
    Finished {
        /// Seconds since 1970-01-01 UTC.
        unix_s: f64,
        /// Largest resident set of the parent, in bytes.
        parent_peak_rss: Option<u64>,
    },
}

/// Why a candidate's timing ended before the planned number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// Its verdict does not depend on more blocks.
    Decided,
    /// Deciding would take more blocks than were planned.
    Futile,
    /// The budget of time was used up.
    Budget,
}

/// A stage of the pipeline: `fetch`, `prepare`, `build`, `score`, `time`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// Largest resident set of its workers, in bytes.
    pub worker_peak_rss: Option<u64>,
}

/// A file as it was when its bytes were hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Path inside its folder, with `/`; the file's own name where it lies alone.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, as hex.
    pub sha256: String,
}

/// A variant on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artefact {
    /// Folder or file.
    pub path: String,
    /// Cache key: hash of model, recipe, calibration data and the sources that make artefacts.
    pub key: String,
    /// Bytes of all its files.
    pub file_bytes: u64,
    /// Its files; builds before this one do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileHash>,
    /// Seconds it took to make; 0 when taken from the cache.
    pub seconds: f64,
    /// Taken from the cache.
    pub cached: bool,
    /// Mean squared relative output error per quantized tensor, where the method computes it.
    pub layer_errors: BTreeMap<String, f64>,
    /// Bits per quantized weight, scales included.
    pub bits_per_weight: Option<f64>,
    /// How the formats were chosen, where a search did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Box<Mixture>>,
    /// For an import: that it is what the checkpoint says, one entry for each linear layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<LayerProof>,
}

/// What was read from one linear layer of an imported checkpoint, held against the checkpoint's own arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerProof {
    /// Name of the weight.
    pub tensor: String,
    /// Format of a floating-point weight (`f16`), or the quantized scheme in words.
    pub stored_as: String,
    /// For a quantized layer: products of one row of probe inputs and of several, which different kernels make. Its
    /// packed weights were equal to the format's formula, or there would be no proof.
    pub products: Option<[ProductProof; 2]>,
}

/// Products of one weight with probe inputs, calculated in three ways. A mismatch is the largest difference of an
/// output relative to the sum of the magnitudes of its products.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductProof {
    /// Rows of inputs.
    pub tokens: usize,
    /// The kernel that will be timed.
    pub kernel_name: String,
    /// Imported integers under the kernels' definition, against the checkpoint's fake-quantized arithmetic in 64 bits.
    pub integers: f64,
    /// The kernel against the definition.
    pub kernel: f64,
}

/// A variant's accuracy on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Task name.
    pub task: String,
    /// One per window, in the task's order, the same for every variant; empty for a choice.
    pub windows: Vec<WindowScore>,
    /// One per item of a choice, in the task's order; empty for other tasks.
    #[serde(default)]
    pub items: Vec<ItemScore>,
    /// One per sentence of a similarity, in the task's order; empty for other tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sentences: Vec<SentenceScore>,
    /// Spearman's rank correlation of the similarities of pairs of sentences with the reference's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_correlation: Option<f64>,
    /// Greedy generations from the beginnings of some windows, the same for every variant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<Generation>,
    /// Genres of the windows or items.
    #[serde(default)]
    pub genres: Genres,
    /// Quantiles of the per-token KL divergence from the reference, in nats: p50, p90, p99, p999, max.
    pub kl_quantiles: Option<[f64; 5]>,
    /// Wall time, model load excluded.
    pub seconds: f64,
    /// Kernels that produced it.
    pub kernels: Vec<KernelUse>,
    /// Largest resident set of the worker, in bytes.
    pub worker_peak_rss: Option<u64>,
}

/// A slot under a limit of the process's address space, which holds its mapped files, stacks and buffers too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// The limit.
    pub limit_bytes: u64,
    /// Why it did not run to its end; `None` where it did.
    pub failure: Option<String>,
    /// What kind of failure it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FailureKind>,
}

/// The negative control of accuracy: the reference, broken on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokenScore {
    /// The sample: indices of the task's windows, items or sentences, ascending.
    pub places: Vec<usize>,
    /// The score on them.
    pub score: Option<Score>,
    /// Why there is none.
    pub failure: Option<String>,
    /// What kind of failure it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FailureKind>,
}

/// Genres of a task's windows or items; empty where its data names none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Genres {
    /// Names.
    pub names: Vec<String>,
    /// Genre of each window or item, in order, as an index of `names`.
    pub of: Vec<usize>,
}

/// A greedy generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Tokens before the end of the sequence, or the most that were generated.
    pub tokens: usize,
    /// Whether the model ended the sequence.
    pub ended: bool,
    /// Whether it repeats one passage at its end.
    pub in_circles: bool,
}

/// Sums over one window of text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowScore {
    /// Index of the document in the task's text.
    pub document: usize,
    /// Predicted tokens.
    pub tokens: usize,
    /// Sum of negative log-likelihood, nats.
    pub nll: f64,
    /// Tokens whose most likely prediction was right.
    pub correct: usize,
    /// Sum of KL(reference || variant) over tokens, nats; `None` for the reference itself.
    pub kl: Option<f64>,
    /// Tokens whose most likely prediction equals the reference's.
    pub agree: Option<usize>,
    /// Tokens that the reference predicted and the variant did not; and the other way round.
    pub flips: Option<(usize, usize)>,
    /// Sum over tokens of the squared difference of the true token's probability from the reference's.
    #[serde(default)]
    pub squared_difference: Option<f64>,
}

/// One multiple-choice item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Cluster that the item belongs to.
    pub document: usize,
    /// Index of the right continuation.
    pub answer: usize,
    /// The continuation with the largest log-likelihood.
    pub picked: usize,
    /// The continuation with the largest log-likelihood per token.
    pub picked_norm: usize,
    /// Log-likelihood of each continuation given the passage, nats, summed over its tokens.
    pub log_likelihoods: Vec<f64>,
}

/// One sentence's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SentenceScore {
    /// Index of the document in the task's text.
    pub document: usize,
    /// Tokens, special ones included.
    pub tokens: usize,
    /// Cosine to the reference's embedding, 1 for the reference itself; `None` where the reference's is not to be had.
    pub cosine: Option<f64>,
}

/// How a matrix was multiplied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KernelUse {
    /// `prefill` or `decode`; `encode` for an encoder.
    pub phase: String,
    /// Name of the kernel: `x86_64-w8a8-avx512vnni`.
    pub kernel: String,
    /// Number of matrices.
    pub matrices: usize,
    /// Packed bytes of these matrices, scales included.
    pub bytes: u64,
}

/// Where the time of a phase goes, in one iteration beside the timed ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseProfile {
    /// `prefill` or `decode`; `encode` for an encoder.
    pub phase: String,
    /// Seconds of the phase.
    pub seconds: f64,
    /// The least time that this machine could take; `None` where the arithmetic of a kernel is not measured.
    pub bound: Option<Bound>,
    /// Share of the time in each part.
    pub shares: Profile,
}

/// One fresh process that timed one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Variant.
    pub variant: String,
    /// The A/A control: the reference under another label.
    pub control: bool,
    /// Block (round), from 0.
    pub block: usize,
    /// Position in the block's random order, from 0.
    pub position: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Timed iterations, in order.
    pub samples: Vec<Sample>,
    /// Memory at the end.
    pub memory: Memory,
    /// Kernels that ran.
    pub kernels: Vec<KernelUse>,
    /// State of the machine during the slot.
    pub covariates: Covariates,
    /// Where the time goes, phase by phase; empty but in the first block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseProfile>,
    /// Processors that the slot was kept on; `None` where the system does not offer that.
    #[serde(default)]
    pub processors: Option<Vec<usize>>,
    /// Seconds to load and pack the weights.
    pub load_s: f64,
    /// Warm-up iterations.
    pub warmup_iterations: usize,
    /// Wall time of the whole slot as the parent saw it.
    pub wall_s: f64,
}

/// One timed iteration. An encoder's batch is a prompt without generation: all its time is `ttft_s`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Time to first token: prompt to first generated token, seconds.
    pub ttft_s: f64,
    /// From the first generated token to the last, seconds.
    pub decode_s: f64,
    /// Prompt tokens, over all sequences.
    pub prompt_tokens: usize,
    /// Generated tokens, over all sequences, the first of each included.
    pub generated_tokens: usize,
}

impl Sample {
    /// Time per output token after the first, seconds, for `batch` sequences; not finite where none follows the first.
    pub fn tpot_s(&self, batch: usize) -> f64 {
        self.decode_s * batch as f64 / self.generated_tokens.saturating_sub(batch) as f64
    }
}

/// Memory of a timing worker, read by itself just before it exits.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Packed weights, scales included, as the kernels read them.
    pub weight_bytes: u64,
    /// KV cache of the workload's longest sequence, all sequences.
    pub kv_bytes: u64,
    /// VmHWM.
    pub peak_rss: Option<u64>,
    /// VmRSS after warm-up.
    pub steady_rss: Option<u64>,
    /// VmHWM when the weights were loaded and packed: the transient peak of loading.
    pub load_peak_rss: Option<u64>,
    /// By how much VmRSS had grown then: weights as they are resident.
    pub weights_rss: Option<u64>,
}
