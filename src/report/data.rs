//! What the page's scripts read: one JSON value with the rule, the turning points of every candidate and the numbers
//! that the chart's axes offer. The scripts hold no number of their own.

use serde::Serialize;

use super::view;
use crate::decide::{Point, accuracy_question, judged_metric, judged_speedup, metric_name, metrics};
use crate::results::{Estimate, Outcome, Run, TurningPoints, VariantResult};
use crate::suite::{AccuracyMetric, MemoryMetric};
use crate::text::name;

/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// The JSON value.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    rule: String,
    reference: String,
    /// dAcc_max, S_min, M_max; the last two where the suite sets them.
    limits: Vec<Limit>,
    variants: Vec<Candidate>,
    measures: Vec<Measure>,
    /// Axes shown first, as indices of `measures`.
    x: usize,
    y: usize,
    /// The number that is shown as an area.
    area: Option<usize>,
}

/// A threshold with the range of its slider.
#[derive(Debug, Serialize)]
struct Limit {
    /// `accuracy`, `speed` or `memory`.
    question: &'static str,
    symbol: &'static str,
    /// What is limited: `perplexity rises by at most`.
    text: String,
    unit: &'static str,
    /// Shown number times this is the threshold of the rule (bytes of a MiB).
    scale: f64,
    value: f64,
    most: f64,
    /// `accept` key of `bench report RUN --accept KEY=VALUE`.
    key: &'static str,
}

/// A variant as the rule and the recommendation see it.
#[derive(Debug, Serialize)]
struct Candidate {
    name: String,
    reference: bool,
    outcome: Option<Outcome>,
    turning: TurningPoints,
    reason: String,
    frontier: String,
    /// Value of the speedup that is compared.
    speedup: Option<f64>,
    weights: Option<u64>,
    /// The rule's accuracy difference; higher is better.
    accuracy: Option<f64>,
    /// Candidates that are not proven slower than this one, by index.
    not_proven_slower: Vec<usize>,
}

