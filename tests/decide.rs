//! Judging evidence whose truth is known, evidence with holes, and evidence made of rubbish.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod synthetic;

use std::collections::BTreeMap;

use proptest::prelude::*;
use quantbench::decide::{judge, planted_flips, standings};
use quantbench::gate::{State, behaviour};
use quantbench::results::{
    Answer, BrokenScore, Evidence, Frontier, GenerationEstimates, GenrePerplexity, ItemScore, Outcome, Question, Run,
    Slot, Standing, VariantResult, Why,
};
use quantbench::suite::{Accept, AccuracyMetric, GateLimits, MarginOf, RelativeMargin};
use synthetic::{MIB, SETTING, Setting, Truth, accept, evidence, truths};

fn judged(change: impl FnOnce(&mut Evidence)) -> Run {
    let mut evidence = evidence(&truths(), SETTING);
    change(&mut evidence);
    judge(&evidence, &accept())
}

fn result<'r>(run: &'r Run, name: &str) -> &'r VariantResult {
    run.variants.iter().find(|v| v.name == name).unwrap()
}

fn outcome(run: &Run, name: &str) -> Outcome {
    result(run, name).verdict.as_ref().unwrap().outcome
}

fn reason<'r>(run: &'r Run, name: &str) -> &'r str {
    &result(run, name).verdict.as_ref().unwrap().reason
}

fn slots<'e>(evidence: &'e mut Evidence, name: &str) -> &'e mut Vec<Slot> {
    &mut evidence.variants.get_mut(name).unwrap().slots
}

/// 2000 items, 60 % of them right; 5 % change sides, so that a difference has a standard error of half a point.
#[test]
fn planted_drops_are_accepted_and_rejected_as_the_margin_says() {
    let mut evidence = evidence(&truths(), SETTING);
    let mut accept = accept();
    accept.accuracy.metric = AccuracyMetric::Accuracy { max_drop_points: 2.0 };
    let item = |at: usize| {
        let picked = usize::from(at % 5 > 2);
        ItemScore { document: at / 10, answer: 0, picked, picked_norm: picked, log_likelihoods: vec![-1.0; 4] }
    };
    let reference = evidence.variants.get_mut(&evidence.suite.reference).unwrap();
    reference.scores.get_mut(&accept.accuracy.task).unwrap().items = (0..2000).map(item).collect();
    let found = planted_flips(&evidence, &accept, 0.05, &[0.0, 2.0, 4.0], 400).unwrap();
    let yes: Vec<f64> = found.iter().map(|found| found.answers.0 as f64 / 400.0).collect();
    let no: Vec<f64> = found.iter().map(|found| found.answers.1 as f64 / 400.0).collect();
    assert!(yes[0] > 0.9 && no[2] > 0.9, "what is far from the margin is told: {found:?}");
    // 5 % and three standard errors of 400 repetitions.
    assert!(
        yes[1] < 0.083 && no[1] < 0.083,
        "at the margin neither is said more often than the rule may err: {found:?}"
    );
    assert!(no[0] == 0.0 && yes[2] == 0.0, "{found:?}");
    assert!(found.iter().all(|found| (found.mean - found.planted).abs() < 0.1), "{found:?}");
    assert!(planted_flips(&evidence, &accept, 0.01, &[4.0], 1).unwrap_err().contains("is not possible"));
    accept.accuracy.task = "nowhere".into();
    assert!(planted_flips(&evidence, &accept, 0.05, &[0.0], 1).is_err());
}

