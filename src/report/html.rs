//! `index.html`: one self-contained file, with everything inline and nothing to fetch.

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use super::charts::Chart;
use super::imports::{Import, imports};
use super::text::{name, one_line};
use super::view;
use crate::decide::{disturbances, metric_name, metrics};
use crate::error::{Error, Result};
use crate::results::{
    ChoiceEstimates, Estimate, Evidence, PhaseProfile, PointEstimates, Run, ScoreEstimates, SimilarityEstimates,
    VariantResult,
};
use crate::units;

/// The page; its extension `.html` turns escaping on.
const TEMPLATE: &str = "index.html";

/// Layers with the largest output error that a variant's details show.
const WORST_LAYERS: usize = 5;

/// Everything that the template shows; its fields are plain text, but for the charts' SVG.
#[derive(Serialize)]
struct Page<'a> {
    answer: view::Answer,
    rows: Vec<view::Row>,
    charts: &'a [Chart],
    details: Vec<Detail>,
    imports: Vec<Import>,
    machine: Vec<(String, String)>,
    machine_disturbances: Vec<String>,
    control: Vec<Control>,
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

/// What the report shows of one variant below the table.
#[derive(Serialize)]
struct Detail {
    name: String,
    recipe: String,
    outcome: String,
    frontier: String,
    failures: Vec<String>,
    /// (phase, kernel, matrices, bytes).
    kernels: Vec<(String, String, usize, String)>,
    /// (name, value).
    facts: Vec<(String, String)>,
    /// Every point of the workload: label, TTFT, TPOT, prefill and decode rate, speedups.
    points: Vec<PointRow>,
    phases: Vec<PhaseRow>,
    /// Mean of the layers' relative squared output errors, and the worst ones.
    layer_error: Option<String>,
    worst_layers: Vec<(String, String)>,
}

#[derive(Serialize)]
struct PointRow {
    label: String,
    slots: usize,
    ttft: String,
    tpot: String,
    prefill: String,
    decode: String,
    /// Speedups of the compared times with intervals.
    speedups: Vec<String>,
}

/// Where the time of a phase goes.
#[derive(Serialize)]
struct PhaseRow {
    label: String,
    phase: String,
    seconds: String,
    /// What bounds the phase, and how near it came to that.
    bound: &'static str,
    share_of_bound: String,
    /// Shares of linear layers, making inputs, attention, head, rest.
    shares: [String; 5],
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
    environment.add_template(TEMPLATE, include_str!("index.html")).map_err(fault)?;
    let page = environment.get_template(TEMPLATE).map_err(fault)?;
    page.render(Serde(contents(run, evidence, charts))).map_err(fault)
}

fn contents<'a>(run: &Run, evidence: &Evidence, charts: &'a [Chart]) -> Page<'a> {
    let (rows, answer) = (view::rows(run), view::answer(run));
    Page {
        columns: 6
            + usize::from(answer.choice)
            + 3 * usize::from(answer.perplexity)
            + 2 * usize::from(answer.similarity)
            - usize::from(answer.encodes),
        answer,
        charts,
        details: run.variants.iter().zip(&rows).map(|(v, row)| detail(run, v, row)).collect(),
        metrics: metrics(&run.suite.workload).iter().map(|metric| metric_name(*metric)).collect(),
        rows,
        imports: imports(run),
        machine: machine(run),
        machine_disturbances: run.machine.disturbances.iter().map(|d| one_line(d)).collect(),
        control: control(run),
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

fn detail(run: &Run, variant: &VariantResult, row: &view::Row) -> Detail {
    let errors = variant.artefact.as_ref().map(|a| &a.layer_errors).filter(|e| !e.is_empty());
    let mut worst: Vec<(&String, f64)> = errors.into_iter().flatten().map(|(layer, e)| (layer, *e)).collect();
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mean = worst.iter().map(|(_, e)| e).sum::<f64>() / worst.len().max(1) as f64;
    let kernel =
        |k: &crate::results::KernelUse| (one_line(&k.phase), one_line(&k.kernel), k.matrices, units::bytes(k.bytes));
    let facts = score_facts(variant)
        .into_iter()
        .chain(choice_facts(variant))
        .chain(similarity_facts(variant))
        .chain(memory_facts(variant))
        .chain(artefact_facts(variant));
    Detail {
        name: row.name.clone(),
        recipe: row.recipe.clone(),
        outcome: row.outcome.clone(),
        frontier: row.frontier.clone(),
        failures: variant.failures.iter().map(|f| one_line(f)).collect(),
        kernels: variant.kernels.iter().map(kernel).collect(),
        facts: facts.collect(),
        points: points(run, variant),
        phases: phases(variant),
        layer_error: (!worst.is_empty()).then(|| format!("{mean:.2e} over {} tensors", worst.len())),
        worst_layers: worst.iter().take(WORST_LAYERS).map(|(l, e)| (one_line(l), format!("{e:.2e}"))).collect(),
    }
}

fn score_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let of = |(task, score): (&String, &ScoreEstimates)| {
        let fact = |what: &str, value: Option<String>| Some((format!("{}: {what}", one_line(task)), value?));
        let estimate = |e: &Option<Estimate>| e.as_ref().map(|e| format!("{e} ({})", e.method));
        let quantiles = score.kl_quantiles.map(|[p50, p90, p99, p999, max]| {
            format!("p50 {p50:.2e}, p90 {p90:.2e}, p99 {p99:.2e}, p99.9 {p999:.2e}, max {max:.2e} nats")
        });
        [
            fact("tokens", Some(score.tokens.to_string())),
            fact("perplexity increase", estimate(&score.perplexity_increase)),
            fact("log-likelihood difference", estimate(&score.log_likelihood_difference)),
            fact("token accuracy difference", estimate(&score.token_accuracy_difference)),
            fact("KL(reference || variant) per token", estimate(&score.kl)),
            fact("KL tail", quantiles),
            fact("same most likely token as the reference", score.agreement.map(|a| format!("{:.2} %", 100.0 * a))),
            fact("flips against the reference", score.flips.map(|(lost, won)| format!("{lost} lost, {won} won"))),
        ]
    };
    let mut facts: Vec<(String, String)> = variant.scores.iter().flat_map(of).flatten().collect();
    for (task, score) in &variant.scores {
        facts.extend(score.genres.iter().map(|genre| {
            let value = format!("perplexity {:.2} over {} tokens", genre.perplexity, genre.tokens);
            (format!("{}: {}", one_line(task), one_line(&genre.name)), value)
        }));
    }
    facts
}

