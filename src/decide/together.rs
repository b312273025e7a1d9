//! Several runs of one suite judged together: their evidence multiplies.
//!
//! The evidence of each run ([`symmetry_evidence`]) is a fair bet's capital, which begins at 1. Going on with the capital of
//! one run in the next is a fair bet too, whenever and for whatever reason either stopped, so the product is evidence at
//! the same rate of error (Ville 1939; Vovk & Wang 2021 on products of e-values), and repeating a run until it pleases
//! proves nothing that is not so.

use super::error_rates::ErrorRates;
use super::timings::{log_ratios, metric_name};
use super::{Case, noise};
use crate::results::{Answer, Evidence};
use crate::stats::{Side, symmetry_evidence};
use crate::suite::{Accept, Variant};

/// The speed question about one candidate, answered by all runs together.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// Candidate.
    pub variant: String,
    /// Answer.
    pub answer: Answer,
    /// The odds behind it.
    pub reason: String,
}

/// Answers the speed question for every candidate of the first run; nothing where the rule's suite limits no speed. A run
/// whose timing cannot be trusted, or that lacks the candidate, adds nothing.
pub fn together(runs: &[&Evidence], accept: &Accept) -> Vec<Together> {
    let (Some(limit), Some(first)) = (&accept.speed, runs.first()) else { return Vec::new() };
    // The same run twice is no more evidence than once.
    let distinct = runs.iter().enumerate().filter(|(at, run)| {
        !runs[..*at].iter().any(|other| other.started_unix_s.to_bits() == run.started_unix_s.to_bits())
    });
    let cases: Vec<Case<'_>> = distinct.map(|(_, run)| Case::new(run, accept)).collect();
    let sound = |case: &&Case<'_>| noise::timing_fault(case, &noise::control(case)).is_none();
    let sound: Vec<&Case<'_>> = cases.iter().filter(sound).collect();
    let rates = ErrorRates::divided(accept, cases[0].candidates());
    let candidates = first.suite.variants.iter().filter(|variant| variant.name != first.suite.reference);
    let answer = |variant: &Variant| {
        let of_run = |case: &&Case<'_>| {
            log_ratios(case.reference, case.of(&variant.name), case.judged_point(), limit.metric).ok()
        };
        let ratios: Vec<Vec<f64>> = sound.iter().filter_map(of_run).collect();
        let of = |side| -> f64 {
            let last = |ratios: &Vec<f64>| symmetry_evidence(ratios, limit.min_speedup.ln(), side)?.last().copied();
            ratios.iter().filter_map(last).sum()
        };
        let (yes, no) = (of(Side::Above), of(Side::Below));
        let (yes_needed, no_needed) = ((2.0 / rates.yes).ln(), (2.0 / rates.no).ln());
        let answer = match (yes >= yes_needed, no >= no_needed) {
            (true, false) => Answer::Yes,
            (false, true) => Answer::No,
            _ => Answer::Unknown,
        };
        let (side, odds, needed) =
            if yes - yes_needed >= no - no_needed { ("yes", yes, yes_needed) } else { ("no", no, no_needed) };
        let reason = format!(
            "{} >= {}x: {answer}, odds for {side} {:.3e} of {:.0} in {} blocks of {} runs",
            metric_name(limit.metric),
            limit.min_speedup,
            odds.exp(),
            needed.exp(),
            ratios.iter().map(Vec::len).sum::<usize>(),
            ratios.len()
        );
        Together { variant: variant.name.clone(), answer, reason }
    };
    candidates.map(answer).collect()
}
