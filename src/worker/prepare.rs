//! The job that reads the suite's texts and writes them as tokens.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::protocol::{PrepareJob, Prepared};
use crate::assets::read_text;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::machine;
use crate::network::Tokenizer;
use crate::suite::{Suite, TextSource};
use crate::tasks::{Prompts, prompts, windows, write_tokens};
use crate::variant::CalibrationTokens;

/// Warm-up prompts per sequence; the warm-up uses them in turn.
const WARMUP_PROMPTS: usize = 2;

/// Reads texts, tokenizes them and writes the token files.
pub(super) fn prepare(job: &PrepareJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Prepared> {
    let suite = &job.suite;
    let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(&job.model)?)?;
    let steps = suite.tasks.len() + 1;
    let mut warnings = Vec::new();
    let mut scored_texts = HashSet::new();
    for (number, task) in suite.tasks.iter().enumerate() {
        progress(number, steps);
        let texts = read_texts(&task.text, &job.base)?;
        let documents = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let windows = windows(&documents, task.length, task.windows, tokenizer.bos());
        if windows.is_empty() {
            return Err(Error::input(
                &task.text.source,
                format!(
                    "task \"{}\": expected a document of at least {} tokens, the longest has {}; lower `length` or \
                     give longer texts",
                    task.name,
                    task.length,
                    documents.iter().map(Vec::len).max().unwrap_or(0)
                ),
            ));
        }
        warnings.extend(short_documents(&task.name, &documents, task.length));
        write_tokens(&job.files.windows(number), &windows)?;
        if number == 0 {
            write_tokens(&job.files.prompts(), &timed_prompts(suite, &documents, tokenizer.bos())?)?;
        }
        scored_texts.extend(texts);
    }
    progress(suite.tasks.len(), steps);
    if let Some(calibration) = &suite.calibration {
        let texts = read_texts(&calibration.text, &job.base)?;
        let drawn =
            CalibrationTokens::draw(&tokenizer, &texts, calibration.windows, calibration.length, calibration.seed)?;
        write_tokens(&job.files.calibration(), &drawn.windows)?;
        warnings.extend(overlap(&texts, &scored_texts));
    }
    fs::write(job.files.complete(), "").map_err(|e| Error::io(&job.files.complete(), "write", e))?;
    Ok(Prepared { warnings, peak_rss: machine::peak_rss() })
}

fn read_texts(text: &TextSource, base: &Path) -> Result<Vec<String>> {
    let texts: Vec<String> = read_text(text, base)?.into_iter().map(|document| document.text).collect();
    if texts.is_empty() {
        return Err(Error::input(&text.source, "expected at least one document, got none; check `documents`"));
    }
    Ok(texts)
}

/// Prompts from the first task's text: real text has the activations that the model was made for.
fn timed_prompts(suite: &Suite, documents: &[Vec<u32>], bos: Option<u32>) -> Result<Prompts> {
    let workload = &suite.workload;
    let batch = workload.batch.iter().copied().max().unwrap_or(1);
    let (warmup, timed) = (WARMUP_PROMPTS * batch, workload.iterations * batch);
    let mut all = prompts(documents, warmup + timed, workload.prompt, bos)
        .map_err(|problem| Error::input(&suite.tasks[0].text.source, problem))?;
    Ok(Prompts { timed: all.split_off(warmup), warmup: all })
}

fn short_documents(task: &str, documents: &[Vec<u32>], length: usize) -> Option<String> {
    let short = documents.iter().filter(|tokens| tokens.len() < length).count();
    (short > 0).then(|| {
        format!(
            "task \"{task}\": {short} of {} documents are shorter than a window of {length} tokens and are not scored",
            documents.len()
        )
    })
}

/// Text that is both learnt from and scored flatters the variants that learnt from it.
fn overlap(calibration: &[String], scored: &HashSet<String>) -> Option<String> {
    let shared = calibration.iter().filter(|text| scored.contains(*text)).count();
    (shared > 0).then(|| {
        format!(
            "{shared} of {} calibration documents are also scored; variants that learn from them look better than \
             they are",
            calibration.len()
        )
    })
}
