//! The protocol with workers and a clock that are not real: what runs in which order, what a failure costs, and that
//! a run killed after any event ends with the same evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Inputs, OnProgress, Progress, Referee, Session, Workers};
use crate::error::{Error, Result};
use crate::machine::{Covariates, MachineRecord};
use crate::results::{
    Artefact, Event, Evidence, Genres, JOURNAL, Leaving, Memory, RunFolder, Sample, Score, Slot, Standing, WindowScore,
    read_journal,
};
use crate::suite::{
    Accept, AccuracyLimit, AccuracyMetric, InputScheme, Recipe, Suite, Task, TaskKind, TextSource, Variant, Workload,
};
use crate::worker::{BuildJob, BuildOutcome, PrepareJob, Prepared, Reference, ScoreJob, TimeJob, Timing};

/// A suite of `fp16` and `candidates` variants `q1`, `q2`, ..., with two points of two blocks.
pub(super) fn suite(candidates: usize) -> Suite {
    let names = std::iter::once("fp16".to_string()).chain((1..=candidates).map(|i| format!("q{i}")));
    let variants = names.map(|name| Variant {
        recipe: Recipe::Import { source: name.clone(), activations: InputScheme::None },
        name,
        kv_cache: None,
    });
    let text = TextSource { source: "path:text".into(), documents: None, field: None };
    Suite {
        title: "test".into(),
        name: "test".into(),
        model: "path:model".into(),
        reference: "fp16".into(),
        calibration: None,
        tasks: vec![Task { name: "perplexity".into(), kind: TaskKind::Perplexity { length: 8, windows: None }, text }],
        workload: Workload {
            prompt: 4,
            generate: 2,
            batch: vec![1],
            threads: vec![1, 2],
            iterations: 1,
            pilot: false,
            blocks: (2, 2),
        },
        accept: Accept {
            rule: "accuracy".into(),
            accuracy: AccuracyLimit {
                task: "perplexity".into(),
                metric: AccuracyMetric::LogLikelihood { max_drop: 0.1 },
                relative: None,
            },
            speed: None,
            memory: None,
            confidence: 0.95,
        },
        gate: Default::default(),
        variants: variants.collect(),
        seed: 7,
    }
}

/// A slot of which nothing is known.
pub(super) fn slot() -> Slot {
    Slot {
        variant: "fp16".into(),
        control: false,
        block: 0,
        position: 0,
        batch: 1,
        threads: 1,
        samples: Vec::new(),
        memory: Memory::default(),
        kernels: Vec::new(),
        covariates: Covariates::default(),
        phases: Vec::new(),
        processors: None,
        load_s: 0.0,
        warmup_iterations: 2,
        wall_s: 0.0,
    }
}

fn machine() -> MachineRecord {
    MachineRecord {
        cpu: "test".into(),
        arch: "x86_64".into(),
        instruction_sets: vec![],
        isa: "scalar".into(),
        cores: 2,
        memory_bytes: 1 << 30,
        os: "test".into(),
        host: "test".into(),
        timer: None,
        virtual_machine: None,
        disturbances: vec![],
        facts: BTreeMap::new(),
    }
}

fn inputs(suite: Suite) -> Inputs {
    Inputs {
        suite,
        base: PathBuf::new(),
        model: PathBuf::from("model"),
        model_sha256: "aa".into(),
        imports: BTreeMap::new(),
        planted: BTreeMap::new(),
        machine: machine(),
    }
}

/// Workers that answer at once and move the clock by a second.
struct Fake {
    cache: PathBuf,
    now: f64,
    /// What was asked, as `time q1`.
    calls: Vec<String>,
    /// Calls that fail.
    failing: BTreeSet<String>,
    /// Numbers of the slots, from 1, in which the hypervisor took half of the time.
    disturbed: BTreeSet<usize>,
    /// The user presses Ctrl-C when this many calls were made.
    interrupt_after: usize,
}

impl Fake {
    fn new(cache: &Path) -> Self {
        Fake {
            cache: cache.into(),
            now: 0.0,
            calls: vec![],
            failing: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            interrupt_after: usize::MAX,
        }
    }

