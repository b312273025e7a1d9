//! Command line: one file per subcommand.

use std::process::ExitCode;

/// Parses the arguments, runs one command and turns its outcome into the exit code.
pub fn main() -> ExitCode {
    todo!("cli")
}
