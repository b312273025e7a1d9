//! `npm:NAME@VERSION#INSIDE`: a package, downloaded by `npm pack`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::{Failure, isolate, only_file, run};
use crate::error::{Error, Result};

/// npm's program.
pub(super) const PROGRAM: &str = "npm";

/// Downloads the package into a folder; none of its scripts run.
pub(super) fn download(program: &str, name: &str, version: &str, into: &Path) -> Result<PathBuf> {
    let source = format!("npm:{name}@{version}");
    let mut command = Command::new(program);
    command.args(["pack", "--ignore-scripts", "--loglevel=error", "--pack-destination"]).arg(into);
    // npm takes the nearest folder above that has a package.json for the project, and reads its .npmrc.
    command.arg("--prefix").arg(into).arg(format!("{name}@{version}"));
    isolate(&mut command, into);
    match run(&mut command) {
        Ok(()) => only_file(into, "tgz", &source),
        Err(Failure::Refused(problem)) => Err(Error::input(source, problem)),
        Err(Failure::Missing) => Err(Error::input(source, format!("needs `{program}`; install Node.js with npm"))),
    }
}
