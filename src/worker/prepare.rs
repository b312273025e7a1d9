//! The job that reads the suite's data and writes it as tokens.

use std::collections::HashSet;

use super::protocol::{PrepareJob, Prepared};
use crate::assets::{Documents, read_documents};
use crate::error::{Error, Result};
use crate::machine;
use crate::network::Model;
use crate::results::{Genres, create_folder, hash_folder};
use crate::suite::{Calibration, Suite, Task, TaskKind};
use crate::tasks::{
    ChoiceItems, Corpus, Coverage, Encoder, LONGEST_SENTENCE, Passages, Prompts, Window, Windows, prompts,
    spread_sentences, windows, write_tokens,
};

/// Warm-up prompts per sequence; the warm-up uses them in turn.
const WARMUP_PROMPTS: usize = 2;

/// Reads the data, tokenizes what is text and writes the token files.
pub(super) fn prepare(job: &PrepareJob, progress: &mut dyn FnMut(usize, usize)) -> Result<Prepared> {
    let suite = &job.suite;
    // What an earlier attempt has left, half a file perhaps.
    let folder = job.files.folder();
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, "delete the remains of", e))?;
    }
    create_folder(folder)?;
    let model = Model::open(&job.model)?;
    let encoder = Encoder::of(&model);
    let steps = suite.tasks.len() + 1;
    let mut warnings = model.warnings().to_vec();
    let mut scored = Scored::default();
    let mut leak = None;
    for (number, task) in suite.tasks.iter().enumerate() {
        progress(number, steps);
        let documents = match task.kind {
            TaskKind::Perplexity { length, windows } => {
                let corpus = encoder.read(&task.text, &job.base)?;
                let cut = cut(task, &encoder, &corpus, length, windows)?;
                write_tokens(&job.files.windows(number), &cut)?;
                warnings.extend(left_out(&task.name, &corpus.documents, &cut.windows, windows.and(Some(length))));
                scored.add(&corpus);
                scored.asked.push((task.name.clone(), cut.windows.into_iter().map(|w| w.tokens).collect()));
                corpus.documents
            }
            TaskKind::Choice { items } => {
                let (choices, too_long) = ChoiceItems::read(&encoder, &task.text, &job.base, items)?;
                warnings.extend(items_left_out(&task.name, too_long, encoder.positions()));
                write_tokens(&job.files.windows(number), &choices)?;
                let passages = choices.items.into_iter().map(|item| encoder.without_bos(item.tokens.passage));
                let passages: Vec<Vec<u32>> = passages.collect();
                scored.asked.push((task.name.clone(), passages.clone()));
                passages
            }
            TaskKind::Similarity { length, sentences } => {
                let longest = encoder.longest_sentence();
                let (cut, shortened) =
                    cut_sentences(task, job, &encoder, length.unwrap_or(longest.min(LONGEST_SENTENCE)), sentences)?;
                warnings.extend(shortened);
                warnings.extend(longer_sentences(&task.name, length, longest));
                write_tokens(&job.files.windows(number), &cut)?;
                let bare = |sentence: &Window| encoder.without_special(&sentence.tokens).to_vec();
                let sentences: Vec<_> = cut.windows.iter().map(bare).collect();
                scored.documents.extend(sentences.iter().cloned());
                scored.asked.push((task.name.clone(), sentences.clone()));
                sentences
            }
        };
        if number == 0 {
            write_tokens(&job.files.prompts(), &timed_prompts(suite, &documents, &encoder)?)?;
        }
    }
    progress(suite.tasks.len(), steps);
    if let Some(calibration) = &suite.calibration {
        let (drawn, held_out, corpus) = encoder.calibrate(calibration, suite.held_out_windows(), &job.base)?;
        write_tokens(&job.files.calibration(0), &drawn.windows)?;
        let mut all = drawn.windows;
        for draw in 1..calibration.seeds {
            let next = Calibration { seed: calibration.seed.wrapping_add(draw as u64), ..calibration.clone() };
            let (drawn, ..) = encoder.calibrate(&next, suite.held_out_windows(), &job.base)?;
            write_tokens(&job.files.calibration(draw), &drawn.windows)?;
            all.extend(drawn.windows);
        }
        write_tokens(&job.files.held_out(), &held_out.windows)?;
        let mut shared = scored.overlap(&corpus);
        if encoder.reads_sentences() {
            // A sentence may recur by chance, a document does not.
            warnings.extend(shared.take());
        }
        leak = scored.leak(shared, &all);
        if let Some(text) = leak.as_ref().filter(|_| !calibration.allow_leak) {
            let remedy =
                "give other documents, or set allow_leak = true under [data] calibration, which marks the report";
            return Err(Error::input(&calibration.text.source, format!("{text}; {remedy}")));
        }
    }
    let files = hash_folder(job.files.folder())?;
    Ok(Prepared { warnings, leak, files, peak_rss: machine::peak_rss() })
}

