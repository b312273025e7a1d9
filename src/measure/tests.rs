//! The protocol with workers and a clock that are not real: what runs in which order, what a failure costs, and that
//! a run killed after any event ends with the same evidence.

mod resuming;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{InTurns, Inputs, OnProgress, Progress, Referee, Session, Workers};
use crate::error::{Error, FailureKind, Result};
use crate::machine::{Covariates, MachineRecord};
use crate::results::{
    Artefact, Event, Evidence, Genres, JOURNAL, Journal, Leaving, Memory, RunFolder, Sample, Score, Slot, Standing,
    WindowScore, hash_folder, read_journal,
};
use crate::suite::{
    Accept, AccuracyLimit, AccuracyMetric, InputScheme, Recipe, Suite, Task, TaskKind, TextSource, Variant, Workload,
};
use crate::worker::{BuildJob, BuildOutcome, PrepareJob, Prepared, Reference, ScoreJob, TimeJob, Timing, Told};

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
    /// Calls whose worker is killed, and how often.
    killed: BTreeMap<String, usize>,
    /// Numbers of the slots, from 1, in which the hypervisor took half of the time.
    disturbed: BTreeSet<usize>,
    /// Numbers of the slots, from 1, whose threads ran on cores that share no cache.
    far: BTreeSet<usize>,
    /// An artefact that is removed from the cache once the reference is scored.
    loses: Option<String>,
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
            killed: BTreeMap::new(),
            disturbed: BTreeSet::new(),
            far: BTreeSet::new(),
            loses: None,
            interrupt_after: usize::MAX,
        }
    }

    fn call(&mut self, what: &str, artefact: &Path) -> Result<()> {
        let call = format!("{what} {}", artefact.file_name().unwrap().to_str().unwrap());
        self.now += 1.0;
        self.calls.push(call.clone());
        if self.failing.contains(&call) {
            return Err(Error::Worker { task: call, reason: "it broke".into(), kind: FailureKind::Other });
        }
        if let Some(left) = self.killed.get_mut(&call).filter(|left| **left > 0) {
            *left -= 1;
            return Err(Error::Worker { task: call, reason: "killed".into(), kind: FailureKind::Signal });
        }
        Ok(())
    }
}

impl Workers for Fake {
    fn prepare(&mut self, job: PrepareJob, _: OnProgress<'_>) -> Result<Prepared> {
        fs::create_dir_all(job.files.folder()).unwrap();
        fs::write(job.files.windows(0), "tokens").unwrap();
        let files = hash_folder(job.files.folder()).unwrap();
        Ok(Prepared { warnings: vec!["a short document".into()], leak: None, files, peak_rss: Some(1) })
    }

    fn build(&mut self, job: BuildJob, progress: OnProgress<'_>) -> Result<BuildOutcome> {
        let Recipe::Import { source, .. } = job.recipe else { panic!("the suite imports only") };
        let path = self.cache.join(source);
        self.call("build", &path)?;
        progress(Told::Done(1, 1));
        fs::create_dir_all(&path).unwrap();
        let artefact = Artefact {
            path: path.display().to_string(),
            key: "key".into(),
            file_bytes: 10,
            files: Vec::new(),
            seconds: 1.0,
            cached: false,
            layer_errors: BTreeMap::new(),
            bits_per_weight: None,
            mixture: None,
            proof: Vec::new(),
        };
        Ok(BuildOutcome { artefact, warnings: Vec::new(), peak_rss: Some(5) })
    }

    fn score(&mut self, job: ScoreJob, _: OnProgress<'_>) -> Result<Score> {
        self.call("score", &job.artefact)?;
        if let Some(name) = self.loses.take() {
            fs::remove_dir(self.cache.join(name)).unwrap();
        }
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
        let near_or_far = if self.far.contains(&timed) { 5e-7 } else { 1.3e-7 };
        let handover_s = (job.threads > 1).then_some([near_or_far; 2]);
        Ok(Timing {
            samples: vec![Sample {
                ttft_s: 0.1,
                decode_s: 0.2 * (1.0 + slowdown),
                prompt_tokens: 4,
                generated_tokens: 2,
            }],
            memory: Memory { weight_bytes: 1, kv_bytes: 1, peak_rss: Some(2), ..Memory::default() },
            kernels: vec![],
            covariates: Covariates { steal: Some(steal), handover_s, ..Covariates::default() },
            phases: vec![],
            processors: None,
            load_s: 0.1,
            warmup_iterations: 2,
        })
    }

