//! The rule's questions, answered for one variant, each with the numbers that decided.

use super::Case;
use super::rule::Rule;
use super::scores::{LEAST_CLUSTERS, same_questions};
use super::timings::{metric_name, speedups};
use crate::results::{Answer, Answers, Estimate, Outcome, VariantResult, Verdict};
use crate::suite::{AccuracyLimit, AccuracyMetric, MemoryLimit, MemoryMetric, SpeedLimit};
use crate::units;

/// An answer with its reason: `decode 2.31x [2.25, 2.38] >= 1.5x: yes`.
type Reasoned = (Answer, String);

/// Verdict over a candidate; `timing_fault` is why no timing of this run can answer anything, if so.
pub(super) fn verdict(case: &Case<'_>, variant: &VariantResult, timing_fault: Option<&str>) -> Verdict {
    if !variant.failures.is_empty() {
        let reason = format!("failed: {}", variant.failures.join("; "));
        return Verdict { outcome: Outcome::Inconclusive, answers: None, reason };
    }
    let accuracy = accuracy(case, variant);
    let speed = case.accept.speed.as_ref().map(|limit| speed(case, variant, limit, timing_fault));
    let memory = case.accept.memory.as_ref().map(|limit| memory(variant, limit));
    let reasons = [Some(&accuracy), speed.as_ref(), memory.as_ref()];
    let mut reason = reasons.into_iter().flatten().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>().join("; ");
    let answers = Answers {
        accuracy: accuracy.0,
        speed: speed.map(|(answer, _)| answer),
        memory: memory.map(|(answer, _)| answer),
    };
    let outcome = match Rule::parse(&case.accept.rule) {
        Some(rule) => rule.outcome(&answers),
        None => {
            reason = format!("the rule `{}` is of no known form; {reason}", case.accept.rule);
            Outcome::Inconclusive
        }
    };
    Verdict { outcome, answers: Some(answers), reason }
}

fn unknown(what: &str, why: impl AsRef<str>) -> Reasoned {
    (Answer::Unknown, format!("{what}: unknown ({})", why.as_ref()))
}

/// The rule's accuracy as a difference from the reference.
pub struct AccuracyQuestion<'v> {
    /// Name of the metric.
    pub name: &'static str,
    /// The difference; `None` where it is not known.
    pub estimate: Option<&'v Estimate>,
    /// Threshold in the estimate's unit, with the sign of a difference.
    pub threshold: f64,
    /// Unit for messages.
    pub unit: &'static str,
}

/// The accuracy question of a rule for one variant.
pub fn accuracy_question<'v>(limit: &AccuracyLimit, variant: &'v VariantResult) -> AccuracyQuestion<'v> {
    let score = variant.scores.get(&limit.task);
    let choice = variant.choices.get(&limit.task);
    let similarity = variant.similarities.get(&limit.task);
    let (name, estimate, threshold, unit) = match limit.metric {
        AccuracyMetric::TokenAccuracy { max_drop_points: max } => {
            ("token accuracy", score.map(|s| &s.token_accuracy_difference), -max, " points")
        }
        AccuracyMetric::Perplexity { max_increase_percent: max } => {
            ("perplexity", score.map(|s| &s.perplexity_increase), max, " %")
        }
        AccuracyMetric::LogLikelihood { max_drop: max } => {
            ("log-likelihood", score.map(|s| &s.log_likelihood_difference), -max, " nats")
        }
        AccuracyMetric::Accuracy { max_drop_points: max } => {
            ("accuracy", choice.map(|c| &c.accuracy_difference), -max, " points")
        }
        AccuracyMetric::AccuracyNorm { max_drop_points: max } => {
            ("accuracy per token", choice.map(|c| &c.accuracy_norm_difference), -max, " points")
        }
        AccuracyMetric::Similarity { max_drop: max } => {
            ("cosine to the reference less 1", similarity.map(|s| &s.cosine_difference), -max, "")
        }
    };
    AccuracyQuestion { name, estimate: estimate.and_then(Option::as_ref), threshold, unit }
}