/// The gate's limits beside the averages, on a run whose numbers are set by hand.
#[test]
fn a_limit_that_averages_hide_passes_fails_or_has_no_number() {
    let mut run = judged(|_| ());
    run.variants.truncate(2);
    let genre = |perplexity| vec![GenrePerplexity { name: "laws".into(), perplexity, tokens: 100 }];
    let own = |run: &mut Run, at: usize, perplexity| {
        let score = run.variants[at].scores.get_mut("perplexity").unwrap();
        score.genres = genre(perplexity);
        score.tokens = 1000;
        score.flips = Some((20, 10));
        score.kl_quantiles = Some([0.1, 0.2, 0.4, 0.9, 1.5]);
        score.generations = Some(GenerationEstimates { prompts: 8, ended: 8, in_circles: 0, length_ratio: Some(0.75) });
    };
    own(&mut run, 0, 10.0);
    own(&mut run, 1, 11.0);
    let states =
        |limits: &GateLimits| -> Vec<State> { behaviour(&run, limits).iter().map(|check| check.state).collect() };
    assert_eq!(states(&GateLimits::default()), []);
    let limits = |flips, kl, worst, length| GateLimits {
        max_flips_percent: Some(flips),
        max_kl_p99: Some(kl),
        max_worst_increase_percent: Some(worst),
        max_length_change_percent: Some(length),
        ..GateLimits::default()
    };
    assert_eq!(states(&limits(3.0, 0.4, 10.1, 25.0)), [State::Pass; 4]);
    assert_eq!(states(&limits(2.9, 0.39, 9.9, 24.9)), [State::Fail; 4]);
    // There are no multiple-choice items.
    assert_eq!(
        states(&GateLimits { max_worst_drop_points: Some(1.0), ..GateLimits::default() }),
        [State::Inconclusive]
    );
}

#[test]
fn a_sound_run_is_judged_as_its_truth() {
    let run = judged(|_| {});
    for good in ["int8", "int8-weight-only", "int4-gptq", "q4_1-import"] {
        assert_eq!(outcome(&run, good), Outcome::Accept, "{good}: {}", reason(&run, good));
    }
    assert_eq!(outcome(&run, "int4-rtn"), Outcome::Reject, "{}", reason(&run, "int4-rtn"));
    assert!(run.reference().unwrap().verdict.is_none());
    assert_eq!(run.recommendation.variant.as_deref(), Some("int4-gptq"), "{}", run.recommendation.reason);
    assert_eq!(run.blocks, SETTING.blocks);
    assert_eq!(run.exit_code(), 0);
    let speedup = &result(&run, "int4-gptq").points[1].speedup["decode"];
    assert!((speedup.value - 2.86).abs() < 0.1 && speedup.low.is_some(), "{speedup}");
    let decode = &run.control["b1t2 decode"];
    assert!(decode.low.unwrap() < 1.0 && 1.0 < decode.high.unwrap() && decode.confidence == 0.99);
}

/// Truths on both thresholds at once: an interval covers the truth in 95 of 100 runs, and a false yes to accuracy or to
/// speed happens in at most 5. Bands are three standard errors of 400 repetitions.
#[test]
fn intervals_cover_and_thresholds_hold_from_evidence_to_verdict() {
    let mut edge = truths();
    edge.truncate(2);
    edge[1] = Truth { loss: 1.05_f64.ln(), decode: 1.5, ..edge[1].clone() };
    let (mut covered, mut accurate, mut fast) = (0, 0, 0);
    for seed in 0..400 {
        let run = judge(&evidence(&edge, Setting { seed, ..SETTING }), &accept());
        let candidate = result(&run, "int8");
        let speedup = &candidate.points[1].speedup["decode"];
        covered += usize::from(speedup.low.unwrap() <= 1.5 && 1.5 <= speedup.high.unwrap());
        let answers = candidate.verdict.as_ref().unwrap().answers.clone().unwrap();
        accurate += usize::from(answers.accuracy == Answer::Yes);
        fast += usize::from(answers.speed == Some(Answer::Yes));
    }
    assert!((367..=393).contains(&covered), "{covered} of 400 intervals cover");
    assert!((7..=33).contains(&accurate), "{accurate} of 400 false yes on accuracy");
    assert!((1..=33).contains(&fast), "{fast} of 400 false yes on speed");
}