    fn call(&mut self, what: &str, artefact: &Path) -> Result<()> {
        let call = format!("{what} {}", artefact.file_name().unwrap().to_str().unwrap());
        self.now += 1.0;
        self.calls.push(call.clone());
        if self.failing.contains(&call) {
            return Err(Error::Worker { task: call, reason: "it broke".into() });
        }
        Ok(())
    }
}

impl Workers for Fake {
    fn prepare(&mut self, job: PrepareJob, _: OnProgress<'_>) -> Result<Prepared> {
        fs::write(job.files.complete(), "").unwrap();
        Ok(Prepared { warnings: vec!["a short document".into()], leak: None, peak_rss: Some(1) })
    }

    fn build(&mut self, job: BuildJob, progress: OnProgress<'_>) -> Result<BuildOutcome> {
        let Recipe::Import { source, .. } = job.recipe else { panic!("the suite imports only") };
        let path = self.cache.join(source);
        self.call("build", &path)?;
        progress(1, 1);
        fs::create_dir_all(&path).unwrap();
        let artefact = Artefact {
            path: path.display().to_string(),
            key: "key".into(),
            file_bytes: 10,
            seconds: 1.0,
            cached: false,
            layer_errors: BTreeMap::new(),
            bits_per_weight: None,
            mixture: None,
            proof: Vec::new(),
        };
        Ok(BuildOutcome { artefact, peak_rss: Some(5) })
    }

    fn score(&mut self, job: ScoreJob, _: OnProgress<'_>) -> Result<Score> {
        self.call("score", &job.artefact)?;
        let kl = match &job.reference {
            Reference::Store(path) => {
                fs::write(path, "hidden").unwrap();
                None
            }
            Reference::Compare { hidden, .. } => {
                assert!(hidden.exists());
                Some(0.5)
            }
            Reference::Absent => None,
        };
        let window = WindowScore {
            document: 0,
            tokens: 7,
            nll: 14.0,
            correct: 2,
            kl,
            agree: None,
            flips: None,
            squared_difference: None,
        };
        Ok(Score {
            task: job.task,
            windows: vec![window],
            items: Vec::new(),
            genres: Genres::default(),
            sentences: Vec::new(),
            rank_correlation: None,
            generations: Vec::new(),
            kl_quantiles: None,
            seconds: 1.0,
            kernels: vec![],
            worker_peak_rss: Some(3),
        })
    }

    fn time(&mut self, job: TimeJob, slowdown: f64) -> Result<Timing> {
        self.call("time", &job.artefact)?;
        let timed = self.calls.iter().filter(|call| call.starts_with("time")).count();
        let steal = if self.disturbed.contains(&timed) { 0.5 } else { 0.02 };
        Ok(Timing {
            samples: vec![Sample {
                ttft_s: 0.1,
                decode_s: 0.2 * (1.0 + slowdown),
                prompt_tokens: 4,
                generated_tokens: 2,
            }],
            memory: Memory { weight_bytes: 1, kv_bytes: 1, peak_rss: Some(2), ..Memory::default() },
            kernels: vec![],
            covariates: Covariates { steal: Some(steal), ..Covariates::default() },
            phases: vec![],
            processors: None,
            load_s: 0.1,
            warmup_iterations: 2,
        })
    }

    fn elapsed_s(&self) -> f64 {
        self.now
    }

    fn unix_s(&self) -> f64 {
        1000.0 + self.now
    }

    fn interrupted(&self) -> bool {
        self.calls.len() >= self.interrupt_after
    }
}

/// A run's folder, and a cache beside it.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { root: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("run")
    }

    fn fake(&self) -> Fake {
        Fake::new(&self.root.path().join("cache"))
    }

    fn run(&self, suite: Suite, fake: &mut Fake, budget: Option<Duration>) -> Result<()> {
        self.race(suite, fake, budget, &undecided)
    }

    fn race(&self, suite: Suite, fake: &mut Fake, budget: Option<Duration>, referee: Referee<'_>) -> Result<()> {
        let folder = RunFolder::create_at(&self.folder())?;
        go(Session::begin(inputs(suite), folder, fake, Progress::new(true))?, budget, referee)
    }

    fn resume(&self, inputs: Inputs, fake: &mut Fake) -> Result<()> {
        self.resume_race(inputs, fake, &undecided)
    }

    fn resume_race(&self, inputs: Inputs, fake: &mut Fake, referee: Referee<'_>) -> Result<()> {
        let folder = RunFolder::open(&self.folder())?;
        go(Session::resume(inputs, folder, fake, Progress::new(true))?, None, referee)
    }

    fn events(&self) -> Vec<Event> {
        read_journal(&self.folder()).unwrap().events
    }

    fn evidence(&self) -> Evidence {
        Evidence::from_events(self.events()).unwrap()
    }
}

