//! Whether an event fits the run that it is read into: its plan, its suite, and what numbers can be.
//!
//! A checksum tells that nobody changed a journal by accident. This tells that what it says can have been measured: a journal is
//! untrusted input, and a block far beyond the plan, a negative time or a likelihood above 1 would be judged like any other.

use super::event::{Event, Sample, Score, Slot};
use super::evidence::Evidence;
use crate::suite::Suite;

/// Most blocks that a plan may have.
const MOST_BLOCKS: usize = 100_000;

/// A sum of log-likelihoods or of divergences may miss zero by as much for each token, by rounding alone.
const ROUNDING: f64 = 1e-3;

/// Seconds that nothing timed here takes: three years.
const LONGEST_S: f64 = 1e8;

/// # Errors
/// What the event says that cannot be, in words.
pub(super) fn check(evidence: &Evidence, event: &Event) -> Result<(), String> {
    let suite = &evidence.suite;
    match event {
        Event::Planned { blocks, .. } => {
            ensure((1..=MOST_BLOCKS).contains(blocks), || format!("plans {blocks} blocks"))
        }
        Event::Iterations { count } => {
            ensure((1..=suite.workload.most_iterations()).contains(count), || format!("has {count} iterations"))
        }
        Event::Left { blocks, variant, .. } => {
            let most = evidence.plan.map_or(0, |plan| plan.most);
            ensure(*blocks <= most, || format!("\"{variant}\" leaves after {blocks} blocks of {most}"))
        }
        Event::SetAside { block, .. } => {
            let timed = evidence.timed_blocks();
            ensure(*block < timed, || format!("sets block {block} aside, {timed} are timed"))
        }
        Event::Scored { variant, score } => {
            let known = evidence.variants.get(variant).is_some_and(|found| found.scores.contains_key(&score.task));
            ensure(!known, || format!("scores \"{variant}\" on {} a second time", score.task))?;
            is_score(suite, score)
        }
        Event::Redrawn { score: Ok(score), .. } => is_score(suite, score),
        Event::Broken(broken) => broken.score.as_ref().map_or(Ok(()), |score| is_score(suite, score)),
        Event::Slot(slot) => is_slot(evidence, slot),
        _ => Ok(()),
    }
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn is_score(suite: &Suite, score: &Score) -> Result<(), String> {
    let task = &score.task;
    ensure(suite.tasks.iter().any(|known| known.name == *task), || format!("scores the unknown task {task}"))?;
    for (at, window) in score.windows.iter().enumerate() {
        let rounding = ROUNDING * window.tokens as f64;
        let counts = window.correct <= window.tokens && window.agree.is_none_or(|agree| agree <= window.tokens);
        ensure(counts, || format!("window {at} of {task} counts more than its {} tokens", window.tokens))?;
        let sound = |sum: f64| sum.is_finite() && sum >= -rounding;
        ensure(sound(window.nll), || format!("window {at} of {task} has the log-likelihood {}", -window.nll))?;
        let kl = window.kl.unwrap_or(0.0);
        ensure(sound(kl), || format!("window {at} of {task} has the divergence {kl}"))?;
    }
    for (at, item) in score.items.iter().enumerate() {
        let choices = item.log_likelihoods.len();
        let known = [item.answer, item.picked, item.picked_norm].iter().all(|choice| *choice < choices);
        ensure(known, || format!("item {at} of {task} names a continuation beyond its {choices}"))?;
        let sound = item.log_likelihoods.iter().all(|sum| sum.is_finite() && *sum <= ROUNDING);
        ensure(sound, || format!("item {at} of {task} has log-likelihoods {:?}", item.log_likelihoods))?;
    }
    for (at, sentence) in score.sentences.iter().enumerate() {
        let cosine = sentence.cosine.unwrap_or(1.0);
        ensure(cosine.abs() <= 1.0 + ROUNDING, || format!("sentence {at} of {task} has the cosine {cosine}"))?;
    }
    Ok(())
}

fn is_slot(evidence: &Evidence, slot: &Slot) -> Result<(), String> {
    let (suite, workload) = (&evidence.suite, &evidence.suite.workload);
    let most = evidence.plan.map_or(0, |plan| plan.most);
    let Slot { variant, control, block, position, batch, threads, .. } = slot;
    ensure(*block < most, || format!("has a slot of block {block}, the plan has {most}"))?;
    let arms = suite.variants.len() + 1;
    ensure(*position < arms, || format!("has a slot at position {position} of {arms}"))?;
    let is_point = workload.batch.contains(batch) && workload.threads.contains(threads);
    ensure(is_point, || format!("has a slot of batch {batch} and {threads} threads, which the workload lacks"))?;
    ensure(!control || *variant == suite.reference, || format!("has \"{variant}\" as a control"))?;
    let same = |s: &&Slot| (s.control, s.batch, s.threads) == (*control, *batch, *threads) && s.variant == *variant;
    let twice = evidence.slots_of(*block).any(|slot| same(&slot));
    ensure(!twice, || format!("has the slot of \"{variant}\" in block {block} a second time"))?;
    let sound = |sample: &Sample| {
        let takes = |seconds: f64| seconds > 0.0 && seconds < LONGEST_S;
        takes(sample.ttft_s) && (takes(sample.decode_s) || workload.generate < 2 && sample.decode_s == 0.0)
    };
    ensure(!slot.samples.is_empty() && slot.samples.iter().all(sound), || {
        format!("has a slot of \"{variant}\" in block {block} whose times no clock gives")
    })?;
    let wall = (0.0..LONGEST_S).contains(&slot.wall_s);
    ensure(wall, || format!("has a slot that took {} s", slot.wall_s))
}
