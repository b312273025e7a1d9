//! Reading of files that others wrote: regular files only, and never more bytes than the reader has use for.
//!
//! Every untrusted file is opened here. A pipe or a device has no end and may block for ever, and the size that a
//! folder states may change while the file is read: so the kind is checked on the open file, and reading stops one
//! byte beyond the limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek};
use std::path::Path;

use crate::error::{Error, Result};
use crate::units;

/// Sizes of files beyond which they are not what they are taken for, in bytes.
pub mod limit {
    /// A suite, a recipe.
    pub const SUITE: u64 = 1 << 20;
    /// A record of a few lines.
    pub const RECORD: u64 = 1 << 20;
    /// A configuration, an index of a model in parts, the record of a package or an artefact.
    pub const JSON: u64 = 64 << 20;
    /// A `tokenizer.json`.
    pub const TOKENIZER: u64 = 256 << 20;
    /// All texts, items or token ids of a source together.
    pub const DATA: u64 = 1 << 30;
    /// A journal, a run, a baseline, a table of scores.
    pub const RESULTS: u64 = 1 << 30;
}

/// Opens a regular file for reading; a symbolic link to one is followed.
///
/// # Errors
/// A file that is missing or cannot be read, and whatever is no regular file.
pub fn open(path: &Path) -> Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options.read(true);
    // To open a pipe waits for its other end; this flag changes nothing for a regular file.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| Error::io(path, "read", e))?;
    let metadata = file.metadata().map_err(|e| Error::io(path, "read", e))?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a folder" } else { "a device, pipe or socket" };
        return Err(Error::input(path.display(), format!("expected a file, got {kind}")));
    }
    if metadata.len() <= LONGEST_POINTER {
        refuse_pointer(path, &file)?;
    }
    Ok((file, metadata))
}

/// First line of what Git puts in place of a large file.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Most bytes of such a pointer.
const LONGEST_POINTER: u64 = 1024;

/// Refuses a pointer of Git LFS, which stands for a file that was not fetched.
fn refuse_pointer(path: &Path, mut file: &File) -> Result<()> {
    let mut start = Vec::with_capacity(POINTER.len());
    let read = file.take(POINTER.len() as u64).read_to_end(&mut start).and_then(|_| file.rewind());
    read.map_err(|e| Error::io(path, "read", e))?;
    if start == POINTER {
        return Err(Error::input(path.display(), "is a Git LFS pointer, not the file itself: run `git lfs pull`"));
    }
    Ok(())
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and a larger file.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    let too_large = || {
        let problem = format!("expected at most {}, the file is larger", units::bytes(limit));
        Error::input(path.display(), problem)
    };
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let size = file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    // A file that grows, or one whose size the system does not know, as those of /proc.
    if size as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Copies a regular file; `target` is written anew.
///
/// # Errors
/// As [`open`], and a target that cannot be written.
pub fn copy(source: &Path, target: &Path) -> Result<()> {
    let (mut file, metadata) = open(source)?;
    let written = File::create(target).and_then(|mut target| {
        std::io::copy(&mut file, &mut target)?;
        target.set_permissions(metadata.permissions())
    });
    written.map_err(|e| Error::io(target, "write", e))
}

/// A new file to write to: an output never replaces what is there.
///
/// # Errors
/// A file that exists, or cannot be created.
pub fn create_new(path: &Path) -> Result<File> {
    File::create_new(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Error::io(path, "create", e),
    })
}

/// Checks before long work that [`create_new`] can follow it.
///
/// # Errors
/// A path at which there is something.
pub fn expect_absent(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() { Err(exists(path)) } else { Ok(()) }
}

fn exists(path: &Path) -> Error {
    Error::input(path.display(), "exists already; name a new one, nothing is overwritten")
}

/// As [`read`], of a UTF-8 text.
///
/// # Errors
/// As [`read`], and the first byte that is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::input(format!("{}: byte {at}", path.display()), "not UTF-8; convert the text")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"abcd");
        assert!(read(&path, 3).unwrap_err().to_string().contains("expected at most 3 B, the file is larger"));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read_text(&path, 9).unwrap_err().to_string().contains("byte 2: not UTF-8"));
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n").unwrap();
        assert!(read_text(&path, 999).unwrap_err().to_string().contains("run `git lfs pull`"));
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [pipe.as_path(), &link, Path::new("/dev/zero"), folder.path()] {
            let message = read(path, 9).unwrap_err().to_string();
            assert!(message.contains("expected a file, got a "), "{message}");
        }
    }
}
