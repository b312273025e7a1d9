//! Artefacts of the variants: made or found in the cache, verified before their first use, and made again where they have gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Session;
use crate::error::{Error, FailureKind, Result};
use crate::results::{Artefact, Built, Event};
use crate::suite::{Recipe, Variant};
use crate::worker::{BuildJob, BuildOutcome};

/// Files of an artefact with their sizes and times of change: what is equal is taken to be unchanged since its bytes were
/// hashed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stamp(Vec<(PathBuf, u64, Option<SystemTime>)>);

impl Stamp {
    /// Of the files that the artefact names; `None` where its place is empty.
    fn of(artefact: &Artefact) -> Option<Stamp> {
        let path = Path::new(&artefact.path);
        let stamp = |file: PathBuf| {
            let metadata = fs::metadata(&file).ok()?;
            Some((file, metadata.len(), metadata.modified().ok()))
        };
        let whole = stamp(path.to_path_buf())?;
        let files = artefact.files.iter().filter(|_| path.is_dir()).filter_map(|file| stamp(path.join(&file.name)));
        // A folder's own time changes with files that the artefact does not name.
        let own = if path.is_dir() { (whole.0, 0, None) } else { whole };
        Some(Stamp(std::iter::once(own).chain(files).collect()))
    }
}

impl Session<'_> {
    /// Makes every variant's artefact, the reference's first, and verifies those of a resumed run.
    ///
    /// # Errors
    /// When the reference cannot be built: then there is nothing to compare with.
    pub fn build(&mut self) -> Result<()> {
        let began = self.workers.elapsed_s();
        let todo: Vec<Variant> = self.reference_first().into_iter().filter(|v| self.must_build(&v.name)).collect();
        self.progress.expect("build", todo.len());
        for variant in todo {
            self.make(&variant)?;
        }
        self.record_stage("build", self.workers.elapsed_s() - began)
    }

    fn must_build(&self, variant: &str) -> bool {
        match self.found(variant).map(|found| &found.built) {
            Some(Built::Ready(_)) => !self.is_verified(variant),
            _ => !self.has_failed(variant, "build"),
        }
    }

    /// The variant's artefact; `None` where it was not built.
    pub(super) fn artefact(&self, variant: &str) -> Option<PathBuf> {
        self.ready(variant).map(|artefact| PathBuf::from(&artefact.path))
    }

    /// The variant's artefact, which is made or verified again where its files have changed or gone since they were verified;
    /// `None` where it was not built.
    pub(super) fn usable(&mut self, variant: &str) -> Result<Option<PathBuf>> {
        if self.ready(variant).is_some() && !self.is_verified(variant) {
            let known = self.inputs.suite.variants.iter().find(|known| known.name == variant).cloned();
            known.map_or(Ok(()), |variant| self.make(&variant))?;
        }
        Ok(self.artefact(variant).filter(|_| self.is_verified(variant)))
    }

    fn ready(&self, variant: &str) -> Option<&Artefact> {
        match &self.found(variant)?.built {
            Built::Ready(artefact) => Some(artefact),
            Built::Missing => None,
        }
    }

    fn is_verified(&self, variant: &str) -> bool {
        let now = self.ready(variant).and_then(Stamp::of);
        now.is_some() && now.as_ref() == self.verified.get(variant)
    }

    fn make(&mut self, variant: &Variant) -> Result<()> {
        let began = self.workers.elapsed_s();
        let known = self.ready(&variant.name).cloned();
        let artefact = match self.build_one(variant) {
            Ok(outcome) => {
                outcome.warnings.iter().try_for_each(|text| self.warn(text))?;
                outcome.artefact
            }
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => return self.fail(&variant.name, "build", error),
        };
        if let Some(stamp) = Stamp::of(&artefact) {
            self.verified.insert(variant.name.clone(), stamp);
        }
        match known {
            Some(known) if known.files != artefact.files => {
                return Err(Error::NotComparable(format!(
                    "the files of \"{}\" ({}) are not those that the run was started with; restore them, or start a new run",
                    variant.name, artefact.path
                )));
            }
            Some(known) if known.path == artefact.path => return Ok(()),
            _ => {}
        }
        let took = if artefact.cached { "from the cache" } else { "" };
        self.record(Event::Built { variant: variant.name.clone(), artefact })?;
        self.progress.done("build", &variant.name, self.workers.elapsed_s() - began, took);
        Ok(())
    }

    fn build_one(&mut self, variant: &Variant) -> Result<BuildOutcome> {
        let import = match self.inputs.imports.get(&variant.name) {
            None => None,
            Some(Ok(path)) => Some(path.clone()),
            Some(Err(reason)) => {
                let (task, reason) = (format!("fetching \"{}\"", variant.name), reason.clone());
                return Err(Error::Worker { task, reason, kind: FailureKind::Input });
            }
        };
        // What this run has decided stays decided, even where the cache has forgotten it.
        let decided = self.ready(&variant.name).and_then(|artefact| artefact.mixture.clone());
        let recipe = decided.as_ref().map(|mixture| Recipe::Quantize(mixture.recipe.clone()));
        let job = BuildJob {
            model: self.inputs.model.clone(),
            model_sha256: self.inputs.model_sha256.clone(),
            recipe: recipe.unwrap_or_else(|| variant.recipe.clone()),
            import,
            calibration: variant.recipe.learns().map(|_| self.token_files().calibration(0)),
            held_out: matches!(variant.recipe, Recipe::Search(_)).then(|| self.token_files().held_out()),
            threads: self.threads(),
        };
        let mut outcome = self.attempt(&|workers, progress| {
            let mut step = progress.step("build", &variant.name);
            workers.build(job.clone(), &mut |told| step.hear(told))
        })?;
        self.saw_peak(outcome.peak_rss);
        if decided.is_some() {
            outcome.artefact.mixture = decided;
        }
        Ok(outcome)
    }
}
