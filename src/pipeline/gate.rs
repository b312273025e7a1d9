//! The gate's story: measure head, measure base where there is one, hold both against what was accepted, report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gate::{
    self, Baseline, Check, Exactness, GateReport, Inconclusive, Level, Observed, Record, SameSession, State,
    TaskRecord, Tier, TimingMode, UnderIsa, Update,
};
use crate::machine::{self, MachineRecord, Pace};
use crate::measure::{Arm, Inputs, IsaOutcome, Processes, Progress, Session, Versus, Workers, under_instruction_sets};
use crate::results::{Built, Evidence, RunFolder, read_journal, write_whole};
use crate::suite::{self, Suite};
use crate::variant::ARTEFACTS;
use crate::{assets, decide, files, report};

/// Slower than the base build by less is no matter, percent, where the suite does not say.
const USUAL_SLOWDOWN_PERCENT: f64 = 5.0;

/// File of a gate's folder that holds what it measured and said.
const GATE_FILE: &str = "gate.json";

/// What a gate is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct GateOptions {
    /// The suite file.
    pub suite: PathBuf,
    /// The baseline; `None` is the suite's usual one, if it exists.
    pub baseline: Option<PathBuf>,
    /// Another build of this program to compare with in this session.
    pub base: Option<PathBuf>,
    /// How much is measured.
    pub tier: Tier,
    /// Where exact numbers must not change.
    pub exactness: Exactness,
    /// What is done with times.
    pub timing: TimingMode,
    /// Exit code of an inconclusive gate.
    pub inconclusive: Inconclusive,
    /// Also score under every instruction set of this machine.
    pub all_instruction_sets: bool,
    /// Slower than base by less is no matter, percent; `None` is the suite's limit.
    pub max_slowdown_percent: Option<f64>,
    /// Most blocks against base.
    pub blocks: usize,
    /// Time for them.
    pub budget: Duration,
    /// The gate's folder; `None` makes `results/gate/<suite>/<utc>-<host>/`.
    pub out: Option<PathBuf>,
    /// The command that repeats it.
    pub command: String,
    /// No progress on standard error.
    pub quiet: bool,
}

/// `gate.json`: what was measured, so that it can become the baseline, and what was said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateFile {
    /// What was said.
    pub report: GateReport,
    /// What was measured.
    pub observed: Observed,
}

/// Runs a gate; returns its folder and what it says.
///
/// # Errors
/// A suite or input fault, a damaged baseline, a reference that cannot be built, a base build that cannot work. The
/// failure of a variant is no error: it fails the gate.
pub fn gate(options: &GateOptions) -> Result<(PathBuf, GateReport)> {
    machine::catch_interrupts();
    let suite = suite::read(&options.suite)?;
    let (path, baseline) = stored(options, &suite)?;
    let place = Place::new(options, &suite)?;
    let head = place.head()?;
    let run = decide::judge(&head.evidence, &suite.accept);

    let mut checks = gate::presence(&head.observed, baseline.as_ref());
    checks.extend(gate::behaviour(&run, &suite.gate));
    match &baseline {
        Some(baseline) => checks.extend(against_stored(&head.observed, baseline, options)),
        None if options.base.is_none() => checks.push(no_baseline(&path, place.folder.path())),
        None => {}
    }
    let mut against: Vec<String> = baseline.iter().map(|_| format!("the baseline {}", path.display())).collect();
    if let Some(program) = &options.base {
        checks.extend(place.against_base(&head, program, baseline.is_none())?);
        against.push(format!("the build {}", program.display()));
    }
    if options.all_instruction_sets {
        checks.extend(place.across_instruction_sets(&head)?);
    }
    place.remove_artefacts()?;
    let said = GateReport {
        schema_version: gate::REPORT_SCHEMA,
        tool_version: head.observed.tool_version.clone(),
        unix_s: head.observed.unix_s,
        suite: suite.name.clone(),
        tier: options.tier,
        against,
        baseline_sha256: baseline.as_ref().map(|b| b.sha256.clone()),
        number_class: head.observed.record.class.clone(),
        machine_class: head.observed.machine_class.clone(),
        outcome: State::NotComparable,
        exit_code: 4,
        checks,
        metrics: gate::metrics(&run),
        history: baseline.map(|b| b.history).unwrap_or_default(),
        warnings: head.evidence.warnings.clone(),
        command: options.command.clone(),
    };
    let said = said.conclude(options.inconclusive);
    report::write_gate(place.folder.path(), &said)?;
    let file = GateFile { report: said, observed: head.observed };
    let json = serde_json::to_vec_pretty(&file)
        .map_err(|e| Error::Measurement(format!("cannot write what was measured as JSON: {e}")))?;
    write_whole(&place.folder.path().join(GATE_FILE), &json)?;
    Ok((place.folder.path().to_path_buf(), file.report))
}

