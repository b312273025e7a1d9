//! One page over many runs: for every suite the history of each variant, oldest run first.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::view;
use crate::decide::{accuracy_question, judged_metric, judged_speedup, metric_name};
use crate::error::{Error, Result};
use crate::results::{Estimate, Run, VariantResult, utc, write_whole};
use crate::text::{name, one_line};
use crate::units;

/// Size of a history's drawing, pixels.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 48.0;
const MARGIN: f64 = 6.0;

#[derive(Serialize)]
struct Page {
    style: &'static str,
    suites: Vec<SuiteHistory>,
    runs: usize,
}

#[derive(Serialize)]
struct SuiteHistory {
    title: String,
    metric: &'static str,
    variants: Vec<VariantHistory>,
}

#[derive(Serialize)]
struct VariantHistory {
    name: String,
    entries: Vec<Entry>,
    /// Speedups over time: upright intervals (x, low, high) and points (x, y), pixels.
    bars: Vec<Bar>,
    dots: Vec<(f64, f64)>,
    width: f64,
    height: f64,
}

/// A variant in one run.
#[derive(Serialize)]
struct Entry {
    started: String,
    machine: String,
    link: String,
    outcome: String,
    recommended: bool,
    accuracy: String,
    speedup: String,
    weights: String,
}

/// Writes `index.html` over `runs` into `folder`; each run comes with the link to its own report.
///
/// # Errors
/// When the file cannot be written.
pub fn write_history(folder: &Path, runs: &[(String, Run)]) -> Result<()> {
    let fault = |e: minijinja::Error| Error::input("index.html", e.to_string());
    let mut environment = Environment::new();
    environment.add_template("runs.html", include_str!("page/runs.html")).map_err(fault)?;
    let page = Page { style: include_str!("page/style.css"), suites: suites(runs), runs: runs.len() };
    let html = environment.get_template("runs.html").and_then(|t| t.render(Serde(page))).map_err(fault)?;
    write_whole(&folder.join("index.html"), html.as_bytes())
}

fn suites(runs: &[(String, Run)]) -> Vec<SuiteHistory> {
    let mut by_suite: BTreeMap<&str, Vec<&(String, Run)>> = BTreeMap::new();
    for run in runs {
        by_suite.entry(run.1.suite.name.as_str()).or_default().push(run);
    }
    by_suite.into_values().filter_map(suite).collect()
}

/// The history of one suite; variants in the order of its newest run, then those that only older runs have.
fn suite(mut runs: Vec<&(String, Run)>) -> Option<SuiteHistory> {
    runs.sort_by(|a, b| a.1.started_unix_s.total_cmp(&b.1.started_unix_s));
    let newest = &runs.last()?.1;
    let mut names: Vec<&str> = Vec::new();
    for variant in runs.iter().rev().flat_map(|(_, run)| &run.variants) {
        if !names.contains(&variant.name.as_str()) {
            names.push(&variant.name);
        }
    }
    Some(SuiteHistory {
        title: one_line(&newest.suite.title),
        metric: metric_name(judged_metric(&newest.suite.workload, &newest.suite.accept)),
        variants: names.into_iter().map(|name| variant_history(name, &runs)).collect(),
    })
}

fn variant_history(variant: &str, runs: &[&(String, Run)]) -> VariantHistory {
    let found: Vec<(&str, &Run, &VariantResult)> = runs
        .iter()
        .filter_map(|(link, run)| Some((link.as_str(), run, run.variants.iter().find(|v| v.name == variant)?)))
        .collect();
    let (bars, dots) = drawing(&found.iter().map(|(_, run, v)| judged_speedup(run, v)).collect::<Vec<_>>());
    VariantHistory {
        name: name(variant),
        entries: found.iter().map(|(link, run, v)| entry(link, run, v)).collect(),
        bars,
        dots,
        width: WIDTH,
        height: HEIGHT,
    }
}

fn entry(link: &str, run: &Run, variant: &VariantResult) -> Entry {
    let reference = if variant.reference { "reference" } else { "not judged" };
    let shown = |e: Option<&Estimate>| e.map_or(view::MISSING.into(), Estimate::to_string);
    Entry {
        started: utc(run.started_unix_s),
        machine: one_line(&run.machine.cpu),
        link: link.into(),
        outcome: variant.verdict.as_ref().map_or(reference.into(), |v| v.outcome.to_string()),
        recommended: run.recommendation.variant.as_ref() == Some(&variant.name),
        accuracy: shown(accuracy_question(&run.suite.accept.accuracy, variant).estimate),
        speedup: shown(judged_speedup(run, variant)),
        weights: variant.memory.map_or(view::MISSING.into(), |m| units::bytes(m.weight_bytes)),
    }
}

/// (x, low, high) of an interval, pixels.
type Bar = (f64, f64, f64);

/// Bars and dots of speedups over runs, the scale beginning at 0.
fn drawing(speedups: &[Option<&Estimate>]) -> (Vec<Bar>, Vec<(f64, f64)>) {
    let most = speedups.iter().flatten().map(|e| e.high.unwrap_or(e.value)).fold(1.0, f64::max);
    let tenth = |v: f64| (10.0 * v).round() / 10.0;
    let x = |at: usize| {
        let steps = speedups.len().saturating_sub(1).max(1) as f64;
        tenth(MARGIN + (WIDTH - 2.0 * MARGIN) * at as f64 / steps)
    };
    let y = |speedup: f64| tenth(HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * (speedup / most).clamp(0.0, 1.0));
    let known = || speedups.iter().enumerate().filter_map(|(at, e)| Some((at, (*e)?)));
    let bars = known().filter_map(|(at, e)| Some((x(at), y(e.low?), y(e.high?)))).collect();
    (bars, known().map(|(at, e)| (x(at), y(e.value))).collect())
}