/// One more block would decide every candidate.
fn undecided(evidence: &Evidence) -> BTreeMap<String, Standing> {
    evidence.variants.keys().map(|name| (name.clone(), Standing::Open { missing_blocks: Some(1) })).collect()
}

/// `q1` is decided from the first look, the others when four blocks are measured.
fn decided_in_turn(evidence: &Evidence) -> BTreeMap<String, Standing> {
    let mut standings = undecided(evidence);
    standings.insert("q1".into(), Standing::Decided);
    if evidence.timed_blocks() >= 4 {
        standings.values_mut().for_each(|standing| *standing = Standing::Decided);
    }
    standings
}

fn go(mut session: Session<'_>, budget: Option<Duration>, referee: Referee<'_>) -> Result<()> {
    if session.is_finished() {
        return Ok(());
    }
    session.prepare()?;
    session.build()?;
    session.score()?;
    session.time(budget, false, referee)?;
    session.finish()
}

fn slots(evidence: &Evidence) -> Vec<&Slot> {
    evidence.variants.values().flat_map(|v| &v.slots).collect()
}

type Arm = (String, bool, usize, usize, usize);

fn arms(evidence: &Evidence) -> BTreeSet<Arm> {
    slots(evidence).iter().map(|s| (s.variant.clone(), s.control, s.block, s.position, s.threads)).collect()
}

#[test]
fn a_run_measures_every_variant_and_the_control_once_in_every_block_and_point() {
    let place = Place::new();
    place.run(suite(2), &mut place.fake(), None).unwrap();
    let evidence = place.evidence();
    // 4 arms, 2 points, 2 blocks.
    assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (16, 16));
    for (block, threads) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        let positions: BTreeSet<usize> =
            slots(&evidence).iter().filter(|s| (s.block, s.threads) == (block, threads)).map(|s| s.position).collect();
        assert_eq!(positions, BTreeSet::from([0, 1, 2, 3]));
    }
    let controls: Vec<&Slot> = slots(&evidence).into_iter().filter(|s| s.control).collect();
    assert!(controls.len() == 4 && controls.iter().all(|s| s.variant == "fp16" && s.wall_s == 1.0));
    assert_eq!(evidence.variants["q1"].scores["perplexity"].windows[0].kl, Some(0.5));
    assert_eq!(evidence.variants["fp16"].scores["perplexity"].windows[0].kl, None);
    let stages: Vec<(&str, f64, Option<u64>)> =
        evidence.stages.iter().map(|s| (s.name.as_str(), s.seconds, s.worker_peak_rss)).collect();
    let expected =
        [("prepare", 0.0, Some(1)), ("build", 3.0, Some(5)), ("score", 4.0, Some(3)), ("time", 16.0, Some(2))];
    assert_eq!(stages, expected);
    assert!(evidence.finished_unix_s.is_some() && !place.folder().join("scratch").exists());
    assert_eq!(evidence.warnings, ["a short document"]);
    let broken = evidence.broken.unwrap();
    assert_eq!((broken.places, broken.score.unwrap().windows.len()), (vec![0], 1));
}

#[test]
fn a_disturbed_block_is_measured_again_as_a_whole_but_one_in_four_at_most() {
    for (disturbed, redone) in
        [(vec![2], vec![0]), (vec![13], vec![]), (vec![7], vec![1]), ((1..99).collect(), vec![0])]
    {
        let place = Place::new();
        let mut fake = place.fake();
        fake.disturbed = disturbed.iter().copied().collect();
        place.run(suite(1), &mut fake, None).unwrap();
        let evidence = place.evidence();
        let blocks: Vec<usize> = evidence.set_aside.iter().map(|(block, _)| *block).collect();
        assert_eq!(blocks, redone, "{disturbed:?}");
        // 3 arms, 2 points, 2 blocks.
        assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (12, 12));
        assert_eq!(fake.calls.iter().filter(|c| c.starts_with("time")).count(), 12 + 6 * redone.len());
        if let Some((_, why)) = evidence.set_aside.first() {
            assert_eq!(why, "processor time stolen by the hypervisor above 5 %");
        }
    }
}

