//! The job that scores a variant on multiple-choice items.
//!
//! The continuation with the largest log-likelihood is picked, and a second time the one with the largest
//! log-likelihood per token, so that longer continuations have no disadvantage. Of equals the first is picked.

use std::time::Instant;

use super::protocol::ScoreJob;
use super::score::load;
use crate::error::Result;
use crate::kernels::Pool;
use crate::machine;
use crate::network::{self, Continuations};
use crate::results::{ItemScore, Score};
use crate::tasks::{ChoiceItems, read_tokens};

/// Scores all items.
pub(super) fn choose(job: &ScoreJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Score> {
    let ChoiceItems { items, genres } = read_tokens(&job.windows)?;
    let items = job.asked(items);
    let tokens: Vec<Continuations> = items.iter().map(|item| item.tokens.clone()).collect();
    let pool = Pool::new(job.threads);
    let decoder = load(job)?;
    let began = Instant::now();
    let mut scores = Vec::with_capacity(items.len());
    network::score_continuations(&decoder, &pool, &tokens, &mut |at, log_likelihoods| {
        if at.is_multiple_of(64) {
            progress(at, items.len());
        }
        let lengths = items[at].tokens.continuations.iter().map(|ids| ids.len() as f64);
        let per_token: Vec<f64> = log_likelihoods.iter().zip(lengths).map(|(sum, length)| sum / length).collect();
        scores.push(ItemScore {
            document: items[at].document,
            answer: items[at].answer,
            picked: largest(&log_likelihoods),
            picked_norm: largest(&per_token),
            log_likelihoods,
        });
        Ok(())
    })?;
    let longest = tokens.iter().map(|item| item.passage.len()).max().unwrap_or(1);
    Ok(Score {
        task: job.task.clone(),
        windows: Vec::new(),
        items: scores,
        sentences: Vec::new(),
        rank_correlation: None,
        generations: Vec::new(),
        genres,
        kl_quantiles: None,
        seconds: began.elapsed().as_secs_f64(),
        kernels: decoder.kernels(longest, 1),
        worker_peak_rss: machine::peak_rss(),
    })
}

/// Index of the largest value, the first of equals.
fn largest(values: &[f64]) -> usize {
    let better = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (0..values.len()).reduce(better).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_first_is_picked() {
        assert_eq!(largest(&[-3.0, -1.0, -1.0, -2.0]), 1);
        assert_eq!(largest(&[-1.0, -1.0]), 0);
    }
}
