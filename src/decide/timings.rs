//! Times of slots, paired by block.
//!
//! `Y = ln(median over a slot's iterations)`; the effect of a block is `D = Y_reference - Y_variant`, so that `exp`
//! of its mean is the geometric mean of the blocks' speedups. Pairing removes what a block's slots share.

use std::collections::BTreeMap;

use super::Case;
use super::estimate::estimate;
use crate::results::{Direction, Estimate, PointEstimates, Run, Slot, Unit, VariantEvidence, VariantResult};
use crate::stats::{hodges_lehmann, mean_interval, median};
use crate::suite::{Accept, SpeedMetric, Workload};

/// All times that are compared under a workload.
pub fn metrics(workload: &Workload) -> &'static [SpeedMetric] {
    match workload.encodes() {
        true => &[SpeedMetric::Latency],
        false => &[SpeedMetric::Prefill, SpeedMetric::Decode, SpeedMetric::Total],
    }
}

/// Name of a metric as in suite files and in [`PointEstimates::speedup`].
pub fn metric_name(metric: SpeedMetric) -> &'static str {
    match metric {
        SpeedMetric::Prefill => "prefill",
        SpeedMetric::Decode => "decode",
        SpeedMetric::Total => "total",
        SpeedMetric::Latency => "latency",
    }
}

/// One combination of batch and threads of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
}

impl Point {
    /// `b1t2`.
    pub fn label(self) -> String {
        format!("b{}t{}", self.batch, self.threads)
    }

    /// The point that is judged and shown first: the workload's first batch at the rule's threads, else at the most
    /// threads.
    pub fn judged(workload: &Workload, accept: &Accept) -> Point {
        let most = workload.threads.iter().copied().max().unwrap_or(1);
        let threads = accept.speed.as_ref().map_or(most, |s| s.threads);
        Point { batch: workload.batch.first().copied().unwrap_or(1), threads }
    }

    /// A variant's estimates at this point.
    pub fn of(self, variant: &VariantResult) -> Option<&PointEstimates> {
        variant.points.iter().find(|p| p.batch == self.batch && p.threads == self.threads)
    }
}

/// The time that is compared: the rule's, else decode, or an encoder's latency.
pub fn judged_metric(workload: &Workload, accept: &Accept) -> SpeedMetric {
    let usual = if workload.encodes() { SpeedMetric::Latency } else { SpeedMetric::Decode };
    accept.speed.as_ref().map_or(usual, |s| s.metric)
}

/// A variant's speedup in the judged time at the judged point.
pub fn judged_speedup<'v>(run: &Run, variant: &'v VariantResult) -> Option<&'v Estimate> {
    let (workload, accept) = (&run.suite.workload, &run.suite.accept);
    Point::judged(workload, accept).of(variant)?.speedup.get(metric_name(judged_metric(workload, accept)))
}

