//! Files that appear whole: written beside, flushed to disk, renamed. A reader sees the old file or the new one.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::machine::crash_point;

/// How names of files begin that are being written; a killed process leaves one behind.
pub(super) const BESIDE: &str = ".tmp";

/// Writes `bytes` to `path`, replacing what is there; the folder must exist.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole_from(folder_of(path), path, bytes)
}

/// As [`write_whole`], written first in the folder `beside` of the same file system.
///
/// # Errors
/// As [`write_whole`].
pub fn write_whole_from(beside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = beside;
    let beside = tempfile::Builder::new().prefix(BESIDE).tempfile_in(folder);
    let mut beside = beside.map_err(|e| Error::io(folder, "write into", e))?;
    beside.write_all(bytes).map_err(|e| Error::io(path, "write", e))?;
    beside.as_file().sync_all().map_err(|e| Error::io(path, "flush", e))?;
    allow_everyone_to_read(beside.as_file());
    crash_point("rename-before");
    beside.persist(path).map_err(|e| Error::io(path, "rename into place", e.error))?;
    crash_point("rename-after");
    sync_folder(folder_of(path));
    Ok(())
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates `path` as a folder with its parents.
///
/// # Errors
/// When it cannot be created.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "create", e))
}

/// Makes a rename in `folder` survive a power loss, where the file system supports it.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        // Some file systems refuse to flush a folder; the rename itself has happened.
        let _ = folder.sync_all();
    }
}

/// Temporary files are private to their owner; results are not secrets and are read by CI under other users.
fn allow_everyone_to_read(file: &File) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A file system without permissions keeps the ones it has.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_whole(&folder.path().join("no/run.json"), b"x").unwrap_err().to_string();
        assert!(error.contains("no"), "{error}");
    }
}
