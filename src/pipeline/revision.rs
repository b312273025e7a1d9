//! Builds this program as it was at another revision of its repository, in a working tree of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::assets::cache_dir;
use crate::error::{Error, Result};
use crate::files;
use crate::results::create_folder;

/// The program at revision `revision` of the repository in `folder`; a build is kept in the cache under its commit.
///
/// # Errors
/// A folder that is in no repository, an unknown revision, a build that fails (its messages are on standard error).
pub fn build_revision(folder: &Path, revision: &str) -> Result<PathBuf> {
    let commit = git(folder, &["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")])?;
    let builds = cache_dir()?.join("builds");
    create_folder(&builds)?;
    let program = builds.join(format!("bench-{commit}"));
    if program.is_file() {
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
    let built = target.join("release/bench");
    files::copy(&built, program)
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
