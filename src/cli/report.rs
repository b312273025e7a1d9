//! `bench report`: judge a run folder again and rewrite its report.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::Result;
use crate::{pipeline, report};

/// Judge a run again from its raw data and rewrite its report.
///
/// Reads only the run folder: no model, no kernels, no measurement. The exit code is that of the run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench report results/runs/quick/20260131T101500Z-host")]
pub struct Args {
    /// The run's folder.
    #[arg(value_name = "RUN")]
    folder: PathBuf,
}

/// Judges and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let run = pipeline::report(&args.folder)?;
    super::print(&report::terminal(&run, super::width()))?;
    super::print(&format!("report: {}", args.folder.join("report/index.html").display()))?;
    Ok(ExitCode::from(run.exit_code()))
}
