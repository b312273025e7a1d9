//! What the report shows of one variant below the verdict table.

use serde::Serialize;

use super::imports::{Import, import};
use super::samples::Strip;
use super::view;
use crate::decide::{Point, metric_name, metrics};
use crate::results::{
    CalibrationDraws, ChoiceEstimates, Estimate, GenerationEstimates, KernelUse, Mixture, PhaseProfile, PointEstimates,
    Run, ScoreEstimates, SimilarityEstimates, VariantResult,
};
use crate::suite::{Recipe, Variant};
use crate::text::one_line;
use crate::units;

/// A variant's section.
#[derive(Serialize)]
pub(super) struct Detail {
    name: String,
    recipe: String,
    outcome: String,
    frontier: String,
    failures: Vec<String>,
    accuracies: Vec<AccuracyRow>,
    slices: Vec<SliceRow>,
    /// Raw times of this variant.
    pub strips: Vec<Strip>,
    memory: Option<MemoryBar>,
    kernels: Vec<KernelRow>,
    /// (name, value) of the artefact and of what it learned from.
    facts: Vec<(String, String)>,
    /// The recipe that a search decided on, as keys of a suite.
    decided: Option<String>,
    points: Vec<PointRow>,
    phases: Vec<PhaseRow>,
    import: Option<Import>,
}

/// A number about a task.
#[derive(Serialize)]
struct AccuracyRow {
    task: String,
    what: String,
    value: String,
    interval: String,
    /// How the interval was made.
    method: String,
}

/// A genre of a task's data.
#[derive(Serialize)]
struct SliceRow {
    task: String,
    slice: String,
    size: String,
    value: String,
    /// Change from the reference on the same slice.
    change: String,
    /// The change as a number, larger being worse.
    loss: Option<f64>,
    /// The slice that suffers most.
    worst: bool,
}

