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
use crate::{text, worker};

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
  2  usage, suite or input error           5  the measurement failed, or a
                                              file could not be written";

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
    crate::machine::explain_changed_files();
    crate::machine::enforce_allowances();
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(usage) => return show_usage(&usage),
    };
    if !matches!(command, Command::Worker) {
        crate::machine::explain_aborts();
    }
    let outcome = match command {
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
        text::to_stderr(&error_text(&error));
        ExitCode::from(error.exit_code())
    })
}

/// What stands on the terminal for an error: one line; for a suite one for each of its faults.
fn error_text(error: &Error) -> String {
    let lines = match error {
        Error::Suite(faults) => faults.iter().map(|fault| text::message(&fault.to_string())).collect(),
        other => vec![text::message(&other.to_string())],
    };
    format!("error: {}", lines.join("\n"))
}

/// Help, the version, or what is wrong with the arguments.
fn show_usage(usage: &clap::Error) -> ExitCode {
    match usage.print() {
        Err(e) if !usage.use_stderr() && e.kind() != ErrorKind::BrokenPipe => {
            text::to_stderr(&error_text(&unwritable(&e)));
            ExitCode::from(2)
        }
        // The code is 0 for help and 2 for a fault.
        _ => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2)),
    }
}

/// Says in one line that the program is at fault; nothing where a library's panic is caught and becomes an error.
fn say_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if crate::machine::panics_are_caught() {
        return;
    }
    let reason = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map_or_else(|| "an unknown place".into(), |at| format!("{}:{}", at.file(), at.line()));
    text::to_stderr(&text::message(&format!(
        "error: internal fault at {place}: {reason}; please report it with the command that you ran"
    )));
}

/// Writes text, cleaned, and a line end to standard output. A reader who has gone away (`bench plan | head`) is no fault.
///
/// # Errors
/// When standard output cannot be written for another reason.
fn print(text: &str) -> Result<()> {
    print_clean(&text::lines(text))
}

/// As [`print()`], of text of our own.
fn print_clean(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(unwritable(&e)),
        _ => Ok(()),
    }
}

/// Standard output is part of how the command was called.
fn unwritable(reason: &std::io::Error) -> Error {
    Error::Usage(format!("standard output: cannot write: {reason}"))
}

/// Writes a value as indented JSON to standard output.
///
/// # Errors
/// As [`print()`].
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::input("standard output", format!("cannot be written as JSON: {e}")))?;
    print_clean(&text::json(&text))
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
    fn an_error_is_one_clean_line_and_a_suite_one_for_each_fault() {
        let hostile = Error::input("a\nb\u{1b}[31m", format!("{:?} is no model", "x".repeat(100_000)));
        let shown = error_text(&hostile);
        assert!(shown.starts_with("error: a b [31m: \"xxx") && shown.ends_with("\" is no model"), "{shown}");
        assert!(shown.len() < 400 && !shown.contains('\n'), "{shown}");
        let fault = |problem: &str| crate::error::Fault { place: "s.toml:1".into(), problem: problem.into() };
        let shown = error_text(&Error::Suite(vec![fault("a\nb"), fault("c\u{202e}d")]));
        assert_eq!(shown, "error: s.toml:1: a b\ns.toml:1: c d");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
