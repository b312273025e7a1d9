//! Builds this program as it was at another revision of its repository, in a working tree of its own.
//!
//! A build appears whole, with its SHA-256 beside it, and one without or with another one is made again: it is a program that
//! will be run. Two processes that want the same build share it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::assets::cache_dir;
use crate::error::{Error, Result};
use crate::files;
use crate::machine::crash_point;
use crate::results::{Lock, create_folder, sha256_of, write_whole};

/// The program at revision `revision` of the repository in `folder`; a build is kept in the cache under its commit.
///
/// # Errors
/// A folder that is in no repository, an unknown revision, a build that fails (its messages are on standard error).
pub fn build_revision(folder: &Path, revision: &str) -> Result<PathBuf> {
    let commit = git(folder, &["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")])?;
    let builds = cache_dir()?.join("builds");
    create_folder(&builds)?;
    let program = builds.join(format!("bench-{commit}"));
    if is_whole(&program) {
        return Ok(program);
    }
    let what = format!("the build of {revision}");
    let _lock = Lock::take(&builds.join(format!("bench-{commit}.lock")), &what, &mut |text| {
        // A standard error that is closed is no reason to end.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    })?;
    if is_whole(&program) {
        return Ok(program);
    }
    let tree = tempfile::Builder::new()
        .prefix("tree-")
        .tempdir_in(&builds)
        .map_err(|e| Error::io(&builds, "create a folder in", e))?;
    let source = tree.path().join("source");
    let place = source.display().to_string();
    git(folder, &["worktree", "add", "--force", "--detach", &place, &commit])?;
    let built = build(&source, &builds.join("target"), &program, revision);
    // Whatever came of the build, the repository must not keep a working tree that is gone.
    let removed = git(folder, &["worktree", "remove", "--force", &place]);
    built?;
    removed.map(|_| program)
}

fn build(source: &Path, target: &Path, program: &Path, revision: &str) -> Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "bench"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", target)
        .stdout(Stdio::null())
        .status()
        .map_err(|e| Error::Measurement(format!("cannot start cargo to build {revision}: {e}; is it installed?")))?;
    if !status.success() {
        return Err(Error::Measurement(format!("cargo cannot build {revision} ({status}); its messages are above")));
    }
    put_in_place(&target.join("release/bench"), program)
}

/// Copies a program to its place, where it appears whole, behind its hash: a killed copy leaves nothing that is believed.
fn put_in_place(built: &Path, program: &Path) -> Result<()> {
    let beside = program.with_extension("unfinished");
    files::copy(built, &beside)?;
    files::open(&beside)?.0.sync_all().map_err(|e| Error::io(&beside, "flush", e))?;
    write_whole(&hash_file(program), sha256_of(&beside)?.as_bytes())?;
    crash_point("rename-before");
    std::fs::rename(&beside, program).map_err(|e| Error::io(program, "rename into place", e))
}

/// Where a program's SHA-256 lies.
fn hash_file(program: &Path) -> PathBuf {
    program.with_extension("sha256")
}

/// Whether a program is there with the bytes that were built.
fn is_whole(program: &Path) -> bool {
    let known = files::read_text(&hash_file(program), 1 << 10);
    known.is_ok_and(|known| sha256_of(program).is_ok_and(|found| found == known.trim()))
}

/// What git prints, without the line end.
fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(|e| Error::Measurement(format!("cannot start git: {e}; is it installed?")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(Error::Usage(format!("git {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_only_with_the_bytes_that_were_built() {
        let folder = tempfile::tempdir().unwrap();
        let (built, program) = (folder.path().join("built"), folder.path().join("bench-0123"));
        std::fs::write(&built, "a program").unwrap();
        assert!(!is_whole(&program));
        put_in_place(&built, &program).unwrap();
        assert!(is_whole(&program));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "the program, its hash and the build");
        std::fs::write(&program, "a prog").unwrap();
        assert!(!is_whole(&program), "torn");
        std::fs::write(&program, "b program").unwrap();
        assert!(!is_whole(&program), "another");
        std::fs::write(&program, "a program").unwrap();
        std::fs::remove_file(hash_file(&program)).unwrap();
        assert!(!is_whole(&program), "of a program before this one");
    }
}