fn accuracy(case: &Case<'_>, variant: &VariantResult) -> Reasoned {
    let limit = &case.accept.accuracy;
    let task = &limit.task;
    if let Some(fault) = case.reference_fault() {
        return unknown("accuracy", fault);
    }
    let evidence = (case.of(&variant.name).scores.get(task), case.reference.scores.get(task));
    let (Some(score), Some(reference)) = evidence else {
        let who = if evidence.0.is_none() { "not scored" } else { "the reference is not scored" };
        return unknown("accuracy", format!("{who} on task {task}"));
    };
    if let Err(difference) = same_questions(score, reference) {
        return unknown("accuracy", difference);
    }
    let AccuracyQuestion { name, estimate, threshold, unit } = accuracy_question(limit, variant);
    let Some(estimate) = estimate else {
        return unknown(name, "the score or the reference's is not a number");
    };
    if estimate.low.is_none() {
        let n = estimate.n;
        return unknown(
            name,
            format!("{estimate}; no interval from {n} documents, at least {LEAST_CLUSTERS} are needed"),
        );
    }
    let higher = !matches!(limit.metric, AccuracyMetric::Perplexity { .. });
    let answer = against(estimate, threshold, higher);
    let sign = if higher { ">=" } else { "<=" };
    (answer, format!("{name} {estimate} {sign} {threshold}{unit}: {answer}"))
}

/// Yes when the whole interval is on the good side of the threshold, no when it is wholly on the bad side.
fn against(estimate: &Estimate, threshold: f64, higher_is_better: bool) -> Answer {
    match (estimate.low, estimate.high) {
        (Some(low), _) if higher_is_better && low >= threshold => Answer::Yes,
        (_, Some(high)) if higher_is_better && high < threshold => Answer::No,
        (_, Some(high)) if !higher_is_better && high <= threshold => Answer::Yes,
        (Some(low), _) if !higher_is_better && low > threshold => Answer::No,
        _ => Answer::Unknown,
    }
}

fn speed(case: &Case<'_>, variant: &VariantResult, limit: &SpeedLimit, timing_fault: Option<&str>) -> Reasoned {
    let name = metric_name(limit.metric);
    if let Some(fault) = case.reference_fault() {
        return unknown(name, fault);
    }
    let point = case.judged_point();
    let evidence = case.of(&variant.name);
    let (t, hl) = match speedups(case.reference, evidence, point, limit.metric, case.confidence()) {
        Ok(estimates) => estimates,
        Err(why) => return unknown(name, format!("batch {}, {} threads: {why}", point.batch, point.threads)),
    };
    if let Some(fault) = timing_fault {
        return unknown(name, format!("{t}, but {fault}"));
    }
    if hl.low.is_none() {
        let n = hl.n;
        return unknown(name, format!("{t}; {n} blocks are too few for {} %", 100.0 * case.confidence()));
    }
    let answers = (against(&t, limit.min_speedup, true), against(&hl, limit.min_speedup, true));
    let answer = if answers.0 == answers.1 { answers.0 } else { Answer::Unknown };
    let disagree = if answers.0 == answers.1 { String::new() } else { format!(" (Hodges-Lehmann {hl} disagrees)") };
    (answer, format!("{name} {t} >= {}x: {answer}{disagree}", limit.min_speedup))
}

/// Name of the memory metric and its number of bytes.
pub fn memory_bytes(variant: &VariantResult, metric: MemoryMetric) -> (&'static str, Option<u64>) {
    match metric {
        MemoryMetric::Weights => ("weights", variant.memory.map(|m| m.weight_bytes)),
        MemoryMetric::PeakRss => ("peak RSS", variant.memory.and_then(|m| m.peak_rss)),
        MemoryMetric::File => ("file", variant.artefact.as_ref().map(|a| a.file_bytes)),
    }
}

fn memory(variant: &VariantResult, limit: &MemoryLimit) -> Reasoned {
    let (name, bytes) = memory_bytes(variant, limit.metric);
    let Some(bytes) = bytes else {
        return unknown(name, "not measured");
    };
    let answer = if bytes <= limit.max_bytes { Answer::Yes } else { Answer::No };
    (answer, format!("{name} {} <= {}: {answer}", units::bytes(bytes), units::bytes(limit.max_bytes)))
}
