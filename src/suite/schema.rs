//! The suite's types, as resolved and as stored in a run.

use serde::{Deserialize, Serialize};

use super::activations::InputScheme;
use super::format::Format;
use super::variants::METHODS;
use crate::kernels::KvFormat;
use crate::tensor::{DenseFormat, Granularity};

/// A suite with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// One line for people.
    pub title: String,
    /// File name without `.toml`; names the run folder.
    pub name: String,
    /// Source of the model: `path:`, `pypi:`, `npm:`, `hf:`, `bundled:`.
    pub model: String,
    /// Name of the variant that all others are compared with.
    pub reference: String,
    /// Data from which quantizers learn; `None` where no variant needs any.
    pub calibration: Option<Calibration>,
    /// Questions with an accuracy answer, at least one.
    pub tasks: Vec<Task>,
    /// Shape of the timed work.
    pub workload: Workload,
    /// Thresholds and rule.
    pub accept: Accept,
    /// What `bench gate` allows beside equality with its baseline.
    #[serde(default, skip_serializing_if = "GateLimits::is_empty")]
    pub gate: GateLimits,
    /// Variants in the order of the file; the reference is among them.
    pub variants: Vec<Variant>,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Suite {
    /// The task that the rule judges.
    pub fn judged_task(&self) -> Option<&Task> {
        self.tasks.iter().find(|task| task.name == self.accept.accuracy.task)
    }

    /// Variants that are made again of a further draw of calibration windows, with the number of the draw, from 1: those
    /// that learn from text, but for searches, which are decided once.
    pub fn further_draws(&self) -> impl Iterator<Item = (&Variant, usize)> {
        let draws = self.calibration.as_ref().map_or(1, |calibration| calibration.seeds);
        let learns = |v: &&Variant| matches!(&v.recipe, Recipe::Quantize(method) if method.learns().is_some());
        self.variants.iter().filter(learns).flat_map(move |variant| (1..draws).map(move |draw| (variant, draw)))
    }

    /// Windows of calibration text that searches compare on, apart from those that quantizers learn from.
    pub fn held_out_windows(&self) -> usize {
        let of = |variant: &Variant| match &variant.recipe {
            Recipe::Search(search) => search.probe_windows + search.check_windows,
            _ => 0,
        };
        self.variants.iter().map(of).max().unwrap_or(0)
    }
}

/// Data from files: each text file is one document, a token file (`.safetensors`) holds many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextSource {
    /// Source with a path or glob inside: `npm:name@ver#data/chapter_*.json`, `path:corpus/*.txt`. Files are taken in
    /// natural order (`chapter_2` before `chapter_10`).
    pub source: String,
    /// Half-open range of documents, counted from 0 in natural order; `None` takes all.
    pub documents: Option<(usize, usize)>,
    /// JSON field that holds the text, where the files are JSON.
    pub field: Option<String>,
}

/// Data from which quantizers learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The text.
    pub text: TextSource,
    /// Number of windows drawn at random without overlap.
    pub windows: usize,
    /// Tokens of a window.
    pub length: usize,
    /// Seed of the draw.
    pub seed: u64,
    /// Draws, each with the next seed: variants are made of the first, and made and scored again of the others to show
    /// what the draw alone changes.
    #[serde(default = "one_draw", skip_serializing_if = "is_one_draw")]
    pub seeds: usize,
    /// Run although scored text is among it; the report says so.
    #[serde(default)]
    pub allow_leak: bool,
}

fn one_draw() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_one_draw(seeds: &usize) -> bool {
    *seeds == 1
}

/// What a task asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum TaskKind {
    /// Perplexity of held-out text; also yields divergence from the reference and token accuracy.
    Perplexity {
        /// Tokens of a window.
        length: usize,
        /// At most this many windows, spread evenly over the documents; `None` takes all.
        windows: Option<usize>,
    },
    /// Which of several continuations follows a passage.
    Choice {
        /// At most this many items, evenly spaced over the data; `None` takes all.
        items: Option<usize>,
    },
    /// How close an encoder's embeddings of sentences are to the reference's.
    Similarity {
        /// Most tokens of a sentence, special tokens included; a longer one loses its end. `None` is 128, or what the
        /// model's side files say where that is less.
        length: Option<usize>,
        /// At most this many sentences, spread evenly over the documents; `None` takes all.
        sentences: Option<usize>,
    },
}

