//! Running a package registry's own client.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Why a client did not do its work.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not installed.
    Missing,
    /// It said why not.
    Refused(String),
}

/// Lets a client work in an empty folder of its own: what lies in the user's working folder may be anybody's, and neither
/// code nor settings are taken from there. The user's own settings, in the home folder and the environment, count.
pub(super) fn isolate(command: &mut Command, folder: &Path) {
    command.current_dir(folder).stdin(Stdio::null());
    // `python3 -I` ignores these; a `pip` program of its own would not.
    command.env_remove("PYTHONPATH").env_remove("PYTHONSTARTUP");
}

/// Runs a client to its end.
pub(super) fn run(command: &mut Command) -> std::result::Result<(), Failure> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Failure::Missing),
        Err(error) => return Err(Failure::Refused(error.to_string())),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named pip") {
        return Err(Failure::Missing);
    }
    let typed: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    Err(Failure::Refused(format!("`{}` failed ({}): {}", typed.join(" "), output.status, reason(&said))))
}

/// The line that gives the reason: npm's first (after a code; hints follow it), pip's last error.
fn reason(said: &str) -> &str {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let npm = lines().find(|line| line.starts_with("npm error") && !line.starts_with("npm error code"));
    let pip = || lines().rfind(|line| line.starts_with("ERROR"));
    npm.or_else(pip).or_else(|| lines().next_back()).unwrap_or("it printed nothing; is there a network?")
}

/// The one file with `extension` that a client left in `folder`.
pub(super) fn only_file(folder: &Path, extension: &str, source: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "read", error))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(Error::input(source, format!("expected the client to leave one .{extension} file"))),
    }
}
