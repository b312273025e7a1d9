//! `bench report`: judge a run folder again and rewrite its report.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::Result;
use crate::{pipeline, report};

/// Judge a run again from its raw data and rewrite its report.
///
/// Reads only the run folder: no model, no kernels, no measurement. With --accept the run is judged under other
/// thresholds, into its folder `rejudged`; the run's own answer stays. The exit code is that of the judgement.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench report results/runs/quick/20260131T101500Z-host
  bench report RUN --accept max_increase_percent=2 --accept min_speedup=1.5 --accept max_memory=6MiB
  bench report --index results/runs")]
pub struct Args {
    /// The run's folder.
    #[arg(value_name = "RUN", required_unless_present = "index")]
    folder: Option<PathBuf>,
    /// Write one page over all judged runs below this folder instead, with the history of every variant.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["folder", "accept"])]
    index: Option<PathBuf>,
    /// Another threshold: max_increase_percent, max_drop_points or max_drop (as the suite has it), min_speedup,
    /// max_memory, confidence or rule.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    accept: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as min_speedup=1.5")?;
    Ok((key.trim().into(), value.trim().into()))
}

/// Judges and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(folder) = &args.index {
        let count = pipeline::report_index(folder)?;
        super::print(&format!("{count} runs: {}", folder.join("index.html").display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = args.folder.clone().unwrap_or_default();
    let (folder, run) = match args.accept.is_empty() {
        true => (folder.clone(), pipeline::report(&folder)?),
        false => pipeline::rejudge(&folder, &args.accept)?,
    };
    super::print(&report::terminal(&run, super::width()))?;
    super::print(&format!("report: {}", folder.join("report/index.html").display()))?;
    Ok(ExitCode::from(run.exit_code()))
}
