//! Command line: one file per subcommand. Each returns its exit code; an error becomes one message on standard error
//! and the code of its kind.

mod baseline;
mod compare;
mod completions;
mod embed;
mod eval;
mod eval_encoder;
mod fetch;
mod gate;
mod init;
mod init_encoder;
mod kernels;
mod limits;
mod machine;
mod model;
mod plan;
mod progress;
mod provable;
mod quantize;
mod report;
mod run;
mod selftest;
mod sensitivity;
mod speed;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::worker;

/// Which quantized form of my model should ship on this CPU?
///
/// bench quantizes a model under every variant that a suite names, runs each on real low-precision kernels in fresh
/// processes, measures speed, memory and accuracy, decides with stated confidence which variants meet the thresholds,
/// and writes a report.
#[derive(Debug, Parser)]
#[command(name = "bench", version = crate::program::VERSION, after_help = AFTER_HELP, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  bench init models/my-model -o suite.toml   write a starter suite for a model
  bench plan suite.toml                      what a run would do, and how long it would take
  bench run suite.toml                       measure, judge, report

Exit codes:
  0  a variant is recommended              3  inconclusive
  1  every candidate is proven bad         4  not comparable
  2  usage, suite or input error           5  the measurement failed";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Report(report::Args),
    Compare(compare::Args),
    Gate(gate::Args),
    Baseline(baseline::Args),
    Plan(plan::Args),
    Machine(machine::Args),
    Fetch(fetch::Args),
    Init(init::Args),
    Quantize(quantize::Args),
    Sensitivity(sensitivity::Args),
    Eval(eval::Args),
    Embed(embed::Args),
    Kernels(kernels::Args),
    Selftest(selftest::Args),
    Speed(speed::Args),
    Completions(completions::Args),
    /// Works for another `bench`: reads one job from standard input.
    #[command(name = "__worker", hide = true)]
    Worker,
}

/// Parses the arguments, runs one command and turns its outcome into the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(say_panic));
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Machine(args) => machine::run(&args),
        Command::Fetch(args) => fetch::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Sensitivity(args) => sensitivity::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Speed(args) => speed::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Worker => return worker::run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(error.exit_code())
    })
}

/// Says in one line that the program is at fault.
fn say_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no message").replace('\n', " ");
    let place = panic.location().map_or_else(|| "an unknown place".into(), |at| format!("{}:{}", at.file(), at.line()));
    eprintln!("error: internal fault at {place}: {text}; please report it with the command that you ran");
}

/// Writes text and a line end to standard output. A reader who has gone away (`bench plan | head`) is no fault.
///
/// # Errors
/// When standard output cannot be written for another reason.
fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output".as_ref(), "write", e)),
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON to standard output.
///
/// # Errors
/// As [`print()`].
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::input("standard output", format!("cannot be written as JSON: {e}")))?;
    print(&text)
}

/// Writes a line to standard error. One that is closed or full is no reason to end.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Columns of the terminal, or 100 where the output is none.
fn width() -> usize {
    comfy_table::Table::new().width().map_or(100, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