/// What a slot says of its speed, all as natural logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
struct SlotTimes {
    ttft: f64,
    total: f64,
    prefill_rate: f64,
    /// Of what was generated; `None` for an encoder.
    generation: Option<GenerationTimes>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct GenerationTimes {
    tpot: f64,
    rate: f64,
}

/// Estimates of every point of the workload at which `evidence` has slots, all of them with sound times.
pub(super) fn points(case: &Case<'_>, evidence: &VariantEvidence, is_reference: bool) -> Vec<PointEstimates> {
    let workload = &case.evidence.suite.workload;
    let all = workload.batch.iter().flat_map(|b| workload.threads.iter().map(|t| Point { batch: *b, threads: *t }));
    all.filter_map(|point| point_estimates(case, evidence, is_reference, point)).collect()
}

fn point_estimates(
    case: &Case<'_>,
    evidence: &VariantEvidence,
    is_reference: bool,
    point: Point,
) -> Option<PointEstimates> {
    let slots = slots(evidence, point, false);
    let times: Vec<SlotTimes> = slots.iter().map(|s| slot_times(s)).collect::<Result<_, _>>().ok()?;
    let absolute = |of: fn(&SlotTimes) -> Option<f64>, unit, direction| {
        let logs: Vec<f64> = times.iter().map(of).collect::<Option<_>>()?;
        let interval = mean_interval(&logs, case.confidence())?.map(f64::exp);
        estimate(interval, case.confidence(), unit, direction, "student-t of logarithms over slots")
    };
    let mut speedup = BTreeMap::new();
    let mut speedup_hodges_lehmann = BTreeMap::new();
    let metrics = metrics(&case.evidence.suite.workload);
    for metric in metrics.iter().copied().filter(|_| !is_reference) {
        let Ok((t, hl)) = speedups(case.reference, evidence, point, metric, case.confidence()) else { continue };
        speedup.insert(metric_name(metric).to_string(), t);
        speedup_hodges_lehmann.insert(metric_name(metric).to_string(), hl);
    }
    Some(PointEstimates {
        batch: point.batch,
        threads: point.threads,
        slots: slots.len(),
        ttft: absolute(|t| Some(t.ttft), Unit::Seconds, Direction::Lower)?,
        tpot: absolute(|t| Some(t.generation?.tpot), Unit::Seconds, Direction::Lower),
        prefill_rate: absolute(|t| Some(t.prefill_rate), Unit::TokensPerSecond, Direction::Higher)?,
        decode_rate: absolute(|t| Some(t.generation?.rate), Unit::TokensPerSecond, Direction::Higher),
        speedup,
        speedup_hodges_lehmann,
        energy_per_token: energy_per_token(&slots, case.confidence()),
        phases: slots.iter().map(|slot| slot.phases.clone()).find(|phases| !phases.is_empty()).unwrap_or_default(),
    })
}

/// Joules of all packages over all tokens of a slot; the mean over slots, idle power included.
fn energy_per_token(slots: &[&Slot], confidence: f64) -> Option<Estimate> {
    let of = |slot: &&Slot| {
        let tokens: usize = slot.samples.iter().map(|s| s.prompt_tokens + s.generated_tokens).sum();
        Some((slot.covariates.energy_j.filter(|j| *j > 0.0)? / tokens as f64).ln())
    };
    let logs: Vec<f64> = slots.iter().map(of).collect::<Option<_>>()?;
    let interval = mean_interval(&logs, confidence)?.map(f64::exp);
    estimate(interval, confidence, Unit::Joules, Direction::Lower, "student-t of logarithms over slots")
}

/// Slots of one point, controls or not.
fn slots(evidence: &VariantEvidence, point: Point, control: bool) -> Vec<&Slot> {
    let here = |s: &&Slot| s.batch == point.batch && s.threads == point.threads && s.control == control;
    evidence.slots.iter().filter(here).collect()
}

/// Speedup of `variant` over `base` in `metric` at `point`: Student-t, and Hodges-Lehmann.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn speedups(
    base: &VariantEvidence,
    variant: &VariantEvidence,
    point: Point,
    metric: SpeedMetric,
    confidence: f64,
) -> Result<(Estimate, Estimate), String> {
    let base = log_time_by_block(base, point, metric, false)?;
    let variant = log_time_by_block(variant, point, metric, false)?;
    ratio(&base, &variant, confidence)
}

/// Ratio of the reference's time to the A/A control's.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn control_ratio(
    reference: &VariantEvidence,
    point: Point,
    metric: SpeedMetric,
    confidence: f64,
) -> Result<Estimate, String> {
    let base = log_time_by_block(reference, point, metric, false)?;
    let control = log_time_by_block(reference, point, metric, true)?;
    ratio(&base, &control, confidence).map(|(t, _)| t)
}

/// `D` of every block that holds both, in the order of the blocks.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn log_ratios(
    base: &VariantEvidence,
    variant: &VariantEvidence,
    point: Point,
    metric: SpeedMetric,
) -> Result<Vec<f64>, String> {
    let base = log_time_by_block(base, point, metric, false)?;
    Ok(differences(&base, &log_time_by_block(variant, point, metric, false)?))
}

