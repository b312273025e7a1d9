//! Numbers of a gate for programs that keep their history: Bencher and github-action-benchmark.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::gate::{GateReport, Metric};
use crate::text::one_line;

/// Bencher's metric format: benchmark to measure to value with bounds.
///
/// # Errors
/// The JSON writer's, which a value in memory does not have.
pub(super) fn bencher(report: &GateReport) -> Result<Vec<u8>> {
    let mut benchmarks: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for metric in &report.metrics {
        let mut value = json!({ "value": metric.value });
        for (key, bound) in [("lower_value", metric.low), ("upper_value", metric.high)] {
            if let Some(bound) = bound {
                value[key] = json!(bound);
            }
        }
        let measure = format!("{} ({})", one_line(&metric.name), metric.unit).replace(' ', "-");
        benchmarks.entry(benchmark(report, metric)).or_default().insert(measure, value);
    }
    bytes(&json!(benchmarks), "bencher.json")
}

/// The list that github-action-benchmark reads as `customSmallerIsBetter`.
///
/// # Errors
/// As [`bencher`].
pub(super) fn github_action_benchmark(report: &GateReport) -> Result<Vec<u8>> {
    let entry = |metric: &Metric| {
        let name = format!("{}: {}", benchmark(report, metric), one_line(&metric.name));
        let mut entry = json!({ "name": name, "unit": metric.unit, "value": metric.value });
        if let (Some(low), Some(high)) = (metric.low, metric.high) {
            entry["range"] = json!(format!("{low} to {high}"));
        }
        entry
    };
    bytes(&report.metrics.iter().map(entry).collect(), "github-action-benchmark.json")
}

fn benchmark(report: &GateReport, metric: &Metric) -> String {
    format!("{}/{}", one_line(&report.suite), one_line(&metric.variant))
}

fn bytes(value: &Value, file: &str) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::input(file, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn both_formats_have_their_fields() {
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        let found = read(bencher(&report()).unwrap());
        let measure = &found["quick/int4"]["time-per-output-token-b1t2-(s)"];
        assert_eq!(measure, &json!({ "value": 0.002, "lower_value": 0.0019, "upper_value": 0.0022 }));
        let found = read(github_action_benchmark(&report()).unwrap());
        assert_eq!(found[0]["name"], "quick/int4: time per output token b1t2");
        assert_eq!(
            (&found[0]["unit"], &found[0]["value"], &found[0]["range"]),
            (&json!("s"), &json!(0.002), &json!("0.0019 to 0.0022"))
        );
    }
}