/// A race as `bench run` runs it, in which the truth of every candidate is exactly the threshold of speed: with five of
/// them, at most 5 % of runs may answer yes to any, and 2.5 % no to any, though there is a look after every block.
#[test]
fn racing_errs_for_any_of_several_candidates_no_more_often_than_allowed() {
    let mut edge = truths();
    edge.iter_mut().skip(1).for_each(|truth| truth.decode = 1.5);
    let (runs, mut yes, mut no) = (200, 0, 0);
    for seed in 0..runs {
        let whole = evidence(&edge, Setting { seed, blocks: 20, documents: 5, windows_per_document: 1, ..SETTING });
        let run = judge(&whole, &accept());
        let said = |answer| {
            let answers = run.variants.iter().filter_map(|v| v.verdict.as_ref()?.answers.as_ref()?.speed);
            answers.filter(|a| *a == answer).count() > 0
        };
        yes += usize::from(said(Answer::Yes));
        no += usize::from(said(Answer::No));
    }
    let most = |rate: f64| f64::from(runs as u32) * (rate + 3.0 * (rate * (1.0 - rate) / runs as f64).sqrt());
    assert!(yes as f64 <= most(0.05), "{yes} of {runs} runs say yes to a variant at the threshold");
    assert!(no as f64 <= most(0.025), "{no} of {runs} runs say no to a variant at the threshold");
}

/// More blocks change nothing that is proven, and a candidate is called decided as soon as its verdict is.
#[test]
fn standings_follow_the_verdicts_block_by_block() {
    let whole = evidence(&truths(), Setting { blocks: 20, ..SETTING });
    let mut decided_after = BTreeMap::new();
    for blocks in 6..=20 {
        let mut so_far = whole.clone();
        so_far.variants.values_mut().for_each(|v| v.slots.retain(|s| s.block < blocks));
        let run = judge(&so_far, &accept());
        for (name, standing) in standings(&so_far, &accept()) {
            let open = matches!(standing, Standing::Open { .. });
            assert_eq!(open, outcome(&run, &name) == Outcome::Inconclusive, "{name} after {blocks}");
            let verdict = result(&run, &name).verdict.as_ref().unwrap();
            assert_eq!(open, verdict.open.iter().any(|o| o.question == Question::Speed && o.why == Why::TooFewBlocks));
            if open {
                assert!(!decided_after.contains_key(&name), "{name} was decided and is open after {blocks}");
            } else {
                decided_after.entry(name).or_insert(blocks);
            }
        }
    }
    assert_eq!(decided_after["int4-gptq"], 6, "its memory alone satisfies the rule");
    assert!((9..=14).contains(&decided_after["int8"]), "{decided_after:?}");
    assert_eq!(decided_after.len(), 5);
}

#[test]
fn a_reason_carries_the_numbers_that_decided() {
    let run = judged(|_| {});
    let reason = reason(&run, "int4-gptq");
    let parts: Vec<&str> = reason.split("; ").collect();
    assert!(parts[0].starts_with("perplexity +2.8 % [") && parts[0].ends_with("] <= 5 %: yes"), "{reason}");
    assert!(
        parts[1].starts_with("decode 2.90x [") && parts[1].ends_with("] >= 1.5x: yes, proven after 9 blocks"),
        "{reason}"
    );
    assert_eq!(parts[2], "weights 74.0 MiB <= 100.0 MiB: yes");
    assert!(result(&run, "int8").verdict.as_ref().unwrap().reason.ends_with("weights 130.0 MiB <= 100.0 MiB: no"));
}

#[test]
fn an_identical_twin_ties_and_a_broken_variant_is_rejected() {
    let mut both: Vec<Truth> = truths();
    let reference = both[0].clone();
    both.push(Truth { name: "twin", ..reference.clone() });
    both.push(Truth { name: "broken", loss: 2.0, decode: 5.0, ..reference });
    let run = judge(&evidence(&both, Setting { blocks: 12, ..SETTING }), &accept());
    let twin = result(&run, "twin");
    let difference = twin.scores["perplexity"].perplexity_increase.as_ref().unwrap();
    assert_eq!((difference.value, difference.low, difference.high), (0.0, Some(0.0), Some(0.0)));
    assert_eq!(outcome(&run, "twin"), Outcome::Reject, "as accurate, but neither faster nor smaller");
    assert_eq!(outcome(&run, "broken"), Outcome::Reject);
}

