//! Which variant to ship: the fastest accepted one; among those equally fast within noise the one with the smallest
//! weights, then the most accurate.

use super::answers::{accuracy_question, memory_bytes};
use super::attempts::{Nearest, attempts};
use super::timings::{metric_name, speedups};
use super::{Case, sensitivity};
use crate::results::{Answer, Answers, Attempt, Estimate, Frontier, Outcome, Price, Recommendation, VariantResult};
use crate::units;

/// The recommendation over judged variants.
pub(super) fn recommend(case: &Case<'_>, variants: &[VariantResult]) -> Recommendation {
    let is_accepted = |v: &&VariantResult| v.verdict.as_ref().is_some_and(|v| v.outcome == Outcome::Accept);
    let accepted: Vec<&VariantResult> = variants.iter().filter(is_accepted).collect();
    let changes = sensitivity::changes(case, variants);
    let Some((best, tied)) = best(case, &accepted) else {
        let (reason, attempts) = obstacles(case, variants);
        return Recommendation { variant: None, reason, changes, price: None, attempts };
    };
    Recommendation {
        variant: Some(best.name.clone()),
        reason: praise(case, best, &accepted, &tied),
        changes,
        price: price(case, variants, best),
        attempts: Vec::new(),
    }
}

/// The next step along the frontier: of the variants on it that are more accurate than `best`, the least accurate.
fn price(case: &Case<'_>, variants: &[VariantResult], best: &VariantResult) -> Option<Price> {
    let loss = |v: &VariantResult| match v.reference {
        true => Some(0.0),
        false => accuracy_question(&case.accept.accuracy, v).estimate.map(|e| e.value),
    };
    let sign = if case.accept.accuracy.metric.rises_with_loss() { 1.0 } else { -1.0 };
    let own = loss(best)?;
    let gain = |v: &VariantResult| Some(sign * (own - loss(v)?)).filter(|gain| *gain > 0.0);
    let on = variants.iter().filter(|v| v.frontier == Frontier::On && v.failures.is_empty());
    let (next, gain) = on.filter_map(|v| Some((v, gain(v)?))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    let time = |v: &VariantResult| if v.reference { Some(1.0) } else { speedup(case, v).map(|e| 1.0 / e.value) };
    Some(Price {
        variant: next.name.clone(),
        gain,
        time_ratio: time(next).zip(time(best)).map(|(next, best)| next / best),
        more_weight_bytes: next.memory?.weight_bytes as i64 - best.memory?.weight_bytes as i64,
    })
}

/// The best of the accepted variants, and those that are as fast within noise as the fastest.
pub(super) fn best<'v>(
    case: &Case<'_>,
    accepted: &[&'v VariantResult],
) -> Option<(&'v VariantResult, Vec<&'v VariantResult>)> {
    let fastest =
        accepted.iter().copied().reduce(|best, v| if speed(case, v) > speed(case, best) { v } else { best })?;
    let as_fast = |v: &&VariantResult| fastest.not_proven_slower.contains(&v.name);
    let tied: Vec<&VariantResult> = accepted.iter().copied().filter(as_fast).collect();
    let best = tied.iter().copied().reduce(|best, v| if smaller_then_better(case, v, best) { v } else { best })?;
    Some((best, tied))
}

/// Fills in which candidates are not proven slower than each.
pub(super) fn compare_times(case: &Case<'_>, variants: &mut [VariantResult]) {
    let found: Vec<Vec<String>> = variants
        .iter()
        .map(|fast| {
            let not_slower = |v: &&VariantResult| !fast.reference && !v.reference && equally_fast(case, v, fast);
            variants.iter().filter(not_slower).map(|v| v.name.clone()).collect()
        })
        .collect();
    for (variant, found) in variants.iter_mut().zip(found) {
        variant.not_proven_slower = found;
    }
}

/// The speedup that is compared, where it is known.
fn speedup<'v>(case: &Case<'_>, variant: &'v VariantResult) -> Option<&'v Estimate> {
    let at = case.judged_point().of(variant)?;
    at.speedup.get(metric_name(case.speed_metric()))
}

fn speed(case: &Case<'_>, variant: &VariantResult) -> f64 {
    speedup(case, variant).map_or(0.0, |e| e.value)
}

/// Whether the paired ratio of two variants' times does not exclude 1.
fn equally_fast(case: &Case<'_>, variant: &VariantResult, fastest: &VariantResult) -> bool {
    if variant.name == fastest.name {
        return true;
    }
    let evidence = (case.of(&variant.name), case.of(&fastest.name));
    let ratio = speedups(evidence.0, evidence.1, case.judged_point(), case.speed_metric(), case.confidence());
    match ratio {
        Ok((t, _)) => t.low.is_none_or(|low| low <= 1.0),
        Err(_) => speedup(case, variant).is_none() && speedup(case, fastest).is_none(),
    }
}

fn weights(variant: &VariantResult) -> u64 {
    variant.memory.map_or(u64::MAX, |m| m.weight_bytes)
}

/// Difference of the rule's accuracy from the reference.
fn accuracy(case: &Case<'_>, variant: &VariantResult) -> f64 {
    let difference = case.accuracy_difference(case.of(&variant.name), case.reference);
    difference.map_or(f64::NEG_INFINITY, |e| e.value)
}

fn smaller_then_better(case: &Case<'_>, a: &VariantResult, b: &VariantResult) -> bool {
    (weights(a), -accuracy(case, a)) < (weights(b), -accuracy(case, b))
}

fn praise(case: &Case<'_>, best: &VariantResult, accepted: &[&VariantResult], tied: &[&VariantResult]) -> String {
    let metric = metric_name(case.speed_metric());
    let name = &best.name;
    let fast = match speedup(case, best) {
        Some(speedup) => format!("{metric} {speedup} over {}", case.evidence.suite.reference),
        None => format!("its {metric} speed is not known"),
    };
    if accepted.len() == 1 {
        return format!("{name} is the only variant proven to meet the rule ({fast})");
    }
    if tied.len() == 1 {
        return format!("{name} is the fastest of the {} accepted variants ({fast})", accepted.len());
    }
    let others: Vec<&VariantResult> = tied.iter().copied().filter(|v| v.name != best.name).collect();
    let names = others.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    let lightest = others.iter().map(|v| weights(v)).min().unwrap_or(u64::MAX);
    let why = if weights(best) < lightest && lightest < u64::MAX {
        format!("it has the smallest weights ({} against {})", units::bytes(weights(best)), units::bytes(lightest))
    } else if weights(best) < lightest {
        format!("its weights are known ({})", units::bytes(weights(best)))
    } else {
        "of those with the smallest weights it is the most accurate".into()
    };
    format!("{name} ties with {names} for the fastest within noise ({fast}); {why}")
}

/// Why nothing can be recommended: the nearest variant of every threshold that none meets, and what to try.
fn obstacles(case: &Case<'_>, variants: &[VariantResult]) -> (String, Vec<Attempt>) {
    let task = &case.accept.accuracy.task;
    if !case.reference.scores.contains_key(task) {
        let why = case.reference_fault().unwrap_or_else(|| format!("the reference has no score of task {task:?}"));
        return (format!("nothing can be recommended: {why}"), Vec::new());
    }
    let candidates: Vec<&VariantResult> = variants.iter().filter(|v| !v.reference).collect();
    let judged: Vec<(&VariantResult, &Answers)> =
        candidates.iter().filter_map(|v| Some((*v, v.verdict.as_ref()?.answers.as_ref()?))).collect();
    if judged.is_empty() {
        let why = if candidates.is_empty() { "the suite has no candidate" } else { "every candidate failed" };
        return (format!("nothing can be recommended: {why}"), Vec::new());
    }
    let most = |goodness: &dyn Fn(&VariantResult) -> Option<f64>| {
        let known = judged.iter().filter_map(|(v, _)| Some((*v, goodness(v)?)));
        known.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(v, _)| v)
    };
    let nearest_variants = Nearest {
        accuracy: most(&|v| Some(accuracy(case, v))),
        speed: most(&|v| Some(speedup(case, v)?.value)),
        memory: most(&|v| Some(-(v.memory?.weight_bytes as f64))),
    };
    let attempts = attempts(case, &judged, &nearest_variants);
    let met = |of: &dyn Fn(&Answers) -> Option<Answer>| judged.iter().any(|(_, a)| of(a) == Some(Answer::Yes));
    let mut obstacles = Vec::new();
    if !met(&|a| Some(a.accuracy)) {
        let nearest = nearest(&judged, |v| Some(accuracy(case, v)), |v| accuracy_text(case, v));
        obstacles
            .push(format!("no accuracy is proven ({nearest}; try more bits, smaller groups or GPTQ, or more text)"));
    }
    if case.accept.speed.is_some() && !met(&|a| a.speed) {
        let nearest = nearest(&judged, |v| Some(speedup(case, v)?.value), |v| Some(speedup(case, v)?.to_string()));
        obstacles.push(format!("no speedup is proven ({nearest}; try fewer bits, 8-bit inputs, or more blocks)"));
    }
    if let Some(limit) = case.accept.memory.as_ref().filter(|_| !met(&|a| a.memory)) {
        let bytes = |v: &VariantResult| memory_bytes(v, limit.metric).1;
        let nearest = nearest(&judged, |v| Some(-(bytes(v)? as f64)), |v| Some(units::bytes(bytes(v)?)));
        obstacles.push(format!("none is small enough ({nearest}; try fewer bits or a quantized lm_head)"));
    }
    if obstacles.is_empty() {
        obstacles.push(
            "each threshold is met by some variant but no variant meets enough of them; try overrides that keep the \
             most sensitive layers at 8 bits"
                .into(),
        );
    }
    let open = judged.iter().filter(|(v, _)| v.verdict.as_ref().is_some_and(|v| v.outcome == Outcome::Inconclusive));
    let open = open.map(|(v, _)| v.name.as_str()).collect::<Vec<_>>().join(", ");
    let open = if open.is_empty() { String::new() } else { format!(". Still open: {open}") };
    (format!("no variant is proven to meet the rule: {}{open}", obstacles.join("; ")), attempts)
}

fn accuracy_text(case: &Case<'_>, variant: &VariantResult) -> Option<String> {
    let question = accuracy_question(&case.accept.accuracy, variant);
    Some(format!("{} {}", question.name, question.estimate?))
}

/// The judged variant with the highest `goodness`, as `nearest: int8 with +2.1 % [1.6, 2.6]`.
fn nearest(
    judged: &[(&VariantResult, &Answers)],
    goodness: impl Fn(&VariantResult) -> Option<f64>,
    text: impl Fn(&VariantResult) -> Option<String>,
) -> String {
    let known = judged.iter().filter_map(|(v, _)| Some((*v, goodness(v)?, text(v)?)));
    match known.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((variant, _, text)) => format!("nearest: {} with {text}", variant.name),
        None => "none was measured".into(),
    }
}
