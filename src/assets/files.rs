//! Local files: finding them by path or glob, hashing them.
//!
//! Only regular files count: what else lies in a folder (pipes, devices, links to nothing) is passed over. Links are
//! followed, but no folder is walked twice, and a walk has limits of number and depth, so that the folder `/` or a link
//! to it ends with an error. Names that begin with a dot belong to editors and tools: they are passed over too, unless
//! the source names them.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Local;
use super::glob::{component_matches, natural};
use crate::error::{Error, Result};
use crate::files;

/// Most entries of folders that one source may lead through.
pub(super) const MOST_ENTRIES: usize = 200_000;
/// Most folders inside each other.
const DEEPEST: usize = 32;

/// What a source may still lead through.
struct Budget<'p> {
    place: &'p Path,
    entries: usize,
}

impl<'p> Budget<'p> {
    fn new(place: &'p Path) -> Self {
        Budget { place, entries: MOST_ENTRIES }
    }

    /// The entries of a folder: name and path, in natural order; hidden ones only where `hidden`.
    fn list(&mut self, folder: &Path, hidden: bool) -> Result<Vec<(String, PathBuf)>> {
        let fault = |source| Error::io(folder, "read", source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let Some(left) = self.entries.checked_sub(1) else {
                let problem = format!("leads through more than {MOST_ENTRIES} files; name a smaller folder");
                return Err(Error::input(self.place.display(), problem));
            };
            self.entries = left;
            let name = entry.file_name().to_string_lossy().into_owned();
            if hidden || !name.starts_with('.') {
                found.push((name, entry.path()));
            }
        }
        found.sort_by(|(a, _), (b, _)| natural(a, b));
        Ok(found)
    }
}

/// The file or folder at `path`, or the files that fit it where it holds `*`, in natural order.
pub(super) fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.to_string_lossy().contains('*') {
        return match std::fs::metadata(path) {
            Ok(found) if found.is_file() || found.is_dir() => Ok(vec![path.to_path_buf()]),
            Ok(_) => Err(Error::input(path.display(), "expected a file or folder, got a device, pipe or socket")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::input(path.display(), "no such file or folder"))
            }
            Err(error) => Err(Error::io(path, "read", error)),
        };
    }
    let mut budget = Budget::new(path);
    let mut found = vec![PathBuf::new()];
    for component in path.components() {
        let name = component.as_os_str().to_string_lossy();
        if matches!(component, Component::Normal(_)) && name.contains('*') {
            let folders = std::mem::take(&mut found);
            for folder in &folders {
                found.extend(matching(folder, &name, &mut budget)?);
            }
        } else {
            found.iter_mut().for_each(|folder| folder.push(component));
        }
    }
    found.retain(|path| path.is_file());
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    if found.is_empty() { Err(Error::input(path.display(), "no file fits this pattern")) } else { Ok(found) }
}

/// What in a folder fits a pattern; nothing where it is no folder. Hidden names fit a pattern that begins with a dot.
fn matching(folder: &Path, pattern: &str, budget: &mut Budget<'_>) -> Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = budget.list(folder, pattern.starts_with('.'))?.into_iter();
    Ok(entries.filter(|(name, _)| component_matches(pattern, name)).map(|(_, path)| path).collect())
}

/// All files of `paths`, folders opened, as `(name, path)`: the name starts at the file or inside the folder, with `/`.
/// Hidden names inside folders are passed over.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(walk(path, false)?);
        } else {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            found.push((name, path.clone()));
        }
    }
    Ok(found)
}

/// The files below a folder as `(name, path)`.
pub(super) fn walk(folder: &Path, hidden: bool) -> Result<Vec<(String, PathBuf)>> {
    let mut walk = Walk { budget: Budget::new(folder), hidden, seen: HashSet::new(), found: Vec::new() };
    if let Ok(root) = std::fs::metadata(folder) {
        walk.is_new(&root);
    }
    walk.enter(folder, "", DEEPEST)?;
    Ok(walk.found)
}

struct Walk<'p> {
    budget: Budget<'p>,
    hidden: bool,
    /// Folders that were entered.
    seen: HashSet<(u64, u64)>,
    found: Vec<(String, PathBuf)>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<()> {
        if depth == 0 {
            return Err(Error::input(
                folder.display(),
                format!("lies deeper than {DEEPEST} folders; name a smaller folder"),
            ));
        }
        for (name, path) in self.budget.list(folder, self.hidden)? {
            let name = format!("{prefix}{name}");
            match std::fs::metadata(&path) {
                Ok(found) if found.is_file() => self.found.push((name, path)),
                Ok(found) if found.is_dir() && self.is_new(&found) => {
                    self.enter(&path, &format!("{name}/"), depth - 1)?
                }
                // A folder that was walked already, what is no file, a link to nothing.
                _ => {}
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn is_new(&mut self, folder: &Metadata) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.seen.insert((folder.dev(), folder.ino()))
    }

    /// Where folders have no number, the depth alone ends a circle.
    #[cfg(not(unix))]
    fn is_new(&mut self, _: &Metadata) -> bool {
        true
    }
}

/// SHA-256 of a file, as hex.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut file = files::open(path)?.0;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(|source| Error::io(path, "read", source))?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(found: &[(String, PathBuf)]) -> Vec<&str> {
        found.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn hidden_names_are_read_only_where_they_are_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        fs::create_dir(folder.join(".git")).unwrap();
        for name in ["a.txt", ".DS_Store", ".b.txt.swp", ".git/x.txt"] {
            fs::write(folder.join(name), name).unwrap();
        }
        assert_eq!(names(&expand(&[folder.to_path_buf()]).unwrap()), ["a.txt"]);
        assert_eq!(find(&folder.join("*")).unwrap(), [folder.join("a.txt")]);
        assert_eq!(find(&folder.join(".DS*")).unwrap(), [folder.join(".DS_Store")]);
        assert_eq!(find(&folder.join(".git/*")).unwrap(), [folder.join(".git/x.txt")]);
        assert_eq!(names(&expand(&[folder.join(".DS_Store")]).unwrap()), [".DS_Store"]);
        assert_eq!(names(&walk(folder, true).unwrap()), [".DS_Store", ".b.txt.swp", ".git/x.txt", "a.txt"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_walk_ends_whatever_a_folder_holds() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        fs::create_dir(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/a"), "a").unwrap();
        symlink(folder, folder.join("inner/circle")).unwrap();
        symlink("inner", folder.join("twice")).unwrap();
        symlink("inner/a", folder.join("link")).unwrap();
        symlink("nothing", folder.join("broken")).unwrap();
        symlink("/dev/zero", folder.join("zero")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
        let found = local(vec![folder.to_path_buf()]).unwrap();
        assert!(found.bytes <= 3, "{}", found.bytes);
        let problem = find(&folder.join("zero")).unwrap_err().to_string();
        assert!(problem.contains("got a device"), "{problem}");
        let mut deep = folder.join("deep");
        (0..DEEPEST).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        let problem = local(vec![folder.to_path_buf()]).unwrap_err().to_string();
        assert!(problem.contains("deeper than 32 folders"), "{problem}");
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        (0..5).for_each(|n| fs::write(root.path().join(n.to_string()), "").unwrap());
        let mut budget = Budget { place: root.path(), entries: 4 };
        let problem = budget.list(root.path(), true).unwrap_err().to_string();
        assert!(problem.contains("more than 200000 files"), "{problem}");
    }
}
