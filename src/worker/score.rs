//! The job that scores a variant on a task's windows.
//!
//! The reference's worker stores its final hidden states, f32, one row per predicted token. Another variant's worker
//! loads the reference's output head alone and recomputes the reference's logits from them by the kernel that made
//! them: the divergence is exact, no probability is rounded for storage, and the reference runs once.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use rayon::prelude::*;

use super::generate::generations;
use super::protocol::{Reference, ScoreJob};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::Pool;
use crate::machine;
use crate::network::{self, Chunk, Decoder, Head, LoadOptions};
use crate::results::Score;
use crate::stats::quantile;
use crate::tasks::{ScoreSums, TokenScore, Windows, read_tokens, score_token};

/// What the reference gives or takes.
#[allow(clippy::large_enum_variant, reason = "one per process")]
enum Side {
    /// Written under another name until complete, so that a killed worker leaves nothing that looks whole.
    Store {
        file: BufWriter<File>,
        unfinished: PathBuf,
        finished: PathBuf,
    },
    Compare {
        head: Head,
        file: BufReader<File>,
        path: PathBuf,
        hidden: Vec<f32>,
        logits: Vec<f32>,
    },
    Alone,
}

/// Scores all windows.
pub(super) fn score(job: &ScoreJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Score> {
    let Windows { windows, genres } = read_tokens(&job.windows)?;
    let windows = job.asked(windows);
    let (documents, windows): (Vec<usize>, Vec<Vec<u32>>) = windows.into_iter().map(|w| (w.document, w.tokens)).unzip();
    let pool = Pool::new(job.threads);
    let decoder = load(job)?;
    let mut side = Side::open(&job.reference, decoder.config().vocab_size)?;
    let began = Instant::now();
    let mut sums = vec![ScoreSums::default(); windows.len()];
    let mut divergences = Vec::new();
    network::score(&decoder, &pool, &windows, &mut |chunk| {
        if chunk.position == 0 {
            progress(chunk.window, windows.len());
        }
        let reference = side.meet(&pool, chunk)?;
        for token in score_chunk(chunk, reference)? {
            sums[chunk.window].add(&token);
            divergences.extend(token.against.map(|a| a.kl));
        }
        Ok(())
    })?;
    side.close()?;
    let seconds = began.elapsed().as_secs_f64();
    let config = Checkpoint::open(&job.artefact)?.config().clone();
    let generations = if job.broken.is_some() { Vec::new() } else { generations(&decoder, &pool, &config, &windows)? };
    let longest = windows.iter().map(Vec::len).max().unwrap_or(1);
    Ok(Score {
        task: job.task.clone(),
        windows: sums.iter().zip(documents).map(|(sums, document)| sums.window(document)).collect(),
        items: Vec::new(),
        sentences: Vec::new(),
        rank_correlation: None,
        generations,
        genres,
        kl_quantiles: quantiles(&divergences),
        seconds,
        kernels: decoder.kernels(longest, 1),
        worker_peak_rss: machine::peak_rss(),
    })
}

/// The decoder to be scored.
pub(super) fn load(job: &ScoreJob) -> Result<Decoder> {
    let options = LoadOptions { kv_cache: job.kv_cache, dense: None };
    let mut decoder = Decoder::load(&Checkpoint::open(&job.artefact)?, options)?;
    if job.broken.is_some() {
        decoder.invert();
    }
    Ok(decoder)
}

/// Scores the rows of a chunk in parallel; `reference` has logits of the same rows.
fn score_chunk(chunk: &Chunk<'_>, reference: Option<&[f32]>) -> Result<Vec<TokenScore>> {
    let vocabulary = chunk.logits.len() / chunk.targets.len();
    let scored: std::result::Result<_, String> = chunk
        .targets
        .par_iter()
        .enumerate()
        .map(|(row, &target)| {
            let at = row * vocabulary..(row + 1) * vocabulary;
            score_token(&chunk.logits[at.clone()], target, reference.map(|logits| &logits[at]))
        })
        .collect();
    scored.map_err(|problem| Error::Measurement(format!("window {}: {problem}", chunk.window)))
}

impl Side {
    fn open(reference: &Reference, vocabulary: usize) -> Result<Side> {
        match reference {
            Reference::Absent => Ok(Side::Alone),
            Reference::Store(path) => {
                let unfinished = path.with_extension("unfinished");
                let file = File::create(&unfinished).map_err(|e| Error::io(&unfinished, "create", e))?;
                Ok(Side::Store { file: BufWriter::new(file), unfinished, finished: path.clone() })
            }
            Reference::Compare { artefact, hidden } => {
                let head = Head::load(&Checkpoint::open(artefact)?, LoadOptions::default())?;
                if head.vocab_size() != vocabulary {
                    return Err(Error::input(
                        artefact.display(),
                        format!(
                            "the reference predicts {} tokens, this variant {vocabulary}; they are not forms of one model",
                            head.vocab_size()
                        ),
                    ));
                }
                let file = files::open(hidden)?.0;
                let (file, path) = (BufReader::new(file), hidden.clone());
                Ok(Side::Compare { head, file, path, hidden: Vec::new(), logits: Vec::new() })
            }
        }
    }

    /// Stores the hidden states of a chunk of the reference, or returns the reference's logits for a chunk, in the
    /// same chunks as the reference itself was scored, so that its head multiplies the same rows together.
    fn meet(&mut self, pool: &Pool, chunk: &Chunk<'_>) -> Result<Option<&[f32]>> {
        match self {
            Side::Alone => Ok(None),
            Side::Store { file, unfinished, .. } => {
                file.write_all(bytemuck::cast_slice(chunk.hidden)).map_err(|e| Error::io(unfinished, "write", e))?;
                Ok(None)
            }
            Side::Compare { head, file, path, hidden, logits } => {
                hidden.resize(chunk.targets.len() * head.hidden_size(), 0.0);
                file.read_exact(bytemuck::cast_slice_mut(hidden)).map_err(|e| Error::io(path, "read", e))?;
                head.logits(pool, hidden, logits);
                Ok(Some(logits))
            }
        }
    }

    /// Completes what was stored.
    fn close(self) -> Result<()> {
        let Side::Store { mut file, unfinished, finished } = self else { return Ok(()) };
        file.flush().map_err(|e| Error::io(&unfinished, "write", e))?;
        fs::rename(&unfinished, &finished).map_err(|e| Error::io(&finished, "rename into place", e))
    }
}

/// p50, p90, p99, p999 and the largest; `None` where nothing was compared.
fn quantiles(divergences: &[f64]) -> Option<[f64; 5]> {
    let q = |p| quantile(divergences, p);
    Some([q(0.5)?, q(0.9)?, q(0.99)?, q(0.999)?, q(1.0)?])
}
