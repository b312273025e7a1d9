//! The `bench` program: parse, run one command, turn an error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    quantbench::cli::main()
}
