//! Local files: finding them by path or glob, hashing them.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Local;
use super::glob::{component_matches, natural};
use crate::error::{Error, Result};

/// The file or folder at `path`, or the files that fit it where it holds `*`, in natural order.
pub(super) fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.to_string_lossy().contains('*') {
        return match path.exists() {
            true => Ok(vec![path.to_path_buf()]),
            false => Err(Error::input(path.display(), "no such file or folder")),
        };
    }
    let mut found = vec![PathBuf::new()];
    for component in path.components() {
        let name = component.as_os_str().to_string_lossy();
        if matches!(component, Component::Normal(_)) && name.contains('*') {
            found = found.iter().flat_map(|folder| matching(folder, &name)).collect();
        } else {
            found.iter_mut().for_each(|folder| folder.push(component));
        }
    }
    found.retain(|path| path.is_file());
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    if found.is_empty() { Err(Error::input(path.display(), "no file fits this pattern")) } else { Ok(found) }
}

/// What in a folder fits a pattern; nothing when it cannot be read.
fn matching(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = entries.filter(|entry| component_matches(pattern, &entry.file_name().to_string_lossy()));
    fits.map(|entry| entry.path()).collect()
}

/// All files of `paths`, folders opened, as `(name, path)`: the name starts at the file or inside the folder, with `/`.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, "", &mut files)?;
        } else {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            files.push((name, path.clone()));
        }
    }
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::io(folder, "read", source))?;
    let mut entries = entries
        .map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|source| Error::io(folder, "read", source))?;
    entries.sort_by(|(a, _), (b, _)| natural(a, b));
    for (name, path) in entries {
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
        } else {
            files.push((name, path));
        }
    }
    Ok(())
}

/// SHA-256 of a file, as hex.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let fault = |source| Error::io(path, "read", source);
    let mut file = File::open(path).map_err(fault)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(fault)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hash over names and hashes of files, in their order.
pub(super) fn combined<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hash = Sha256::new();
    for (name, sha256) in files {
        hash.update(format!("{sha256}  {name}\n"));
    }
    hex(&hash.finalize())
}

/// Hashes found files.
pub(super) fn local(paths: Vec<PathBuf>) -> Result<Local> {
    let files = expand(&paths)?;
    hashed(paths, &files)
}

/// Hashes `files` with their names; `paths` are where they were found.
pub(super) fn hashed(paths: Vec<PathBuf>, files: &[(String, PathBuf)]) -> Result<Local> {
    let hashes = files.iter().map(|(_, path)| sha256(path)).collect::<Result<Vec<_>>>()?;
    let mut bytes = 0;
    for (_, path) in files {
        bytes += std::fs::metadata(path).map_err(|source| Error::io(path, "read", source))?.len();
    }
    let sha256 = combined(files.iter().map(|(name, _)| name.as_str()).zip(hashes.iter().map(String::as_str)));
    Ok(Local { paths, sha256, bytes })
}
