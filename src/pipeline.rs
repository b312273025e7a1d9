//! The whole story: suite, model, variants, scores, timings, verdicts, report.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Result;
use crate::results::Run;

/// What a run is asked to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunOptions {
    /// The suite file.
    pub suite: PathBuf,
    /// The run folder; `None` makes `results/runs/<suite>/<utc>-<host>/`.
    pub out: Option<PathBuf>,
    /// Only these variants, and the reference; empty takes all.
    pub only: Vec<String>,
    /// Wall time for the whole run: as many blocks as fit, at least the suite's fewest.
    pub budget: Option<Duration>,
    /// The folder of an interrupted run to go on with.
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
    let _ = options;
    todo!("measure")
}

/// Judges a run folder again from its journal and rewrites `run.json`, the CSV files and the report.
///
/// # Errors
/// No run folder, a damaged journal, a folder that cannot be written.
pub fn report(folder: &Path) -> Result<Run> {
    let _ = folder;
    todo!("measure")
}
