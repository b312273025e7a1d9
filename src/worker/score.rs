//! The job that scores a variant on a task's windows.
//!
//! The reference's worker stores its final hidden states, f32, one row per predicted token. Another variant's worker
//! loads the reference's output head alone and recomputes the reference's logits from them by the kernel that made
//! them: the divergence is exact, no probability is rounded for storage, and the reference runs once. The file ends in the
//! SHA-256 of the states, so that damaged or cut ones give an error instead of a divergence.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::generate::generations;
use super::protocol::{Reference, ScoreJob};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::Pool;
use crate::machine::{self, crash_point};
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
        hash: Sha256,
        unfinished: PathBuf,
        finished: PathBuf,
    },
    Compare {
        head: Head,
        file: BufReader<File>,
        hash: Sha256,
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
                let (file, hash) = (BufWriter::new(file), Sha256::new());
                Ok(Side::Store { file, hash, unfinished, finished: path.clone() })
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
                let (file, path, hash) = (BufReader::new(file), hidden.clone(), Sha256::new());
                Ok(Side::Compare { head, file, hash, path, hidden: Vec::new(), logits: Vec::new() })
            }
        }
    }

    /// Stores the hidden states of a chunk of the reference, or returns the reference's logits for a chunk, in the
    /// same chunks as the reference itself was scored, so that its head multiplies the same rows together.
    fn meet(&mut self, pool: &Pool, chunk: &Chunk<'_>) -> Result<Option<&[f32]>> {
        match self {
            Side::Alone => Ok(None),
            Side::Store { file, hash, unfinished, .. } => {
                let bytes = bytemuck::cast_slice(chunk.hidden);
                hash.update(bytes);
                file.write_all(bytes).map_err(|e| Error::io(unfinished, "write", e))?;
                Ok(None)
            }
            Side::Compare { head, file, hash, path, hidden, logits } => {
                hidden.resize(chunk.targets.len() * head.hidden_size(), 0.0);
                file.read_exact(bytemuck::cast_slice_mut(hidden)).map_err(|e| Error::io(path, "read", e))?;
                hash.update(bytemuck::cast_slice::<f32, u8>(hidden));
                head.logits(pool, hidden, logits);
                Ok(Some(logits))
            }
        }
    }

    /// Completes what was stored, or checks what was read.
    fn close(self) -> Result<()> {
        match self {
            Side::Alone => Ok(()),
            Side::Store { mut file, hash, unfinished, finished } => {
                let written = file.write_all(&hash.finalize()).and_then(|()| file.flush());
                written.map_err(|e| Error::io(&unfinished, "write", e))?;
                crash_point("rename-before");
                fs::rename(&unfinished, &finished).map_err(|e| Error::io(&finished, "rename into place", e))?;
                crash_point("rename-after");
                Ok(())
            }
            Side::Compare { mut file, hash, path, .. } => {
                let mut sum = Vec::new();
                file.read_to_end(&mut sum).map_err(|e| Error::io(&path, "read", e))?;
                if sum != hash.finalize().as_slice() {
                    return Err(damaged_states(&path));
                }
                Ok(())
            }
        }
    }
}

/// States of the reference that are not as they were written: a fault of the disk, so the run may try again.
pub(super) fn damaged_states(path: &Path) -> Error {
    Error::io(path, "use", std::io::Error::other("the reference's states are not as they were written (SHA-256)"))
}

/// p50, p90, p99, p999 and the largest; `None` where nothing was compared.
fn quantiles(divergences: &[f64]) -> Option<[f64; 5]> {
    let q = |p| quantile(divergences, p);
    Some([q(0.5)?, q(0.9)?, q(0.99)?, q(0.999)?, q(1.0)?])
}
