//! A run in progress: the journal, what it already holds, and the stages that add to it.

use std::collections::BTreeMap;
use std::path::Path;

use super::artefacts::Stamp;
use super::{Inputs, Progress, Workers};
use crate::error::{Error, FailureKind, Result};
use crate::kernels::KvFormat;
use crate::machine::{self, MachineRecord};
use crate::program;
use crate::results::{
    Event, Evidence, FileHash, Journal, RunFolder, SCHEMA_VERSION, Stage, VariantEvidence, hash_folder, remove_remains,
};
use crate::suite::Variant;
use crate::tasks::TokenFiles;
use crate::worker::PrepareJob;

/// A run in progress.
pub struct Session<'w> {
    pub(super) inputs: Inputs,
    pub(super) folder: RunFolder,
    pub(super) evidence: Evidence,
    pub(super) workers: &'w mut dyn Workers,
    pub(super) progress: Progress,
    journal: Journal,
    /// Largest resident set of the current stage's workers.
    stage_peak_rss: Option<u64>,
    /// Artefacts whose files this process has had verified, as they were then.
    pub(super) verified: BTreeMap<String, Stamp>,
}

impl<'w> Session<'w> {
    /// Starts a run in a new folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin(inputs: Inputs, folder: RunFolder, workers: &'w mut dyn Workers, progress: Progress) -> Result<Self> {
        let started = Event::Started {
            schema_version: SCHEMA_VERSION,
            tool_version: program::VERSION.into(),
            build: program::BUILD.into(),
            unix_s: workers.unix_s(),
            suite: inputs.suite.clone(),
            model_sha256: inputs.model_sha256.clone(),
            machine: inputs.machine.clone(),
        };
        let mut journal = Journal::create(folder.path())?;
        journal.append(&started)?;
        let evidence = Evidence::from_events([started])?;
        Ok(Session::of(inputs, folder, evidence, workers, progress, journal))
    }

    fn of(
        inputs: Inputs,
        folder: RunFolder,
        evidence: Evidence,
        workers: &'w mut dyn Workers,
        progress: Progress,
        journal: Journal,
    ) -> Self {
        let verified = BTreeMap::new();
        Session { inputs, folder, evidence, workers, progress, journal, stage_peak_rss: None, verified }
    }

    /// Goes on with an interrupted run, or a finished one in which something failed for a cause that may have passed.
    ///
    /// # Errors
    /// [`Error::NotComparable`] when suite, model, program or machine differ from the run's; a damaged journal; a run
    /// that another process is writing.
    pub fn resume(inputs: Inputs, folder: RunFolder, workers: &'w mut dyn Workers, progress: Progress) -> Result<Self> {
        let (journal, recorded) = Journal::resume(folder.path())?;
        let evidence = Evidence::from_events(recorded.events)?;
        refuse_another_run(&evidence, &inputs)?;
        let unix_s = workers.unix_s();
        let again = evidence.passing.len();
        let mut session = Session::of(inputs, folder, evidence, workers, progress, journal);
        if session.is_finished() && again == 0 {
            return Ok(session);
        }
        // What the journal does not know of was not finished.
        remove_remains(&session.folder)?;
        session.record(Event::Resumed { unix_s })?;
        if recorded.cut_off_bytes > 0 {
            session.warn("the interrupted run was stopped while it wrote its last line; that line was dropped")?;
        }
        if again > 0 {
            session
                .progress
                .note(&format!("tried again: {again} that failed by a signal, a full disk or too little memory"));
        }
        Ok(session)
    }

    /// Nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.evidence.finished_unix_s.is_some()
    }

    /// Records time that was spent before the journal existed.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record_stage(&mut self, name: &str, seconds: f64) -> Result<()> {
        let worker_peak_rss = self.stage_peak_rss.take();
        self.record(Event::Stage(Stage { name: name.into(), seconds, worker_peak_rss }))
    }

    /// Texts to token files, unless they are there as they were made.
    ///
    /// # Errors
    /// A text that is missing or too short; a tokenizer that is not supported; texts that have changed since the run began.
    pub fn prepare(&mut self) -> Result<()> {
        let began = self.workers.elapsed_s();
        let known = self.evidence.prepared.clone();
        if known.as_ref().is_some_and(|files| *files == self.token_hashes()) {
            return Ok(());
        }
        let job = PrepareJob {
            suite: self.inputs.suite.clone(),
            base: self.inputs.base.clone(),
            model: self.inputs.model.clone(),
            files: self.token_files(),
        };
        let prepared = self.attempt(&|workers, progress| {
            let mut step = progress.step("prepare", "tokenizing");
            workers.prepare(job.clone(), &mut |told| step.hear(told))
        })?;
        self.saw_peak(prepared.peak_rss);
        let files = if prepared.files.is_empty() { self.token_hashes() } else { prepared.files };
        match known {
            Some(known) if known != files => {
                return Err(Error::NotComparable(
                    "the texts or their tokens have changed since the run was started; start a new run".into(),
                ));
            }
            Some(_) => self.warn("token files of the run were damaged or missing; they were made again, the same")?,
            None => {
                let (warnings, leak) = (prepared.warnings, prepared.leak);
                warnings.iter().chain(&leak).for_each(|text| self.progress.note(&format!("warning: {text}")));
                self.record(Event::Prepared { files, warnings, leak })?;
            }
        }
        self.record_stage("prepare", self.workers.elapsed_s() - began)
    }

    /// The token files as they are; none where one cannot be read.
    fn token_hashes(&self) -> Vec<FileHash> {
        hash_folder(&self.folder.data()).unwrap_or_default()
    }

    /// Writes the last event.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        let unix_s = self.workers.unix_s();
        self.record(Event::Finished { unix_s, parent_peak_rss: machine::peak_rss() })?;
        self.progress.finish();
        Ok(())
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts an event into the journal, then into the evidence.
    pub(super) fn record(&mut self, event: Event) -> Result<()> {
        self.journal.append(&event)?;
        self.evidence.add(event)
    }

    pub(super) fn warn(&mut self, text: &str) -> Result<()> {
        self.progress.note(&format!("warning: {text}"));
        self.record(Event::Warning { text: text.into() })
    }

    /// A failure costs the variant's own result, never the run. Without the reference there is nothing to compare with: its
    /// failure ends the run, and is not recorded as its result, so that a resumed run tries again.
    pub(super) fn fail(&mut self, variant: &str, stage: &str, error: Error) -> Result<()> {
        let kind = error.kind();
        let reason = match error {
            Error::Worker { reason, .. } => reason,
            other => other.to_string(),
        };
        if variant == self.inputs.suite.reference {
            let done = match stage {
                "build" => "built",
                "score" => "scored",
                _ => "timed",
            };
            return Err(Error::Worker { task: format!("the reference \"{variant}\" cannot be {done}"), reason, kind });
        }
        self.progress.note(&format!("{stage} \"{variant}\" failed: {reason}"));
        self.record(Event::Failed { variant: variant.into(), stage: stage.into(), reason, kind })
    }

    /// Has a worker do `work`, and once more where the first was killed or could not read or write. A request to end comes
    /// before the next worker; what a worker has finished by then is there to be recorded.
    pub(super) fn attempt<T>(&mut self, work: &dyn Fn(&mut dyn Workers, &Progress) -> Result<T>) -> Result<T> {
        match self.attempt_once(work) {
            Err(error @ Error::Worker { kind: FailureKind::Signal | FailureKind::Io | FailureKind::Defect, .. }) => {
                self.warn(&format!("{error}; tried once more"))?;
                self.attempt_once(work)
            }
            outcome => outcome,
        }
    }

    /// As [`Session::attempt`], without a second attempt.
    pub(super) fn attempt_once<T>(&mut self, work: &dyn Fn(&mut dyn Workers, &Progress) -> Result<T>) -> Result<T> {
        let interrupted = || Error::Measurement("interrupted; what is measured is kept".into());
        if self.workers.interrupted() {
            return Err(interrupted());
        }
        let outcome = work(self.workers, &self.progress);
        if outcome.is_err() && self.workers.interrupted() { Err(interrupted()) } else { outcome }
    }

    pub(super) fn saw_peak(&mut self, bytes: Option<u64>) {
        self.stage_peak_rss = self.stage_peak_rss.max(bytes);
    }

    pub(super) fn threads(&self) -> usize {
        self.inputs.suite.workload.threads.iter().copied().max().unwrap_or(1)
    }

    pub(super) fn reference_first(&self) -> Vec<Variant> {
        let mut variants = self.inputs.suite.variants.clone();
        variants.sort_by_key(|v| v.name != self.inputs.suite.reference);
        variants
    }

    pub(super) fn found(&self, variant: &str) -> Option<&VariantEvidence> {
        self.evidence.variants.get(variant)
    }

    pub(super) fn has_failed(&self, variant: &str, stage: &str) -> bool {
        self.found(variant).is_some_and(|v| v.failures.iter().any(|(s, _)| s == stage))
    }

    /// Storage of the variant's keys and values, where the suite says.
    pub(super) fn kv_cache(&self, variant: &str) -> Option<KvFormat> {
        self.inputs.suite.variants.iter().find(|known| known.name == variant)?.kv_cache
    }

    pub(super) fn token_files(&self) -> TokenFiles {
        TokenFiles::new(self.folder.data())
    }
}

/// Refuses to mix two suites, models, programs or machines in one run.
fn refuse_another_run(evidence: &Evidence, inputs: &Inputs) -> Result<()> {
    let class = |m: &MachineRecord| format!("{} ({}, {}, {} processors)", m.cpu, m.arch, m.isa, m.cores);
    let differing = |what: &str, was: &str, is: &str| {
        Err(Error::NotComparable(format!("the run was started with {what} {was}, now it is {is}; start a new run")))
    };
    if evidence.build != program::BUILD {
        let named = |version: &str, build: &str| format!("{version} of build {build:.8}");
        let (was, is) = (named(&evidence.tool_version, &evidence.build), named(program::VERSION, program::BUILD));
        return differing("the program", &was, &is);
    }
    if evidence.model_sha256 != inputs.model_sha256 {
        return differing("model", &evidence.model_sha256, &inputs.model_sha256);
    }
    if class(&evidence.machine) != class(&inputs.machine) {
        return differing("the machine", &class(&evidence.machine), &class(&inputs.machine));
    }
    if evidence.suite != inputs.suite {
        return Err(Error::NotComparable(
            "the suite file or the choice of variants has changed since the run was started; start a new run".into(),
        ));
    }
    Ok(())
}
