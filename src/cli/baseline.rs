//! `bench baseline`: what later changes are held against.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::error::{Error, Result};
use crate::gate::{Baseline, Update};
use crate::pipeline;
use crate::results::utc;
use crate::units;

/// Store, accept or show what `bench gate` compares with.
///
/// `update` makes what a gate measured the baseline, after a pass only; the first one needs none. `accept` does it for an
/// intended change, with a reason that stays in the file and is shown by every later gate. Commit the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench baseline update results/gate/quick/20260131T101500Z-host
  bench baseline accept results/gate/quick/20260131T101500Z-host --reason \"groups of 32: more accurate\"
  bench baseline update FOLDER --anchor v1.2
  bench baseline show results/baselines/quick.json")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the results of a gate that passed the baseline.
    Update(Store),
    /// Make the results of a gate the baseline for a reason, though they changed.
    Accept {
        #[command(flatten)]
        store: Store,
        /// Why the change is meant.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show a baseline: records, sessions, anchor and history.
    Show {
        /// The baseline's file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Store {
    /// The folder that `bench gate` printed.
    #[arg(value_name = "GATE")]
    folder: PathBuf,
    /// The baseline [default: results/baselines/SUITE.json].
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Also make it the anchor, against which slow drift is measured, under this name.
    #[arg(long, value_name = "NAME")]
    anchor: Option<String>,
}

/// Stores or shows.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::Update(store) => keep(store, None)?,
        Action::Accept { store, reason } if reason.trim().is_empty() => {
            return Err(Error::Usage(format!(
                "--reason is empty; say why the change in {} is meant",
                store.folder.display()
            )));
        }
        Action::Accept { store, reason } => keep(store, Some(reason.trim().to_string()))?,
        Action::Show { file, json: true } => super::print_json(&Baseline::read(file)?)?,
        Action::Show { file, json: false } => super::print(text(file, &Baseline::read(file)?).trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(store: &Store, reason: Option<String>) -> Result<()> {
    let update = Update { reason, anchor: store.anchor.clone() };
    let (path, baseline) = pipeline::update_baseline(&store.folder, store.baseline.as_deref(), &update)?;
    super::print(text(&path, &baseline).trim_end())
}

fn text(path: &Path, baseline: &Baseline) -> String {
    let mut out = format!("{}: suite {}\n\nrecords\n", path.display(), baseline.suite.name);
    for record in &baseline.records {
        _ = writeln!(out, "  {} sample on {}", record.sample, record.class);
        for (name, variant) in &record.variants {
            let size = units::bytes(variant.file_bytes);
            _ = writeln!(out, "    {name:<20} {size:>10}  SHA-256 {:.12}..", variant.artefact_sha256);
        }
    }
    out.push_str("\nsessions\n");
    for timing in &baseline.timings {
        _ = writeln!(out, "  {} on {}", timing.sessions.len(), timing.class);
    }
    if baseline.timings.is_empty() {
        out.push_str("  none\n");
    }
    if let Some(anchor) = &baseline.anchor {
        _ = writeln!(out, "\nanchor\n  {} of {}", anchor.name, utc(anchor.unix_s));
    }
    out.push_str("\nhistory, the latest first\n");
    for change in &baseline.history {
        let reason = change.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        _ = writeln!(out, "  {} {} by {}{reason}", utc(change.unix_s), change.event.name(), change.tool_version);
        for what in &change.what {
            _ = writeln!(out, "    {what}");
        }
    }
    out
}
