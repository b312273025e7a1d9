//! All that a gate measured, as kept in `gate.json` so that it can become the baseline later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::decide::{metric_name, metrics};
use crate::machine::Pace;
use crate::results::{Evidence, Sample, Slot};
use crate::stats::{mean, median};
use crate::suite::{SpeedMetric, Suite, Workload};

/// What a gate measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Start, seconds since 1970-01-01 UTC.
    pub unix_s: f64,
    /// Version of the program.
    pub tool_version: String,
    /// The suite's file as resolved, with all its items.
    pub suite: Suite,
    /// SHA-256 of the model's files.
    pub model_sha256: String,
    /// Class of machines ([`super::machine_class`]).
    pub machine_class: String,
    /// Deterministic results.
    pub record: Record,
    /// Failures by variant as `stage: reason`.
    pub failures: BTreeMap<String, String>,
    /// Times; `None` where nothing was timed.
    pub session: Option<Session>,
}

/// Times of one session on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Start, seconds since 1970-01-01 UTC.
    pub unix_s: f64,
    /// How fast frozen work was in the same session.
    pub pace: Pace,
    /// Mean over slots of `ln` of the median time in seconds: by variant, then by `decode b1t2`.
    pub log_seconds: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Session {
    /// The session of a run's timed slots, the controls left out; what has no sound time is not in it.
    pub fn of(evidence: &Evidence, pace: Pace) -> Session {
        let workload = &evidence.suite.workload;
        let of = |slots: &[Slot]| {
            let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for slot in slots.iter().filter(|slot| !slot.control) {
                for metric in gated_metrics(workload) {
                    let seconds = log_seconds(&slot.samples, metric, slot.batch);
                    times.entry(series_name(metric, slot.batch, slot.threads)).or_default().extend(seconds);
                }
            }
            times.into_iter().filter_map(|(name, logs)| Some((name, mean(&logs)?))).collect()
        };
        let log_seconds = evidence.variants.iter().map(|(name, found)| (name.clone(), of(&found.slots)));
        Session {
            unix_s: evidence.started_unix_s,
            pace,
            log_seconds: log_seconds.filter(|(_, times): &(_, BTreeMap<_, _>)| !times.is_empty()).collect(),
        }
    }
}

/// Times that are gated: each phase's, not their sum.
pub(super) fn gated_metrics(workload: &Workload) -> impl Iterator<Item = SpeedMetric> {
    metrics(workload).iter().copied().filter(|metric| *metric != SpeedMetric::Total)
}

/// `decode b1t2`.
pub(super) fn series_name(metric: SpeedMetric, batch: usize, threads: usize) -> String {
    format!("{} b{batch}t{threads}", metric_name(metric))
}

/// `ln` of the median over iterations of a time in seconds; `None` where it is not a positive number.
pub(super) fn log_seconds(samples: &[Sample], metric: SpeedMetric, batch: usize) -> Option<f64> {
    let all: Vec<f64> = samples.iter().map(|sample| seconds(sample, metric, batch)).collect();
    log(median(&all)?)
}

/// The median over pairs of iterations of `ln(base / head)`; `None` where there is no pair or a time is no positive number.
pub(super) fn log_ratio(base: &[Sample], head: &[Sample], metric: SpeedMetric, batch: usize) -> Option<f64> {
    let ratio = |(base, head)| Some(log(seconds(base, metric, batch))? - log(seconds(head, metric, batch))?);
    median(&base.iter().zip(head).map(ratio).collect::<Option<Vec<f64>>>()?)
}

fn seconds(sample: &Sample, metric: SpeedMetric, batch: usize) -> f64 {
    match metric {
        SpeedMetric::Prefill | SpeedMetric::Latency => sample.ttft_s,
        SpeedMetric::Decode => sample.tpot_s(batch),
        SpeedMetric::Total => sample.ttft_s + sample.decode_s,
    }
}

fn log(seconds: f64) -> Option<f64> {
    Some(seconds).filter(|seconds| *seconds > 0.0).map(f64::ln).filter(|log| log.is_finite())
}
