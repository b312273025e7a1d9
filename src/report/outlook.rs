//! What lies beyond the answer, in sentences: thresholds that would change it, what more accuracy costs, the suite's
//! score, what to try next.

use serde::Serialize;

use crate::decide::{judged_metric, metric_name};
use crate::results::{Attempt, Change, Price, Run};
use crate::suite::AccuracyMetric;
use crate::text::{name, one_line};
use crate::units;

/// Everything beyond the answer.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    /// Thresholds at which another variant, or none, would be recommended.
    pub changes: Vec<String>,
    pub price: Option<String>,
    pub score: Option<String>,
    /// (why, entry for the suite file).
    pub attempts: Vec<(String, String)>,
}

/// The outlook of a run.
pub(super) fn outlook(run: &Run) -> Outlook {
    let recommendation = &run.recommendation;
    let attempt =
        |a: &Attempt| (one_line(&a.why), a.entry.lines().map(one_line_indented).collect::<Vec<_>>().join("\n"));
    Outlook {
        changes: recommendation.changes.iter().map(|change| sentence(run, change)).collect(),
        price: recommendation.variant.as_ref().map(|_| price(run, recommendation.price.as_ref())),
        score: run.hypervolume.map(|volume| {
            format!(
                "The variants dominate {:.3} [{:.3}, {:.3}] of the box between no loss, no time, no weights and {} at \
                 twice dAcc_max (hypervolume; brackets are the middle 90 % of joint draws)",
                volume.value,
                volume.low,
                volume.high,
                name(&run.suite.reference)
            )
        }),
        attempts: recommendation.attempts.iter().map(attempt).collect(),
    }
}

/// A line of a suite entry, harmless, with its indentation.
fn one_line_indented(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    format!("{}{}", " ".repeat(indent), one_line(line))
}

fn sentence(run: &Run, change: &Change) -> String {
    let (symbol, at) = match change.threshold.as_str() {
        "min_speedup" => ("S_min", format!("{:.3}x", change.at)),
        "max_memory" => ("M_max", units::bytes(change.at as u64)),
        _ => ("dAcc_max", format!("{} {}", significant(change.at), unit(run))),
    };
    let then = match &change.variant {
        Some(variant) => format!("ship {}", name(variant)),
        None => "nothing would be proven to ship".into(),
    };
    let when = if change.looser { "at or looser than" } else { "stricter than" };
    format!("{symbol} {when} {}: {then}", at.trim_end())
}

/// About three digits.
fn significant(value: f64) -> String {
    let digits = if value > 0.0 { (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize } else { 0 };
    format!("{value:.digits$}")
}

fn unit(run: &Run) -> &'static str {
    match run.suite.accept.accuracy.metric {
        AccuracyMetric::Perplexity { .. } => "%",
        AccuracyMetric::TokenAccuracy { .. }
        | AccuracyMetric::Accuracy { .. }
        | AccuracyMetric::AccuracyNorm { .. } => "points",
        AccuracyMetric::LogLikelihood { .. } => "nats",
        AccuracyMetric::Similarity { .. } => "",
    }
}

/// The step in which accuracy is priced: 0.1 of percent and points, 0.001 of the small units.
fn step(run: &Run) -> f64 {
    if matches!(unit(run), "%" | "points") { 0.1 } else { 0.001 }
}

fn price(run: &Run, price: Option<&Price>) -> String {
    let Some(price) = price else { return "No variant on the frontier is more accurate".into() };
    let share = step(run) / price.gain;
    let metric = metric_name(judged_metric(&run.suite.workload, &run.suite.accept));
    let time = match price.time_ratio {
        Some(ratio) => format!("{:+.1} % of {metric} time", 100.0 * (ratio.powf(share) - 1.0)),
        None => format!("an unknown change of {metric} time"),
    };
    let more = share * price.more_weight_bytes as f64;
    let sign = if more < 0.0 { "-" } else { "+" };
    format!(
        "Toward {}, the next more accurate variant on the frontier ({} {} better), every {} {} cost {time} and {sign}{} \
         of weights",
        name(&price.variant),
        significant(price.gain),
        unit(run),
        step(run),
        unit(run),
        units::bytes(more.abs() as u64)
    )
}
