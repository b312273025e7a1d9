//! What every output shows of a judged run, as plain text ready to be escaped.

use serde::Serialize;

use crate::decide::{Point, judged_metric, judged_speedup, metric_name};
use crate::results::{Estimate, Frontier, Run, VariantResult};
use crate::suite::{AccuracyMetric, MarginOf, Task};
use crate::text;
use crate::units;

/// Stands where a number is missing.
pub(super) const MISSING: &str = "–";

/// One variant of the verdict table, at the judged point and on the rule's task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub name: String,
    pub recipe: String,
    pub reference: bool,
    pub recommended: bool,
    pub perplexity: String,
    /// Increase of perplexity over the reference, percent, and its interval.
    pub increase: String,
    pub increase_interval: String,
    pub token_accuracy: String,
    pub token_accuracy_difference: String,
    pub kl: String,
    /// Share of right picks of a multiple-choice task, its interval, and the change from the reference with its own.
    pub choice: String,
    pub choice_interval: String,
    pub choice_difference: String,
    pub choice_difference_interval: String,
    /// Mean cosine of embeddings to the reference's, its interval, the smallest, and the rank correlation of pairs.
    pub cosine: String,
    pub cosine_interval: String,
    pub worst_cosine: String,
    pub rank_correlation: String,
    pub ttft: String,
    pub tpot: String,
    pub prefill: String,
    pub decode: String,
    pub speedup: String,
    pub speedup_interval: String,
    pub weights: String,
    pub peak_rss: String,
    /// `accept`, `reject`, `inconclusive`, or `reference`.
    pub outcome: String,
    pub reason: String,
    pub frontier: String,
}

/// The answer: which variant to ship, and under which rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Answer {
    pub title: String,
    pub variant: Option<String>,
    pub reason: String,
    pub rule: String,
    /// Each threshold in words.
    pub thresholds: Vec<String>,
    pub confidence: String,
    /// Where the times of the table come from: `batch 1, 2 threads, prompt 128, generate 64`.
    pub point: String,
    /// Whether the suite has a task of this kind, so that its columns are shown.
    pub perplexity: bool,
    pub choice: bool,
    pub similarity: bool,
    /// The workload is an encoder's: TTFT is the latency of a batch, nothing is decoded.
    pub encodes: bool,
    /// Accuracy of guessing at the multiple-choice task: `25.0 %`.
    pub chance: String,
    /// Name of the compared time: `decode`.
    pub metric: &'static str,
    pub reference: String,
    /// One line about the machine.
    pub machine: String,
}

/// Rows in the suite's order.
pub(super) fn rows(run: &Run) -> Vec<Row> {
    run.variants.iter().map(|v| row(run, v)).collect()
}

/// The task of a kind whose numbers the tables show: the rule's own, else the first.
fn shown_task<'r>(run: &'r Run, kind: &str) -> Option<&'r Task> {
    let asked = &run.suite.accept.accuracy.task;
    let of_kind = || run.suite.tasks.iter().filter(|task| task.kind.name() == kind);
    of_kind().find(|task| task.name == *asked).or_else(|| of_kind().next())
}

