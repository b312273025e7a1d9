//! The rule's questions, answered for one variant, each with the numbers that decided.

use super::Case;
use super::error_rates::ErrorRates;
use super::rule::Rule;
use super::scores::{LEAST_CLUSTERS, perplexity_increase, same_questions};
use super::timings::{log_ratios, metric_name, speedups};
use super::turning::speed_turning_point;
use crate::results::{
    Answer, Answers, Estimate, Leaving, OpenQuestion, Outcome, Question, Score, Standing, TurningPoint, VariantResult,
    Verdict, Why,
};
use crate::stats::{Claim, Side, sequential_claim};
use crate::suite::{AccuracyLimit, AccuracyMetric, MemoryLimit, MemoryMetric, SpeedLimit};
use crate::units;

/// A speedup this near to the threshold, relative to it, is not worth more blocks.
const BORDERLINE: f64 = 0.01;

/// An answer with its reason: `decode 2.31x [2.25, 2.38] >= 1.5x: yes`.
struct Reasoned {
    answer: Answer,
    reason: String,
    /// Why it is unknown, and about how many more blocks or documents would answer it.
    open: Option<(Why, Option<usize>)>,
}

/// The rule's questions about one variant; `None` where the suite sets no threshold.
struct Questions {
    accuracy: Reasoned,
    speed: Option<Reasoned>,
    memory: Option<Reasoned>,
}

impl Questions {
    fn ask(case: &Case<'_>, variant: &VariantResult, timing_fault: Option<&str>) -> Self {
        let accept = case.accept;
        let rates = ErrorRates::divided(accept, case.candidates());
        Questions {
            accuracy: accuracy(case, variant),
            speed: accept.speed.as_ref().map(|limit| speed(case, variant, limit, rates, timing_fault)),
            memory: accept.memory.as_ref().map(|limit| memory(variant, limit)),
        }
    }

    fn all(&self) -> impl Iterator<Item = (Question, &Reasoned)> {
        let all = [
            (Question::Accuracy, Some(&self.accuracy)),
            (Question::Speed, self.speed.as_ref()),
            (Question::Memory, self.memory.as_ref()),
        ];
        all.into_iter().filter_map(|(question, reasoned)| Some((question, reasoned?)))
    }

    fn answers(&self) -> Answers {
        let of = |reasoned: &Option<Reasoned>| reasoned.as_ref().map(|r| r.answer);
        Answers { accuracy: self.accuracy.answer, speed: of(&self.speed), memory: of(&self.memory) }
    }

    fn open(&self) -> Vec<OpenQuestion> {
        let open = |(question, reasoned): (Question, &Reasoned)| {
            let (why, more) = reasoned.open?;
            Some(OpenQuestion { question, why, more })
        };
        self.all().filter_map(open).collect()
    }
}

/// Verdict over a candidate; `timing_fault` is why no timing of this run can answer anything, if so.
pub(super) fn verdict(case: &Case<'_>, variant: &VariantResult, timing_fault: Option<&str>) -> Verdict {
    if !variant.failures.is_empty() {
        let reason = format!("failed: {}", variant.failures.join("; "));
        return Verdict { outcome: Outcome::Inconclusive, answers: None, reason, open: Vec::new() };
    }
    let questions = Questions::ask(case, variant, timing_fault);
    let mut reason = questions.all().map(|(_, r)| r.reason.as_str()).collect::<Vec<_>>().join("; ");
    let answers = questions.answers();
    let outcome = match Rule::parse(&case.accept.rule) {
        Some(rule) => rule.outcome(&answers),
        None => {
            reason = format!("the rule `{}` is of no known form; {reason}", case.accept.rule);
            Outcome::Inconclusive
        }
    };
    let open = if outcome == Outcome::Inconclusive { questions.open() } else { Vec::new() };
    Verdict { outcome, answers: Some(answers), reason, open }
}

/// Whether more blocks can change a candidate's verdict. The A/A control is read once, at the end, not here.
pub(super) fn standing(case: &Case<'_>, variant: &VariantResult) -> Standing {
    let questions = Questions::ask(case, variant, None);
    let depends = Rule::parse(&case.accept.rule).is_some_and(|rule| rule.depends_on_speed(&questions.answers()));
    match questions.speed.map(|speed| (speed.answer, speed.open)) {
        Some((Answer::Unknown, Some((why, missing_blocks))))
            if depends && matches!(why, Why::TooFewBlocks | Why::Budget) =>
        {
            Standing::Open { missing_blocks }
        }
        _ => Standing::Decided,
    }
}