/// Kinds of memory, stacked: bytes above what lies to the left.
#[derive(Serialize)]
struct MemoryBar {
    parts: Vec<MemoryPart>,
    /// What is not part of the stack.
    others: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct MemoryPart {
    kind: &'static str,
    size: String,
    /// Percent of the largest stack of all variants.
    percent: f64,
}

#[derive(Serialize)]
struct KernelRow {
    phase: String,
    kernel: String,
    matrices: usize,
    size: String,
    bytes: u64,
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

/// The section of a variant, whose raw times are still to be added.
pub(super) fn detail(run: &Run, variant: &VariantResult, row: &view::Row) -> Detail {
    let accuracies = score_rows(variant).chain(choice_rows(variant)).chain(similarity_rows(variant));
    let proof = variant.artefact.as_ref().map(|a| &a.proof).filter(|proof| !proof.is_empty());
    Detail {
        name: row.name.clone(),
        recipe: row.recipe.clone(),
        outcome: row.outcome.clone(),
        frontier: row.frontier.clone(),
        failures: variant.failures.iter().map(|f| one_line(f)).collect(),
        accuracies: accuracies.chain(draws_row(run, variant)).collect(),
        slices: slices(run, variant),
        strips: Vec::new(),
        memory: memory_bar(run, variant),
        kernels: variant.kernels.iter().map(kernel_row).collect(),
        decided: decided(variant),
        facts: artefact_facts(variant)
            .into_iter()
            .chain(energy(run, variant))
            .chain(calibration_facts(run, variant))
            .collect(),
        points: points(run, variant),
        phases: phases(variant),
        import: proof.map(|proof| import(proof)),
    }
}

fn accuracy_row(task: &str, what: &str, value: String) -> AccuracyRow {
    let (task, what) = (one_line(task), what.into());
    AccuracyRow { task, what, value, interval: String::new(), method: String::new() }
}

fn estimate_row(task: &str, what: &str, estimate: &Estimate) -> AccuracyRow {
    let interval = estimate.interval().unwrap_or_else(|| "too little data".into());
    AccuracyRow { interval, method: one_line(&estimate.method), ..accuracy_row(task, what, estimate.point()) }
}

fn score_rows(variant: &VariantResult) -> impl Iterator<Item = AccuracyRow> {
    let of = |(task, score): (&String, &ScoreEstimates)| {
        let estimates = [
            ("increase of perplexity", &score.perplexity_increase),
            ("change of log-likelihood per token", &score.log_likelihood_difference),
            ("change of token accuracy", &score.token_accuracy_difference),
            ("KL(reference || variant) per token", &score.kl),
            ("RMS difference of the true token's probability", &score.rms_probability_difference),
        ];
        let mut rows = vec![
            accuracy_row(task, "perplexity", format!("{:.3}", score.perplexity)),
            accuracy_row(task, "token accuracy", format!("{:.2} %", 100.0 * score.token_accuracy)),
            accuracy_row(task, "predicted tokens", score.tokens.to_string()),
        ];
        rows.extend(estimates.iter().filter_map(|(what, e)| Some(estimate_row(task, what, e.as_ref()?))));
        rows.extend(score.kl_quantiles.map(|[p50, p90, p99, p999, max]| {
            let method = format!("p50 {p50:.1e}, p90 {p90:.1e}, p99.9 {p999:.1e}, largest {max:.1e}");
            AccuracyRow { method, ..accuracy_row(task, "KL of the worst token in a hundred", format!("{p99:.3} nats")) }
        }));
        let same = score.agreement.map(|a| format!("{:.2} %", 100.0 * a));
        rows.extend(same.map(|same| accuracy_row(task, "same most likely token as the reference", same)));
        rows.extend(score.flips.map(|flips| flips_row(task, flips)));
        rows.extend(score.generations.iter().flat_map(|g| generation_rows(task, g)));
        rows
    };
    variant.scores.iter().flat_map(of)
}

fn generation_rows(task: &str, generations: &GenerationEstimates) -> Vec<AccuracyRow> {
    let GenerationEstimates { prompts, ended, in_circles, length_ratio } = generations;
    let circles = accuracy_row(task, "greedy generations that run in circles", format!("{in_circles} of {prompts}"));
    let length = length_ratio.map(|ratio| {
        let method = format!("{ended} of {prompts} ended by the model itself");
        AccuracyRow {
            method,
            ..accuracy_row(task, "length of greedy generations over the reference's", format!("{ratio:.3}"))
        }
    });
    [circles].into_iter().chain(length).collect()
}

/// How far other draws of calibration windows move the rule's difference.
fn draws_row(run: &Run, variant: &VariantResult) -> Option<AccuracyRow> {
    let CalibrationDraws { differences, deviation, failures } = variant.draws.as_ref()?;
    let all: Vec<String> = differences.iter().map(Estimate::point).collect();
    let deviation = Estimate { value: *deviation, low: None, high: None, ..differences.first()?.clone() }.point();
    let failed = if failures.is_empty() { String::new() } else { format!("; {} draws failed", failures.len()) };
    let what = "difference from the reference, by draw of calibration windows";
    Some(AccuracyRow {
        interval: format!("standard deviation {}", deviation.trim_start_matches('+')),
        method: format!("on the same text, so that nothing but the draw differs{failed}"),
        ..accuracy_row(&run.suite.accept.accuracy.task, what, all.join(", "))
    })
}

fn flips_row(task: &str, (lost, won): (usize, usize)) -> AccuracyRow {
    accuracy_row(task, "flips against the reference", format!("{lost} lost, {won} won"))
}

fn choice_rows(variant: &VariantResult) -> impl Iterator<Item = AccuracyRow> {
    let of = |(task, choice): (&String, &ChoiceEstimates)| {
        let mut rows = vec![
            estimate_row(task, "accuracy", &choice.accuracy),
            estimate_row(task, "accuracy by log-likelihood per token", &choice.accuracy_norm),
        ];
        let changes = [
            ("change of accuracy", &choice.accuracy_difference),
            ("change of accuracy per token", &choice.accuracy_norm_difference),
        ];
        rows.extend(changes.iter().filter_map(|(what, e)| Some(estimate_row(task, what, e.as_ref()?))));
        rows.extend(choice.flips.map(|flips| flips_row(task, flips)));
        rows.push(accuracy_row(task, "items", choice.items.to_string()));
        rows.push(accuracy_row(task, "accuracy of guessing", format!("{:.1} %", 100.0 * choice.chance)));
        rows
    };
    variant.choices.iter().flat_map(of)
}

fn similarity_rows(variant: &VariantResult) -> impl Iterator<Item = AccuracyRow> {
    let of = |(task, similarity): (&String, &SimilarityEstimates)| {
        let mut rows = vec![
            accuracy_row(task, "mean cosine to the reference", format!("{:.6}", similarity.mean_cosine)),
            accuracy_row(task, "smallest cosine", format!("{:.6}", similarity.worst_cosine)),
            accuracy_row(task, "sentences", similarity.sentences.to_string()),
        ];
        rows.extend(similarity.cosine_difference.as_ref().map(|e| estimate_row(task, "mean cosine less 1", e)));
        let rank = similarity.rank_correlation.map(|r| format!("{r:.6}"));
        rows.extend(rank.map(|rank| accuracy_row(task, "rank correlation of pairs with the reference", rank)));
        rows
    };
    variant.similarities.iter().flat_map(of)
}

/// Genres of every task, each with its change from the reference; of a task the worst is marked.
fn slices(run: &Run, variant: &VariantResult) -> Vec<SliceRow> {
    let reference = run.reference().filter(|_| !variant.reference);
    let mut rows = Vec::new();
    for (task, score) in &variant.scores {
        let base = reference.and_then(|r| r.scores.get(task));
        rows.extend(worst_marked(score.genres.iter().map(|genre| {
            let base = base.and_then(|b| b.genres.iter().find(|g| g.name == genre.name && g.tokens == genre.tokens));
            let loss = base.map(|b| 100.0 * (genre.perplexity / b.perplexity - 1.0));
            SliceRow {
                task: one_line(task),
                slice: one_line(&genre.name),
                size: format!("{} tokens", genre.tokens),
                value: format!("perplexity {:.2}", genre.perplexity),
                change: loss.map_or(view::MISSING.into(), |l| format!("{l:+.2} %")),
                loss,
                worst: false,
            }
        })));
    }
    for (task, choice) in &variant.choices {
        let base = reference.and_then(|r| r.choices.get(task));
        rows.extend(worst_marked(choice.genres.iter().map(|genre| {
            let base = base.and_then(|b| b.genres.iter().find(|g| g.name == genre.name && g.items == genre.items));
            let loss = base.map(|b| 100.0 * (b.accuracy.value - genre.accuracy.value));
            SliceRow {
                task: one_line(task),
                slice: one_line(&genre.name),
                size: format!("{} items", genre.items),
                value: format!("accuracy {}", genre.accuracy),
                change: loss.map_or(view::MISSING.into(), |l| format!("{:+.1} points", 0.0 - l)),
                loss,
                worst: false,
            }
        })));
    }
    rows
}

/// Marks the slice with the largest loss, if any lost.
fn worst_marked(rows: impl Iterator<Item = SliceRow>) -> Vec<SliceRow> {
    let mut rows: Vec<SliceRow> = rows.collect();
    let losing = rows.iter_mut().filter(|row| row.loss.is_some_and(|loss| loss > 0.0));
    if let Some(worst) = losing.max_by(|a, b| a.loss.partial_cmp(&b.loss).unwrap_or(std::cmp::Ordering::Equal)) {
        worst.worst = true;
    }
    rows
}

/// Weights, keys and values, what else stays resident, and the transient peak above that.
fn memory_bar(run: &Run, variant: &VariantResult) -> Option<MemoryBar> {
    let memory = variant.memory?;
    let total = |v: &VariantResult| v.memory.map(|m| m.peak_rss.unwrap_or(0).max(m.weight_bytes + m.kv_bytes));
    let largest = run.variants.iter().filter_map(total).max()?.max(1);
    let named = memory.weight_bytes + memory.kv_bytes;
    let steady = memory.steady_rss.unwrap_or(named).max(named);
    let peak = memory.peak_rss.unwrap_or(steady).max(steady);
    let parts = [
        ("weights", memory.weight_bytes),
        ("KV cache", memory.kv_bytes),
        ("program and buffers", steady - named),
        ("transient peak", peak - steady),
    ];
    let part = |(kind, bytes): (&'static str, u64)| MemoryPart {
        kind,
        size: units::bytes(bytes),
        percent: (1000.0 * bytes as f64 / largest as f64).round() / 10.0,
    };
    let told = |bytes: Option<u64>| bytes.map_or_else(|| "not told by this machine".into(), units::bytes);
    let mut others = vec![
        ("resident once loaded", told(memory.weights_rss)),
        ("peak while loading", told(memory.load_peak_rss)),
        ("steady RSS", told(memory.steady_rss)),
        ("peak RSS (VmHWM)", told(memory.peak_rss)),
    ];
    let workload = &run.suite.workload;
    let sequences = workload.batch.iter().copied().max().unwrap_or(1);
    if let Some(per_token) = memory.kv_bytes.checked_div((sequences * (workload.prompt + workload.generate - 1)) as u64)
        && per_token > 0
    {
        others.push(("keys and values of a token", units::bytes(per_token)));
    }
    others.extend(variant.fit.as_ref().map(|fit| {
        let outcome = fit.failure.as_ref().map_or("it ran".into(), |why| format!("it did not run: {}", one_line(why)));
        ("limited", format!("to {}: {outcome}", units::bytes(fit.limit_bytes)))
    }));
    others.extend(variant.artefact.as_ref().map(|a| ("file", units::bytes(a.file_bytes))));
    Some(MemoryBar { parts: parts.into_iter().filter(|(_, bytes)| *bytes > 0).map(part).collect(), others })
}

fn kernel_row(kernel: &KernelUse) -> KernelRow {
    let (size, bytes) = (units::bytes(kernel.bytes), kernel.bytes);
    KernelRow {
        phase: one_line(&kernel.phase),
        kernel: one_line(&kernel.kernel),
        matrices: kernel.matrices,
        size,
        bytes,
    }
}

fn energy(run: &Run, variant: &VariantResult) -> Option<(String, String)> {
    let point = Point::judged(&run.suite.workload, &run.suite.accept).of(variant)?;
    Some(("energy of a token".into(), point.energy_per_token.as_ref()?.to_string()))
}

fn artefact_facts(variant: &VariantResult) -> Vec<(String, String)> {
    let Some(artefact) = &variant.artefact else { return Vec::new() };
    let made = if artefact.cached { "taken from the cache".into() } else { units::seconds(artefact.seconds) };
    let mut facts = vec![("time to make".into(), made), ("key of the artefact".into(), one_line(&artefact.key))];
    if let Some(bits) = artefact.bits_per_weight.filter(|b| b.is_finite()) {
        facts.push(("bits per quantized weight".into(), format!("{bits:.2}")));
    }
    facts.extend(artefact.mixture.as_deref().into_iter().flat_map(mixture_facts));
    facts
}

fn decided(variant: &VariantResult) -> Option<String> {
    let keys = variant.artefact.as_ref()?.mixture.as_ref()?.recipe.keys();
    // Whole, however long, so that it can be pasted.
    Some(keys.chars().filter(|c| *c == '\n' || !c.is_control()).collect())
}

/// What a search decided on, and what it compared.
fn mixture_facts(mixture: &Mixture) -> Vec<(String, String)> {
    let units: Vec<String> =
        mixture.units.iter().map(|(format, count)| format!("{count} in {}", one_line(format))).collect();
    let mut facts = vec![("units by format".into(), units.join(", "))];
    for (at, tried) in mixture.tried.iter().enumerate() {
        let taken = if at == mixture.chosen { " (taken)" } else { "" };
        let (kl, predicted, bytes) = (tried.kl, tried.predicted_kl, units::bytes(tried.bytes));
        let value = format!("divergence {kl:.4} nats per token, predicted {predicted:.4}; {bytes}");
        facts.push((format!("tried: {}{taken}", one_line(&tried.found_by)), value));
    }
    if !mixture.within_budget {
        facts.push(("budget".into(), "not kept; the nearest mixture was taken".into()));
    }
    facts
}

/// What the variant learned from, where its method learns.
fn calibration_facts(run: &Run, variant: &VariantResult) -> Option<(String, String)> {
    let recipe = &run.suite.variants.iter().find(|v: &&Variant| v.name == variant.name)?.recipe;
    let text = match (recipe, &run.suite.calibration) {
        (recipe, Some(c)) if recipe.learns().is_some() => {
            format!("{} windows of {} tokens of {}, seed {}", c.windows, c.length, c.text.source, c.seed)
        }
        (Recipe::Import { .. }, _) => "not known: the weights were published as they are".into(),
        _ => "none: the method does not learn from text".into(),
    };
    Some(("calibration".into(), one_line(&text)))
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