fn row(run: &Run, variant: &VariantResult) -> Row {
    let accept = &run.suite.accept;
    let score = shown_task(run, "perplexity").and_then(|task| variant.scores.get(&task.name));
    let choice = shown_task(run, "choice").and_then(|task| variant.choices.get(&task.name));
    let similarity = shown_task(run, "similarity").and_then(|task| variant.similarities.get(&task.name));
    let cosine = similarity.and_then(|s| s.cosine_difference.as_ref());
    let decimal = |number: Option<f64>| number.map_or(MISSING.into(), |n| format!("{n:.5}"));
    let choice_difference = choice.and_then(|c| c.accuracy_difference.as_ref());
    let point = Point::judged(&run.suite.workload, accept).of(variant);
    let speedup = judged_speedup(run, variant);
    let increase = score.and_then(|s| s.perplexity_increase.as_ref());
    let verdict = variant.verdict.as_ref();
    let reference = if variant.reference { "reference" } else { "not judged" };
    Row {
        name: text::name(&variant.name),
        recipe: text::one_line(&variant.recipe),
        reference: variant.reference,
        recommended: run.recommendation.variant.as_ref() == Some(&variant.name),
        perplexity: score.map_or(MISSING.into(), |s| format!("{:.2}", s.perplexity)),
        increase: point_of(increase),
        increase_interval: interval_of(increase),
        token_accuracy: score.map_or(MISSING.into(), |s| format!("{:.2} %", 100.0 * s.token_accuracy)),
        token_accuracy_difference: point_of(score.and_then(|s| s.token_accuracy_difference.as_ref())),
        kl: score.and_then(|s| s.kl.as_ref()).map_or(MISSING.into(), |e| format!("{:.4}", e.value)),
        choice: point_of(choice.map(|c| &c.accuracy)),
        choice_interval: interval_of(choice.map(|c| &c.accuracy)),
        choice_difference: point_of(choice_difference),
        choice_difference_interval: interval_of(choice_difference),
        cosine: decimal(similarity.map(|s| s.mean_cosine)),
        cosine_interval: shifted_interval(cosine),
        worst_cosine: decimal(similarity.map(|s| s.worst_cosine)),
        rank_correlation: decimal(similarity.and_then(|s| s.rank_correlation)),
        ttft: point_of(point.map(|p| &p.ttft)),
        tpot: point_of(point.and_then(|p| p.tpot.as_ref())),
        prefill: point.map_or(MISSING.into(), |p| format!("{:.1}", p.prefill_rate.value)),
        decode: point.and_then(|p| p.decode_rate.as_ref()).map_or(MISSING.into(), |rate| format!("{:.1}", rate.value)),
        speedup: point_of(speedup),
        speedup_interval: interval_of(speedup),
        weights: variant.memory.map_or(MISSING.into(), |m| units::bytes(m.weight_bytes)),
        peak_rss: variant.memory.and_then(|m| m.peak_rss).map_or(MISSING.into(), units::bytes),
        outcome: verdict.map_or(reference.into(), |v| v.outcome.to_string()),
        reason: verdict.map_or(String::new(), |v| text::one_line(&v.reason)),
        frontier: frontier(variant),
    }
}

fn point_of(estimate: Option<&Estimate>) -> String {
    estimate.map_or(MISSING.into(), Estimate::point)
}

fn interval_of(estimate: Option<&Estimate>) -> String {
    estimate.and_then(Estimate::interval).unwrap_or_default()
}

/// The interval of a mean cosine, from that of its difference from 1.
fn shifted_interval(difference: Option<&Estimate>) -> String {
    let bounds = difference.and_then(|e| e.low.zip(e.high));
    bounds.map_or(String::new(), |(low, high)| format!("[{:.5}, {:.5}]", 1.0 + low, 1.0 + high))
}

/// Place on the frontier in words.
pub(super) fn frontier(variant: &VariantResult) -> String {
    let place = place(&variant.frontier);
    match variant.frontier_probability {
        Some(share) => format!("{place} (on it in {:.0} % of joint draws)", 100.0 * share),
        None => place,
    }
}

fn place(place: &Frontier) -> String {
    let list = |by: &[String]| by.iter().map(|n| text::name(n)).collect::<Vec<_>>().join(", ");
    match place {
        Frontier::On => "on the Pareto frontier".into(),
        Frontier::Dominated { by } => format!("dominated by {}", list(by)),
        Frontier::DominatedWithinNoise { by } => format!("dominated within noise by {}", list(by)),
        Frontier::Unknown => "place on the frontier unknown".into(),
    }
}

/// `1 thread`, `2 threads`.
pub(super) fn threads(count: usize) -> String {
    format!("{count} {}", if count == 1 { "thread" } else { "threads" })
}