impl TaskKind {
    /// Its name in a suite.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Perplexity { .. } => "perplexity",
            TaskKind::Choice { .. } => "choice",
            TaskKind::Similarity { .. } => "similarity",
        }
    }
}

/// A question with an accuracy answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Name by which `accept.accuracy.task` refers to it; defaults to the kind.
    pub name: String,
    /// What it asks.
    #[serde(flatten)]
    pub kind: TaskKind,
    /// The text, or the items of a choice.
    pub text: TextSource,
}

/// Most iterations of a slot where their number is chosen.
const MOST_CHOSEN_ITERATIONS: usize = 50;

/// Shape of the timed work: every combination of batch and threads is a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Prompt tokens; for an encoder the tokens of a sequence (`length` in the file).
    pub prompt: usize,
    /// Generated tokens, at least 2; 0 for an encoder, which generates none.
    pub generate: usize,
    /// Sequences at once.
    pub batch: Vec<usize>,
    /// Threads.
    pub threads: Vec<usize>,
    /// Timed iterations of a slot.
    pub iterations: usize,
    /// Whether that is the number of pilot blocks only, after which it is chosen by what they show.
    #[serde(default)]
    pub pilot: bool,
    /// Fewest and most blocks.
    pub blocks: (usize, usize),
}

impl Workload {
    /// Most timed iterations that a slot may get.
    pub fn most_iterations(&self) -> usize {
        if self.pilot { MOST_CHOSEN_ITERATIONS } else { self.iterations }
    }

    /// Whether the timed work is an encoder's: batches of whole sequences, nothing generated.
    pub fn encodes(&self) -> bool {
        self.generate == 0
    }
}

/// Which time is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpeedMetric {
    /// Time per output token after the first (TPOT).
    Decode,
    /// Time to first token (TTFT); prompt tokens per second is its inverse.
    Prefill,
    /// Prompt and generation together.
    Total,
    /// Time of an encoder's batch.
    Latency,
}

/// S_min.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedLimit {
    /// The time that is compared with the reference's.
    pub metric: SpeedMetric,
    /// Smallest accepted ratio: reference time over variant time.
    pub min_speedup: f64,
    /// Threads of the point that is judged; defaults to the largest of the workload.
    pub threads: usize,
}

/// Which memory is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryMetric {
    /// Weights as resident for the kernels, scales included.
    Weights,
    /// Largest resident set of a timing worker (VmHWM).
    PeakRss,
    /// Bytes of the artefact's files.
    File,
}

/// M_max.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// The memory that is judged.
    pub metric: MemoryMetric,
    /// Largest accepted number of bytes.
    pub max_bytes: u64,
}

/// Which accuracy is compared, with its margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "metric")]
pub enum AccuracyMetric {
    /// Share of tokens whose most likely prediction is right; drop in percentage points.
    TokenAccuracy {
        /// dAcc_max in points.
        max_drop_points: f64,
    },
    /// Share of multiple-choice items picked rightly by log-likelihood; drop in percentage points.
    Accuracy {
        /// dAcc_max in points.
        max_drop_points: f64,
    },
    /// Share of multiple-choice items picked rightly by log-likelihood per token; drop in percentage points.
    AccuracyNorm {
        /// dAcc_max in points.
        max_drop_points: f64,
    },
    /// Perplexity, judged as the difference of mean log-likelihood: `ln(1 + percent/100)`.
    Perplexity {
        /// Largest accepted increase in percent.
        max_increase_percent: f64,
    },
    /// Mean log-likelihood per token; drop in nats.
    LogLikelihood {
        /// dAcc_max in nats per token.
        max_drop: f64,
    },
    /// Mean cosine of an encoder's embeddings to the reference's; drop below 1.
    Similarity {
        /// dAcc_max.
        max_drop: f64,
    },
}

/// dAcc_max.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccuracyLimit {
    /// Name of the task.
    pub task: String,
    /// Metric and margin.
    #[serde(flatten)]
    pub metric: AccuracyMetric,
    /// How the margin follows from the reference's own score, where the suite says it so; the points of `metric` are then
    /// a bound that no reference can exceed, until the run is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<RelativeMargin>,
}

