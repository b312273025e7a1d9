//! How far this run's timings can be trusted: the A/A control, the state of the machine, the kernels that ran.

use std::collections::BTreeMap;

use super::Case;
use super::rule::Rule;
use super::timings::{Point, control_ratio, metric_name, metrics};
use crate::results::{Estimate, Evidence, KernelUse, SIGNALS, Slot, disturbance};
use crate::stats::{median, median_interval};
use crate::suite::{Recipe, SpeedMetric, Variant};

/// Confidence at which the A/A control is read: at 95 % one sound run in twenty would be condemned.
const CONTROL_CONFIDENCE: f64 = 0.99;

/// By how much a first iteration may be slower than later ones, as a logarithm.
const UNSTEADY: f64 = 0.02;

/// More than one block of so many disturbed, and nothing is said about speed.
const LEAST_PART_DISTURBED: usize = 4;

fn key(point: Point, metric: SpeedMetric) -> String {
    format!("{} {}", point.label(), metric_name(metric))
}

/// Ratio of the reference's time to its control's, by point and metric: `b1t2 decode`.
pub(super) fn control(case: &Case<'_>) -> BTreeMap<String, Estimate> {
    let workload = &case.evidence.suite.workload;
    let mut control = BTreeMap::new();
    for (batch, threads) in workload.batch.iter().flat_map(|b| workload.threads.iter().map(move |t| (*b, *t))) {
        let point = Point { batch, threads };
        for metric in metrics(workload).iter().copied() {
            if let Ok(estimate) = control_ratio(case.reference, point, metric, CONTROL_CONFIDENCE) {
                control.insert(key(point, metric), estimate);
            }
        }
    }
    control
}

/// Why no timing of this run can answer the speed question, if so.
pub(super) fn timing_fault(case: &Case<'_>, control: &BTreeMap<String, Estimate>) -> Option<String> {
    let blocks = case.blocks();
    let disturbed = disturbed_blocks(case.evidence);
    if disturbed * LEAST_PART_DISTURBED > blocks {
        return Some(format!("the machine was too noisy: {disturbed} of {blocks} blocks were disturbed"));
    }
    let Some(estimate) = control.get(&key(case.judged_point(), case.speed_metric())) else {
        return Some("no A/A control was measured".into());
    };
    match contains_one(estimate) {
        Some(true) => None,
        Some(false) => Some(format!("timing is too noisy: the A/A control reads {estimate}")),
        None => Some("the A/A control has too few blocks".into()),
    }
}

/// Blocks that are kept although the machine was disturbed in them.
pub(super) fn disturbed_blocks(evidence: &Evidence) -> usize {
    (0..evidence.timed_blocks()).filter(|block| disturbance(evidence.slots_of(*block)).is_some()).count()
}

/// The A/A control of the judged time, where it excludes 1.
pub(super) fn control_differs<'c>(case: &Case<'_>, control: &'c BTreeMap<String, Estimate>) -> Option<&'c Estimate> {
    control.get(&key(case.judged_point(), case.speed_metric())).filter(|e| contains_one(e) == Some(false))
}

fn contains_one(estimate: &Estimate) -> Option<bool> {
    Some(estimate.low? <= 1.0 && 1.0 <= estimate.high?)
}

/// What a reader of the run must know about its noise, its kernels and its gaps.
pub(super) fn warnings(case: &Case<'_>, control: &BTreeMap<String, Estimate>) -> Vec<String> {
    let mut warnings = Vec::new();
    if case.evidence.finished_unix_s.is_none() {
        warnings.push("the run did not finish; what is missing counts as unknown".into());
    }
    let blocks = case.blocks();
    if let Some(plan) = case.evidence.plan.filter(|plan| !plan.racing && blocks < plan.most) {
        warnings.push(format!("{blocks} of {} planned blocks were timed", plan.most));
    }
    if let Some(fault) = case.reference_fault() {
        warnings.push(format!("{fault}; nothing can be compared with it"));
    }
    if Rule::parse(&case.accept.rule).is_none() {
        warnings.push(format!("the rule `{}` is of no known form; every verdict is inconclusive", case.accept.rule));
    }
    let redone = &case.evidence.set_aside;
    if let Some((_, why)) = redone.last() {
        let count = redone.len();
        warnings.push(format!("blocks measured again because the machine was disturbed: {count} (the last: {why})"));
    }
    if case.evidence.moved > 0 {
        warnings.push(format!(
            "slots measured again because threads had been moved to nearer or farther cores: {}",
            case.evidence.moved
        ));
    }
    warnings.extend(unsteady(case));
    for (key, estimate) in control.iter().filter(|(_, e)| contains_one(e) == Some(false)) {
        warnings
            .push(format!("timing too noisy at {key}: the reference against itself reads {estimate}, 1 is outside"));
    }
    let variants = &case.evidence.suite.variants;
    for variant in variants.iter().filter(|v| !attributable(v, &case.of(&v.name).slots)) {
        warnings.push(format!("{}: no low-bit kernel ran; its speedup is not due to quantization", variant.name));
    }
    for d in disturbances(case.evidence).into_iter().filter(|d| d.flagged > 0) {
        warnings.push(format!("{} in {} of {} slots", d.what, d.flagged, d.known));
    }
    warnings
}

