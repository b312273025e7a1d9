//! `index.html`: one self-contained file, with everything inline and nothing to fetch.

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use sha2::{Digest, Sha256};

use super::charts::Chart;
use super::details::{Detail, detail};
use super::heat::{HeatMap, maps};
use super::outlook::{Outlook, outlook};
use super::{data, samples, view};
use crate::decide::{disturbances, metric_name, metrics};
use crate::error::{Error, Result};
use crate::results::{BrokenControl, Estimate, Evidence, Run};
use crate::text::{name, one_line};
use crate::units;

/// The page; its extension `.html` turns escaping on.
const TEMPLATE: &str = "index.html";

/// The page's own script, the only one that its policy allows to run.
const SCRIPT: &str =
    concat!(include_str!("page/judge.js"), include_str!("page/chart.js"), include_str!("page/tables.js"));

/// Everything that the template shows; its fields are plain text, but for style, script, data and the charts' SVG.
#[derive(Serialize)]
struct Page<'a> {
    style: &'static str,
    script: &'static str,
    /// Base64 of the SHA-256 of the script.
    script_sha256: String,
    /// JSON without `<`.
    data: String,
    answer: view::Answer,
    outlook: Outlook,
    rows: Vec<view::Row>,
    charts: &'a [Chart],
    details: Vec<Detail>,
    heat_maps: Vec<HeatMap>,
    machine: Vec<(String, String)>,
    machine_disturbances: Vec<String>,
    control: Vec<Control>,
    broken: Option<BrokenControl>,
    blocks_redone: usize,
    /// Scored text that was also calibrated on.
    leak: Option<String>,
    /// Why the run is invalid, if it is.
    invalid: Vec<String>,
    disturbances: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    stages: Vec<(String, String, String)>,
    reproduce: Vec<(String, String)>,
    tool_version: String,
    started: String,
    finished: bool,
    blocks: usize,
    /// Columns of the verdict table.
    columns: usize,
    /// Names of the compared times.
    metrics: Vec<&'static str>,
}

#[derive(Serialize)]
struct Control {
    at: String,
    ratio: String,
    sound: bool,
}

/// The report as HTML.
///
/// # Errors
/// When the template does not render, which a test rules out.
pub(super) fn page(run: &Run, evidence: &Evidence, charts: &[Chart]) -> Result<String> {
    let fault = |e: minijinja::Error| Error::input("report/index.html", e.to_string());
    let mut environment = Environment::new();
    environment.add_template(TEMPLATE, include_str!("page/index.html")).map_err(fault)?;
    let page = environment.get_template(TEMPLATE).map_err(fault)?;
    let data = data::json(run).map_err(|e| Error::input("report/index.html", e.to_string()))?;
    page.render(Serde(contents(run, evidence, charts, data))).map_err(fault)
}

fn contents<'a>(run: &Run, evidence: &Evidence, charts: &'a [Chart], data: String) -> Page<'a> {
    let (rows, answer) = (view::rows(run), view::answer(run));
    let mut details: Vec<Detail> = run.variants.iter().zip(&rows).map(|(v, row)| detail(run, v, row)).collect();
    for (detail, strips) in details.iter_mut().zip(samples::strips(run, evidence)) {
        detail.strips = strips;
    }
    Page {
        style: include_str!("page/style.css"),
        script: SCRIPT,
        script_sha256: base64(&Sha256::digest(SCRIPT)),
        data,
        columns: 6
            + usize::from(answer.choice)
            + 3 * usize::from(answer.perplexity)
            + 2 * usize::from(answer.similarity)
            - usize::from(answer.encodes),
        answer,
        outlook: outlook(run),
        charts,
        details,
        metrics: metrics(&run.suite.workload).iter().map(|metric| metric_name(*metric)).collect(),
        rows,
        heat_maps: maps(run),
        machine: machine(run).into_iter().chain(timer(run, evidence)).collect(),
        machine_disturbances: run.machine.disturbances.iter().map(|d| one_line(d)).collect(),
        control: control(run),
        broken: run.broken.as_ref().map(|b| BrokenControl { reason: one_line(&b.reason), ..b.clone() }),
        blocks_redone: run.blocks_redone,
        leak: run.leak.as_deref().map(one_line),
        invalid: run.invalid.iter().map(|fault| one_line(fault)).collect(),
        disturbances: disturbance_rows(evidence),
        warnings: run.warnings.iter().map(|w| one_line(w)).collect(),
        stages: stages(run),
        reproduce: reproduce(run),
        tool_version: one_line(&run.tool_version),
        started: crate::results::utc(run.started_unix_s),
        finished: run.finished_unix_s.is_some(),
        blocks: run.blocks,
    }
}