/// A number that every variant may have: an axis.
#[derive(Debug, Serialize)]
struct Measure {
    label: String,
    unit: &'static str,
    /// Higher is better.
    higher: bool,
    /// The question whose threshold is drawn on this axis, and the factor from threshold to axis.
    limit: Option<(&'static str, f64)>,
    /// Value, lower and upper bound of every variant, in the order of `variants`.
    values: Vec<Option<Bounded>>,
}

/// Value, lower bound, upper bound.
type Bounded = (f64, Option<f64>, Option<f64>);

/// The data of a run as JSON that is inert inside a `<script>` element.
pub(super) fn json(run: &Run) -> serde_json::Result<String> {
    let measures = measures(run);
    let axis = |question: &str, other: usize| {
        measures.iter().position(|m| m.limit.is_some_and(|(q, _)| q == question)).unwrap_or(other)
    };
    let speedup = metric_name(judged_metric(&run.suite.workload, &run.suite.accept));
    let fastest = measures.iter().position(|m| m.label.starts_with(&format!("{speedup} speedup"))).unwrap_or(0);
    let (x, y) = (axis("speed", fastest), axis("accuracy", 0));
    // The third of what the rule weighs up, on no other axis.
    let area = measures.iter().position(|m| m.label == view::memory_name(run)).filter(|at| ![x, y].contains(at));
    let data = Data {
        rule: run.suite.accept.rule.split_whitespace().collect::<Vec<_>>().join(" "),
        reference: name(&run.suite.reference),
        limits: limits(run),
        variants: run.variants.iter().map(|v| candidate(run, v)).collect(),
        measures,
        x,
        y,
        area,
    };
    // `<` cannot end the element, and no line separator can end a line of a script.
    let json = serde_json::to_string(&data)?;
    let escaped =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    Ok(escaped.into_iter().fold(json, |json, (c, code)| json.replace(c, code)))
}

fn candidate(run: &Run, variant: &VariantResult) -> Candidate {
    let accept = &run.suite.accept;
    let at = |name: &String| run.variants.iter().position(|v| v.name == *name);
    let sign = if accept.accuracy.metric.rises_with_loss() { -1.0 } else { 1.0 };
    Candidate {
        name: name(&variant.name),
        reference: variant.reference,
        outcome: variant.verdict.as_ref().map(|v| v.outcome),
        turning: variant.turning_points,
        reason: variant.verdict.as_ref().map_or(String::new(), |v| crate::text::one_line(&v.reason)),
        frontier: view::frontier(variant),
        speedup: judged_speedup(run, variant).map(|e| e.value),
        weights: variant.memory.map(|m| m.weight_bytes),
        accuracy: accuracy_question(&accept.accuracy, variant).estimate.map(|e| sign * e.value),
        not_proven_slower: variant.not_proven_slower.iter().filter_map(at).collect(),
    }
}

fn limits(run: &Run) -> Vec<Limit> {
    let accept = &run.suite.accept;
    let turning =
        |of: fn(&TurningPoints) -> Option<f64>| run.variants.iter().filter_map(move |v| of(&v.turning_points));
    // As far as the slowest to change among those that are not far beyond the threshold.
    let most = |value: f64, turns: &mut dyn Iterator<Item = f64>| {
        turns.filter(|t| *t <= 8.0 * value).fold(2.0 * value, |most, t| most.max(1.15 * t))
    };
    let value = accept.accuracy.metric.margin();
    let (unit, text) = accuracy_limit(run);
    let mut limits = vec![Limit {
        question: "accuracy",
        symbol: "dAcc_max",
        text: text.into(),
        unit,
        scale: 1.0,
        value,
        most: most(value, &mut turning(|t| t.accuracy.map(|t| t.yes))),
        key: accept.accuracy.metric.margin_key(),
    }];
    limits.extend(accept.speed.as_ref().map(|limit| Limit {
        question: "speed",
        symbol: "S_min",
        text: format!("{} is faster by at least", metric_name(limit.metric)),
        unit: "x",
        scale: 1.0,
        value: limit.min_speedup,
        most: most(limit.min_speedup, &mut turning(|t| t.speed.map(|t| t.no))),
        key: "min_speedup",
    }));
    limits.extend(accept.memory.as_ref().map(|limit| {
        let value = limit.max_bytes as f64 / MIB;
        Limit {
            question: "memory",
            symbol: "M_max",
            text: format!("{} take at most", view::memory_name(run)),
            unit: "MiB",
            scale: MIB,
            value,
            most: most(value, &mut turning(|t| t.memory.map(|t| t.yes / MIB))),
            key: "max_memory",
        }
    }));
    limits
}

/// Unit and words of dAcc_max.
fn accuracy_limit(run: &Run) -> (&'static str, &'static str) {
    match run.suite.accept.accuracy.metric {
        AccuracyMetric::TokenAccuracy { .. } => ("points", "token accuracy drops by at most"),
        AccuracyMetric::Accuracy { .. } => ("points", "accuracy drops by at most"),
        AccuracyMetric::AccuracyNorm { .. } => ("points", "accuracy per token drops by at most"),
        AccuracyMetric::Perplexity { .. } => ("%", "perplexity rises by at most"),
        AccuracyMetric::LogLikelihood { .. } => ("nats", "log-likelihood drops by at most"),
        AccuracyMetric::Similarity { .. } => ("", "mean cosine drops by at most"),
    }
}

/// Every axis: the times of every point, memory of every kind, every task's metrics.
fn measures(run: &Run) -> Vec<Measure> {
    let mut all = Vec::new();
    let workload = &run.suite.workload;
    let judged = Point::judged(workload, &run.suite.accept);
    let points = workload.batch.iter().flat_map(|b| workload.threads.iter().map(|t| Point { batch: *b, threads: *t }));
    for point in points {
        times(run, point, point == judged, &mut all);
    }
    memories(run, &mut all);
    accuracies(run, &mut all);
    all.retain(|measure| measure.values.iter().flatten().count() > 0);
    all
}

/// An axis of estimates, which the reference has where `own` gives its value.
fn measure<'r>(
    run: &'r Run,
    (label, unit, higher): (String, &'static str, bool),
    (scale, own): (f64, Option<f64>),
    of: impl Fn(&'r VariantResult) -> Option<&'r Estimate>,
) -> Measure {
    let value = |v: &'r VariantResult| {
        let reference = own.filter(|_| v.reference).map(|own| (own, None, None));
        let scaled = |e: &Estimate| (scale * e.value, e.low.map(|l| scale * l), e.high.map(|h| scale * h));
        reference.or_else(|| of(v).map(scaled)).filter(|(value, ..)| value.is_finite())
    };
    Measure { label, unit, higher, limit: None, values: run.variants.iter().map(value).collect() }
}

fn times(run: &Run, point: Point, judged: bool, all: &mut Vec<Measure>) {
    let workload = &run.suite.workload;
    let at = format!("batch {}, {}", point.batch, view::threads(point.threads));
    let of = |v| point.of(v);
    for metric in metrics(workload) {
        let metric = metric_name(*metric);
        let label = format!("{metric} speedup, {at}");
        let mut speedup = measure(run, (label, "x", true), (1.0, Some(1.0)), |v| of(v)?.speedup.get(metric));
        let rule = run.suite.accept.speed.as_ref().filter(|s| judged && metric_name(s.metric) == metric);
        speedup.limit = rule.map(|_| ("speed", 1.0));
        all.push(speedup);
    }
    let energy = (format!("energy of a token, {at}"), "mJ", false);
    all.push(measure(run, energy, (1e3, None), |v| of(v)?.energy_per_token.as_ref()));
    if workload.encodes() {
        all.push(measure(run, (format!("latency, {at}"), "ms", false), (1e3, None), |v| Some(&of(v)?.ttft)));
        return;
    }
    all.push(measure(run, (format!("TTFT, {at}"), "ms", false), (1e3, None), |v| Some(&of(v)?.ttft)));
    all.push(measure(run, (format!("TPOT, {at}"), "ms", false), (1e3, None), |v| of(v)?.tpot.as_ref()));
    let rate = |what: &str| (format!("{what} rate, {at}"), "tok/s", true);
    all.push(measure(run, rate("prefill"), (1.0, None), |v| Some(&of(v)?.prefill_rate)));
    all.push(measure(run, rate("decode"), (1.0, None), |v| of(v)?.decode_rate.as_ref()));
}

fn memories(run: &Run, all: &mut Vec<Measure>) {
    let limit = run.suite.accept.memory.as_ref().map(|m| m.metric);
    let mut kind = |label: &str, metric: Option<MemoryMetric>, of: fn(&VariantResult) -> Option<u64>| {
        let value = |v| of(v).map(|bytes| (bytes as f64 / MIB, None, None));
        let limit = metric.filter(|m| Some(*m) == limit).map(|_| ("memory", 1.0 / MIB));
        let values = run.variants.iter().map(value).collect();
        all.push(Measure { label: label.into(), unit: "MiB", higher: false, limit, values });
    };
    kind("weights", Some(MemoryMetric::Weights), |v| Some(v.memory?.weight_bytes));
    kind("peak RSS", Some(MemoryMetric::PeakRss), |v| v.memory?.peak_rss);
    kind("file", Some(MemoryMetric::File), |v| Some(v.artefact.as_ref()?.file_bytes));
    kind("KV cache", None, |v| Some(v.memory?.kv_bytes));
}

/// An estimate of an accuracy on a task, as an axis.
struct Accuracy {
    /// Name of the metric in a suite's rule; empty where no rule takes it.
    metric: &'static str,
    label: &'static str,
    unit: &'static str,
    higher: bool,
    scale: f64,
    /// What the reference has against itself.
    own: Option<f64>,
    of: for<'v> fn(&'v VariantResult, &str) -> Option<&'v Estimate>,
}