/// What is held by both, the second subtracted from the first, block by block.
pub(super) fn differences(base: &BTreeMap<usize, f64>, variant: &BTreeMap<usize, f64>) -> Vec<f64> {
    base.iter().filter_map(|(block, y)| Some(y - variant.get(block)?)).collect()
}

fn ratio(
    base: &BTreeMap<usize, f64>,
    variant: &BTreeMap<usize, f64>,
    confidence: f64,
) -> Result<(Estimate, Estimate), String> {
    let differences = differences(base, variant);
    let of = |interval: Option<crate::stats::Interval>, method| {
        estimate(interval?.map(f64::exp), confidence, Unit::Ratio, Direction::Higher, method)
    };
    let t = of(mean_interval(&differences, confidence), "student-t of paired log ratios over blocks");
    let hl = of(hodges_lehmann(&differences, confidence), "hodges-lehmann of paired log ratios over blocks");
    t.zip(hl).ok_or_else(|| "no block holds both".into())
}

/// `Y` of every block with a slot of the variant, or of the control.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn log_time_by_block(
    evidence: &VariantEvidence,
    point: Point,
    metric: SpeedMetric,
    control: bool,
) -> Result<BTreeMap<usize, f64>, String> {
    log_times(&slots(evidence, point, control), metric)
}

/// `ln` of the median time of each slot, by block; of two slots in one block, which only an interrupted run can have,
/// the later.
///
/// # Errors
/// No slots, or a slot whose times are not positive numbers.
fn log_times(slots: &[&Slot], metric: SpeedMetric) -> Result<BTreeMap<usize, f64>, String> {
    if slots.is_empty() {
        return Err("not timed".into());
    }
    let of = |slot: &&Slot| {
        let times = slot_times(slot)?;
        let log = match metric {
            SpeedMetric::Prefill | SpeedMetric::Latency => times.ttft,
            SpeedMetric::Decode => times.generation.ok_or("nothing was generated")?.tpot,
            SpeedMetric::Total => times.total,
        };
        Ok((slot.block, log))
    };
    slots.iter().map(of).collect()
}

/// Logarithms of a slot's median times and of its rates (tokens over time, summed over its iterations).
fn slot_times(slot: &Slot) -> Result<SlotTimes, String> {
    let bad = || format!("block {}: a time or token count that is not positive", slot.block);
    let log_median = |of: &dyn Fn(&crate::results::Sample) -> f64| {
        let values: Vec<f64> = slot.samples.iter().map(of).collect();
        let sound = values.iter().all(|v| *v > 0.0);
        median(&values).filter(|_| sound).map(f64::ln).ok_or_else(bad)
    };
    let after_first = |s: &crate::results::Sample| s.generated_tokens.saturating_sub(slot.batch) as f64;
    let sum = |of: &dyn Fn(&crate::results::Sample) -> f64| slot.samples.iter().map(of).sum::<f64>();
    let encodes = slot.kernels.iter().any(|kernel| kernel.phase == "encode");
    let generation = match encodes {
        true => None,
        false => Some(GenerationTimes {
            tpot: log_median(&|s| s.tpot_s(slot.batch))?,
            rate: (sum(&after_first) / sum(&|s| s.decode_s)).ln(),
        }),
    };
    let times = SlotTimes {
        ttft: log_median(&|s| s.ttft_s)?,
        total: log_median(&|s| s.ttft_s + s.decode_s)?,
        prefill_rate: (sum(&|s| s.prompt_tokens as f64) / sum(&|s| s.ttft_s)).ln(),
        generation,
    };
    let all = [times.ttft, times.total, times.prefill_rate].into_iter();
    let mut all = all.chain(generation.into_iter().flat_map(|g| [g.tpot, g.rate]));
    if all.all(|v| v.is_finite()) { Ok(times) } else { Err(bad()) }
}
