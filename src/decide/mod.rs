//! Evidence to answers: estimates, verdicts, Pareto frontier, recommendation. Knows nothing of kernels or models.
//!
//! Every question is answered yes or no only where that is proven at the run's error rates, which are divided over
//! variants and questions (`error_rates`), and unknown otherwise; missing data is unknown and never passes. Speed is
//! judged by tests that allow looking after every block, so the same answers also tell while a run goes on which
//! candidates need more blocks ([`standings`]).

mod answers;
mod attempts;
mod choices;
mod controls;
mod error_rates;
mod estimate;
mod frontier;
mod margin;
mod noise;
mod planted_flips;
mod probability;
mod recommend;
mod redrawn;
mod rule;
mod scores;
mod selftest;
mod sensitivity;
mod similarities;
mod timings;
mod together;
mod turning;

use std::collections::{BTreeMap, BTreeSet};

use crate::results::{
    BrokenControl, Built, Estimate, Evidence, Frontier, KernelUse, Memory, Recommendation, Run, SCHEMA_VERSION, Score,
    Standing, TurningPoints, VariantEvidence, VariantResult,
};
use crate::suite::{Accept, AccuracyMetric, SpeedMetric, Variant};

pub use answers::{AccuracyQuestion, accuracy_question, memory_bytes};
pub use error_rates::ErrorRates;
pub use noise::{Disturbance, disturbances};
pub use planted_flips::{FoundDrop, margin_in_points, planted_flips};
pub use scores::LEAST_CLUSTERS;
pub use selftest::{Found, disturbed_blocks, selftest};
pub use timings::{Point, judged_metric, judged_speedup, metric_name, metrics};
pub use together::{Together, together};

/// Judges a run's evidence under `accept` (the suite's own rule, or another one for old data).
pub fn judge(evidence: &Evidence, accept: &Accept) -> Run {
    let accept = &margin::in_points(evidence, accept);
    let case = Case::new(evidence, accept);
    let mut warnings = evidence.warnings.clone();
    let control = noise::control(&case);
    warnings.extend(noise::warnings(&case, &control));

    let mut variants: Vec<VariantResult> = evidence.suite.variants.iter().map(|v| case.estimate(v)).collect();
    let timing_fault = noise::timing_fault(&case, &control);
    for variant in variants.iter_mut().filter(|v| !v.reference) {
        variant.verdict = Some(answers::verdict(&case, variant, timing_fault.as_deref()));
        variant.turning_points = turning::turning_points(&case, variant, timing_fault.as_deref());
    }
    recommend::compare_times(&case, &mut variants);
    let places = frontier::places(&case, &variants);
    for (variant, place) in variants.iter_mut().zip(places) {
        variant.frontier = place;
    }
    let (probabilities, hypervolume) = probability::resampled(&case, &variants);
    for (variant, probability) in variants.iter_mut().zip(probabilities) {
        variant.frontier_probability = probability;
    }
    let recommendation = recommend::recommend(&case, &variants);
    Run { hypervolume, ..run(&case, variants, control, recommendation, warnings) }
}

/// Whether more blocks can change each candidate's verdict, by variant.
pub fn standings(evidence: &Evidence, accept: &Accept) -> BTreeMap<String, Standing> {
    let accept = &margin::in_points(evidence, accept);
    let case = Case::new(evidence, accept);
    let candidates = evidence.suite.variants.iter().filter(|v| v.name != evidence.suite.reference);
    candidates.map(|v| (v.name.clone(), answers::standing(&case, &case.estimate(v)))).collect()
}

fn run(
    case: &Case<'_>,
    variants: Vec<VariantResult>,
    control: BTreeMap<String, Estimate>,
    recommendation: Recommendation,
    warnings: Vec<String>,
) -> Run {
    let evidence = case.evidence;
    Run {
        schema_version: SCHEMA_VERSION,
        tool_version: evidence.tool_version.clone(),
        started_unix_s: evidence.started_unix_s,
        finished_unix_s: evidence.finished_unix_s,
        suite: crate::suite::Suite { accept: case.accept.clone(), ..evidence.suite.clone() },
        model_sha256: evidence.model_sha256.clone(),
        machine: evidence.machine.clone(),
        variants,
        blocks: case.blocks(),
        blocks_redone: evidence.set_aside.len(),
        broken: case.broken.clone(),
        leak: evidence.leak.clone(),
        invalid: controls::invalid(case, &control),
        control,
        recommendation,
        hypervolume: None,
        stages: evidence.stages.clone(),
        parent_peak_rss: evidence.parent_peak_rss,
        warnings,
    }
}

/// The evidence with the thresholds under which it is judged.
struct Case<'a> {
    evidence: &'a Evidence,
    accept: &'a Accept,
    reference: &'a VariantEvidence,
    /// What the rule says of the reference broken on purpose.
    broken: Option<BrokenControl>,
}

/// What a variant without any evidence has.
static NOTHING: VariantEvidence = VariantEvidence {
    built: Built::Missing,
    scores: BTreeMap::new(),
    redrawn: BTreeMap::new(),
    slots: Vec::new(),
    fit: None,
    failures: Vec::new(),
};

