//! `bench selftest`: whether this machine and this protocol find what is there, and nothing else, in time and in accuracy.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::decide::{self, Found, FoundDrop};
use crate::error::{Error, Result};
use crate::machine;
use crate::measure::{Inputs, Processes, Progress, Session};
use crate::results::{Evidence, RunFolder, Standing, folder_of, read_journal};
use crate::suite::{self, AccuracyLimit, AccuracyMetric, Suite, TaskKind, Variant};

/// Answer sheets for each planted drop.
const PLANTED: usize = 1000;

/// Largest accepted drop where the suite's rule is about something else than multiple-choice items, points.
const USUAL_MARGIN: f64 = 2.0;

/// Time a suite's reference against itself, and against itself with slowdowns that are planted.
///
/// Every comparison is judged as a run judges a candidate. The reference must be called different from itself in at most
/// 5 % of comparisons; how often planted slowdowns are found, and how well their size is estimated, says what a run on
/// this machine can see. With --load, other threads keep the processors busy meanwhile: blocks must be seen as disturbed.
///
/// With --flips nothing is timed. The reference answers the suite's multiple-choice items, drops of accuracy are planted into
/// its answers, and the suite's rule judges them: it may accept a drop of its whole margin in at most 5 % of cases.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench selftest suites/quick.toml
  bench selftest suites/quick.toml --aa 10 --slowdown 5
  bench selftest suites/quick.toml --aa 4 --load
  bench selftest suites/quick.toml --flips 5")]
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
    /// Plant drops of accuracy instead, so many percent of the items changing sides.
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with_all = ["load", "slowdown", "aa", "blocks"])]
    flips: Option<f64>,
    /// Largest drop that is accepted, points; the suite's, where its rule is about multiple-choice items, else 2.
    #[arg(long, value_name = "POINTS", value_parser = percent, requires = "flips")]
    margin: Option<f64>,
    /// Folder of what is measured; a temporary one if left out.
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
    if let Some(flips) = args.flips {
        return accuracy(args, flips / 100.0);
    }
    let (suite, planted) = planted(suite::read(&args.suite)?, args);
    let nobody_leaves = |_: &Evidence| BTreeMap::<String, Standing>::new();
    let evidence = measured(args, suite, planted.clone(), |session| {
        let mut time = || session.time(None, false, &nobody_leaves);
        if args.load { under_load(time) } else { time() }
    })?;
    let found = decide::selftest(&evidence, &planted, args.blocks.into()).map_err(Error::Measurement)?;
    super::print(&text(&evidence, &found, args.blocks.into()))?;
    Ok(ExitCode::SUCCESS)
}

/// The evidence of `measure` over a prepared and built suite.
fn measured(
    args: &Args,
    suite: Suite,
    planted: BTreeMap<String, f64>,
    measure: impl FnOnce(&mut Session<'_>) -> Result<()>,
) -> Result<Evidence> {
    let temporary = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), "create a folder in", e))?;
    let out = args.out.clone().unwrap_or_else(|| temporary.path().join("selftest"));
    let inputs = Inputs { planted, ..Inputs::fetch(suite, folder_of(&args.suite))? };
    let mut workers = Processes::new()?;
    let mut session = Session::begin(inputs, RunFolder::create_at(&out)?, &mut workers, Progress::new(args.quiet))?;
    session.prepare()?;
    session.build()?;
    measure(&mut session)?;
    session.finish()?;
    drop(session);
    Evidence::from_events(read_journal(&out)?.events)
}

/// Scores the reference and plants drops of accuracy into its answers.
fn accuracy(args: &Args, flips: f64) -> Result<ExitCode> {
    let mut suite = suite::read(&args.suite)?;
    let reference = suite.reference.clone();
    suite.variants.retain(|variant| variant.name == reference);
    suite.tasks.retain(|task| matches!(task.kind, TaskKind::Choice { .. }));
    let rules = suite.accept.accuracy.task.clone();
    let Some(task) = suite.tasks.iter().find(|task| task.name == rules).or(suite.tasks.first()).cloned() else {
        return Err(Error::input(args.suite.display(), "no task of kind \"choice\", whose items could change sides"));
    };
    let margin = args.margin.or(decide::margin_in_points(suite.accept.accuracy.metric)).unwrap_or(USUAL_MARGIN);
    suite.accept.accuracy = AccuracyLimit {
        task: task.name.clone(),
        metric: AccuracyMetric::Accuracy { max_drop_points: margin },
        relative: None,
    };
    suite.tasks = vec![task];
    let accept = suite.accept.clone();
    let evidence = measured(args, suite, BTreeMap::new(), |session| session.score())?;
    let drops = [0.0, 0.5, 1.0, 1.5, 2.0].map(|part| part * margin);
    let found = decide::planted_flips(&evidence, &accept, flips, &drops, PLANTED);
    super::print(&flips_text(margin, accept.confidence, flips, &found.map_err(Error::Measurement)?))?;
    Ok(ExitCode::SUCCESS)
}

fn flips_text(margin: f64, confidence: f64, flips: f64, found: &[FoundDrop]) -> String {
    let mut text = format!(
        "{PLANTED} answer sheets for each drop, {} % of items changing sides; a drop of {margin} points is accepted, confidence \
         {} %\n\n",
        100.0 * flips,
        100.0 * confidence
    );
    _ = writeln!(text, "  planted drop   accepted   rejected   undecided   mean found");
    for FoundDrop { planted, answers: (yes, no, unknown), mean } in found {
        let share = |count: &usize| format!("{:.1} %", 100.0 * *count as f64 / PLANTED as f64);
        _ = writeln!(
            text,
            "  {:<14} {:<10} {:<10} {:<11} {mean:.2}",
            format!("{planted:.2} points"),
            share(yes),
            share(no),
            share(unknown)
        );
    }
    text
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
