//! Files for readers that take a path. `fuzz/run` sets `TMPDIR` to a folder in memory.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder can be made").keep());

/// The one folder, which all inputs of a process share.
pub fn folder() -> &'static Path {
    &FOLDER
}

/// Writes a file of that folder and gives its path.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    std::fs::write(&path, bytes).expect("a file can be written in the temporary folder");
    path
}