fn unknown(what: &str, why: Why, in_words: impl AsRef<str>) -> Reasoned {
    let reason = format!("{what}: unknown ({})", in_words.as_ref());
    Reasoned { answer: Answer::Unknown, reason, open: Some((why, None)) }
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
    let estimate = match limit.metric {
        AccuracyMetric::TokenAccuracy { .. } => score.map(|s| &s.token_accuracy_difference),
        AccuracyMetric::Perplexity { .. } => score.map(|s| &s.perplexity_increase),
        AccuracyMetric::LogLikelihood { .. } => score.map(|s| &s.log_likelihood_difference),
        AccuracyMetric::Accuracy { .. } => choice.map(|c| &c.accuracy_difference),
        AccuracyMetric::AccuracyNorm { .. } => choice.map(|c| &c.accuracy_norm_difference),
        AccuracyMetric::Similarity { .. } => similarity.map(|s| &s.cosine_difference),
    };
    let (name, threshold, unit) = limit_in_words(limit.metric);
    AccuracyQuestion { name, estimate: estimate.and_then(Option::as_ref), threshold, unit }
}

/// Name of a metric, its threshold with the sign of a difference, and its unit.
fn limit_in_words(metric: AccuracyMetric) -> (&'static str, f64, &'static str) {
    match metric {
        AccuracyMetric::TokenAccuracy { max_drop_points: max } => ("token accuracy", -max, " points"),
        AccuracyMetric::Perplexity { max_increase_percent: max } => ("perplexity", max, " %"),
        AccuracyMetric::LogLikelihood { max_drop: max } => ("log-likelihood", -max, " nats"),
        AccuracyMetric::Accuracy { max_drop_points: max } => ("accuracy", -max, " points"),
        AccuracyMetric::AccuracyNorm { max_drop_points: max } => ("accuracy per token", -max, " points"),
        AccuracyMetric::Similarity { max_drop: max } => ("cosine to the reference less 1", -max, ""),
    }
}

fn accuracy(case: &Case<'_>, variant: &VariantResult) -> Reasoned {
    let limit = &case.accept.accuracy;
    let task = &limit.task;
    let missing = |what, why: String| unknown(what, Why::MeasurementMissing, why);
    if let Some(fault) = case.reference_fault() {
        return missing("accuracy", fault);
    }
    let evidence = (case.of(&variant.name).scores.get(task), case.reference.scores.get(task));
    let (Some(score), Some(reference)) = evidence else {
        let who = if evidence.0.is_none() { "not scored" } else { "the reference is not scored" };
        return missing("accuracy", format!("{who} on task {task}"));
    };
    if let Err(difference) = same_questions(score, reference) {
        return missing("accuracy", difference);
    }
    if let Some(fault) = case.blind() {
        return unknown("accuracy", Why::BlindRule, fault);
    }
    compared(case, score, reference)
}

/// The answer to the accuracy question about a score, and its reason.
pub(super) fn compare(case: &Case<'_>, score: &Score, reference: &Score) -> (Answer, String) {
    let reasoned = compared(case, score, reference);
    (reasoned.answer, reasoned.reason)
}

fn compared(case: &Case<'_>, score: &Score, reference: &Score) -> Reasoned {
    let limit = &case.accept.accuracy;
    let (name, threshold, unit) = limit_in_words(limit.metric);
    let Some((for_yes, for_no)) = judged_differences(case, score, reference) else {
        return unknown(name, Why::MeasurementMissing, "the score or the reference's is not a number");
    };
    if for_yes.low.is_none() {
        let n = for_yes.n;
        let too_few = format!("{for_yes}; no interval from {n} documents, at least {LEAST_CLUSTERS} are needed");
        return unknown(name, Why::TooFewItems, too_few);
    }
    let higher = !limit.metric.rises_with_loss();
    let answer = match (against(&for_yes, threshold, higher), against(&for_no, threshold, higher)) {
        (Answer::Yes, _) => Answer::Yes,
        (_, Answer::No) => Answer::No,
        _ => Answer::Unknown,
    };
    let sign = if higher { ">=" } else { "<=" };
    let mut reason = format!("{name} {for_yes} {sign} {threshold}{unit}: {answer}");
    let open = (answer == Answer::Unknown).then(|| (Why::TooFewItems, documents_missing(&for_yes, threshold)));
    if let Some((_, more)) = open {
        reason.push_str(&match more {
            Some(more) => format!(" (about {more} more documents like these {} would tell)", for_yes.n),
            None => " (at the threshold; no number of documents is foreseen to tell)".into(),
        });
    }
    Reasoned { answer, reason, open }
}

/// The rule's difference from the reference in the unit of its threshold, with the interval that may prove a yes and the
/// one that may prove a no.
pub(super) fn judged_differences(case: &Case<'_>, score: &Score, reference: &Score) -> Option<(Estimate, Estimate)> {
    let rates = ErrorRates::divided(case.accept, case.candidates());
    let at = |rate: f64| match case.accept.accuracy.metric {
        AccuracyMetric::Perplexity { .. } => perplexity_increase(score, reference, 1.0 - 2.0 * rate),
        _ => case.score_difference(score, reference, 1.0 - 2.0 * rate),
    };
    Some((at(rates.yes)?, at(rates.no)?))
}