/// Makes what a gate measured the baseline at `path`, or at the suite's usual place; returns the place and the baseline.
///
/// # Errors
/// A folder that is no gate's; without a reason, a gate that did not pass or was held against another baseline than the
/// one that is there now; a variant that failed.
pub fn update_baseline(folder: &Path, path: Option<&Path>, update: &Update) -> Result<(PathBuf, Baseline)> {
    let file = read_gate(folder)?;
    let path = path.map_or_else(|| Baseline::usual_path(&file.report.suite), Path::to_path_buf);
    // An accepted change may replace a file that cannot be read any more, but not without saying so.
    let old = if path.exists() { Some(Baseline::read(&path)?) } else { None };
    if let (Some(old), None) = (&old, &update.reason) {
        let refused = |problem: String| {
            Err(Error::Usage(format!(
                "{}: {problem}; run `bench gate` again, or accept an intended change with `bench baseline accept --reason`",
                folder.display()
            )))
        };
        if !file.report.passed() && !only_adds_a_record(&file, old) {
            return refused(format!("the gate did not pass ({})", file.report.outcome.name()));
        }
        if file.report.baseline_sha256.as_ref() != Some(&old.sha256) {
            return refused(format!("the gate was not held against {} as it is now", path.display()));
        }
    }
    let baseline = Baseline::updated(old, &file.observed, update)?;
    baseline.write(&path)?;
    Ok((path, baseline))
}

/// Whether all that stood in the way of a pass is that the baseline lacks a record or sessions of this class of machines:
/// nothing that is there becomes another.
fn only_adds_a_record(file: &GateFile, old: &Baseline) -> bool {
    let record = &file.observed.record;
    let is_new = !old.records.iter().any(|r| r.class == record.class && r.sample == record.sample)
        || !old.timings.iter().any(|t| t.class == file.observed.machine_class);
    is_new && file.report.outcome == State::NotComparable && file.observed.model_sha256 == old.model_sha256
}

fn read_gate(folder: &Path) -> Result<GateFile> {
    let path = folder.join(GATE_FILE);
    let bytes = files::read(&path, files::limit::RESULTS)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(
            path.display(),
            format!("is no gate of this program: {e}; give the folder that `bench gate` printed"),
        )
    })
}

/// The baseline's place, and what is there.
fn stored(options: &GateOptions, suite: &Suite) -> Result<(PathBuf, Option<Baseline>)> {
    let path = options.baseline.clone().unwrap_or_else(|| Baseline::usual_path(&suite.name));
    let baseline = if path.exists() { Some(Baseline::read(&path)?) } else { None };
    Ok((path, baseline))
}

fn no_baseline(path: &Path, folder: &Path) -> Check {
    let message = format!(
        "there is no {}; if these results are right, store them with: bench baseline update {}",
        path.display(),
        folder.display()
    );
    Check::new(Level::Exact, "", "baseline", State::NotComparable, message)
}

fn against_stored(observed: &Observed, baseline: &Baseline, options: &GateOptions) -> Vec<Check> {
    let mut checks = gate::thresholds(&baseline.suite, &observed.suite);
    if observed.model_sha256 != baseline.model_sha256 {
        let message = "the model's files are not those of the baseline; if that is meant, accept it with `bench baseline \
                       accept --reason`";
        checks.push(Check::new(Level::Exact, "", "model", State::NotComparable, message));
        return checks;
    }
    checks.extend(gate::against_baseline(observed, baseline, options.exactness));
    checks.extend(gate::stored_timing(observed, &baseline.timings, "the baseline", options.timing));
    if let Some(anchor) = &baseline.anchor {
        checks.extend(gate::drift(observed, anchor));
        if !anchor.timings.is_empty() {
            let since = format!("the anchor {}", anchor.name);
            checks.extend(gate::stored_timing(observed, &anchor.timings, &since, options.timing));
        }
    }
    checks
}