    fn time_in_turns(&mut self, _: TimeJob) -> Result<Box<dyn InTurns>> {
        unreachable!("a run measures slot after slot")
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

    /// A folder whose run was killed when its journal had these `lines` of another place's and a `rest`.
    fn killed(lines: &[&str], rest: &str) -> Self {
        let place = Place::new();
        let cache = place.root.path().join("cache");
        fs::create_dir(place.folder()).unwrap();
        for name in ["fp16", "q1", "q2"] {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        let mut journal = Journal::create(&place.folder()).unwrap();
        for line in lines {
            let mut event: Event = serde_json::from_str(line).unwrap();
            match &mut event {
                Event::Built { artefact, .. } => {
                    let name = Path::new(&artefact.path).file_name().unwrap().to_owned();
                    artefact.path = cache.join(name).display().to_string();
                }
                Event::Prepared { .. } => {
                    fs::create_dir(place.folder().join("data")).unwrap();
                    fs::write(place.folder().join("data/task-0.json"), "tokens").unwrap();
                }
                _ => {}
            }
            journal.append(&event).unwrap();
        }
        drop(journal);
        let mut whole = fs::read(place.folder().join(JOURNAL)).unwrap();
        whole.extend(rest.as_bytes());
        fs::write(place.folder().join(JOURNAL), whole).unwrap();
        place
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
fn without_the_reference_a_run_ends_at_once_and_goes_on_when_it_is_there() {
    for (failing, calls) in [("build fp16", 1), ("score fp16", 3), ("time fp16", 12)] {
        let place = Place::new();
        let mut fake = place.fake();
        fake.failing = BTreeSet::from([failing.to_string()]);
        let error = place.run(suite(1), &mut fake, None).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{failing}");
        assert!(error.to_string().contains("it broke"), "{error}");
        assert!(fake.calls.len() <= calls, "{failing}: {:?}", fake.calls);
        assert_eq!(fake.calls.last().unwrap(), failing);
        place.resume(inputs(suite(1)), &mut place.fake()).unwrap();
        assert_eq!(slots(&place.evidence()).len(), 12, "{failing}");
        assert_eq!(place.evidence().variants["q1"].scores["perplexity"].windows[0].kl, Some(0.5));
    }
}

#[test]
fn a_killed_worker_is_replaced_once_and_nothing_is_lost() {
    for call in ["build q1", "score q1", "time q1", "score fp16", "time fp16", "build fp16"] {
        let place = Place::new();
        let mut fake = place.fake();
        fake.killed = BTreeMap::from([(call.to_string(), 1)]);
        place.run(suite(2), &mut fake, None).unwrap();
        let evidence = place.evidence();
        assert!(evidence.variants.values().all(|found| found.failures.is_empty()), "{call}");
        assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (16, 16), "{call}");
        assert!(evidence.warnings.iter().any(|text| text.contains("tried once more")), "{:?}", evidence.warnings);
    }
}

#[test]
fn what_signals_spoilt_is_tried_again_by_a_resumed_run_also_a_finished_one() {
    for call in ["build q1", "score q1", "time q1"] {
        let place = Place::new();
        let mut fake = place.fake();
        fake.killed = BTreeMap::from([(call.to_string(), 2)]);
        place.run(suite(2), &mut fake, None).unwrap();
        assert_eq!(place.evidence().variants["q1"].failures.len(), 1, "{call}");
        assert!(place.evidence().finished_unix_s.is_some());
        place.resume(inputs(suite(2)), &mut place.fake()).unwrap();
        let evidence = place.evidence();
        assert!(evidence.variants["q1"].failures.is_empty() && evidence.passing.is_empty(), "{call}");
        assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (16, 16), "{call}");
        assert!(evidence.variants["q1"].scores.contains_key("perplexity"), "{call}");
        // Slots of a block are measured in one go: where one was missing, its block was measured again.
        let order: Vec<usize> = place
            .events()
            .iter()
            .filter_map(|event| if let Event::Slot(slot) = event { Some(slot.block) } else { None })
            .collect();
        let measured_again = order.len() - 16;
        // Three other arms at two points of two blocks.
        assert_eq!(measured_again, if call == "score q1" { 0 } else { 12 }, "{call}");
    }
    // What fails of itself is not tried again.
    let place = Place::new();
    let mut fake = place.fake();
    fake.failing = BTreeSet::from(["score q1".to_string()]);
    place.run(suite(2), &mut fake, None).unwrap();
    let mut again = place.fake();
    place.resume(inputs(suite(2)), &mut again).unwrap();
    assert!(again.calls.is_empty());
}

#[test]
fn the_reference_is_scored_by_the_journal_and_not_by_a_file() {
    let place = Place::new();
    place.run(suite(1), &mut place.fake(), None).unwrap();
    let journal = fs::read_to_string(place.folder().join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    let scored = lines.iter().position(|line| line.contains("\"event\":\"scored\"")).unwrap();
    // Its worker had stored the states, and the journal had not come to know of the score.
    let killed = Place::killed(&lines[..scored], "");
    fs::create_dir(killed.folder().join("scratch")).unwrap();
    fs::write(killed.folder().join("scratch/0.hidden"), "states of another day").unwrap();
    fs::write(killed.folder().join("data/.tmp-half"), "half a file").unwrap();
    killed.resume(inputs(suite(1)), &mut killed.fake()).unwrap();
    let evidence = killed.evidence();
    assert!(evidence.variants["fp16"].scores.contains_key("perplexity"));
    assert!(!killed.folder().join("scratch").exists() && !killed.folder().join("data/.tmp-half").exists());
}

#[test]
fn an_artefact_that_goes_away_is_made_again() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.loses = Some("q1".into());
    place.run(suite(2), &mut fake, None).unwrap();
    let evidence = place.evidence();
    assert!(evidence.variants["q1"].failures.is_empty() && evidence.variants["q1"].slots.len() == 4);
    assert_eq!(fake.calls.iter().filter(|call| *call == "build q1").count(), 2);
}