#[test]
fn token_accuracy_and_log_likelihood_judge_drops() {
    let with = |metric| {
        let mut accept = accept();
        accept.accuracy.metric = metric;
        judge(&evidence(&truths(), SETTING), &accept)
    };
    let run = with(AccuracyMetric::TokenAccuracy { max_drop_points: 1.0 });
    assert_eq!(result(&run, "int8").verdict.as_ref().unwrap().answers.as_ref().unwrap().accuracy, Answer::Yes);
    assert_eq!(outcome(&run, "int4-rtn"), Outcome::Reject, "{}", reason(&run, "int4-rtn"));
    assert!(reason(&run, "int4-rtn").contains(" >= -1 points: no"), "{}", reason(&run, "int4-rtn"));
    let run = with(AccuracyMetric::LogLikelihood { max_drop: 0.05 });
    assert_eq!(outcome(&run, "int4-gptq"), Outcome::Accept, "{}", reason(&run, "int4-gptq"));
    assert!(reason(&run, "int4-rtn").contains(" >= -0.05 nats: no"), "{}", reason(&run, "int4-rtn"));
}

#[test]
fn a_failure_is_never_a_pass() {
    let run = judged(|e| {
        e.variants.get_mut("int4-gptq").unwrap().failures.push(("time".into(), "killed by signal 9".into()));
    });
    let verdict = result(&run, "int4-gptq").verdict.as_ref().unwrap();
    assert_eq!((verdict.outcome, verdict.answers.clone()), (Outcome::Inconclusive, None));
    assert_eq!(verdict.reason, "failed: time: killed by signal 9");
    assert_eq!(result(&run, "int4-gptq").frontier, Frontier::Unknown);
    assert_eq!(run.recommendation.variant.as_deref(), Some("q4_1-import"));
}

#[test]
fn a_failed_reference_leaves_everything_open() {
    let run = judged(|e| {
        e.variants.get_mut("fp16").unwrap().failures.push(("score".into(), "out of memory".into()));
    });
    assert_eq!(run.recommendation.variant, None);
    for v in run.variants.iter().filter(|v| !v.reference) {
        assert_eq!(v.verdict.as_ref().unwrap().outcome, Outcome::Inconclusive);
    }
    assert!(run.warnings.iter().any(|w| w.contains("the reference failed: score: out of memory")));
    assert_eq!(run.exit_code(), 3);
}

#[test]
fn a_noisy_control_silences_every_timing_answer() {
    let run = judge(&evidence(&truths(), Setting { control: 1.2, ..SETTING }), &accept());
    assert!(run.warnings.iter().any(|w| w.starts_with("timing too noisy at b1t2 decode")), "{:?}", run.warnings);
    for v in run.variants.iter().filter(|v| !v.reference) {
        assert_eq!(v.verdict.as_ref().unwrap().answers.as_ref().unwrap().speed, Some(Answer::Unknown));
    }
    assert_eq!(outcome(&run, "int4-gptq"), Outcome::Accept, "its memory alone satisfies the rule");
    assert_eq!(outcome(&run, "int8"), Outcome::Inconclusive);
}

/// A run in which the reference, broken on purpose, lost so many nats a token.
fn with_broken_reference(loss: Option<f64>) -> Run {
    judged(|e| {
        let whole = e.variants["fp16"].scores["perplexity"].clone();
        let places: Vec<usize> = (0..whole.windows.len()).step_by(3).collect();
        let score = loss.map(|loss| {
            let mut score = whole.clone();
            let lossy = |window| {
                let mut window: quantbench::results::WindowScore = whole.windows[window];
                window.nll += loss * window.tokens as f64;
                window
            };
            score.windows = places.iter().copied().map(lossy).collect();
            score
        });
        let failure = loss.is_none().then(|| "out of memory".to_string());
        e.broken = Some(BrokenScore { places, score, failure, kind: None });
    })
}