/// A margin as a share of what the reference reaches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RelativeMargin {
    /// Percent.
    pub percent: f64,
    /// Of what.
    pub of: MarginOf,
}

/// What a relative margin is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginOf {
    /// The reference's share of right answers: accuracy at least 99 % of its own.
    Accuracy,
    /// The reference's share of wrong answers: at most 10 % more errors.
    Errors,
}

/// Thresholds and the rule that combines them: `accuracy and (speed or memory)` over those that are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accept {
    /// The rule as printed in every report; one of the four forms `suite` documents.
    pub rule: String,
    /// dAcc_max.
    pub accuracy: AccuracyLimit,
    /// S_min.
    pub speed: Option<SpeedLimit>,
    /// M_max.
    pub memory: Option<MemoryLimit>,
    /// Confidence of every answer, between 0.5 and 1.
    pub confidence: f64,
}

/// Limits of a regression gate; `None` sets none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GateLimits {
    /// Share of tokens or items, in percent, that the reference has right and a candidate wrong or the other way round,
    /// on any task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_flips_percent: Option<f64>,
    /// 99 % quantile of the divergence from the reference over tokens, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kl_p99: Option<f64>,
    /// Increase of perplexity over the reference in the worst genre, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_worst_increase_percent: Option<f64>,
    /// Drop of accuracy below the reference in the worst genre of a choice, percentage points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_worst_drop_points: Option<f64>,
    /// Change of the length of greedy generations from the reference's, either way, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length_change_percent: Option<f64>,
    /// How much slower than the base program counts as slower, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slowdown_percent: Option<f64>,
}

impl GateLimits {
    /// Keys of the suite's `[gate]` with their values; all are looser the larger they are.
    pub fn named(&self) -> [(&'static str, Option<f64>); 6] {
        [
            ("max_flips_percent", self.max_flips_percent),
            ("max_kl_p99", self.max_kl_p99),
            ("max_worst_increase_percent", self.max_worst_increase_percent),
            ("max_worst_drop_points", self.max_worst_drop_points),
            ("max_length_change_percent", self.max_length_change_percent),
            ("max_slowdown_percent", self.max_slowdown_percent),
        ]
    }

    /// No limit is set.
    pub fn is_empty(&self) -> bool {
        self.named().iter().all(|(_, limit)| limit.is_none())
    }
}

/// A model under a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Unique name.
    pub name: String,
    /// How it is made.
    pub recipe: Recipe,
    /// Storage of keys and values while it runs; `None` is 16 bits, but 32 where all weights have them, and bfloat16
    /// where all are that or have 8-bit inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvFormat>,
}

/// How to make a variant from the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Recipe {
    /// All weights in one floating-point format.
    Cast {
        /// The format.
        dtype: DenseFormat,
    },
    /// Linear layers quantized by `method`; `skip` and everything else in `dense`.
    Quantize(Method),
    /// A format for every fused unit of linear layers, chosen by measured loss under a budget.
    Search(Search),
    /// Weights that are published already quantized, run as they are.
    Import {
        /// `model` for the suite's own model, or a source.
        source: String,
        /// Input quantization added at run time.
        activations: InputScheme,
    },
}

impl Recipe {
    /// What of the recipe learns from calibration text, as the file names it; `None` where nothing does.
    pub fn learns(&self) -> Option<&str> {
        match self {
            Recipe::Quantize(method) => method.learns(),
            Recipe::Search(_) => Some("search"),
            Recipe::Cast { .. } | Recipe::Import { .. } => None,
        }
    }
}

/// What a search chooses from, and how far it may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Quantizer of every format.
    pub quantizer: String,
    /// Formats beside `dense`, of different names.
    pub formats: Vec<Format>,
    /// What the mixture must keep to.
    pub budget: Budget,
    /// Format of what is not quantized.
    pub dense: DenseFormat,
    /// Windows of text, apart from those of calibration, on which units are tried alone.
    pub probe_windows: usize,
    /// Further windows on which whole mixtures are checked.
    pub check_windows: usize,
}

/// What a mixture of formats must keep to; of all that do, the search takes the one of the least divergence, or under a
/// divergence the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Most bytes of all weights as the kernels hold them.
    Bytes(u64),
    /// Least speedup of a token's products with all linear layers, over `dense`.
    Speedup(f64),
    /// Largest KL divergence from the unquantized model, nats per token.
    Divergence(f64),
}