/// The answer of a run.
pub(super) fn answer(run: &Run) -> Answer {
    let accept = &run.suite.accept;
    let workload = &run.suite.workload;
    let point = Point::judged(workload, accept);
    let threads = threads(point.threads);
    Answer {
        title: text::one_line(&run.suite.title),
        variant: run.recommendation.variant.as_deref().map(text::name),
        reason: text::one_line(&run.recommendation.reason),
        rule: text::one_line(&accept.rule),
        thresholds: thresholds(run),
        confidence: format!("{} %", 100.0 * accept.confidence),
        point: match workload.encodes() {
            true => format!("batch {}, {threads}, {} tokens a sequence", point.batch, workload.prompt),
            false => {
                format!("batch {}, {threads}, prompt {}, generate {}", point.batch, workload.prompt, workload.generate)
            }
        },
        perplexity: shown_task(run, "perplexity").is_some(),
        choice: shown_task(run, "choice").is_some(),
        similarity: shown_task(run, "similarity").is_some(),
        encodes: workload.encodes(),
        chance: chance(run),
        metric: metric_name(judged_metric(&run.suite.workload, accept)),
        reference: text::name(&run.suite.reference),
        machine: machine(run),
    }
}

fn chance(run: &Run) -> String {
    let task = shown_task(run, "choice").map(|task| &task.name);
    let found = task.and_then(|task| run.variants.iter().find_map(|v| v.choices.get(task)));
    found.map_or(MISSING.into(), |choice| format!("{:.1} %", 100.0 * choice.chance))
}

fn thresholds(run: &Run) -> Vec<String> {
    let accept = &run.suite.accept;
    let task = text::one_line(&accept.accuracy.task);
    let mut thresholds = vec![match accept.accuracy.metric {
        AccuracyMetric::TokenAccuracy { max_drop_points } => {
            format!("accuracy: token accuracy drops by at most {max_drop_points} points on task {task}")
        }
        AccuracyMetric::Perplexity { max_increase_percent } => {
            format!("accuracy: perplexity rises by at most {max_increase_percent} % on task {task}")
        }
        AccuracyMetric::Accuracy { max_drop_points } => {
            format!("accuracy: the share of right picks drops by at most {max_drop_points} points on task {task}")
        }
        AccuracyMetric::AccuracyNorm { max_drop_points } => format!(
            "accuracy: the share of right picks by log-likelihood per token drops by at most {max_drop_points} points \
             on task {task}"
        ),
        AccuracyMetric::LogLikelihood { max_drop } => {
            format!("accuracy: mean log-likelihood drops by at most {max_drop} nats on task {task}")
        }
        AccuracyMetric::Similarity { max_drop } => {
            format!("accuracy: the mean cosine to the reference is at least 1 - {max_drop} on task {task}")
        }
    }];
    if let (Some(margin), Some(first)) = (accept.accuracy.relative, thresholds.first_mut()) {
        let of = match margin.of {
            MarginOf::Accuracy => "right",
            MarginOf::Errors => "wrong",
        };
        first.push_str(&format!(", which are {} % of the reference's {of} answers", margin.percent));
    }
    if let Some(limit) = &accept.speed {
        thresholds.push(format!("speed: {} at least {}x", metric_name(limit.metric), limit.min_speedup));
    }
    if let Some(limit) = &accept.memory {
        thresholds.push(format!("memory: {} at most {}", memory_name(run), units::bytes(limit.max_bytes)));
    }
    thresholds
}

/// Name of the memory that the rule judges; `weights` where it judges none.
pub(super) fn memory_name(run: &Run) -> &'static str {
    use crate::suite::MemoryMetric::{File, PeakRss, Weights};
    match run.suite.accept.memory.as_ref().map(|m| m.metric) {
        Some(PeakRss) => "peak RSS",
        Some(File) => "file",
        Some(Weights) | None => "weights",
    }
}

fn machine(run: &Run) -> String {
    let machine = &run.machine;
    let virtual_machine = if machine.virtual_machine == Some(true) { ", virtual machine" } else { "" };
    text::one_line(&format!(
        "{}, {} cores, {} memory, kernels for {}{virtual_machine}; {}; {} blocks",
        machine.cpu,
        machine.cores,
        units::bytes(machine.memory_bytes),
        machine.isa,
        machine.os,
        run.blocks
    ))
}