#[test]
fn a_broken_reference_must_be_rejected_or_nothing_is_believed() {
    let sound = with_broken_reference(Some(3.0));
    assert!(sound.broken.as_ref().unwrap().rejected && sound.invalid.is_empty(), "{:?}", sound.broken);
    assert_eq!((sound.exit_code(), outcome(&sound, "int4-rtn")), (0, Outcome::Reject));
    for blind in [with_broken_reference(Some(0.0)), with_broken_reference(None)] {
        assert!(!blind.broken.as_ref().unwrap().rejected);
        assert!(blind.invalid[0].contains("broken on purpose is not rejected"), "{:?}", blind.invalid);
        assert_eq!(blind.exit_code(), 5);
        for v in blind.variants.iter().filter(|v| !v.reference) {
            let verdict = v.verdict.as_ref().unwrap();
            assert_eq!(verdict.answers.as_ref().unwrap().accuracy, Answer::Unknown, "{}", v.name);
            assert_eq!((verdict.open[0].why, v.turning_points.accuracy), (Why::BlindRule, None), "{}", v.name);
        }
    }
    let twin = judge(&evidence(&truths(), Setting { control: 1.2, ..SETTING }), &accept());
    assert!(twin.invalid[0].contains("does not tie with itself"), "{:?}", twin.invalid);
}

#[test]
fn more_than_a_quarter_of_the_blocks_disturbed_silences_timing() {
    let disturbed = |blocks: usize| {
        judged(|e| {
            for slot in e.variants.values_mut().flat_map(|v| &mut v.slots) {
                slot.covariates.steal = Some(0.0);
                slot.covariates.others_cpu = Some(if slot.block < blocks { 0.4 } else { 0.0 });
            }
        })
    };
    let some = disturbed(2);
    assert_eq!(outcome(&some, "int8"), Outcome::Accept, "{}", reason(&some, "int8"));
    let most = disturbed(3);
    assert!(reason(&most, "int8").contains("too noisy: 3 of 9 blocks were disturbed"), "{}", reason(&most, "int8"));
    assert_eq!(result(&most, "int8").verdict.as_ref().unwrap().answers.as_ref().unwrap().speed, Some(Answer::Unknown));
}

#[test]
fn a_relative_margin_becomes_points_of_this_reference() {
    let evidence = evidence(&truths(), SETTING);
    let right = judge(&evidence, &accept()).reference().unwrap().scores["perplexity"].token_accuracy;
    for (of, share) in [(MarginOf::Accuracy, right), (MarginOf::Errors, 1.0 - right)] {
        let mut accept = accept();
        accept.accuracy.metric = AccuracyMetric::TokenAccuracy { max_drop_points: 2.0 };
        accept.accuracy.relative = Some(RelativeMargin { percent: 2.0, of });
        let points = judge(&evidence, &accept).suite.accept.accuracy.metric.margin();
        assert!((points - 2.0 * share).abs() <= 1e-3 && points <= 2.0 * share, "{points} of {share}");
    }
}

#[test]
fn holes_in_the_evidence_are_named() {
    let no_control = judged(|e| slots(e, "fp16").retain(|s| !s.control));
    assert!(reason(&no_control, "int8").contains("no A/A control was measured"), "{}", reason(&no_control, "int8"));

    let few = judged(|e| e.variants.values_mut().for_each(|v| v.slots.retain(|s| s.block < 5)));
    assert!(reason(&few, "int8").contains(" after 5 blocks; about "), "{}", reason(&few, "int8"));

    let nan = judged(|e| slots(e, "int8")[1].samples[0].decode_s = f64::NAN);
    assert!(reason(&nan, "int8").contains("block 0: a time or token count that is not positive"));
    assert_eq!(outcome(&nan, "int8"), Outcome::Inconclusive);

    let unscored = judged(|e| e.variants.get_mut("int8").unwrap().scores.clear());
    assert!(reason(&unscored, "int8").contains("accuracy: unknown (not scored on task perplexity)"));

    let other = judged(|e| {
        e.variants.get_mut("int8").unwrap().scores.get_mut("perplexity").unwrap().windows[3].tokens = 17;
    });
    assert!(reason(&other, "int8").contains("window 3 is not the reference's"), "{}", reason(&other, "int8"));

    let untimed = judged(|e| slots(e, "int8").clear());
    assert!(reason(&untimed, "int8").contains("2 threads: not timed"), "{}", reason(&untimed, "int8"));
    assert!(reason(&untimed, "int8").contains("weights: unknown (not measured)"));
}

