//! Variants made and scored again of other draws of calibration windows, where the suite asks for several: how far the draw
//! alone moves the score.

use super::Session;
use crate::error::{Error, Result};
use crate::results::{Event, Score};
use crate::suite::{Task, Variant};
use crate::worker::{BuildJob, Reference};

impl Session<'_> {
    /// Makes and scores every variant that learns from text with each further draw.
    pub(super) fn score_redrawn(&mut self) -> Result<()> {
        let suite = self.inputs.suite.clone();
        let Some(task) = suite.judged_task() else { return Ok(()) };
        let is_left = |(variant, draw): &(&Variant, usize)| {
            self.artefact(&variant.name).is_some()
                && self.found(&variant.name).is_some_and(|found| !found.redrawn.contains_key(draw))
        };
        let left: Vec<(&Variant, usize)> = suite.further_draws().filter(is_left).collect();
        self.progress.expect("score", left.len());
        left.into_iter().try_for_each(|(variant, draw)| self.redraw(variant, task, draw))
    }

    fn redraw(&mut self, variant: &Variant, task: &Task, draw: usize) -> Result<()> {
        let began = self.workers.elapsed_s();
        let label = format!("{} of calibration draw {}", variant.name, draw + 1);
        let (score, kind) = match self.made_and_scored(variant, task, draw, &label) {
            Ok(score) => (Ok(score), None),
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => (Err(error.to_string()), Some(error.kind())),
        };
        self.record(Event::Redrawn { variant: variant.name.clone(), draw, score, kind })?;
        self.progress.done("score", &label, self.workers.elapsed_s() - began, "");
        Ok(())
    }

    fn made_and_scored(&mut self, variant: &Variant, task: &Task, draw: usize, label: &str) -> Result<Score> {
        let job = BuildJob {
            model: self.inputs.model.clone(),
            model_sha256: self.inputs.model_sha256.clone(),
            recipe: variant.recipe.clone(),
            import: None,
            calibration: Some(self.token_files().calibration(draw)),
            held_out: None,
            threads: self.threads(),
        };
        let built = self.attempt(&|workers, progress| {
            let mut step = progress.step("build", label);
            workers.build(job.clone(), &mut |told| step.hear(told))
        })?;
        built.warnings.iter().try_for_each(|text| self.warn(text))?;
        let job = self.score_job(task, &variant.name, built.artefact.path.into(), Reference::Absent);
        self.attempt(&|workers, progress| {
            let mut step = progress.step("score", label);
            workers.score(job.clone(), &mut |told| step.hear(told))
        })
    }
}