const ACCURACIES: [Accuracy; 9] = [
    accuracy("perplexity", "increase of perplexity", "%", false, |v, t| v.scores.get(t)?.perplexity_increase.as_ref()),
    accuracy("token_accuracy", "change of token accuracy", "points", true, |v, t| {
        v.scores.get(t)?.token_accuracy_difference.as_ref()
    }),
    accuracy("log_likelihood", "change of log-likelihood", "nats", true, |v, t| {
        v.scores.get(t)?.log_likelihood_difference.as_ref()
    }),
    accuracy("", "KL from the reference", "nats", false, |v, t| v.scores.get(t)?.kl.as_ref()),
    accuracy("accuracy", "change of accuracy", "points", true, |v, t| v.choices.get(t)?.accuracy_difference.as_ref()),
    accuracy("accuracy_norm", "change of accuracy per token", "points", true, |v, t| {
        v.choices.get(t)?.accuracy_norm_difference.as_ref()
    }),
    share("accuracy", |v, t| Some(&v.choices.get(t)?.accuracy)),
    share("accuracy per token", |v, t| Some(&v.choices.get(t)?.accuracy_norm)),
    accuracy("similarity", "mean cosine less 1", "", true, |v, t| v.similarities.get(t)?.cosine_difference.as_ref()),
];

const fn accuracy(
    metric: &'static str,
    label: &'static str,
    unit: &'static str,
    higher: bool,
    of: for<'v> fn(&'v VariantResult, &str) -> Option<&'v Estimate>,
) -> Accuracy {
    Accuracy { metric, label, unit, higher, scale: 1.0, own: Some(0.0), of }
}

const fn share(label: &'static str, of: for<'v> fn(&'v VariantResult, &str) -> Option<&'v Estimate>) -> Accuracy {
    Accuracy { metric: "", label, unit: "%", higher: true, scale: 100.0, own: None, of }
}

fn accuracies(run: &Run, all: &mut Vec<Measure>) {
    let rule = &run.suite.accept.accuracy;
    let sign = if rule.metric.rises_with_loss() { 1.0 } else { -1.0 };
    for (task, kind) in run.suite.tasks.iter().flat_map(|t| ACCURACIES.iter().map(move |kind| (&t.name, kind))) {
        let label = format!("{}, task {}", kind.label, crate::text::one_line(task));
        let values = (kind.scale, kind.own);
        let mut axis = measure(run, (label, kind.unit, kind.higher), values, |v| (kind.of)(v, task));
        let scored = axis.values.iter().zip(&run.variants).any(|(value, v)| !v.reference && value.is_some());
        let judged = *task == rule.task && kind.metric == rule.metric.key();
        axis.limit = judged.then_some(("accuracy", sign));
        if scored {
            all.push(axis);
        }
    }
}
