//! The scoring stage: every built variant on every task, the reference first.
//!
//! The reference's worker leaves its final hidden states, or its embeddings, in the run folder's `scratch/`; the others recompute its
//! logits from them. They are deleted when the stage ends. States that an earlier process left are not trusted, since the
//! reference's score may not have come to the journal: a resumed run makes them again where it needs them.

use std::fs;
use std::path::{Path, PathBuf};

use super::Session;
use crate::error::{Error, Result};
use crate::results::{Event, Score, create_folder};
use crate::stats::mean;
use crate::suite::{Task, TaskKind};
use crate::worker::{Reference, ScoreJob};

impl Session<'_> {
    /// Scores what is not scored yet.
    ///
    /// # Errors
    /// When the journal or the scratch folder cannot be written, or the user interrupts.
    pub fn score(&mut self) -> Result<()> {
        let began = self.workers.elapsed_s();
        let tasks = self.inputs.suite.tasks.clone();
        let left: usize = tasks.iter().map(|task| self.unscored(task).len()).sum();
        self.progress.expect("score", left);
        remove_folder(&self.folder.scratch())?;
        if left > 0 {
            create_folder(&self.folder.scratch())?;
        }
        for task in &tasks {
            self.score_task(task)?;
        }
        self.score_broken()?;
        self.score_redrawn()?;
        remove_folder(&self.folder.scratch())?;
        self.record_stage("score", self.workers.elapsed_s() - began)
    }

    fn score_task(&mut self, task: &Task) -> Result<()> {
        let unscored = self.unscored(task);
        if unscored.is_empty() {
            return Ok(());
        }
        let hidden = self.folder.scratch().join(format!("{}.hidden", self.task_number(task)));
        let reference = self.inputs.suite.reference.clone();
        if let TaskKind::Choice { .. } = task.kind {
            // Picks are compared item by item afterwards; no states are handed on.
            return unscored.iter().try_for_each(|variant| self.score_one(task, variant, Reference::Absent));
        }
        // Its failure ends the run, so from here on the reference is scored and its states are there.
        self.score_one(task, &reference, Reference::Store(hidden.clone()))?;
        for variant in unscored.iter().filter(|name| **name != reference) {
            let head = self.usable(&reference)?;
            let compare = |artefact| Reference::Compare { artefact, hidden: hidden.clone() };
            self.score_one(task, variant, head.map_or(Reference::Absent, compare))?;
        }
        remove_file(&hidden)
    }

    fn score_one(&mut self, task: &Task, variant: &str, against: Reference) -> Result<()> {
        let Some(artefact) = self.usable(variant)? else { return Ok(()) };
        let began = self.workers.elapsed_s();
        let job = self.score_job(task, variant, artefact, against);
        let label =
            if self.inputs.suite.tasks.len() > 1 { format!("{variant} on {}", task.name) } else { variant.to_string() };
        let score = self.attempt(&|workers, progress| {
            let mut step = progress.step("score", &label);
            workers.score(job.clone(), &mut |told| step.hear(told))
        });
        match score {
            Ok(score) => {
                self.saw_peak(score.worker_peak_rss);
                let result = in_words(&score);
                // A resumed run makes the reference's states again; its score is known already.
                if self.found(variant).is_some_and(|v| !v.scores.contains_key(&task.name)) {
                    self.record(Event::Scored { variant: variant.into(), score })?;
                }
                self.progress.done("score", &label, self.workers.elapsed_s() - began, &result);
                Ok(())
            }
            Err(error @ Error::Measurement(_)) => Err(error),
            Err(error) => self.fail(variant, "score", error),
        }
    }

    /// The whole `task` for a variant in the form of `artefact`.
    pub(super) fn score_job(&self, task: &Task, variant: &str, artefact: PathBuf, reference: Reference) -> ScoreJob {
        ScoreJob {
            artefact,
            kv_cache: self.kv_cache(variant),
            task: task.name.clone(),
            kind: task.kind,
            windows: self.token_files().windows(self.task_number(task)),
            reference,
            broken: None,
            threads: self.threads(),
        }
    }

    /// Names of built variants without a score or a failed attempt, the reference first.
    fn unscored(&self, task: &Task) -> Vec<String> {
        let mut names: Vec<String> = self.reference_first().into_iter().map(|v| v.name).collect();
        names.retain(|name| {
            self.artefact(name).is_some()
                && !self.has_failed(name, "score")
                && self.found(name).is_some_and(|found| !found.scores.contains_key(&task.name))
        });
        names
    }

    fn task_number(&self, task: &Task) -> usize {
        self.inputs.suite.tasks.iter().position(|t| t.name == task.name).unwrap_or_default()
    }
}

fn in_words(score: &Score) -> String {
    if !score.items.is_empty() {
        let right = score.items.iter().filter(|item| item.picked == item.answer).count();
        return format!("accuracy {:.1} %", 100.0 * right as f64 / score.items.len() as f64);
    }
    let cosines: Option<Vec<f64>> = score.sentences.iter().map(|sentence| sentence.cosine).collect();
    if let Some(mean) = cosines.as_deref().and_then(mean) {
        return format!("mean cosine to the reference {mean:.5}");
    }
    let (nll, tokens) = score.windows.iter().fold((0.0, 0), |(nll, n), w| (nll + w.nll, n + w.tokens));
    format!("perplexity {:.3}", (nll / tokens.max(1) as f64).exp())
}

fn remove_file(path: &PathBuf) -> Result<()> {
    if path.exists() { fs::remove_file(path).map_err(|e| Error::io(path, "delete", e)) } else { Ok(()) }
}

fn remove_folder(path: &Path) -> Result<()> {
    if path.exists() { fs::remove_dir_all(path).map_err(|e| Error::io(path, "delete", e)) } else { Ok(()) }
}