#[test]
fn one_document_is_judged_over_blocks_of_its_windows_and_few_documents_not_at_all() {
    let one = Setting { documents: 1, windows_per_document: 60, ..SETTING };
    let run = judge(&evidence(&truths(), one), &accept());
    let increase = result(&run, "int8").scores["perplexity"].perplexity_increase.as_ref().unwrap();
    assert!(increase.low.is_some() && increase.method.contains("blocks of one document's windows"), "{increase:?}");

    let run = judge(&evidence(&truths(), Setting { documents: 3, ..SETTING }), &accept());
    assert!(reason(&run, "int8").contains("no interval from 3 documents, at least 5 are needed"));
    assert_eq!(outcome(&run, "int8"), Outcome::Inconclusive);
}

#[test]
fn a_speedup_without_a_low_bit_kernel_is_not_attributable() {
    let run = judged(|e| {
        for kernel in slots(e, "int8").iter_mut().flat_map(|s| &mut s.kernels) {
            kernel.kernel = "x86_64-f16-avx512vnni".into();
        }
    });
    let flagged: Vec<&String> = run.warnings.iter().filter(|w| w.contains("no low-bit kernel ran")).collect();
    assert_eq!(flagged, ["int8: no low-bit kernel ran; its speedup is not due to quantization"]);
}

#[test]
fn ties_within_noise_go_to_the_smaller_weights() {
    let mut truths = truths();
    truths[1].decode = 2.85;
    let run = judge(&evidence(&truths, SETTING), &accept());
    assert_eq!(run.recommendation.variant.as_deref(), Some("int4-gptq"), "{}", run.recommendation.reason);
    assert!(run.recommendation.reason.contains("ties with int8"), "{}", run.recommendation.reason);
    assert!(run.recommendation.reason.contains("smallest weights (74.0 MiB against 130.0 MiB)"));
}

#[test]
fn when_nothing_passes_the_obstacles_are_named() {
    let mut accept = accept();
    accept.rule = "accuracy and speed and memory".into();
    accept.speed.as_mut().unwrap().min_speedup = 4.0;
    accept.memory.as_mut().unwrap().max_bytes = 50 * MIB;
    let run = judge(&evidence(&truths(), SETTING), &accept);
    assert_eq!((run.recommendation.variant.as_deref(), run.exit_code()), (None, 1));
    let reason = &run.recommendation.reason;
    assert!(
        reason.contains("no speedup is proven (nearest: int4-") && reason.contains("none is small enough"),
        "{reason}"
    );
}

#[test]
fn frontier_knows_what_is_dominated() {
    let run = judged(|_| {});
    assert_eq!(result(&run, "fp16").frontier, Frontier::On);
    assert_eq!(result(&run, "int4-gptq").frontier, Frontier::On);
    let by = vec!["int4-gptq".to_string()];
    assert_eq!(result(&run, "q4_1-import").frontier, Frontier::Dominated { by });
    assert!(!matches!(result(&run, "int4-rtn").frontier, Frontier::Unknown));
}

#[test]
fn scaling_all_times_or_permuting_blocks_changes_no_ratio() {
    let plain = judged(|_| {});
    let speedup = |run: &Run| result(run, "int8").points[1].speedup["decode"].clone();
    let scaled = judged(|e| {
        for sample in e.variants.values_mut().flat_map(|v| &mut v.slots).flat_map(|s| &mut s.samples) {
            sample.decode_s *= 3.0;
        }
    });
    let permuted = judged(|e| e.variants.values_mut().for_each(|v| v.slots.reverse()));
    for other in [scaled, permuted] {
        assert!((speedup(&other).value - speedup(&plain).value).abs() < 1e-9);
        assert!((speedup(&other).low.unwrap() - speedup(&plain).low.unwrap()).abs() < 1e-9);
    }
}

