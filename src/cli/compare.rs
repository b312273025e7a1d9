//! `bench compare`: why two runs differ.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::pipeline;

/// Say why two runs differ: environment first, then data, then numbers.
///
/// Both are judged from their journals by this program. A number whose intervals do not overlap, and a verdict that
/// changed, are marked (!). Where both measured the same in the same place, the speed question is also answered by both
/// together: repeating a run adds evidence. The exit code is 0 where machine, program and data are the same, else 4 (not comparable).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench compare results/runs/quick/20260130T101500Z-host results/runs/quick/20260131T101500Z-host")]
pub struct Args {
    /// The earlier run's folder.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The later run's folder.
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

/// Compares and prints.
pub fn run(args: &Args) -> Result<ExitCode> {
    let comparison = pipeline::compared(&args.old, &args.new)?;
    super::print(comparison.text().trim_end())?;
    let not_comparable = Error::NotComparable(String::new()).exit_code();
    Ok(ExitCode::from(if comparison.is_fair() { 0 } else { not_comparable }))
}
