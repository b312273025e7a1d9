//! `bench selftest`: whether this machine and this protocol find what is there, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::decide::{self, Found};
use crate::error::{Error, Result};
use crate::machine;
use crate::measure::{Inputs, Processes, Progress, Session};
use crate::results::{Evidence, RunFolder, Standing, read_journal};
use crate::suite::{self, Suite, Variant};

/// Time a suite's reference against itself, and against itself with slowdowns that are planted.
///
/// Every comparison is judged as a run judges a candidate. The reference must be called different from itself in at most
/// 5 % of comparisons; how often planted slowdowns are found, and how well their size is estimated, says what a run on
/// this machine can see. With --load, other threads keep the processors busy meanwhile: blocks must be seen as disturbed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench selftest suites/quick.toml
  bench selftest suites/quick.toml --aa 10 --slowdown 5
  bench selftest suites/quick.toml --aa 4 --load")]
pub struct Args {
    /// The suite whose reference and workload are used.
    suite: PathBuf,
    /// Comparisons.
    #[arg(long, value_name = "COUNT", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    aa: u16,
    /// Blocks of a comparison.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(6..=100))]
    blocks: u16,
    /// Slowdowns to plant, in percent.
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_values_t = [2.0, 5.0, 10.0], value_parser = percent)]
    slowdown: Vec<f64>,
    /// Keep the processors busy with other work meanwhile.
    #[arg(long)]
    load: bool,
    /// Folder of the timings; a temporary one if left out.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(long, short)]
    quiet: bool,
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=1000.0).contains(percent));
    percent.ok_or_else(|| "expected percent from 0 to 1000".into())
}

/// Runs the comparisons and prints what was found.
pub fn run(args: &Args) -> Result<ExitCode> {
    machine::catch_interrupts();
    let (suite, planted) = planted(suite::read(&args.suite)?, args);
    let temporary = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), "create a folder in", e))?;
    let out = args.out.clone().unwrap_or_else(|| temporary.path().join("selftest"));
    let mut inputs = Inputs::fetch(suite, super::fetch::base(&args.suite))?;
    inputs.planted = planted.clone();
    let mut workers = Processes::new()?;
    let mut session = Session::begin(inputs, RunFolder::create_at(&out)?, &mut workers, Progress::new(args.quiet))?;
    session.prepare()?;
    session.build()?;
    let nobody_leaves = |_: &Evidence| BTreeMap::<String, Standing>::new();
    let mut time = || session.time(None, false, &nobody_leaves);
    if args.load {
        under_load(time)?
    } else {
        time()?
    }
    session.finish()?;
    drop(session);
    let evidence = Evidence::from_events(read_journal(&out)?.events)?;
    let found = decide::selftest(&evidence, &planted, args.blocks.into()).map_err(Error::Measurement)?;
    super::print(&text(&evidence, &found, args.blocks.into()))?;
    Ok(ExitCode::SUCCESS)
}

/// The suite with its reference alone, under its own name and once for every slowdown, at the judged point; and the
/// slowdowns by name.
fn planted(mut suite: Suite, args: &Args) -> (Suite, BTreeMap<String, f64>) {
    let reference = suite.reference.clone();
    suite.variants.retain(|variant| variant.name == reference);
    let mut planted = BTreeMap::new();
    for percent in &args.slowdown {
        let name = format!("{reference} slowed by {percent} %");
        if let Some(own) = suite.variants.first().cloned() {
            suite.variants.push(Variant { name: name.clone(), ..own });
        }
        planted.insert(name, percent / 100.0);
    }
    let point = decide::Point::judged(&suite.workload, &suite.accept);
    let blocks = usize::from(args.aa) * usize::from(args.blocks);
    suite.workload.batch = vec![point.batch];
    suite.workload.threads = vec![point.threads];
    suite.workload.blocks = (blocks, blocks);
    (suite, planted)
}

/// Does `work` while as many threads as there are processors compute something else.
fn under_load<T>(work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..machine::cores() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

fn text(evidence: &Evidence, found: &[Found], blocks: usize) -> String {
    let (disturbed, all) = decide::disturbed_blocks(evidence);
    let comparisons = found.first().map_or(0, |found| found.comparisons);
    let mut text = format!("{comparisons} comparisons of {blocks} blocks, {disturbed} of {all} blocks disturbed\n\n");
    _ = writeln!(text, "  planted   called slower   called faster   found                      p <= 5 %   median p");
    for found in found {
        let share = |count: usize| format!("{count} ({:.1} %)", 100.0 * count as f64 / found.comparisons as f64);
        let bounds = found
            .slowdown
            .bounds
            .map_or(String::new(), |(low, high)| format!(" [{:+.2}, {:+.2}]", 100.0 * low, 100.0 * high));
        _ = writeln!(
            text,
            "  {:>5} %   {:<15} {:<15} {:<26} {:<10} {:.2}",
            100.0 * found.planted,
            share(found.called.0),
            share(found.called.1),
            format!("{:+.2} %{bounds}", 100.0 * found.slowdown.value),
            share(found.p.iter().filter(|p| **p <= 0.05).count()),
            crate::stats::median(&found.p).unwrap_or(f64::NAN)
        );
    }
    if let Some(same) = found.first() {
        let deciles = (1..10).filter_map(|tenth| crate::stats::quantile(&same.p, f64::from(tenth) / 10.0));
        let deciles: Vec<String> = deciles.map(|p| format!("{p:.2}")).collect();
        _ = writeln!(text, "\n  deciles of p of the reference against itself: {}", deciles.join(" "));
    }
    text
}