/// A number such as no measurement should give, but a damaged file may.
fn rubbish() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(f64::MAX),
        Just(-1.0),
        -1e3..1e3,
        1e-9..1e-3,
    ]
}

/// Damage to one piece of evidence.
fn damage(e: &mut Evidence, kind: u8, at: usize, x: f64) {
    let names: Vec<String> = e.variants.keys().cloned().collect();
    let name = &names[at % names.len()];
    let v = e.variants.get_mut(name).unwrap();
    let slots = v.slots.len().max(1);
    match kind {
        0 => drop(e.variants.remove(name)),
        1 => v.scores.clear(),
        2 => v.slots.clear(),
        3 => v.slots.iter_mut().skip(at % slots).take(1).for_each(|s| s.samples.clear()),
        4 => v.slots.iter_mut().skip(at % slots).flat_map(|s| &mut s.samples).for_each(|s| s.decode_s = x),
        5 => v.slots.iter_mut().flat_map(|s| &mut s.samples).for_each(|s| s.generated_tokens = at % 3),
        6 => v.scores.values_mut().for_each(|s| s.windows.iter_mut().for_each(|w| w.nll = x)),
        7 => v.scores.values_mut().for_each(|s| s.windows.iter_mut().for_each(|w| w.tokens = 0)),
        8 => v.scores.values_mut().for_each(|s| s.windows.truncate(at % 9)),
        9 => v.scores.values_mut().for_each(|s| s.kl_quantiles = Some([x; 5])),
        10 => v.failures.push(("time".into(), "damaged".into())),
        11 => v.slots.truncate(at % 7),
        12 => v.slots.iter_mut().for_each(|s| s.block = 0),
        13 => e.suite.workload.threads.clear(),
        14 => e.suite.reference = "nobody".into(),
        15 => e.suite.variants.clear(),
        16 => v.slots.iter_mut().for_each(|s| s.covariates.clock = Some(x)),
        17 => v.slots.iter_mut().for_each(|s| s.memory.peak_rss = None),
        18 => v.slots.iter_mut().for_each(|s| s.batch = 0),
        _ => v.scores.values_mut().for_each(|s| s.windows.iter_mut().for_each(|w| w.kl = Some(x))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_evidence_never_panics_and_never_passes_by_its_damage(
        damages in prop::collection::vec((0_u8..20, 0_usize..50, rubbish()), 1..5),
        confidence in prop_oneof![Just(0.95), rubbish()],
        threshold in rubbish(),
    ) {
        let mut damaged = evidence(&truths(), Setting { documents: 6, windows_per_document: 2, blocks: 6, ..SETTING });
        for (kind, at, x) in &damages {
            if !damaged.variants.is_empty() {
                damage(&mut damaged, *kind, *at, *x);
            }
        }
        let mut accept: Accept = accept();
        accept.confidence = confidence;
        accept.accuracy.metric = AccuracyMetric::Perplexity { max_increase_percent: threshold };
        let run = judge(&damaged, &accept);
        for v in &run.variants {
            let Some(verdict) = &v.verdict else { continue };
            prop_assert!(!verdict.reason.is_empty());
            if verdict.outcome == Outcome::Accept {
                prop_assert!(v.failures.is_empty());
                let increase = v.scores["perplexity"].perplexity_increase.as_ref().unwrap();
                prop_assert!(increase.high.unwrap() <= threshold);
            }
        }
        if accept.confidence.is_finite() && threshold.is_finite() {
            let json = serde_json::to_string(&run).unwrap();
            prop_assert_eq!(serde_json::from_str::<Run>(&json).unwrap(), run);
        }
    }
}
