//! The negative control of accuracy: the reference, broken on purpose, on a sample of the rule's task. The rule must
//! reject it; a rule that does not could not tell a bad variant either.

use std::collections::BTreeMap;

use super::Session;
use crate::error::{Error, Result};
use crate::results::{BrokenScore, Event, Score};
use crate::suite::TaskKind;
use crate::worker::{Reference, ScoreJob};

impl Session<'_> {
    /// Scores the broken reference, once the reference itself is scored.
    pub(super) fn score_broken(&mut self) -> Result<()> {
        let Some(task) = self.inputs.suite.judged_task().cloned() else { return Ok(()) };
        let reference = self.inputs.suite.reference.clone();
        let whole = self.found(&reference).and_then(|found| found.scores.get(&task.name));
        let (Some(whole), None) = (whole, &self.evidence.broken) else { return Ok(()) };
        let places = sample(&documents(whole), sample_size(task.kind));
        let Some(artefact) = self.usable(&reference)? else { return Ok(()) };
        let began = self.workers.elapsed_s();
        let job =
            ScoreJob { broken: Some(places.clone()), ..self.score_job(&task, &reference, artefact, Reference::Absent) };
        let label = format!("{reference} broken on purpose");
        let score = self.attempt(&|workers, progress| {
            let mut step = progress.step("score", &label);
            workers.score(job.clone(), &mut |told| step.hear(told))
        });
        let (score, failure, kind) = match score {
            Ok(score) => (Some(score), None, None),
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => (None, Some(error.to_string()), Some(error.kind())),
        };
        self.record(Event::Broken(BrokenScore { places, score, failure, kind }))?;
        self.progress.done("score", &label, self.workers.elapsed_s() - began, "");
        Ok(())
    }
}

/// Windows and sentences differ by much; a pick is only right or wrong, and a weak model is right hardly more often than
/// a broken one.
fn sample_size(kind: TaskKind) -> usize {
    match kind {
        TaskKind::Perplexity { .. } | TaskKind::Similarity { .. } => 24,
        TaskKind::Choice { .. } => 200,
    }
}

/// The document of every question.
fn documents(score: &Score) -> Vec<usize> {
    let windows = score.windows.iter().map(|w| w.document);
    let items = score.items.iter().map(|i| i.document);
    windows.chain(items).chain(score.sentences.iter().map(|s| s.document)).collect()
}

/// `wanted` places of questions whose documents are given, one of every document in turn; ascending.
fn sample(documents: &[usize], wanted: usize) -> Vec<usize> {
    let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, document) in documents.iter().enumerate() {
        of.entry(*document).or_default().push(place);
    }
    let longest = of.values().map(Vec::len).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| of.values().filter_map(move |places| places.get(round)));
    let mut places: Vec<usize> = rounds.copied().take(wanted).collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_from_every_document_in_turn() {
        assert_eq!(sample(&[0, 0, 0, 0, 1, 2, 2], 5), [0, 1, 4, 5, 6]);
        assert_eq!(sample(&[3, 3], 5), [0, 1]);
        assert!(sample(&[], 5).is_empty());
    }
}
