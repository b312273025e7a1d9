//! Hashes of files that one step of a run makes and a later one uses.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::event::FileHash;
use super::whole::write_whole;
use crate::error::{Error, Result};
use crate::files;

/// SHA-256 of a file, as hex.
///
/// # Errors
/// A file that is missing, cannot be read, or is no regular file.
pub fn sha256_of(path: &Path) -> Result<String> {
    hashed(path).map(|(_, sha256)| sha256)
}

fn hashed(path: &Path) -> Result<(u64, String)> {
    let failed = |e| Error::io(path, "read", e);
    let (mut file, _) = files::open(path)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Hashes `paths`, which are named from `folder` on.
///
/// # Errors
/// As [`sha256_of`].
pub fn hash_files(folder: &Path, paths: &[PathBuf]) -> Result<Vec<FileHash>> {
    let hash = |path: &PathBuf| {
        let inside = path.strip_prefix(folder).ok().filter(|inside| !inside.as_os_str().is_empty());
        let name = inside.or(path.file_name().map(Path::new)).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let (bytes, sha256) = hashed(path)?;
        Ok(FileHash { name, bytes, sha256 })
    };
    paths.iter().map(hash).collect()
}

/// Hashes all files of a folder and of the folders in it, in the order of their names.
///
/// # Errors
/// As [`sha256_of`], and a folder that cannot be read.
pub fn hash_folder(folder: &Path) -> Result<Vec<FileHash>> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    paths.sort();
    hash_files(folder, &paths)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e| Error::io(folder, "read", e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            collect(&entry.path(), paths)?;
        } else {
            paths.push(entry.path());
        }
    }
    Ok(())
}

/// Writes `bytes` with their SHA-256 behind them, so that [`read_checked`] knows them from damaged ones.
///
/// # Errors
/// As [`write_whole`].
pub fn write_checked(path: &Path, bytes: &[u8]) -> Result<()> {
    let sum = Sha256::digest(bytes);
    write_whole(path, &[bytes, sum.as_slice()].concat())
}

/// What [`write_checked`] wrote, at most `limit` bytes; `None` where the file is missing or its bytes have changed.
pub fn read_checked(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = files::read(path, limit).ok()?;
    let sum = bytes.split_off(bytes.len().checked_sub(SUM_BYTES)?);
    (Sha256::digest(&bytes).as_slice() == sum).then_some(bytes)
}

/// Bytes of a SHA-256.
const SUM_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_checked(&path, b"abc").unwrap();
        assert_eq!(read_checked(&path, 100).unwrap(), b"abc");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert_eq!(read_checked(&path, 100), None, "{at}");
        }
        fs::write(&path, "short").unwrap();
        assert_eq!(read_checked(&path, 100), None);
    }

    #[test]
    fn files_are_named_from_their_folder_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c"), "abc").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        let hashes = hash_folder(folder.path()).unwrap();
        let names: Vec<(&str, u64)> = hashes.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
        assert_eq!(names, [("a", 0), ("b/c", 3)]);
        assert!(hashes[1].sha256.starts_with("ba7816bf"), "{}", hashes[1].sha256);
        let alone = folder.path().join("b/c");
        assert_eq!(hash_files(&alone, std::slice::from_ref(&alone)).unwrap()[0].name, "c");
    }
}
