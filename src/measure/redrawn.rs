//! Variants made and scored again of other draws of calibration windows, where the suite asks for several: how far the draw
//! alone moves the score.

use super::Session;
use crate::error::{Error, Result};
use crate::results::{Event, Score};
use crate::suite::{Recipe, Task, Variant};
use crate::worker::{BuildJob, Reference, ScoreJob};

impl Session<'_> {
    /// Makes and scores every variant that learns from text with each further draw. A search is left out: it is decided
    /// once.
    pub(super) fn score_redrawn(&mut self) -> Result<()> {
        let suite = self.inputs.suite.clone();
        let draws = suite.calibration.as_ref().map_or(1, |calibration| calibration.seeds);
        let rules = &suite.accept.accuracy.task;
        let Some(task) = suite.tasks.iter().find(|task| task.name == *rules) else { return Ok(()) };
        let learns = |variant: &&Variant| {
            let quantized = matches!(&variant.recipe, Recipe::Quantize(method) if method.learns().is_some());
            quantized && self.artefact(&variant.name).is_some()
        };
        let of_variant = |variant: &'_ Variant| (1..draws).map(|draw| (variant.clone(), draw)).collect::<Vec<_>>();
        let mut left: Vec<(Variant, usize)> = suite.variants.iter().filter(learns).flat_map(of_variant).collect();
        left.retain(|(variant, draw)| self.found(&variant.name).is_some_and(|found| !found.redrawn.contains_key(draw)));
        self.progress.expect("score", left.len());
        left.iter().try_for_each(|(variant, draw)| self.redraw(variant, task, *draw))
    }

    fn redraw(&mut self, variant: &Variant, task: &Task, draw: usize) -> Result<()> {
        let began = self.workers.elapsed_s();
        let label = format!("{} of calibration draw {}", variant.name, draw + 1);
        let made = self.made_and_scored(variant, task, draw, &label);
        let score = match self.unless_interrupted(made) {
            Ok(score) => Ok(score),
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        self.record(Event::Redrawn { variant: variant.name.clone(), draw, score })?;
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
        let mut progress = self.progress.step("build", label);
        let built = self.workers.build(job, &mut |done, total| progress.advance(done, total))?;
        let job = ScoreJob {
            artefact: built.artefact.path.into(),
            kv_cache: variant.kv_cache,
            task: task.name.clone(),
            kind: task.kind,
            windows: self.token_files().windows(self.task_number(task)),
            reference: Reference::Absent,
            broken: None,
            threads: self.threads(),
        };
        let mut progress = self.progress.step("score", label);
        self.workers.score(job, &mut |done, total| progress.advance(done, total))
    }
}
