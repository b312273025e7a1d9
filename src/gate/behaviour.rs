//! Limits beside the averages, on a run's candidates against its own reference: an average can stay while answers flip
//! (Dutta et al. 2024, arXiv:2407.09141), one genre breaks, or a few tokens diverge widely.
//!
//! The numbers repeat exactly, so they are compared as they are. A limit that the run has no number for is not met.

use super::verdict::{Check, Level, State};
use crate::results::{Run, ScoreEstimates, VariantResult};
use crate::suite::GateLimits;

/// One check for each limit and candidate.
pub fn behaviour(run: &Run, limits: &GateLimits) -> Vec<Check> {
    let Some(reference) = run.reference() else { return Vec::new() };
    let mut checks = Vec::new();
    for variant in run.variants.iter().filter(|v| !v.reference && v.failures.is_empty()) {
        let worst = [
            ("flips", "%", limits.max_flips_percent, flips(variant)),
            ("divergence p99", "nats", limits.max_kl_p99, tail(variant)),
            ("worst genre's perplexity", "%", limits.max_worst_increase_percent, worst_text(variant, reference)),
            ("worst genre's accuracy", "points", limits.max_worst_drop_points, worst_choice(variant, reference)),
            ("length of generations", "%", limits.max_length_change_percent, length(variant)),
        ];
        for (name, unit, limit, found) in worst {
            let Some(limit) = limit else { continue };
            let (state, message) = match found {
                None => {
                    (State::Inconclusive, format!("limit {limit} {unit}, but the suite's tasks give no such number"))
                }
                Some((value, at)) => {
                    let state = if value <= limit { State::Pass } else { State::Fail };
                    (state, format!("{value:.4} {unit} ({at}), limit {limit} {unit}"))
                }
            };
            checks.push(Check::new(Level::Behaviour, &variant.name, name, state, message));
        }
    }
    checks
}

/// The largest of named numbers; nothing where there is none or one is no number.
fn largest(found: Vec<(f64, String)>) -> Option<(f64, String)> {
    if found.iter().any(|(value, _)| value.is_nan()) {
        return None;
    }
    found.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b))
}

fn flips(variant: &VariantResult) -> Option<(f64, String)> {
    let texts = variant.scores.iter().map(|(task, s)| (task, s.flips, s.tokens));
    let choices = variant.choices.iter().map(|(task, c)| (task, c.flips, c.items));
    let share = |(task, flips, of): (&String, Option<(usize, usize)>, usize)| {
        let (lost, won) = flips?;
        Some((100.0 * (lost + won) as f64 / of as f64, format!("{task}: {lost} lost and {won} won of {of}")))
    };
    largest(texts.chain(choices).filter_map(share).collect())
}

fn tail(variant: &VariantResult) -> Option<(f64, String)> {
    let of = |(task, score): (&String, &ScoreEstimates)| Some((score.kl_quantiles?[2], task.clone()));
    largest(variant.scores.iter().filter_map(of).collect())
}

fn length(variant: &VariantResult) -> Option<(f64, String)> {
    let of = |(task, score): (&String, &ScoreEstimates)| {
        let generations = score.generations.as_ref()?;
        let ratio = generations.length_ratio?;
        Some((
            100.0 * (ratio - 1.0).abs(),
            format!("{task}: {ratio:.3} times the reference's, {} prompts", generations.prompts),
        ))
    };
    largest(variant.scores.iter().filter_map(of).collect())
}

fn worst_text(variant: &VariantResult, reference: &VariantResult) -> Option<(f64, String)> {
    let mut found = Vec::new();
    for (task, score) in &variant.scores {
        for genre in &score.genres {
            let before = reference.scores.get(task)?.genres.iter().find(|g| g.name == genre.name)?.perplexity;
            found.push((100.0 * (genre.perplexity / before - 1.0), format!("{task}, {}", genre.name)));
        }
    }
    largest(found)
}

fn worst_choice(variant: &VariantResult, reference: &VariantResult) -> Option<(f64, String)> {
    let mut found = Vec::new();
    for (task, choice) in &variant.choices {
        for genre in &choice.genres {
            let before = reference.choices.get(task)?.genres.iter().find(|g| g.name == genre.name)?.accuracy.value;
            let drop = 100.0 * (before - genre.accuracy.value);
            found.push((drop, format!("{task}, {} of {} items", genre.name, genre.items)));
        }
    }
    largest(found)
}
