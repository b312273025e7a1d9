//! The whole story: suite, model, variants, scores, timings, verdicts, report.

mod gate;
mod revision;

pub use gate::{GateFile, GateOptions, gate, update_baseline};
pub use revision::build_revision;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::measure::{Inputs, Processes, Progress, Session, Workers};
use crate::results::{Evidence, JOURNAL, Run, RunFolder, Standing, read_journal, samples_csv, scores_csv, write_whole};
use crate::suite::{self, Suite};
use crate::{decide, files, machine, report};

/// What a run is asked to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunOptions {
    /// The suite file.
    pub suite: PathBuf,
    /// The run folder; `None` makes `results/runs/<suite>/<utc>-<host>/`.
    pub out: Option<PathBuf>,
    /// Only these variants, and the reference; empty takes all, or those of the run that is resumed.
    pub only: Vec<String>,
    /// Wall time for the whole run, where candidates race: as many blocks as fit, at least the suite's fewest.
    pub budget: Option<Duration>,
    /// Measure blocks until every candidate is decided, also in a finished run that is resumed.
    pub until_decided: bool,
    /// Also run every variant once in so many bytes of memory.
    pub prove_fit: Option<u64>,
    /// The folder of an interrupted or undecided run to go on with.
    pub resume: Option<PathBuf>,
    /// No progress on standard error.
    pub quiet: bool,
}

/// Runs a suite from its file to its report; returns the run's folder and the judged run.
///
/// # Errors
/// A suite or input fault, a run that cannot be resumed, a reference that cannot be built. The failure of another
/// variant is no error: it is a record in the run.
pub fn run_suite(options: &RunOptions) -> Result<(PathBuf, Run)> {
    let suite = chosen_variants(suite::read(&options.suite)?, options)?;
    let mut workers = Processes::new()?;
    let inputs = Inputs::fetch(suite, options.suite.parent().unwrap_or(Path::new("")))?;
    // Until here nothing is measured that could be lost, and a fetch may take long: a signal ends the program at once.
    machine::catch_interrupts();
    let fetch_s = workers.elapsed_s();

    let mut session = open(options, inputs, &mut workers)?;
    let folder = session.folder().to_path_buf();
    let was_finished = session.is_finished();
    if !was_finished {
        measure(&mut session, fetch_s, options).map_err(|error| say_how_to_resume(error, options, &folder))?;
    }
    let ended_undecided = was_finished || !session.is_racing();
    if options.until_decided && ended_undecided && session.go_on(&referee)? {
        measure(&mut session, 0.0, options).map_err(|error| say_how_to_resume(error, options, &folder))?;
    }
    drop(session);
    Ok((folder.clone(), report(&folder)?))
}

/// The stages that measure; each skips what the journal already holds.
fn measure(session: &mut Session<'_>, fetch_s: f64, options: &RunOptions) -> Result<()> {
    session.record_stage("fetch", fetch_s)?;
    session.prepare()?;
    session.build()?;
    session.score()?;
    session.time(options.budget, options.until_decided, &referee)?;
    options.prove_fit.map_or(Ok(()), |bytes| session.prove_fit(bytes))?;
    session.finish()
}

/// Which candidates need more blocks, under the suite's own rule.
fn referee(evidence: &Evidence) -> BTreeMap<String, Standing> {
    decide::standings(evidence, &evidence.suite.accept)
}

/// Judges a run folder again from its journal and rewrites `run.json`, the CSV files and the report.
///
/// # Errors
/// No run folder, a damaged journal, a folder that cannot be written.
pub fn report(folder: &Path) -> Result<Run> {
    let (folder, evidence) = open_run(folder)?;
    write_whole(&folder.samples_csv(), &samples_csv(&evidence)?)?;
    write_whole(&folder.scores_csv(), &scores_csv(&evidence)?)?;
    let run = decide::judge(&evidence, &evidence.suite.accept);
    write_report(folder.path(), &run, &evidence)?;
    Ok(run)
}

/// Why two runs differ, and what both prove together where they measured the same.
///
/// # Errors
/// A folder that is no run, a damaged journal.
pub fn compared(old: &Path, new: &Path) -> Result<report::Comparison> {
    let ((_, old), (_, new)) = (open_run(old)?, open_run(new)?);
    let judge = |evidence: &Evidence| decide::judge(evidence, &evidence.suite.accept);
    let comparison = report::Comparison::of(&judge(&old), &judge(&new));
    Ok(comparison.with(&decide::together(&[&old, &new], &new.suite.accept)))
}