/// A quantization method with its scheme.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// `rtn`, `gptq`, `awq` or `hqq`; the list of quantizers in `quantize` decides.
    pub method: String,
    /// Scheme of the linear layers.
    pub weights: WeightScheme,
    /// What happens to their inputs.
    pub activations: InputScheme,
    /// Moves outliers of 8-bit inputs into the weights first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smooth: Option<Smooth>,
    /// Moves what quantization does to the mean of a layer's outputs into its bias, where it has one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias_correction: bool,
    /// Rotates the model first, so that no weight or input stands out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Layers learn to put out what they do in the unquantized network, not what the unquantized layer does for the inputs
    /// that the quantized layers before it put out (GPTAQ).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asymmetric_calibration: bool,
    /// Schemes for single tensors; the last match wins. A head is quantized only by an override.
    pub overrides: Vec<Override>,
    /// Format of everything that is not quantized.
    pub dense: DenseFormat,
}

impl Method {
    /// What of the recipe learns from calibration text, as the file names it; `None` where nothing does.
    pub fn learns(&self) -> Option<&str> {
        let schemes = self.overrides.iter().filter_map(|rule| rule.weights).chain([self.weights]);
        let mut inputs = self.overrides.iter().filter_map(|rule| rule.activations).chain([self.activations]);
        if METHODS.contains(&(&self.method, true)) {
            Some(&self.method)
        } else if self.smooth.is_some() {
            Some("smooth")
        } else if self.bias_correction {
            Some("bias_correction")
        } else if schemes.into_iter().any(|scheme| scheme.observer == Observer::ImatrixMse) {
            Some("imatrix_mse")
        } else {
            inputs.find_map(InputScheme::learns)
        }
    }
}

/// How SmoothQuant chooses its exponent, the share of an outlier that moves into the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smooth {
    /// Input by input, by the error of the layers' outputs.
    Search,
    /// This one, from 0 to 1.
    Alpha(f64),
}

/// How a model is rotated before it is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// By Hadamard matrices with random signs.
    Hadamard,
}

/// Numbers of a quantized tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightScheme {
    /// Bits of a code.
    pub bits: u8,
    /// How many weights share a scale.
    pub granularity: Granularity,
    /// Columns of a group, for [`Granularity::Group`].
    pub group_size: Option<usize>,
    /// No zero points.
    pub symmetric: bool,
    /// How the range of a group's codes is chosen.
    #[serde(default, skip_serializing_if = "Observer::is_min_max")]
    pub observer: Observer,
}

/// How the range that a group's codes cover is chosen, by its names in compressed-tensors' software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observer {
    /// All values are covered.
    #[default]
    #[serde(rename = "minmax")]
    MinMax,
    /// Least mean squared error of the weights.
    Mse,
    /// The same with each weight's error counting by the mean square of its input over calibration text.
    ImatrixMse,
}

impl Observer {
    /// Every observer with its name in a suite.
    pub const NAMED: [(&str, Observer); 3] =
        [("minmax", Observer::MinMax), ("mse", Observer::Mse), ("imatrix_mse", Observer::ImatrixMse)];

    fn is_min_max(&self) -> bool {
        *self == Observer::MinMax
    }
}

impl WeightScheme {
    /// Columns that share a scale in a matrix of `cols` columns.
    pub fn group_size_of(&self, cols: usize) -> usize {
        match self.granularity {
            Granularity::Group => self.group_size.unwrap_or(cols),
            Granularity::Channel | Granularity::Tensor => cols,
        }
    }
}

/// A scheme for the tensors that a pattern names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Module name with `*` for any characters: `lm_head`, `*.down_proj`, `model.layers.0.*`.
    pub tensors: String,
    /// The scheme; `None` leaves the tensor dense.
    pub weights: Option<WeightScheme>,
    /// Input quantization of these tensors; `None` keeps the method's.
    pub activations: Option<InputScheme>,
}

impl Override {
    /// Whether another says the same of its tensors.
    pub(super) fn is_alike(&self, other: &Override) -> bool {
        (self.weights, self.activations) == (other.weights, other.activations)
    }
}