#[test]
fn iterations_are_chosen_after_three_pilot_blocks_and_kept() {
    let place = Place::new();
    let mut suite = suite(1);
    suite.workload.blocks = (5, 5);
    suite.workload.pilot = true;
    place.run(suite, &mut place.fake(), None).unwrap();
    let evidence = place.evidence();
    // One iteration a slot shows no noise within it: nothing says that more are worth their time.
    assert_eq!(evidence.iterations, Some(1));
    let chosen = place.events().iter().position(|e| matches!(e, Event::Iterations { .. })).unwrap();
    let before = place.events()[..chosen].iter().filter(|e| matches!(e, Event::Slot(_))).count();
    assert_eq!(before, 3 * 6, "three blocks of three arms at two points");
}

#[test]
fn a_slowdown_is_planted_in_its_variant_alone() {
    let place = Place::new();
    let planted = BTreeMap::from([("q2".to_string(), 0.5)]);
    let inputs = Inputs { planted, ..inputs(suite(2)) };
    let (folder, mut fake) = (RunFolder::create_at(&place.folder()).unwrap(), place.fake());
    go(Session::begin(inputs, folder, &mut fake, Progress::new(true)).unwrap(), None, &undecided).unwrap();
    for slot in slots(&place.evidence()) {
        let expected = if slot.variant == "q2" { 0.2 * 1.5 } else { 0.2 };
        assert_eq!(slot.samples[0].decode_s, expected, "{}", slot.variant);
    }
}

#[test]
fn a_budget_is_kept_but_never_below_the_fewest_blocks() {
    for (budget_s, expected) in [(1, 2), (44, 4), (10_000, 9)] {
        let place = Place::new();
        let mut suite = suite(2);
        suite.workload.blocks = (2, 9);
        let mut fake = place.fake();
        place.run(suite, &mut fake, Some(Duration::from_secs(budget_s))).unwrap();
        // 7 calls to build and score, then blocks of 8 seconds: 7 + 4 * 8 = 39 fits 44, a fifth does not.
        assert_eq!(place.evidence().timed_blocks(), expected, "{budget_s}");
        let why = if expected < 9 { Some((expected, Leaving::Budget)) } else { None };
        assert_eq!(place.evidence().left.get("q1").copied(), why, "{budget_s}");
        assert_eq!(slots(&place.evidence()).len(), expected * 8);
        let over = budget_s > 1 && fake.now > budget_s as f64;
        assert!(!over, "{} of {budget_s}", fake.now);
    }
}

/// Blocks in which a variant was timed, with one thread.
fn blocks_of(evidence: &Evidence, name: &str) -> Vec<usize> {
    evidence.variants[name].slots.iter().filter(|s| s.threads == 1 && !s.control).map(|s| s.block).collect()
}

fn racing_suite(blocks: (usize, usize)) -> Suite {
    let mut suite = suite(2);
    suite.workload.blocks = blocks;
    suite
}

#[test]
fn decided_candidates_leave_and_the_race_ends_with_the_last() {
    let place = Place::new();
    place.race(racing_suite((2, 9)), &mut place.fake(), None, &decided_in_turn).unwrap();
    let evidence = place.evidence();
    assert_eq!(blocks_of(&evidence, "q1"), [0, 1], "not before the fewest");
    assert_eq!(blocks_of(&evidence, "q2"), [0, 1, 2, 3]);
    assert_eq!(blocks_of(&evidence, "fp16"), [0, 1, 2, 3]);
    assert_eq!(evidence.variants["fp16"].slots.iter().filter(|s| s.control).count(), 8, "the control stays too");
    let expected = [("q1".to_string(), (2, Leaving::Decided)), ("q2".to_string(), (4, Leaving::Decided))];
    assert_eq!(evidence.left, BTreeMap::from(expected));
}

#[test]
fn a_fixed_number_of_blocks_is_measured_whatever_is_decided() {
    let place = Place::new();
    place.race(racing_suite((5, 5)), &mut place.fake(), None, &decided_in_turn).unwrap();
    assert_eq!(blocks_of(&place.evidence(), "q1").len(), 5);
    assert!(place.evidence().left.is_empty());
}

