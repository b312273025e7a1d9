//! The part of `bench plan` that says what a suite can prove, and which of its thresholds it cannot test.

use std::fmt::Write;

use crate::decide::ErrorRates;
use crate::stats::{items_needed, smallest_provable_drop, smallest_provable_loss, tokens_needed, values_to_prove};
use crate::suite::{AccuracyMetric, Suite, TaskKind};

/// Shares of items that change sides between a model and its quantized form: mild, usual and severe quantization.
const FLIP_RATES: [f64; 3] = [0.02, 0.05, 0.10];

/// KL divergences from the reference, nats a token, as widths of weights usually have them.
const DIVERGENCES: [(&str, f64); 3] = [("usual of 8 bits", 0.001), ("usual of 4 bits", 0.02), ("severe", 0.1)];

/// Standard deviations of a block's log ratio of times: a quiet machine, a virtual machine, a busy one.
const NOISES: [f64; 3] = [0.01, 0.02, 0.05];

/// Distances of a speedup from the threshold.
const DISTANCES: [f64; 3] = [0.02, 0.05, 0.20];

/// What the suite's items and blocks can prove at its confidence; `items` are those of the rule's task (of text, its
/// predicted tokens), where known.
pub(super) fn provable(suite: &Suite, items: Option<usize>) -> String {
    let candidates = suite.variants.len().saturating_sub(1);
    let rates = ErrorRates::divided(&suite.accept, candidates);
    let mut text = format!(
        "\nwhat it can prove, with an error of {:.2} % for each of {candidates} candidates and a chance of 80 %\n",
        100.0 * rates.yes
    );
    text.push_str(&accuracy(suite, items, rates.yes));
    if let Some(limit) = &suite.accept.speed {
        _ = writeln!(text, "  blocks that prove a speedup beyond {}x, by the noise of a block", limit.min_speedup);
        text.push_str(&speed(rates.yes, suite.workload.blocks.1));
    }
    text
}

fn accuracy(suite: &Suite, items: Option<usize>, alpha: f64) -> String {
    let limit = &suite.accept.accuracy;
    let Some(items) = items else {
        return format!("  {}: unknown, as the suite takes all of its data\n", limit.task);
    };
    match limit.metric {
        AccuracyMetric::Accuracy { max_drop_points: max } | AccuracyMetric::AccuracyNorm { max_drop_points: max } => {
            choice(&limit.task, items, max, alpha)
        }
        AccuracyMetric::Perplexity { max_increase_percent: max } => text(&limit.task, items, max, alpha),
        AccuracyMetric::LogLikelihood { max_drop } => text(&limit.task, items, 100.0 * max_drop.exp_m1(), alpha),
        AccuracyMetric::TokenAccuracy { .. } | AccuracyMetric::Similarity { .. } => format!(
            "  {}: how small a change can be proven depends on how documents differ, which a run tells; fewer than 5 \
             documents prove nothing\n",
            limit.task
        ),
    }
}

/// What `items` multiple-choice items can prove, for a margin of `max` points.
fn choice(task: &str, items: usize, max: f64, alpha: f64) -> String {
    let mut text = String::new();
    for flips in FLIP_RATES {
        let drop = smallest_provable_drop(items as f64, flips, alpha).map_or(f64::INFINITY, |drop| 100.0 * drop);
        let cannot = match items_needed(max / 100.0, flips, alpha).filter(|_| drop > max) {
            Some(needed) => format!(": a drop of {max} cannot be tested, that takes about {needed:.0} items"),
            None => String::new(),
        };
        _ = writeln!(
            text,
            "  {task}: {items} items, of which {:.0} % change sides, exclude a drop of {drop:.2} points or more{cannot}",
            100.0 * flips
        );
    }
    text
}

/// What `tokens` of text can prove, for a perplexity that may rise by `max` percent.
fn text(task: &str, tokens: usize, max: f64, alpha: f64) -> String {
    let mut text = String::new();
    for (usual, kl) in DIVERGENCES {
        let loss = smallest_provable_loss(tokens as f64, kl, alpha).unwrap_or(f64::INFINITY);
        let rise = 100.0 * loss.exp_m1();
        let cannot = match tokens_needed((max / 100.0).ln_1p(), kl, alpha).filter(|_| rise > max) {
            Some(needed) => format!(": a rise of {max:.2} % cannot be tested, that takes about {needed:.0} tokens"),
            None => String::new(),
        };
        _ = writeln!(
            text,
            "  {task}: {tokens} tokens exclude a rise of perplexity of {rise:.2} % or more at a divergence of {kl} \
             ({usual}){cannot}"
        );
    }
    text
}

fn speed(alpha: f64, most: usize) -> String {
    let mut text = String::new();
    for noise in NOISES {
        let of = |distance: f64| {
            let blocks = values_to_prove(distance / noise, alpha, most);
            let blocks = blocks.map_or(format!("more than {most}"), |blocks| blocks.to_string());
            format!("{blocks} if {:.0} % beyond", 100.0 * distance)
        };
        let row = DISTANCES.map(of).join(", ");
        _ = writeln!(text, "    {:.0} %: {row}", 100.0 * noise);
    }
    text
}

/// Items, or predicted tokens, of the rule's task, where the suite says how many.
pub(super) fn items(suite: &Suite) -> Option<usize> {
    match suite.judged_task()?.kind {
        TaskKind::Choice { items } => items,
        TaskKind::Perplexity { length, windows } => Some(windows? * (length - 1)),
        TaskKind::Similarity { sentences, .. } => sentences,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_margin_that_the_items_cannot_test_is_called_out() {
        let mut suite = crate::suite::read_for_any_machine(Path::new("suites/quick.toml")).unwrap();
        suite.accept.accuracy.task = "choice".into();
        suite.accept.accuracy.metric = AccuracyMetric::Accuracy { max_drop_points: 1.0 };
        assert_eq!(items(&suite), Some(800));
        let text = provable(&suite, Some(800));
        assert!(text.contains("a drop of 1 cannot be tested, that takes about "), "{text}");
        let enough = provable(&suite, Some(1_000_000));
        assert!(!enough.contains("cannot") && enough.contains("1 %: "), "{enough}");
    }

    #[test]
    fn a_rise_that_the_tokens_cannot_test_is_called_out() {
        let mut suite = crate::suite::read_for_any_machine(Path::new("suites/quick.toml")).unwrap();
        assert_eq!(items(&suite), Some(200 * 255));
        let whole = provable(&suite, Some(20_000));
        assert_eq!(whole.matches("cannot be tested").count(), 1, "only at a severe divergence: {whole}");
        suite.accept.accuracy.metric = AccuracyMetric::LogLikelihood { max_drop: 0.0002 };
        let all = provable(&suite, Some(51_000));
        assert_eq!(all.matches("a rise of 0.02 % cannot be tested, that takes about ").count(), 3, "{all}");
    }
}