/// The windows of a task, with their genres.
fn cut(task: &Task, encoder: &Encoder, corpus: &Corpus, length: usize, limit: Option<usize>) -> Result<Windows> {
    let windows = windows(&corpus.documents, length, limit, encoder.bos());
    if windows.is_empty() {
        return Err(Error::input(
            &task.text.source,
            format!(
                "task \"{}\": expected a document of two tokens or more, so that one is predicted, the longest has {}; \
                 give longer texts",
                task.name,
                corpus.documents.iter().map(Vec::len).max().unwrap_or(0)
            ),
        ));
    }
    let of = windows.iter().filter_map(|w| corpus.genre_of.get(w.document).copied()).collect();
    Ok(Windows { windows, genres: Genres { names: corpus.genres.clone(), of } })
}

/// The sentences of a similarity, and what a reader must know of those that are cut.
fn cut_sentences(
    task: &Task,
    job: &PrepareJob,
    encoder: &Encoder,
    length: usize,
    limit: Option<usize>,
) -> Result<(Windows, Option<String>)> {
    let fault = |problem: &str| Error::input(&task.text.source, format!("task \"{}\": {problem}", task.name));
    let Documents::Texts(texts) = read_documents(&task.text, &job.base)? else {
        return Err(fault("expected text, got a token file; sentences are cut from text"));
    };
    let texts: Vec<&str> = texts.iter().map(|document| document.text.as_str()).collect();
    let mut shortened = 0;
    let encode = |(document, sentence): (usize, &str)| {
        let (tokens, cut) = encoder.encode_sentence(sentence, length)?;
        shortened += usize::from(cut);
        Ok(Window { document, tokens })
    };
    let windows: Vec<Window> = spread_sentences(&texts, limit).into_iter().map(encode).collect::<Result<_>>()?;
    if windows.len() < 2 {
        return Err(fault("expected at least two sentences; give longer texts"));
    }
    let all = windows.len();
    let warning = (shortened > 0).then(|| {
        format!(
            "task \"{}\": {shortened} of {all} sentences are longer than {length} tokens and lose their end",
            task.name
        )
    });
    Ok((Windows { windows, genres: Genres::default() }, warning))
}

/// Prompts from the first task's text: real text has the activations that the model was made for.
fn timed_prompts(suite: &Suite, documents: &[Vec<u32>], encoder: &Encoder) -> Result<Prompts> {
    let workload = &suite.workload;
    let batch = workload.batch.iter().copied().max().unwrap_or(1);
    let (warmup, timed) = (WARMUP_PROMPTS * batch, workload.most_iterations() * batch);
    let fault = |problem| Error::input(&suite.tasks[0].text.source, problem);
    let mut all = if workload.encodes() {
        let (front, behind) = encoder.around();
        let body = workload.prompt.checked_sub(front.len() + behind.len()).filter(|body| *body > 0);
        let body = body.ok_or_else(|| fault("[workload] `length` leaves no room for text".into()))?;
        let all = prompts(documents, warmup + timed, body, None).map_err(fault)?;
        all.into_iter().map(|body| [front, &body, behind].concat()).collect()
    } else {
        prompts(documents, warmup + timed, workload.prompt, encoder.bos()).map_err(fault)?
    };
    Ok(Prompts { timed: all.split_off(warmup), warmup: all })
}

