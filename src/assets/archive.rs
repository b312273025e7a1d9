//! Unpacking wheels (zip) and npm packages (gzipped tar). Archives are untrusted: an entry that leaves the folder
//! condemns the whole archive, and only plain files are written.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use crate::error::{Error, Result};

/// Unpacks the entries of `archive` that `wanted` names into a folder.
pub(super) type Unpack = dyn Fn(&Path, &dyn Fn(&str) -> bool, &Path) -> Result<()>;

/// Whether a relative path stays in its folder.
pub(super) fn is_plain(path: &str) -> bool {
    let plain = Path::new(path).components().all(|component| matches!(component, Component::Normal(_)));
    plain && !path.is_empty() && !path.contains('\\') && !path.contains('\0')
}

/// Unpacks a wheel.
pub(super) fn unpack_wheel(archive: &Path, wanted: &dyn Fn(&str) -> bool, into: &Path) -> Result<()> {
    let damaged = |error: zip::result::ZipError| Error::input(archive.display(), format!("damaged wheel: {error}"));
    let file = File::open(archive).map_err(|source| Error::io(archive, "open", source))?;
    let mut zip = zip::ZipArchive::new(io::BufReader::new(file)).map_err(damaged)?;
    for at in 0..zip.len() {
        let mut entry = zip.by_index(at).map_err(damaged)?;
        let name = checked(archive, &String::from_utf8_lossy(entry.name_raw()))?;
        if wanted(&name) && !entry.is_dir() {
            if entry.is_symlink() {
                return Err(Error::input(archive.display(), format!("entry \"{name}\" is a link, expected a file")));
            }
            write(&mut entry, &into.join(name))?;
        }
    }
    Ok(())
}

/// Unpacks an npm package; its entries all lie in one folder (`package/`), which is left out of the names.
pub(super) fn unpack_tarball(archive: &Path, wanted: &dyn Fn(&str) -> bool, into: &Path) -> Result<()> {
    let damaged = |source: io::Error| Error::input(archive.display(), format!("damaged package: {source}"));
    let file = File::open(archive).map_err(|source| Error::io(archive, "open", source))?;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() || kind.is_dir() {
            continue;
        }
        let name = checked(archive, &path)?;
        let Some((_, name)) = name.split_once('/') else { continue };
        if wanted(name) {
            if !kind.is_file() {
                return Err(Error::input(archive.display(), format!("entry \"{name}\" is a link, expected a file")));
            }
            write(&mut entry, &into.join(name))?;
        }
    }
    Ok(())
}

/// The name of an entry that stays in its folder.
fn checked(archive: &Path, name: &str) -> Result<String> {
    if is_plain(name) {
        Ok(name.to_owned())
    } else {
        Err(Error::input(archive.display(), format!("entry {name:?} leaves the folder; the package is not trusted")))
    }
}

/// Writes an entry through to the disk.
fn write(entry: &mut impl Read, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| Error::io(folder, "create", source))?;
    }
    let mut file = File::create(path).map_err(|source| Error::io(path, "create", source))?;
    io::copy(entry, &mut file).and_then(|_| file.sync_all()).map_err(|source| Error::io(path, "write", source))
}