/// Whether the warm-up was too short: the first timed iteration is slower than the median of the others, in most slots,
/// by more than [`UNSTEADY`]. Slots are independent, iterations of one are not, so slots are counted.
fn unsteady(case: &Case<'_>) -> Option<String> {
    let slots = case.evidence.variants.values().flat_map(|v| &v.slots);
    let excess = |slot: &Slot| {
        let times: Vec<f64> = slot.samples.iter().map(|s| s.ttft_s + s.decode_s).collect();
        let (first, others) = times.split_first()?;
        Some((first / median(others)?).ln()).filter(|excess| excess.is_finite())
    };
    let excess: Vec<f64> = slots.filter_map(excess).collect();
    let (low, _) = median_interval(&excess, CONTROL_CONFIDENCE)?.bounds?;
    let percent = 100.0 * low.exp_m1();
    (low > UNSTEADY).then(|| {
        format!(
            "no steady state after the warm-up: first iterations are slower than later ones by {percent:.1} % or more"
        )
    })
}

/// Whether the speed of a variant is owed to its quantization; a variant without slots or without quantization is.
fn attributable(variant: &Variant, slots: &[Slot]) -> bool {
    let mut kernels = slots.iter().flat_map(|s| &s.kernels).peekable();
    matches!(variant.recipe, Recipe::Cast { .. }) || kernels.peek().is_none() || kernels.any(is_low_bit)
}

/// Kernel names carry `w4a16`, `w8a8`, ... between dashes; `f16`, `bf16` and `f32` are not low-bit.
fn is_low_bit(kernel: &KernelUse) -> bool {
    let bits = |part: &str| part.strip_prefix('w')?.split_once('a')?.0.parse::<u32>().ok();
    kernel.kernel.split('-').any(|part| bits(part).is_some_and(|b| b <= 8))
}

/// How often a disturbance of the machine was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Disturbance {
    /// What, with its limit.
    pub what: &'static str,
    /// Slots in which it was seen.
    pub flagged: usize,
    /// Slots that tell; 0 where the machine does not.
    pub known: usize,
}

/// Disturbances over all slots, by covariates recorded independently of the times, with limits fixed in advance: those
/// for which a block is measured again ([`SIGNALS`]), and those that need all slots to be told.
pub fn disturbances(evidence: &Evidence) -> Vec<Disturbance> {
    let slots: Vec<&Slot> = evidence.variants.values().flat_map(|v| &v.slots).collect();
    let count = |what, seen: &dyn Fn(&Slot) -> Option<bool>| {
        let known: Vec<bool> = slots.iter().filter_map(|slot| seen(slot)).collect();
        Disturbance { what, flagged: known.iter().filter(|f| **f).count(), known: known.len() }
    };
    let usual = |of: &dyn Fn(&Slot) -> Option<f64>| median(&slots.iter().filter_map(|s| of(s)).collect::<Vec<_>>());
    let clock = |s: &Slot| s.covariates.clock;
    let preempted = |s: &Slot| Some(s.covariates.involuntary_switches? as f64 / s.wall_s);
    let bandwidth = |s: &Slot| s.covariates.read_bandwidth;
    let own = |s: &Slot| s.covariates.own_cpu;
    let own_of = |name: &str| usual(&|s: &Slot| own(s).filter(|_| s.variant == name));
    let usual_own: BTreeMap<&str, Option<f64>> = evidence.variants.keys().map(|n| (n.as_str(), own_of(n))).collect();
    let (usual_clock, usual_preempted, usual_bandwidth) = (usual(&clock), usual(&preempted), usual(&bandwidth));
    let mut all: Vec<Disturbance> = SIGNALS.iter().map(|signal| count(signal.what, &|s| signal.seen(s))).collect();
    all.extend([
        count("own threads on a processor 5 % less than the variant's median", &|s| {
            Some(own(s)? < 0.95 * (*usual_own.get(s.variant.as_str())?)?)
        }),
        count("preempted more than 10 times as often as the median, and 100 times a second", &|s| {
            Some(preempted(s)? > (10.0 * usual_preempted?).max(100.0))
        }),
        count("threads moved to nearer or farther cores while timing", &|s| {
            s.covariates.moved_from(s.covariates.handover_s?[0])
        }),
        count("clock more than 3 % off its median", &|s| Some((clock(s)? / usual_clock?).ln().abs() > 0.03)),
        count("memory read 15 % slower than its median", &|s| Some(bandwidth(s)? < 0.85 * usual_bandwidth?)),
    ]);
    all
}