fn choice_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let of = |(task, choice): (&String, &ChoiceEstimates)| {
        let full = |e: &Estimate| format!("{e} ({})", e.method);
        let mut facts = vec![
            ("items", choice.items.to_string()),
            ("accuracy", full(&choice.accuracy)),
            ("accuracy by log-likelihood per token", full(&choice.accuracy_norm)),
            ("accuracy of guessing", format!("{:.1} %", 100.0 * choice.chance)),
        ];
        facts.extend(choice.accuracy_difference.as_ref().map(|e| ("accuracy difference", full(e))));
        facts.extend(choice.accuracy_norm_difference.as_ref().map(|e| ("accuracy per token difference", full(e))));
        facts
            .extend(choice.flips.map(|(lost, won)| ("flips against the reference", format!("{lost} lost, {won} won"))));
        facts.extend(
            choice.genres.iter().map(|g| (g.name.as_str(), format!("accuracy {} over {} items", g.accuracy, g.items))),
        );
        let named = |(what, value): (&str, String)| (format!("{}: {}", one_line(task), one_line(what)), value);
        facts.into_iter().map(named).collect::<Vec<_>>()
    };
    variant.choices.iter().flat_map(of).collect()
}

fn similarity_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let of = |(task, similarity): (&String, &SimilarityEstimates)| {
        let mut facts = vec![
            ("sentences", similarity.sentences.to_string()),
            ("mean cosine to the reference", format!("{:.6}", similarity.mean_cosine)),
            ("smallest cosine", format!("{:.6}", similarity.worst_cosine)),
        ];
        let difference = similarity.cosine_difference.as_ref();
        facts.extend(difference.map(|e| ("mean cosine less 1", format!("{e} ({})", e.method))));
        let rank = similarity.rank_correlation;
        facts.extend(rank.map(|r| ("rank correlation of pairs with the reference", format!("{r:.6}"))));
        let named = |(what, value): (&str, String)| (format!("{}: {what}", one_line(task)), value);
        facts.into_iter().map(named).collect::<Vec<_>>()
    };
    variant.similarities.iter().flat_map(of).collect()
}

fn memory_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let Some(memory) = variant.memory else { return Vec::new() };
    let unknown = || view::MISSING.to_string();
    vec![
        ("weights as the kernels read them".into(), units::bytes(memory.weight_bytes)),
        ("KV cache".into(), units::bytes(memory.kv_bytes)),
        ("peak RSS (VmHWM)".into(), memory.peak_rss.map_or_else(unknown, units::bytes)),
        ("steady RSS after warm-up".into(), memory.steady_rss.map_or_else(unknown, units::bytes)),
    ]
}

fn artefact_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let Some(artefact) = &variant.artefact else { return Vec::new() };
    let made = if artefact.cached { "taken from the cache".into() } else { units::seconds(artefact.seconds) };
    let mut facts = vec![("file".into(), units::bytes(artefact.file_bytes)), ("time to make".into(), made)];
    if let Some(bits) = artefact.bits_per_weight.filter(|b| b.is_finite()) {
        facts.push(("bits per quantized weight".into(), format!("{bits:.2}")));
    }
    facts
}

fn points(run: &Run, variant: &VariantResult) -> Vec<PointRow> {
    let metrics = metrics(&run.suite.workload).iter().map(|metric| metric_name(*metric));
    let shown = |e: Option<&Estimate>| e.map_or(view::MISSING.into(), Estimate::to_string);
    let row = |p: &PointEstimates| PointRow {
        label: format!("batch {}, {}", p.batch, view::threads(p.threads)),
        slots: p.slots,
        ttft: p.ttft.to_string(),
        tpot: shown(p.tpot.as_ref()),
        prefill: p.prefill_rate.to_string(),
        decode: shown(p.decode_rate.as_ref()),
        speedups: metrics.clone().map(|m| shown(p.speedup.get(m))).collect(),
    };
    variant.points.iter().map(row).collect()
}

fn phases(variant: &VariantResult) -> Vec<PhaseRow> {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let row = |point: &PointEstimates, p: &PhaseProfile| PhaseRow {
        label: format!("batch {}, {}", point.batch, view::threads(point.threads)),
        phase: one_line(&p.phase),
        seconds: units::seconds(p.seconds),
        bound: p.bound.map_or(view::MISSING, |bound| bound.by.name()),
        share_of_bound: p.bound.map_or(view::MISSING.into(), |bound| percent(bound.seconds / p.seconds)),
        shares: [p.shares.linear, p.shares.inputs, p.shares.attention, p.shares.head, p.shares.rest].map(percent),
    };
    variant.points.iter().flat_map(|point| point.phases.iter().map(move |p| row(point, p))).collect()
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
