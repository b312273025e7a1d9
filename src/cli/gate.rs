//! `bench gate`: stops a change that made a variant less accurate, slower or bigger.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::gate::{Exactness, GateReport, Inconclusive, Tier, TimingMode};
use crate::pipeline::{self, GateOptions};
use crate::report;

/// Stop a change that made a variant less accurate, slower or bigger.
///
/// Builds and scores every variant of the suite and holds it against the suite's baseline, which `bench baseline update`
/// stores: what repeats exactly must be equal, accuracy is tested on paired items, no threshold may be loosened without a
/// reason, no variant may be missing. With --base or --base-rev, another build of this program is timed in the same session,
/// in random order, until each variant is proven slower or not slower. Nothing missing ever passes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench gate suites/quick.toml --tier smoke
  bench gate suites/quick.toml --base target/base/bench
  bench gate suites/quick.toml --base-rev origin/main --budget 15m
  bench gate suites/quick.toml --tier nightly --isa all --timing=advisory

Exit codes:
  0  passed                                3  inconclusive (see --inconclusive)
  1  worse, missing, failed or loosened    4  nothing to compare with
  2  usage, suite or input error           5  the measurement failed")]
pub struct Args {
    /// The suite file.
    suite: PathBuf,
    /// The baseline [default: results/baselines/SUITE.json].
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Another build of this program, to compare with in this session.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "base_rev")]
    base: Option<PathBuf>,
    /// The same, built from this revision of the repository here.
    #[arg(long, value_name = "REV")]
    base_rev: Option<String>,
    /// How much is measured: what is exact on a small sample (smoke), every item and the fewest blocks (pr), or the most
    /// blocks (nightly).
    #[arg(long, value_enum, default_value_t = TierName::Pr)]
    tier: TierName,
    /// Where exact numbers must not change: always (a class of machines without a record is not comparable), same-class
    /// (elsewhere accuracy is tested), or never (what differs is tested).
    #[arg(long, value_enum, default_value_t = ExactName::SameClass)]
    exact: ExactName,
    /// What is done with times: gate, advisory (shown, never counted) or skip.
    #[arg(long, value_enum, default_value_t = TimingName::Gate)]
    timing: TimingName,
    /// Exit code of an inconclusive gate: fail (1), neutral (3) or pass (0).
    #[arg(long, value_enum, default_value_t = InconclusiveName::Neutral)]
    inconclusive: InconclusiveName,
    /// Also score under every instruction set that this machine can run, and compare.
    #[arg(long, value_name = "all", value_parser = ["all"])]
    isa: Option<String>,
    /// Slower than base by less is no matter, percent [default: the suite's max_slowdown_percent, else 5].
    #[arg(long, value_name = "PERCENT")]
    max_slowdown: Option<f64>,
    /// Most blocks against base.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(6..=500))]
    blocks: u32,
    /// Time for timing, such as 10m: as many blocks as fit.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = super::run::duration)]
    budget: Duration,
    /// Folder of the gate, new or empty [default: results/gate/SUITE/UTC-HOST].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What it says as JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TierName {
    Smoke,
    Pr,
    Nightly,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExactName {
    Always,
    SameClass,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TimingName {
    Gate,
    Advisory,
    Skip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InconclusiveName {
    Fail,
    Neutral,
    Pass,
}

/// Runs the gate and says what it found, on GitHub as annotations and step summary too.
pub fn run(args: &Args) -> Result<ExitCode> {
    let base = match (&args.base, &args.base_rev) {
        (Some(program), _) => Some(existing(program)?),
        (None, Some(revision)) => Some(pipeline::build_revision(Path::new("."), revision)?),
        (None, None) => None,
    };
    let options = options(args, base)?;
    let (folder, said) = pipeline::gate(&options)?;
    if args.json {
        super::print_json(&said)?;
    } else {
        super::print(&report::gate_terminal(&said, super::width()))?;
        super::print(&format!("folder: {}", folder.display()))?;
    }
    tell_github(&said, args.json)?;
    Ok(ExitCode::from(said.exit_code))
}

fn options(args: &Args, base: Option<PathBuf>) -> Result<GateOptions> {
    if let Some(percent) = args.max_slowdown.filter(|percent| !(*percent > 0.0 && *percent <= 100.0)) {
        return Err(Error::Usage(format!("--max-slowdown {percent}: expected a percentage above 0, at most 100")));
    }
    Ok(GateOptions {
        suite: args.suite.clone(),
        baseline: args.baseline.clone(),
        base,
        tier: match args.tier {
            TierName::Smoke => Tier::Smoke,
            TierName::Pr => Tier::Pr,
            TierName::Nightly => Tier::Nightly,
        },
        exactness: match args.exact {
            ExactName::Always => Exactness::Always,
            ExactName::SameClass => Exactness::SameClass,
            ExactName::Never => Exactness::Never,
        },
        timing: match args.timing {
            TimingName::Gate => TimingMode::Gate,
            TimingName::Advisory => TimingMode::Advisory,
            TimingName::Skip => TimingMode::Skip,
        },
        inconclusive: match args.inconclusive {
            InconclusiveName::Fail => Inconclusive::Fail,
            InconclusiveName::Neutral => Inconclusive::Neutral,
            InconclusiveName::Pass => Inconclusive::Pass,
        },
        all_instruction_sets: args.isa.is_some(),
        max_slowdown_percent: args.max_slowdown,
        blocks: args.blocks as usize,
        budget: args.budget,
        out: args.out.clone(),
        command: std::iter::once("bench".into()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        quiet: args.quiet,
    })
}

/// A program by a path that does not depend on the folder that a worker is started in.
fn existing(program: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(program).map_err(|e| Error::io(program, "find", e))
}

/// Annotations on standard output, and the summary of the step, where GitHub runs this.
fn tell_github(said: &GateReport, json: bool) -> Result<()> {
    if std::env::var_os("GITHUB_ACTIONS").is_none() {
        return Ok(());
    }
    // JSON on standard output stays JSON.
    if !json {
        super::print(&report::gate_annotations(said))?;
    }
    if let Some(summary) = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from) {
        let file = std::fs::File::options().append(true).create(true).open(&summary);
        let written = file.and_then(|mut file| file.write_all(report::gate_markdown(said).as_bytes()));
        written.map_err(|e| Error::io(&summary, "write", e))?;
    }
    Ok(())
}