#[test]
fn what_is_futile_stops_and_goes_on_later_in_new_blocks_only() {
    let place = Place::new();
    let hopeless = |evidence: &Evidence| {
        let mut standings = undecided(evidence);
        standings.insert("q1".into(), Standing::Decided);
        standings.insert("q2".into(), Standing::Open { missing_blocks: None });
        standings
    };
    place.race(racing_suite((2, 30)), &mut place.fake(), None, &hopeless).unwrap();
    assert_eq!(place.evidence().left["q2"], (10, Leaving::Futile));

    let mut fake = place.fake();
    let folder = RunFolder::open(&place.folder()).unwrap();
    let mut session = Session::resume(inputs(racing_suite((2, 30))), folder, &mut fake, Progress::new(true)).unwrap();
    let two_more = |evidence: &Evidence| {
        let done = evidence.timed_blocks() >= 12;
        let standing = if done { Standing::Decided } else { Standing::Open { missing_blocks: Some(1) } };
        BTreeMap::from([("q1".to_string(), Standing::Decided), ("q2".to_string(), standing)])
    };
    assert!(session.is_finished() && session.go_on(&two_more).unwrap() && !session.is_finished());
    go(session, None, &two_more).unwrap();
    let evidence = place.evidence();
    assert_eq!(blocks_of(&evidence, "q1"), [0, 1], "what was decided stays decided");
    assert_eq!(blocks_of(&evidence, "q2"), (0..12).collect::<Vec<_>>());
    assert_eq!(evidence.plan.map(|plan| (plan.first, plan.closed)), Some((30, 10)));
    assert_eq!(fake.calls.len(), 12, "three arms at two points in two blocks, nothing built or scored again");

    let folder = RunFolder::open(&place.folder()).unwrap();
    let mut fake = place.fake();
    let mut session = Session::resume(inputs(racing_suite((2, 30))), folder, &mut fake, Progress::new(true)).unwrap();
    assert!(!session.go_on(&two_more).unwrap() && session.is_finished(), "nothing is left to decide");
}

#[test]
fn a_race_killed_after_any_event_ends_as_if_it_had_not_been() {
    let whole = Place::new();
    whole.race(racing_suite((2, 9)), &mut whole.fake(), None, &decided_in_turn).unwrap();
    let journal = fs::read_to_string(whole.folder().join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    for kept in 1..lines.len() {
        let place = Place::new();
        fs::create_dir(place.folder()).unwrap();
        for name in ["fp16", "q1", "q2"] {
            fs::create_dir_all(place.root.path().join("cache").join(name)).unwrap();
        }
        fs::write(place.folder().join(JOURNAL), format!("{}\n", rebase(&lines[..kept], &place))).unwrap();
        place.resume_race(inputs(racing_suite((2, 9))), &mut place.fake(), &decided_in_turn).unwrap();
        assert_eq!(arms(&place.evidence()), arms(&whole.evidence()), "{kept}");
        assert_eq!(place.evidence().left, whole.evidence().left, "{kept}");
    }
}

#[test]
fn a_failure_costs_its_own_result_only() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.failing = ["build q1", "score q2", "time q3"].map(String::from).into();
    place.run(suite(4), &mut fake, None).unwrap();
    let evidence = place.evidence();
    let of = |name: &str| &evidence.variants[name];
    assert_eq!(of("q1").failures, [("build".to_string(), "it broke".to_string())]);
    assert!(of("q1").scores.is_empty() && of("q1").slots.is_empty());
    assert_eq!(of("q2").failures[0].0, "score");
    assert_eq!(of("q2").slots.len(), 4);
    assert_eq!((of("q3").failures.len(), of("q3").scores.len(), of("q3").slots.len()), (1, 1, 0));
    assert_eq!((of("q4").scores.len(), of("q4").slots.len(), of("fp16").slots.len()), (1, 4, 8));
    assert_eq!(fake.calls.iter().filter(|c| *c == "time q3").count(), 1);
}