/// Base64 (RFC 4648) of bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |at: usize| {
            let known = at <= chunk.len();
            if known { char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]) } else { '=' }
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn machine(run: &Run) -> Vec<(String, String)> {
    let machine = &run.machine;
    let yes_no = |known: Option<bool>| known.map_or(view::MISSING, |yes| if yes { "yes" } else { "no" });
    let mut facts = vec![
        ("processor".into(), machine.cpu.clone()),
        ("architecture".into(), machine.arch.clone()),
        ("instruction sets".into(), machine.instruction_sets.join(", ")),
        ("kernels for".into(), machine.isa.clone()),
        ("processors usable".into(), machine.cores.to_string()),
        ("memory".into(), units::bytes(machine.memory_bytes)),
        ("system".into(), machine.os.clone()),
        ("virtual machine".into(), yes_no(machine.virtual_machine).into()),
    ];
    facts.extend(machine.facts.iter().map(|(k, v)| (k.replace('_', " "), v.clone())));
    facts.into_iter().map(|(k, v): (String, String)| (one_line(&k), one_line(&v))).collect()
}

/// How fine the clock is, and what reading it adds to the shortest phase that was timed.
fn timer(run: &Run, evidence: &Evidence) -> Option<(String, String)> {
    let timer = run.machine.timer?;
    let samples = evidence.variants.values().flat_map(|v| &v.slots).flat_map(|slot| &slot.samples);
    let phases = samples.flat_map(|sample| [sample.ttft_s, sample.decode_s]).filter(|s| *s > 0.0);
    let share = timer.reading_s / phases.fold(f64::INFINITY, f64::min);
    let text = format!(
        "a reading takes {}, its step is {}; of the shortest timed phase a reading is {:.5} %",
        units::seconds(timer.reading_s),
        units::seconds(timer.step_s),
        100.0 * share
    );
    Some(("clock".into(), text))
}

fn control(run: &Run) -> Vec<Control> {
    let sound = |e: &Estimate| e.low.is_some_and(|l| l <= 1.0) && e.high.is_some_and(|h| h >= 1.0);
    run.control.iter().map(|(at, e)| Control { at: at.clone(), ratio: e.to_string(), sound: sound(e) }).collect()
}

/// (what, how often).
fn disturbance_rows(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let often = |d: &crate::decide::Disturbance| match d.known {
        0 => "not told by this machine".into(),
        known => format!("{} of {known} slots", d.flagged),
    };
    disturbances(evidence).iter().map(|d| (d.what, often(d))).collect()
}

/// (stage, wall time, largest resident set of its workers).
fn stages(run: &Run) -> Vec<(String, String, String)> {
    let bytes = |b: Option<u64>| b.map_or(view::MISSING.into(), units::bytes);
    let mut rows: Vec<_> =
        run.stages.iter().map(|s| (one_line(&s.name), units::seconds(s.seconds), bytes(s.worker_peak_rss))).collect();
    let total: f64 = run.stages.iter().map(|s| s.seconds).sum();
    rows.push(("all".into(), units::seconds(total), format!("parent {}", bytes(run.parent_peak_rss))));
    rows
}

fn reproduce(run: &Run) -> Vec<(String, String)> {
    let suite = &run.suite;
    let mut facts = vec![
        ("run again".into(), format!("bench run {}.toml", suite.name)),
        ("judge again without running".into(), "bench report RUN-FOLDER".into()),
        ("program".into(), format!("quantbench {}", run.tool_version)),
        ("model".into(), suite.model.clone()),
        ("SHA-256 of the model".into(), run.model_sha256.clone()),
        ("seed of orders".into(), suite.seed.to_string()),
    ];
    if let Some(calibration) = &suite.calibration {
        facts.push(("calibration text".into(), calibration.text.source.clone()));
        facts.push(("seed of the calibration windows".into(), calibration.seed.to_string()));
    }
    facts.extend(suite.tasks.iter().map(|t| (format!("data of task {}", t.name), t.text.source.clone())));
    for variant in &run.variants {
        if let Some(artefact) = &variant.artefact {
            facts.push((format!("key of {}", name(&variant.name)), artefact.key.clone()));
        }
    }
    facts.into_iter().map(|(k, v): (String, String)| (one_line(&k), one_line(&v))).collect()
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// Test vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_standard() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, text) in known {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
