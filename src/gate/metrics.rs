//! Numbers for dashboards: of every variant, smaller being better.

use super::verdict::Metric;
use crate::results::{Estimate, Run, VariantResult};

/// Sizes, perplexities, shares of wrong items, and times where there are any.
pub fn metrics(run: &Run) -> Vec<Metric> {
    run.variants.iter().flat_map(of_variant).collect()
}

fn of_variant(variant: &VariantResult) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut add = |name: String, unit: &str, value: f64, bounds: (Option<f64>, Option<f64>)| {
        let (variant, unit) = (variant.name.clone(), unit.to_string());
        metrics.push(Metric { variant, name, unit, value, low: bounds.0, high: bounds.1 });
    };
    if let Some(artefact) = &variant.artefact {
        add("file size".into(), "bytes", artefact.file_bytes as f64, (None, None));
    }
    for (task, score) in &variant.scores {
        add(format!("perplexity on {task}"), "perplexity", score.perplexity, (None, None));
    }
    for (task, choice) in &variant.choices {
        let accuracy = &choice.accuracy;
        let wrong = |share: f64| 1.0 - share;
        add(
            format!("wrong on {task}"),
            "share",
            wrong(accuracy.value),
            (accuracy.high.map(wrong), accuracy.low.map(wrong)),
        );
    }
    for (task, similarity) in &variant.similarities {
        add(format!("distance on {task}"), "cosine", 1.0 - similarity.mean_cosine, (None, None));
    }
    for point in &variant.points {
        let label = format!("b{}t{}", point.batch, point.threads);
        let mut time = |name: &str, e: &Estimate| add(format!("{name} {label}"), "s", e.value, (e.low, e.high));
        match &point.tpot {
            Some(tpot) => {
                time("time to first token", &point.ttft);
                time("time per output token", tpot);
            }
            None => time("latency", &point.ttft),
        }
    }
    metrics
}