/// How many more documents would bring the bound to the threshold, if the interval shrinks with the root of their number.
fn documents_missing(estimate: &Estimate, threshold: f64) -> Option<usize> {
    let half = (estimate.high? - estimate.low?) / 2.0;
    let needed = estimate.n as f64 * (half / (estimate.value - threshold)).powi(2);
    (needed < 1000.0 * estimate.n as f64).then(|| ((needed - estimate.n as f64).ceil() as usize).max(1))
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

fn speed(
    case: &Case<'_>,
    variant: &VariantResult,
    limit: &SpeedLimit,
    rates: ErrorRates,
    timing_fault: Option<&str>,
) -> Reasoned {
    let name = metric_name(limit.metric);
    if let Some(fault) = case.reference_fault() {
        return unknown(name, Why::MeasurementMissing, fault);
    }
    let point = case.judged_point();
    let evidence = case.of(&variant.name);
    let measured = speedups(case.reference, evidence, point, limit.metric, case.confidence())
        .and_then(|(t, _)| Ok((t, log_ratios(case.reference, evidence, point, limit.metric)?)));
    let (t, ratios) = match measured {
        Ok(measured) => measured,
        Err(why) => {
            let where_ = format!("batch {}, {} threads: {why}", point.batch, point.threads);
            return unknown(name, Why::MeasurementMissing, where_);
        }
    };
    if let Some(fault) = timing_fault {
        return unknown(name, Why::NoisyMachine, format!("{t}, but {fault}"));
    }
    let planned = case.planned_blocks(ratios.len());
    let claim = |side, rate| sequential_claim(&ratios, limit.min_speedup.ln(), side, rate, planned);
    let claims = (claim(Side::Above, rates.yes), claim(Side::Below, rates.no));
    let nothing = TurningPoint { yes: 0.0, no: f64::MAX };
    let turn = speed_turning_point(&ratios, rates, planned).unwrap_or(nothing);
    let (Some(yes), Some(no)) = claims else {
        return unknown(name, Why::MeasurementMissing, format!("{t}; the threshold or the confidence is no number"));
    };
    let what = format!("{name} {t} >= {}x", limit.min_speedup);
    let after = |claim: Claim| claim.proven_after.unwrap_or(claim.n);
    if limit.min_speedup <= turn.yes {
        let reason = format!("{what}: yes, proven after {} blocks", after(yes));
        return Reasoned { answer: Answer::Yes, reason, open: None };
    }
    if limit.min_speedup > turn.no {
        let reason = format!("{what}: no, disproven after {} blocks", after(no));
        return Reasoned { answer: Answer::No, reason, open: None };
    }
    let borderline =
        limit.min_speedup * (1.0 - BORDERLINE) <= turn.yes && limit.min_speedup * (1.0 + BORDERLINE) > turn.no;
    undecided(case, variant, &what, (yes, no), borderline)
}

/// A speed question that the blocks leave open (or, very rarely, answer both ways), with how far it is.
fn undecided(
    case: &Case<'_>,
    variant: &VariantResult,
    what: &str,
    (yes, no): (Claim, Claim),
    borderline: bool,
) -> Reasoned {
    let (side, nearer) = match yes.log_evidence - yes.log_needed >= no.log_evidence - no.log_needed {
        true => ("yes", yes),
        false => ("no", no),
    };
    let more = nearer.values_missing().filter(|more| *more <= 10_000);
    let odds = |log: f64| log.exp().round();
    let how_far = format!(
        "odds for {side} {} of {} after {} blocks",
        odds(nearer.log_evidence),
        odds(nearer.log_needed),
        nearer.n
    );
    let left = case.evidence.left.get(&variant.name).map(|(_, why)| *why);
    let (why, ending) = match (borderline, left, more) {
        (true, ..) => (Why::Borderline, "within 1 % of the threshold".to_string()),
        (_, Some(Leaving::Budget), Some(more)) => {
            (Why::Budget, format!("the budget ended; about {more} more would tell"))
        }
        (_, _, Some(more)) => (Why::TooFewBlocks, format!("about {more} more would tell")),
        (_, _, None) => (Why::TooFewBlocks, "no number of blocks is foreseen to tell".into()),
    };
    Reasoned {
        answer: Answer::Unknown,
        reason: format!("{what}: unknown ({how_far}; {ending})"),
        open: Some((why, more.filter(|_| !borderline))),
    }
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
        return unknown(name, Why::MeasurementMissing, "not measured");
    };
    let answer = if bytes <= limit.max_bytes { Answer::Yes } else { Answer::No };
    let reason = format!("{name} {} <= {}: {answer}", units::bytes(bytes), units::bytes(limit.max_bytes));
    Reasoned { answer, reason, open: None }
}