#[test]
fn without_reference_there_is_no_run_and_without_its_score_no_divergence() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.failing = BTreeSet::from(["build fp16".to_string()]);
    let error = place.run(suite(1), &mut fake, None).unwrap_err();
    assert_eq!((error.exit_code(), fake.calls.len()), (5, 1));
    place.resume(inputs(suite(1)), &mut place.fake()).unwrap();
    assert_eq!(slots(&place.evidence()).len(), 12);

    let place = Place::new();
    let mut fake = place.fake();
    fake.failing = BTreeSet::from(["score fp16".to_string()]);
    place.run(suite(1), &mut fake, None).unwrap();
    assert_eq!(place.evidence().variants["q1"].scores["perplexity"].windows[0].kl, None);
}

#[test]
fn a_run_killed_after_any_event_ends_with_the_same_evidence() {
    let whole = Place::new();
    whole.run(suite(2), &mut whole.fake(), None).unwrap();
    let journal = fs::read_to_string(whole.folder().join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    for kept in 1..lines.len() {
        let place = Place::new();
        fs::create_dir(place.folder()).unwrap();
        for name in ["fp16", "q1", "q2"] {
            fs::create_dir_all(place.root.path().join("cache").join(name)).unwrap();
        }
        // Half of the next line was written when the process was killed.
        let next = &lines[kept][..lines[kept].len() / 2];
        fs::write(place.folder().join(JOURNAL), format!("{}\n{next}", rebase(&lines[..kept], &place))).unwrap();
        let mut fake = place.fake();
        place.resume(inputs(suite(2)), &mut fake).unwrap();
        let evidence = place.evidence();
        assert_eq!(arms(&evidence), arms(&whole.evidence()), "{kept}");
        assert_eq!(slots(&evidence).len(), 16, "{kept}: nothing is measured twice");
        for (name, found) in &evidence.variants {
            let expected = &whole.evidence().variants[name].scores["perplexity"].windows;
            assert_eq!(&found.scores["perplexity"].windows, expected, "{kept} {name}");
        }
        let measured = fake.calls.iter().filter(|c| c.starts_with("time")).count();
        let recorded = lines[..kept].iter().filter(|l| l.contains("\"event\":\"slot\"")).count();
        assert_eq!(measured + recorded, 16, "{kept}");
        assert!(evidence.finished_unix_s.is_some() && !place.folder().join("scratch").exists());
    }
}

/// Lines of another place's journal with this place's cache.
fn rebase(lines: &[&str], place: &Place) -> String {
    let cache = |line: &&str| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(path) = event.pointer_mut("/artefact/path") {
            let name = Path::new(path.as_str().unwrap()).file_name().unwrap().to_owned();
            *path = place.root.path().join("cache").join(name).display().to_string().into();
        }
        event.to_string()
    };
    lines.iter().map(cache).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_interrupted_run_stops_at_once_and_goes_on_later() {
    for calls in 1..20 {
        let place = Place::new();
        let mut fake = place.fake();
        fake.interrupt_after = calls;
        let error = place.run(suite(2), &mut fake, None).unwrap_err().to_string();
        assert!(error.contains("interrupted"), "{error}");
        assert_eq!(fake.calls.len(), calls);
        assert!(place.evidence().variants.values().all(|v| v.failures.is_empty()));
        place.resume(inputs(suite(2)), &mut place.fake()).unwrap();
        assert_eq!(arms(&place.evidence()).len(), 16);
    }
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let place = Place::new();
    place.run(suite(1), &mut place.fake(), None).unwrap();
    let before = place.events();
    let mut fake = place.fake();
    place.resume(inputs(suite(1)), &mut fake).unwrap();
    assert!(fake.calls.is_empty());
    assert_eq!(place.events(), before);
}

#[test]
fn another_suite_model_or_machine_is_not_mixed_into_a_run() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.interrupt_after = 5;
    place.run(suite(2), &mut fake, None).unwrap_err();
    let mut others = vec![inputs(suite(3)), inputs(suite(2)), inputs(suite(2)), inputs(suite(2))];
    others[1].model_sha256 = "bb".into();
    others[2].machine.cpu = "another".into();
    others[3].machine.isa = "avx2".into();
    for (other, word) in others.into_iter().zip(["suite file", "model", "machine", "machine"]) {
        let error = place.resume(other, &mut place.fake()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains(word), "{error}");
    }
}
