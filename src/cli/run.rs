//! `bench run`: a suite from its file to its report.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::Result;
use crate::pipeline::{self, RunOptions};
use crate::{report, units};

/// Run a suite: build, score and time every variant, judge, report.
///
/// Model and data are fetched if they are not here yet. Each variant is built once and cached; it is scored and timed in
/// processes of its own, in random order against the reference. Every result is on disk as soon as it is known: an
/// interrupted run goes on with --resume. The exit code says what was found.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench run suites/quick.toml
  bench run suite.toml --only int8-ptq,int4-gptq --budget 10m
  bench run suite.toml --until-decided --budget 1h
  bench run suite.toml --resume results/runs/suite/20260131T101500Z-host")]
pub struct Args {
    /// The suite file.
    suite: PathBuf,
    /// Folder of the run [default: results/runs/SUITE/UTC-HOST].
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Only these variants, and the reference.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Wall time for the whole run, such as 90s, 10m or 1h: as many blocks as fit, at least the suite's fewest.
    /// A suite with a single number of blocks needs --until-decided too.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    budget: Option<Duration>,
    /// Time undecided variants in more blocks until each is decided, would not be in 60 blocks or the suite's most, or
    /// the budget ends; with --resume also in a run that ended undecided, whose evidence is kept.
    #[arg(long)]
    until_decided: bool,
    /// Also run every variant once under this limit of its memory, such as 64MiB, and say whether it held: address space,
    /// which holds mapped files and stacks too.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    prove_fit: Option<u64>,
    /// Go on with the run in this folder: an interrupted one, or with --until-decided one that ended undecided.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let seconds = units::parse_seconds(text).filter(|s| *s > 0.0);
    let seconds = seconds.ok_or("expected a time above 0 with its unit, such as 90s, 10m or 1h")?;
    Ok(Duration::from_secs_f64(seconds))
}

fn size(text: &str) -> std::result::Result<u64, String> {
    let bytes = units::parse_bytes(text).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "expected a size above 0 with its unit, such as 64MiB".into())
}

/// Runs the suite and prints the answer.
pub fn run(args: &Args) -> Result<ExitCode> {
    let options = RunOptions {
        suite: args.suite.clone(),
        out: args.out.clone(),
        only: args.only.clone(),
        budget: args.budget,
        until_decided: args.until_decided,
        prove_fit: args.prove_fit,
        resume: args.resume.clone(),
        quiet: args.quiet,
    };
    let (folder, run) = pipeline::run_suite(&options)?;
    super::print(&report::terminal(&run, super::width()))?;
    super::print(&format!("report: {}", folder.join("report/index.html").display()))?;
    Ok(ExitCode::from(run.exit_code()))
}