impl<'a> Case<'a> {
    fn new(evidence: &'a Evidence, accept: &'a Accept) -> Self {
        let reference = evidence.variants.get(&evidence.suite.reference).unwrap_or(&NOTHING);
        let case = Case { evidence, accept, reference, broken: None };
        Case { broken: controls::broken(&case), ..case }
    }

    fn of(&self, variant: &str) -> &'a VariantEvidence {
        self.evidence.variants.get(variant).unwrap_or(&NOTHING)
    }

    /// Blocks in which anything was timed.
    fn blocks(&self) -> usize {
        let slots = self.evidence.variants.values().flat_map(|v| &v.slots);
        slots.map(|s| s.block).collect::<BTreeSet<_>>().len()
    }

    fn confidence(&self) -> f64 {
        self.accept.confidence
    }

    fn speed_metric(&self) -> SpeedMetric {
        judged_metric(&self.evidence.suite.workload, self.accept)
    }

    fn judged_point(&self) -> Point {
        Point::judged(&self.evidence.suite.workload, self.accept)
    }

    /// Why nothing can be compared with the reference, if so.
    fn reference_fault(&self) -> Option<String> {
        let (stage, reason) = self.reference.failures.first()?;
        Some(format!("the reference failed: {stage}: {reason}"))
    }

    /// Why no accuracy of this run can be believed, if so.
    fn blind(&self) -> Option<String> {
        let broken = self.broken.as_ref().filter(|broken| !broken.rejected)?;
        Some(format!("the reference broken on purpose is not rejected: {}", broken.reason))
    }

    /// Candidates over which the allowed error is divided.
    fn candidates(&self) -> usize {
        self.evidence.suite.variants.iter().filter(|v| v.name != self.evidence.suite.reference).count()
    }

    /// Blocks that were planned before the first; of a run without a plan those of which `measured` are known.
    fn planned_blocks(&self, measured: usize) -> usize {
        self.evidence.plan.map_or(measured, |plan| plan.first)
    }

    /// The rule's accuracy of `a` minus that of `b` on the same questions, higher being better; perplexity counts as
    /// log-likelihood.
    fn accuracy_difference(&self, a: &VariantEvidence, b: &VariantEvidence) -> Option<Estimate> {
        let task = &self.accept.accuracy.task;
        let (a, b) = (a.scores.get(task)?, b.scores.get(task)?);
        scores::same_questions(a, b).ok()?;
        self.score_difference(a, b, self.confidence())
    }

    /// The same of two scores over the same questions.
    fn score_difference(&self, a: &Score, b: &Score, confidence: f64) -> Option<Estimate> {
        match self.accept.accuracy.metric {
            AccuracyMetric::Perplexity { .. } | AccuracyMetric::LogLikelihood { .. } => {
                scores::log_likelihood_difference(a, b, confidence)
            }
            AccuracyMetric::TokenAccuracy { .. } => scores::token_accuracy_difference(a, b, confidence),
            AccuracyMetric::Accuracy { .. } => choices::difference(a, b, choices::PICKED, confidence),
            AccuracyMetric::AccuracyNorm { .. } => choices::difference(a, b, choices::PICKED_NORM, confidence),
            AccuracyMetric::Similarity { .. } => similarities::difference(a, b, confidence),
        }
    }

    fn estimate(&self, variant: &Variant) -> VariantResult {
        let evidence = self.of(&variant.name);
        let reference = variant.name == self.evidence.suite.reference;
        VariantResult {
            name: variant.name.clone(),
            reference,
            recipe: variant.describe(),
            artefact: match &evidence.built {
                Built::Ready(artefact) => Some(artefact.clone()),
                Built::Missing => None,
            },
            scores: scores::estimates(self, evidence, reference),
            choices: choices::estimates(self, evidence, reference),
            similarities: similarities::estimates(self, evidence, reference),
            draws: redrawn::draws(self, evidence),
            points: timings::points(self, evidence, reference),
            memory: memory(evidence),
            kernels: kernels(evidence),
            verdict: None,
            turning_points: TurningPoints::default(),
            not_proven_slower: Vec::new(),
            frontier: Frontier::Unknown,
            frontier_probability: None,
            fit: evidence.fit.clone(),
            failures: evidence.failures.iter().map(|(stage, reason)| format!("{stage}: {reason}")).collect(),
        }
    }
}

/// Largest over slots; a kind of memory that any slot could not read is `None`.
fn memory(evidence: &VariantEvidence) -> Option<Memory> {
    let larger = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
    evidence.slots.iter().map(|s| s.memory).reduce(|a, b| Memory {
        weight_bytes: a.weight_bytes.max(b.weight_bytes),
        kv_bytes: a.kv_bytes.max(b.kv_bytes),
        peak_rss: larger(a.peak_rss, b.peak_rss),
        steady_rss: larger(a.steady_rss, b.steady_rss),
        load_peak_rss: larger(a.load_peak_rss, b.load_peak_rss),
        weights_rss: larger(a.weights_rss, b.weights_rss),
    })
}

/// All kernels of the timed slots, without repetition.
fn kernels(evidence: &VariantEvidence) -> Vec<KernelUse> {
    let all: BTreeSet<&KernelUse> = evidence.slots.iter().flat_map(|s| &s.kernels).collect();
    all.into_iter().cloned().collect()
}
