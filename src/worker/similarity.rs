//! The job that compares a variant's embeddings of sentences with the reference's.
//!
//! The reference's worker stores its embeddings, f32; another variant's worker reads them. Two things are asked: how close
//! each embedding is to the reference's (cosine), and whether the variant orders pairs of sentences by their similarity
//! as the reference does (Spearman's rank correlation), which is what search and clustering live on.

use std::path::Path;
use std::time::Instant;

use super::protocol::{Reference, ScoreJob};
use super::score::damaged_states;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::machine;
use crate::network::{Encoder, LoadOptions};
use crate::results::{Score, SentenceScore, read_checked, write_checked};
use crate::tasks::{Embeddings, Windows, read_tokens};

/// Sentences of a forward pass.
const BATCH: usize = 32;

/// Embeds all sentences and compares.
pub(super) fn compare(job: &ScoreJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Score> {
    let Windows { windows, genres } = read_tokens(&job.windows)?;
    let windows = job.asked(windows);
    let pool = Pool::new(job.threads);
    let encoder = Encoder::load(&Checkpoint::open(&job.artefact)?, LoadOptions::default())?;
    if encoder.config().classifies {
        let problem = "ends in a classifier; a similarity needs a model of embeddings";
        return Err(Error::input(job.artefact.display(), problem));
    }
    let began = Instant::now();
    let (mut memory, mut embeddings) = (encoder.memory(), Vec::new());
    let sequences: Vec<&[u32]> = windows.iter().map(|sentence| sentence.tokens.as_slice()).collect();
    for (batch, sequences) in sequences.chunks(BATCH).enumerate() {
        progress(batch * BATCH, windows.len());
        embeddings.extend_from_slice(encoder.forward(&pool, sequences, &mut memory)?);
    }
    let unit = |values: &[f32]| Embeddings::new(values, encoder.width()).map_err(Error::Measurement);
    let whole = unit(&embeddings)?;
    let own = match job.broken {
        Some(_) => unit(&embeddings.iter().map(|v| -v).collect::<Vec<f32>>())?,
        None => whole.clone(),
    };
    let reference = match &job.reference {
        _ if job.broken.is_some() => Some(whole),
        Reference::Absent => None,
        Reference::Store(path) => {
            write_checked(path, bytemuck::cast_slice(&embeddings))?;
            Some(whole)
        }
        Reference::Compare { hidden, .. } => Some(unit(&stored(hidden, embeddings.len())?)?),
    };
    let cosine = |at: usize| reference.as_ref().map(|reference| own.cosine(reference, at));
    let sentences = windows.iter().enumerate().map(|(at, sentence)| SentenceScore {
        document: sentence.document,
        tokens: sentence.tokens.len(),
        cosine: cosine(at),
    });
    let largest = sequences.chunks(BATCH).map(|batch| batch.iter().map(|s| s.len()).sum()).max().unwrap_or(1);
    Ok(Score {
        task: job.task.clone(),
        windows: Vec::new(),
        items: Vec::new(),
        sentences: sentences.collect(),
        rank_correlation: reference.as_ref().and_then(|reference| own.rank_correlation(reference)),
        generations: Vec::new(),
        genres,
        kl_quantiles: None,
        seconds: began.elapsed().as_secs_f64(),
        kernels: encoder.kernels(largest),
        worker_peak_rss: machine::peak_rss(),
    })
}

/// The reference's embeddings.
fn stored(path: &Path, numbers: usize) -> Result<Vec<f32>> {
    let bytes = read_checked(path, u64::MAX).ok_or_else(|| damaged_states(path))?;
    if bytes.len() != numbers * size_of::<f32>() {
        let problem = "holds embeddings of another number or width; the reference is not a form of the same model";
        return Err(Error::input(path.display(), problem));
    }
    let mut embeddings = vec![0.0; numbers];
    bytemuck::cast_slice_mut(&mut embeddings).copy_from_slice(&bytes);
    Ok(embeddings)
}