/// Writes `index.html` over all judged runs below a folder, with the history of every variant; returns how many.
///
/// # Errors
/// A folder that cannot be read or written, a `run.json` of another schema or damaged.
pub fn report_index(folder: &Path) -> Result<usize> {
    let mut found = Vec::new();
    for path in run_files(folder, INDEX_DEPTH)? {
        let text = files::read(&path, files::limit::RESULTS)?;
        let run: Run = serde_json::from_slice(&text).map_err(|e| {
            let remedy = "judge the run again with `bench report`, or move it away";
            Error::input(path.display(), format!("is no judged run of this program: {e}; {remedy}"))
        })?;
        let below = path.parent().unwrap_or(folder).strip_prefix(folder).unwrap_or(Path::new(""));
        found.push((format!("./{}", below.join("report/index.html").display()), run));
    }
    report::write_history(folder, &found)?;
    Ok(found.len())
}

/// Folders between an index and its runs: `<suite>/<utc>-<host>`.
const INDEX_DEPTH: usize = 3;

/// Every `run.json` below a folder beside its journal, in order; so a run judged under other thresholds is left out.
fn run_files(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let own = folder.join("run.json");
    if own.is_file() && folder.join(JOURNAL).is_file() {
        return Ok(vec![own]);
    }
    let mut files = Vec::new();
    if depth == 0 {
        return Ok(files);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    for folder in folders {
        files.extend(run_files(&folder, depth - 1)?);
    }
    Ok(files)
}

/// Judges a run folder under other thresholds, `(key, value)` each, into its folder `rejudged`; returns that folder too.
///
/// # Errors
/// As [`report()`], and a threshold that the run cannot answer.
pub fn rejudge(folder: &Path, changes: &[(String, String)]) -> Result<(PathBuf, Run)> {
    let (folder, mut evidence) = open_run(folder)?;
    let accept = changes
        .iter()
        .try_fold(evidence.suite.accept.clone(), |accept, (key, value)| suite::changed(&accept, key, value))?;
    let list = changes.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    evidence.warnings.push(format!(
        "judged under thresholds that were chosen after the run ({list}): answers are less sure than the confidence says"
    ));
    let run = decide::judge(&evidence, &accept);
    let folder = folder.path().join("rejudged");
    write_report(&folder, &run, &evidence)?;
    Ok((folder, run))
}

fn open_run(folder: &Path) -> Result<(RunFolder, Evidence)> {
    let folder = RunFolder::open(folder)?;
    let evidence = Evidence::from_events(read_journal(folder.path())?.events)?;
    Ok((folder, evidence))
}

/// Writes `run.json` and `report/` into a folder.
fn write_report(folder: &Path, run: &Run, evidence: &Evidence) -> Result<()> {
    let json = serde_json::to_vec_pretty(run)
        .map_err(|e| Error::Measurement(format!("cannot write the judged run as JSON: {e}")))?;
    report::write(folder, run, evidence)?;
    write_whole(&folder.join("run.json"), &json)
}

/// The suite with the variants that were asked for; the reference always stays.
fn chosen_variants(mut suite: Suite, options: &RunOptions) -> Result<Suite> {
    let mut chosen = options.only.clone();
    if let (Some(folder), true) = (&options.resume, chosen.is_empty()) {
        let run = Evidence::from_events(read_journal(folder)?.events)?;
        chosen = run.suite.variants.into_iter().map(|v| v.name).collect();
    }
    if chosen.is_empty() {
        return Ok(suite);
    }
    let known: Vec<&str> = suite.variants.iter().map(|v| v.name.as_str()).collect();
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::Usage(format!(
            "{}: has no variant \"{unknown}\"; it has {}",
            options.suite.display(),
            known.join(", ")
        )));
    }
    suite.variants.retain(|v| v.name == suite.reference || chosen.contains(&v.name));
    Ok(suite)
}

/// A new run in its folder, or an interrupted one.
fn open<'w>(options: &RunOptions, inputs: Inputs, workers: &'w mut dyn Workers) -> Result<Session<'w>> {
    let progress = Progress::new(options.quiet);
    if let Some(folder) = &options.resume {
        return Session::resume(inputs, RunFolder::open(folder)?, workers, progress);
    }
    let folder = match &options.out {
        Some(folder) => RunFolder::create_at(folder)?,
        None => {
            let (suite, host) = (&inputs.suite.name, &inputs.machine.host);
            RunFolder::create(Path::new("results/runs"), suite, workers.unix_s(), host)?
        }
    };
    progress.note(&format!("run folder: {}", folder.path().display()));
    Session::begin(inputs, folder, workers, progress)
}

fn say_how_to_resume(error: Error, options: &RunOptions, folder: &Path) -> Error {
    if !machine::interrupted() {
        return error;
    }
    Error::Measurement(format!(
        "interrupted; what is measured is kept, go on with: bench run {} --resume {}",
        options.suite.display(),
        folder.display()
    ))
}
