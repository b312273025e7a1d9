//! The job that compares a variant's embeddings of sentences with the reference's.
//!
//! The reference's worker stores its embeddings, f32; another variant's worker reads them. Two things are asked: how close
//! each embedding is to the reference's (cosine), and whether the variant orders pairs of sentences by their similarity
//! as the reference does (Spearman's rank correlation), which is what search and clustering live on.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::protocol::{Reference, ScoreJob};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::Pool;
use crate::machine;
use crate::network::{Encoder, LoadOptions};
use crate::results::{Score, SentenceScore, write_whole};
use crate::stats::rank_correlation;
use crate::tasks::{Windows, read_tokens};

/// Sentences of a forward pass.
const BATCH: usize = 32;
/// Most sentences of which all pairs are compared, evenly spaced over the task's.
const MOST_PAIRED: usize = 512;

/// Embeds all sentences and compares.
pub(super) fn compare(job: &ScoreJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Score> {
    let Windows { windows, genres } = read_tokens(&job.windows)?;
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
    let of = |all: &[f32]| -> Vec<Vec<f64>> { all.chunks_exact(encoder.width()).map(unit).collect() };
    let own = of(&embeddings);
    if let Some(bad) = own.iter().position(|vector| vector.iter().any(|v| !v.is_finite())) {
        return Err(Error::Measurement(format!("sentence {bad}: the embedding is no number or zero")));
    }
    let reference = match &job.reference {
        Reference::Absent => None,
        Reference::Store(path) => {
            write_whole(path, bytemuck::cast_slice(&embeddings))?;
            Some(own.clone())
        }
        Reference::Compare { hidden, .. } => Some(of(&stored(hidden, embeddings.len())?)),
    };
    let cosine = |at: usize| reference.as_ref().map(|reference| dot(&own[at], &reference[at]));
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
        rank_correlation: reference.as_ref().and_then(|r| rank_correlation(&similarities(&own), &similarities(r))),
        genres,
        kl_quantiles: None,
        seconds: began.elapsed().as_secs_f64(),
        kernels: encoder.kernels(largest),
        worker_peak_rss: machine::peak_rss(),
    })
}

/// The reference's embeddings.
fn stored(path: &Path, numbers: usize) -> Result<Vec<f32>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() != numbers * size_of::<f32>() {
        let problem = "holds embeddings of another number or width; the reference is not a form of the same model";
        return Err(Error::input(path.display(), problem));
    }
    let mut embeddings = vec![0.0; numbers];
    bytemuck::cast_slice_mut(&mut embeddings).copy_from_slice(&bytes);
    Ok(embeddings)
}

/// The vector scaled to length 1.
fn unit(vector: &[f32]) -> Vec<f64> {
    let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|&v| f64::from(v) / length).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cosines of all pairs of up to [`MOST_PAIRED`] sentences.
fn similarities(vectors: &[Vec<f64>]) -> Vec<f64> {
    let count = vectors.len().min(MOST_PAIRED);
    let chosen: Vec<&Vec<f64>> = (0..count).map(|i| &vectors[i * vectors.len() / count]).collect();
    let pairs = chosen.iter().enumerate().flat_map(|(at, a)| chosen[at + 1..].iter().map(move |b| dot(a, b)));
    pairs.collect()
}
