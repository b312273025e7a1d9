//! Estimates of a judged run: accuracy by task, speed by point of the workload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::PhaseProfile;

/// Unit of an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Tokens per second.
    TokensPerSecond,
    /// Ratio (1 = equal).
    Ratio,
    /// Nats per token.
    Nats,
    /// Percentage points.
    Points,
    /// Percent.
    Percent,
    /// Share between 0 and 1.
    Share,
    /// Perplexity.
    Perplexity,
    /// Difference of cosines.
    Cosine,
    /// Joules.
    Joules,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Higher is better.
    Higher,
    /// Lower is better.
    Lower,
}

/// Point and interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Point.
    pub value: f64,
    /// Lower bound; `None` where there is too little data for an interval.
    pub low: Option<f64>,
    /// Upper bound.
    pub high: Option<f64>,
    /// Two-sided confidence of the interval.
    pub confidence: f64,
    /// Unit of all three.
    pub unit: Unit,
    /// Which way is better.
    pub direction: Direction,
    /// Independent units behind it (blocks, documents).
    pub n: usize,
    /// How it was made: `student-t of paired log ratios over blocks`.
    pub method: String,
}

/// A variant's accuracy on a task, against the reference on the same windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreEstimates {
    /// Perplexity.
    pub perplexity: f64,
    /// Sum of negative log-likelihood, nats.
    pub nll: f64,
    /// Predicted tokens.
    pub tokens: usize,
    /// Increase of perplexity over the reference, percent, with a cluster-robust interval over documents.
    pub perplexity_increase: Option<Estimate>,
    /// Mean log-likelihood per token minus the reference's, nats (negative is worse).
    pub log_likelihood_difference: Option<Estimate>,
    /// Share of tokens predicted right.
    pub token_accuracy: f64,
    /// Difference of token accuracy from the reference, points.
    pub token_accuracy_difference: Option<Estimate>,
    /// Mean KL(reference || variant) per token.
    pub kl: Option<Estimate>,
    /// Quantiles of per-token KL: p50, p90, p99, p999, max.
    pub kl_quantiles: Option<[f64; 5]>,
    /// Share of tokens whose most likely prediction equals the reference's.
    pub agreement: Option<f64>,
    /// Tokens lost and won against the reference.
    pub flips: Option<(usize, usize)>,
    /// Root of the mean squared difference of the true token's probability from the reference's, points.
    #[serde(default)]
    pub rms_probability_difference: Option<Estimate>,
    /// Greedy generations against the reference's, where any were made.
    #[serde(default)]
    pub generations: Option<GenerationEstimates>,
    /// By genre, where the data names any.
    #[serde(default)]
    pub genres: Vec<GenrePerplexity>,
}

/// Greedy generations from the same prompts as the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationEstimates {
    /// Prompts.
    pub prompts: usize,
    /// Generations that the model itself ended.
    pub ended: usize,
    /// Generations that repeat one passage at their end.
    pub in_circles: usize,
    /// Generated tokens over the reference's.
    pub length_ratio: Option<f64>,
}

/// One variant made of several draws of calibration windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationDraws {
    /// The rule's difference from the reference, draw by draw; the first is the variant's own.
    pub differences: Vec<Estimate>,
    /// Standard deviation of their points: what the draw alone changes, on one and the same text.
    pub deviation: f64,
    /// Draws that failed.
    pub failures: Vec<String>,
}

/// Perplexity on one genre.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenrePerplexity {
    /// Name.
    pub name: String,
    /// Predicted tokens.
    pub tokens: usize,
    /// Perplexity.
    pub perplexity: f64,
}

/// Accuracy on one genre.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenreAccuracy {
    /// Name.
    pub name: String,
    /// Items.
    pub items: usize,
    /// Share of right picks.
    pub accuracy: Estimate,
}

/// A variant's accuracy on a multiple-choice task, against the reference on the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceEstimates {
    /// Items.
    pub items: usize,
    /// Accuracy of guessing: mean of 1 / continuations.
    pub chance: f64,
    /// Share of right picks by log-likelihood.
    pub accuracy: Estimate,
    /// Share of right picks by log-likelihood per token.
    pub accuracy_norm: Estimate,
    /// Difference of `accuracy` from the reference, points.
    pub accuracy_difference: Option<Estimate>,
    /// Difference of `accuracy_norm` from the reference, points.
    pub accuracy_norm_difference: Option<Estimate>,
    /// `accuracy_difference` by Newcombe's method 10, which takes items as independent; a check, not judged.
    #[serde(default)]
    pub accuracy_difference_newcombe: Option<Estimate>,
    /// Items lost and won against the reference.
    pub flips: Option<(usize, usize)>,
    /// McNemar's mid-p value that as many were lost as won, items taken as independent.
    #[serde(default)]
    pub mcnemar_p: Option<f64>,
    /// By genre, where the data names any.
    pub genres: Vec<GenreAccuracy>,
}

/// How close an encoder's embeddings of sentences are to the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimilarityEstimates {
    /// Sentences.
    pub sentences: usize,
    /// Mean cosine to the reference's embedding of the same sentence.
    pub mean_cosine: f64,
    /// Smallest cosine of any sentence.
    pub worst_cosine: f64,
    /// `mean_cosine` minus 1, with its interval.
    pub cosine_difference: Option<Estimate>,
    /// Spearman's rank correlation of the similarities of pairs of sentences with the reference's.
    pub rank_correlation: Option<f64>,
}

/// Speed at one point of the workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointEstimates {
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Slots measured.
    pub slots: usize,
    /// Time to first token; for an encoder the time of a batch.
    pub ttft: Estimate,
    /// Time per output token after the first; `None` for an encoder.
    pub tpot: Option<Estimate>,
    /// Prompt tokens per second; for an encoder tokens per second.
    pub prefill_rate: Estimate,
    /// Generated tokens per second after the first; `None` for an encoder.
    pub decode_rate: Option<Estimate>,
    /// Speedups over the reference, Student-t on paired log ratios, by metric: `prefill`, `decode`, `total`; for an
    /// encoder `latency`.
    pub speedup: BTreeMap<String, Estimate>,
    /// The same by Hodges-Lehmann with the exact signed-rank interval.
    pub speedup_hodges_lehmann: BTreeMap<String, Estimate>,
    /// Energy of the processor packages for each token, where the machine tells it.
    #[serde(default)]
    pub energy_per_token: Option<Estimate>,
    /// Where the time goes, phase by phase, in one profiled iteration.
    #[serde(default)]
    pub phases: Vec<PhaseProfile>,
}