/// Where a gate works, and on what.
struct Place<'o> {
    options: &'o GateOptions,
    folder: RunFolder,
    /// The suite's file as resolved.
    suite: &'o Suite,
    inputs: Inputs,
}

/// What was measured of one build.
struct Side {
    evidence: Evidence,
    observed: Observed,
}

impl<'o> Place<'o> {
    fn new(options: &'o GateOptions, suite: &'o Suite) -> Result<Self> {
        let base = options.suite.parent().unwrap_or(Path::new(""));
        let inputs = Inputs::fetch(options.tier.of(suite), base)?;
        let folder = match &options.out {
            Some(folder) => RunFolder::create_at(folder)?,
            None => {
                let now = Processes::new()?.unix_s();
                RunFolder::create(Path::new("results/gate"), &suite.name, now, &inputs.machine.host)?
            }
        };
        Ok(Place { options, folder, suite, inputs })
    }

    /// Artefacts are made afresh in the gate's folder: a cache may hold those of an earlier build of this program.
    fn artefacts(&self, side: &str) -> PathBuf {
        self.folder.path().join("artefacts").join(side)
    }

    fn remove_artefacts(&self) -> Result<()> {
        let folder = self.folder.path().join("artefacts");
        match folder.exists() {
            true => std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, "delete", e)),
            false => Ok(()),
        }
    }

    fn head_workers(&self) -> Result<Processes> {
        Ok(Processes::new()?.with(ARTEFACTS, self.artefacts("head")))
    }

    fn head(&self) -> Result<Side> {
        let alone = self.options.base.is_none();
        let timed = alone && self.options.tier != Tier::Smoke && self.options.timing != TimingMode::Skip;
        let before = timed.then(Pace::measure);
        let mut workers = self.head_workers()?;
        let mut session = self.session(self.folder.clone(), &mut workers)?;
        session.prepare()?;
        session.build()?;
        session.score()?;
        if timed {
            session.time(Some(self.options.budget), false, &super::referee)?;
        }
        session.finish()?;
        drop(session);
        let evidence = evidence_in(self.folder.path())?;
        let times = before.map(|before| gate::Session::of(&evidence, before.between(Pace::measure())));
        self.side(evidence, times)
    }

    fn session<'w>(&self, folder: RunFolder, workers: &'w mut Processes) -> Result<Session<'w>> {
        Session::begin(self.inputs.clone(), folder, workers, Progress::new(self.options.quiet))
    }

    fn side(&self, evidence: Evidence, session: Option<gate::Session>) -> Result<Side> {
        let machine: &MachineRecord = &self.inputs.machine;
        let mut sha256 = BTreeMap::new();
        for (name, found) in &evidence.variants {
            if let Built::Ready(artefact) = &found.built {
                sha256.insert(name.clone(), assets::content(Path::new(&artefact.path))?.sha256);
            }
        }
        let failure =
            |failures: &Vec<(String, String)>| failures.first().map(|(stage, reason)| format!("{stage}: {reason}"));
        let failures = evidence.variants.iter().filter_map(|(name, v)| Some((name.clone(), failure(&v.failures)?)));
        let observed = Observed {
            unix_s: evidence.started_unix_s,
            tool_version: evidence.tool_version.clone(),
            suite: self.suite.clone(),
            model_sha256: evidence.model_sha256.clone(),
            machine_class: gate::machine_class(machine),
            record: Record::of(&evidence, gate::number_class(machine), self.options.tier.sample(), &sha256),
            failures: failures.collect(),
            session,
        };
        Ok(Side { evidence, observed })
    }

    /// Builds the variants under the base program, scores them where `scored`, and times both programs.
    fn against_base(&self, head: &Side, program: &Path, scored: bool) -> Result<Vec<Check>> {
        let mut base = Processes::of(program.to_path_buf()).with(ARTEFACTS, self.artefacts("base"));
        let folder = RunFolder::create_at(&self.folder.path().join("base"))?;
        let path = folder.path().to_path_buf();
        let mut session = self.session(folder, &mut base)?;
        session.prepare().map_err(|e| of_base(e, program))?;
        session.build().map_err(|e| of_base(e, program))?;
        if scored {
            session.score()?;
        }
        session.finish()?;
        drop(session);
        let old = self.side(evidence_in(&path)?, None)?;
        let mut checks = Vec::new();
        if scored {
            let strict = self.options.exactness != Exactness::Never;
            checks.extend(gate::compare(&old.observed.record, &head.observed.record, strict));
            checks.extend(gate::accuracy(&old.observed.record, &head.observed.record, self.suite));
        }
        if self.options.tier != Tier::Smoke && self.options.timing != TimingMode::Skip {
            checks.extend(self.versus(head, &old, &mut base)?);
        }
        Ok(checks)
    }

    /// Times both programs in blocks.
    fn versus(&self, head: &Side, old: &Side, base: &mut Processes) -> Result<Vec<Check>> {
        let arm = |variant: &suite::Variant| {
            let of = |side: &Side| artefacts(&side.evidence).remove(&variant.name);
            Some(Arm { variant: variant.name.clone(), kv_cache: variant.kv_cache, base: of(old)?, head: of(head)? })
        };
        let arms: Vec<Arm> = self.suite.variants.iter().filter_map(arm).collect();
        let names: Vec<String> = arms.iter().map(|arm| arm.variant.clone()).collect();
        let limit = self.options.max_slowdown_percent.or(self.suite.gate.max_slowdown_percent);
        let tolerance = limit.unwrap_or(USUAL_SLOWDOWN_PERCENT) / 100.0;
        let (confidence, blocks) = (self.suite.accept.confidence, self.options.blocks);
        let questions = SameSession::new(&names, &self.suite.workload, tolerance, confidence, blocks);
        let prompts = self.folder.data();
        let versus = Versus {
            base,
            head: &mut self.head_workers()?,
            suite: self.suite,
            prompts: &crate::tasks::TokenFiles::new(prompts).prompts(),
            blocks,
            budget: self.options.budget,
        };
        let mut progress = Progress::new(self.options.quiet);
        let compared = versus.run(&arms, &mut progress, &|variant, pairs| questions.is_open(variant, pairs))?;
        let mut checks = questions.checks(&compared.pairs);
        for (variant, reason) in &compared.failures {
            checks.push(Check::new(Level::Timing, variant, "against base", State::Fail, format!("failed: {reason}")));
        }
        Ok(checks)
    }

    fn across_instruction_sets(&self, head: &Side) -> Result<Vec<Check>> {
        let inputs = Inputs { suite: Tier::Smoke.of(self.suite), ..self.inputs.clone() };
        let outcomes = under_instruction_sets(
            &inputs,
            &artefacts(&head.evidence),
            &self.inputs.machine.instruction_sets,
            &self.folder.path().join("instruction-sets"),
            &|isa| Ok(Box::new(self.head_workers()?.with("BENCH_ISA", isa))),
            &Progress::new(self.options.quiet),
        )?;
        let under = |outcome: IsaOutcome| UnderIsa {
            proof: Some(outcome.proof.map(|layers| {
                let products = layers.iter().flat_map(|layer| layer.products.iter().flatten());
                products.map(|product| product.kernel).fold(0.0, f64::max)
            })),
            tasks: outcome.scores.into_iter().map(|(task, score)| (task, score.map(|s| TaskRecord::of(&s)))).collect(),
        };
        let results = outcomes
            .into_iter()
            .map(|(variant, by_isa)| {
                (variant, by_isa.into_iter().map(|(isa, outcome)| (isa, under(outcome))).collect())
            })
            .collect();
        Ok(gate::across_instruction_sets(self.suite, &self.inputs.machine.isa, &results))
    }
}

fn evidence_in(folder: &Path) -> Result<Evidence> {
    Evidence::from_events(read_journal(folder)?.events)
}

fn artefacts(evidence: &Evidence) -> BTreeMap<String, PathBuf> {
    let of = |(name, found): (&String, &crate::results::VariantEvidence)| match &found.built {
        Built::Ready(artefact) if found.failures.is_empty() => Some((name.clone(), PathBuf::from(&artefact.path))),
        _ => None,
    };
    evidence.variants.iter().filter_map(of).collect()
}

/// A base build that is too old to understand this one's jobs is the likeliest reason.
fn of_base(error: Error, program: &Path) -> Error {
    match error {
        Error::Worker { task, reason, kind } => Error::Worker {
            kind,
            task: format!("{task} with the base build {}", program.display()),
            reason: format!("{reason}; if it is much older than this program, compare with a later revision"),
        },
        other => other,
    }
}
