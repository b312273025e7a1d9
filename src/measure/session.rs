//! A run in progress: the journal, what it already holds, and the stages that add to it.

use std::path::{Path, PathBuf};

use super::{Inputs, Progress, Workers};
use crate::error::{Error, Result};
use crate::kernels::KvFormat;
use crate::machine::{self, MachineRecord};
use crate::results::{
    Artefact, Built, Event, Evidence, Journal, RunFolder, SCHEMA_VERSION, Stage, VariantEvidence, create_folder,
};
use crate::suite::{Recipe, Variant};
use crate::tasks::TokenFiles;
use crate::worker::{BuildJob, PrepareJob};

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
}

impl<'w> Session<'w> {
    /// Starts a run in a new folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin(inputs: Inputs, folder: RunFolder, workers: &'w mut dyn Workers, progress: Progress) -> Result<Self> {
        let started = Event::Started {
            schema_version: SCHEMA_VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            unix_s: workers.unix_s(),
            suite: inputs.suite.clone(),
            model_sha256: inputs.model_sha256.clone(),
            machine: inputs.machine.clone(),
        };
        let mut journal = Journal::create(folder.path())?;
        journal.append(&started)?;
        let evidence = Evidence::from_events([started])?;
        Ok(Session { inputs, folder, evidence, workers, progress, journal, stage_peak_rss: None })
    }

    /// Goes on with an interrupted run.
    ///
    /// # Errors
    /// [`Error::NotComparable`] when suite, model, program or machine differ from the run's; a damaged journal; a run
    /// that another process is writing.
    pub fn resume(inputs: Inputs, folder: RunFolder, workers: &'w mut dyn Workers, progress: Progress) -> Result<Self> {
        let (journal, recorded) = Journal::resume(folder.path())?;
        let evidence = Evidence::from_events(recorded.events)?;
        refuse_another_run(&evidence, &inputs)?;
        let unix_s = workers.unix_s();
        let mut session = Session { inputs, folder, evidence, workers, progress, journal, stage_peak_rss: None };
        if session.is_finished() {
            return Ok(session);
        }
        session.record(Event::Resumed { unix_s })?;
        if recorded.cut_off_bytes > 0 {
            session.warn("the interrupted run was stopped while it wrote its last line; that line was dropped")?;
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

    /// Texts to token files, unless they are there.
    ///
    /// # Errors
    /// A text that is missing or too short; a tokenizer that is not supported.
    pub fn prepare(&mut self) -> Result<()> {
        let began = self.workers.elapsed_s();
        let files = self.token_files();
        let marker = files.complete();
        if marker.exists() {
            return Ok(());
        }
        create_folder(&self.folder.data())?;
        let job = PrepareJob {
            suite: self.inputs.suite.clone(),
            base: self.inputs.base.clone(),
            model: self.inputs.model.clone(),
            files,
        };
        let mut progress = self.progress.step("prepare", "tokenizing");
        let prepared = self.workers.prepare(job, &mut |done, total| progress.advance(done, total));
        let prepared = self.unless_interrupted(prepared)?;
        self.saw_peak(prepared.peak_rss);
        for warning in &prepared.warnings {
            self.warn(warning)?;
        }
        if let Some(text) = prepared.leak {
            self.progress.note(&format!("warning: {text}"));
            self.record(Event::Leak { text })?;
        }
        self.record_stage("prepare", self.workers.elapsed_s() - began)
    }

    /// Makes every variant's artefact, the reference's first.
    ///
    /// # Errors
    /// When the reference cannot be built: then there is nothing to compare with.
    pub fn build(&mut self) -> Result<()> {
        let began = self.workers.elapsed_s();
        let todo: Vec<Variant> = self.reference_first().into_iter().filter(|v| self.must_build(&v.name)).collect();
        self.progress.expect("build", todo.len());
        for variant in todo {
            let step_began = self.workers.elapsed_s();
            let built = self.build_one(&variant);
            match self.unless_interrupted(built) {
                Ok(artefact) => {
                    let took = if artefact.cached { "from the cache".into() } else { String::new() };
                    self.record(Event::Built { variant: variant.name.clone(), artefact })?;
                    self.progress.done("build", &variant.name, self.workers.elapsed_s() - step_began, &took);
                }
                Err(error @ Error::Measurement(_)) => return Err(error),
                // Not recorded as its result: a resumed run tries again.
                Err(error) if variant.name == self.inputs.suite.reference => return Err(error),
                Err(error) => self.fail(&variant.name, "build", &error)?,
            }
        }
        self.record_stage("build", self.workers.elapsed_s() - began)
    }

    fn build_one(&mut self, variant: &Variant) -> Result<Artefact> {
        let import = match self.inputs.imports.get(&variant.name) {
            None => None,
            Some(Ok(path)) => Some(path.clone()),
            Some(Err(reason)) => {
                return Err(Error::Worker { task: format!("fetching \"{}\"", variant.name), reason: reason.clone() });
            }
        };
        // What this run has decided stays decided, even where the cache has forgotten it.
        let decided = self.found(&variant.name).and_then(|found| match &found.built {
            Built::Ready(Artefact { mixture: Some(mixture), .. }) => {
                Some((Recipe::Quantize(mixture.recipe.clone()), mixture.clone()))
            }
            _ => None,
        });
        let job = BuildJob {
            model: self.inputs.model.clone(),
            model_sha256: self.inputs.model_sha256.clone(),
            recipe: decided.as_ref().map_or(&variant.recipe, |(recipe, _)| recipe).clone(),
            import,
            calibration: variant.recipe.learns().map(|_| self.token_files().calibration(0)),
            held_out: matches!(variant.recipe, Recipe::Search(_)).then(|| self.token_files().held_out()),
            threads: self.threads(),
        };
        let mut progress = self.progress.step("build", &variant.name);
        let mut outcome = self.workers.build(job, &mut |done, total| progress.advance(done, total))?;
        self.saw_peak(outcome.peak_rss);
        if let Some((_, mixture)) = decided {
            outcome.artefact.mixture = Some(mixture);
        }
        Ok(outcome.artefact)
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

    /// A failure costs the variant's own result, never the run.
    pub(super) fn fail(&mut self, variant: &str, stage: &str, error: &Error) -> Result<()> {
        let reason = match error {
            Error::Worker { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        self.progress.note(&format!("{stage} \"{variant}\" failed: {reason}"));
        self.record(Event::Failed { variant: variant.into(), stage: stage.into(), reason })
    }

    /// An interrupt stops the run whatever the worker made of it: it got the signal too.
    pub(super) fn unless_interrupted<T>(&self, outcome: Result<T>) -> Result<T> {
        if self.workers.interrupted() {
            return Err(Error::Measurement("interrupted; what is measured is kept".into()));
        }
        outcome
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

    /// The variant's artefact; `None` where it was not built.
    pub(super) fn artefact(&self, variant: &str) -> Option<PathBuf> {
        match &self.found(variant)?.built {
            Built::Ready(artefact) => Some(PathBuf::from(&artefact.path)),
            Built::Missing => None,
        }
    }

    /// Storage of the variant's keys and values, where the suite says.
    pub(super) fn kv_cache(&self, variant: &str) -> Option<KvFormat> {
        self.inputs.suite.variants.iter().find(|known| known.name == variant)?.kv_cache
    }

    pub(super) fn token_files(&self) -> TokenFiles {
        TokenFiles::new(self.folder.data())
    }

    fn must_build(&self, variant: &str) -> bool {
        match self.found(variant).map(|v| &v.built) {
            // The cache may have been emptied since the run was interrupted.
            Some(Built::Ready(artefact)) => !Path::new(&artefact.path).exists(),
            _ => !self.has_failed(variant, "build"),
        }
    }
}

/// Refuses to mix two suites, models, programs or machines in one run.
fn refuse_another_run(evidence: &Evidence, inputs: &Inputs) -> Result<()> {
    let class = |m: &MachineRecord| format!("{} ({}, {}, {} processors)", m.cpu, m.arch, m.isa, m.cores);
    let differing = |what: &str, was: &str, is: &str| {
        Err(Error::NotComparable(format!("the run was started with {what} {was}, now it is {is}; start a new run")))
    };
    if evidence.tool_version != env!("CARGO_PKG_VERSION") {
        return differing("program version", &evidence.tool_version, env!("CARGO_PKG_VERSION"));
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