/// What of a task's text is not predicted; of a sample which documents are too short to be in it.
fn left_out(task: &str, documents: &[Vec<u32>], windows: &[Window], sample_of: Option<usize>) -> Option<String> {
    let all = documents.len();
    if let Some(length) = sample_of {
        let used: HashSet<usize> = windows.iter().map(|window| window.document).collect();
        let short = (0..all).filter(|at| documents[*at].len() < length && !used.contains(at)).count();
        return (short > 0).then(|| {
            format!(
                "task \"{task}\": {short} of {all} documents are shorter than a window of {length} tokens and are not scored"
            )
        });
    }
    let Coverage { predicted, not_predicted, documents_left_out } = Coverage::of(documents, windows);
    (not_predicted + documents_left_out > 0).then(|| {
        format!(
            "task \"{task}\": {not_predicted} of {} tokens are not predicted, since none is before them in their window; \
             {documents_left_out} of {all} documents have nothing to predict",
            predicted + not_predicted
        )
    })
}

fn items_left_out(task: &str, too_long: usize, positions: usize) -> Option<String> {
    (too_long > 0).then(|| {
        format!("task \"{task}\": {too_long} items exceed the model's {positions} positions and are not scored")
    })
}

fn longer_sentences(task: &str, length: Option<usize>, longest: usize) -> Option<String> {
    let length = length.filter(|length| *length > longest)?;
    Some(format!(
        "task \"{task}\": sentences are cut at {length} tokens as the suite says; the model's side files say {longest}"
    ))
}

/// Of so many scored sequences one may have a passage that is also calibrated on: phrases do recur.
const SHARED_BY_CHANCE: usize = 100;

/// What is scored.
#[derive(Default)]
struct Scored {
    documents: HashSet<Vec<u32>>,
    /// Names in token files, which tell documents apart; names of text files may repeat.
    names: HashSet<String>,
    /// Tokens of the windows, passages or sentences of each task.
    asked: Vec<(String, Vec<Vec<u32>>)>,
}

impl Scored {
    fn add(&mut self, corpus: &Corpus) {
        if !corpus.genre_of.is_empty() {
            self.names.extend(corpus.names.iter().cloned());
        }
        self.documents.extend(corpus.documents.iter().cloned());
    }

    /// Data that is both learnt from and scored flatters the variants that learnt from it: whole documents, as `shared`
    /// says, and passages of the windows that were drawn.
    fn leak(&self, shared: Option<String>, drawn: &[Vec<u32>]) -> Option<String> {
        let passages = Passages::of(drawn);
        let of_task = |(task, asked): &(String, Vec<Vec<u32>>)| {
            let shared = asked.iter().filter(|tokens| passages.found_in(tokens)).count();
            let text = format!(
                "{shared} of {} sequences of task \"{task}\" have passages that are calibrated on",
                asked.len()
            );
            (shared * SHARED_BY_CHANCE > asked.len()).then_some(text)
        };
        let leaks: Vec<String> = shared.into_iter().chain(self.asked.iter().filter_map(of_task)).collect();
        let flattery = "variants that learn from them look better than they are";
        (!leaks.is_empty()).then(|| format!("{}; {flattery}", leaks.join("; ")))
    }

    /// Documents, of an encoder sentences, that are also scored.
    fn overlap(&self, calibration: &Corpus) -> Option<String> {
        let named = |name: &String| !calibration.genre_of.is_empty() && self.names.contains(name);
        let documents = calibration.documents.iter().zip(&calibration.names);
        let shared = documents.filter(|(ids, name)| self.documents.contains(*ids) || named(name)).count();
        (shared > 0)
            .then(|| format!("{shared} of {} calibration documents are also scored", calibration.documents.len()))
    }
}
