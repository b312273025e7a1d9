//! Unpacking wheels (zip) and npm packages (gzipped tar). Archives are untrusted: an entry that leaves the folder
//! condemns the whole archive, only plain files are written, none is written twice, and number, size and compression
//! have limits that are checked while bytes are written. Nothing is flushed here: the hashes of a package are checked at
//! every use, so what a power loss tears is fetched again.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::{files, units};

/// Most entries.
const MOST_ENTRIES: usize = super::files::MOST_ENTRIES / 2;
/// Longest path of an entry, in bytes.
const LONGEST_PATH: usize = 1024;
/// Most folders of a path.
const DEEPEST: usize = 31;
/// Most bytes that an archive may unpack to, for each of its own: text and weights compress to a third or a tenth.
const LARGEST_RATIO: u64 = 100;
/// Bytes that any archive may unpack to, however small it is.
const ALWAYS_ALLOWED: u64 = 64 << 20;
/// Most bytes of the headers of one entry: a long name, attributes.
const LARGEST_HEADER: u64 = 1 << 20;

/// Unpacks the entries of `archive` that `wanted` names into a folder.
pub(super) type Unpack = dyn Fn(&Path, &dyn Fn(&str) -> bool, &Path) -> Result<()>;

/// Whether a relative path stays in its folder.
pub(super) fn is_plain(path: &str) -> bool {
    let plain = Path::new(path).components().all(|component| matches!(component, Component::Normal(_)));
    plain && !path.is_empty() && !path.contains('\\') && !path.contains(char::is_control)
}

/// Unpacks a wheel.
pub(super) fn unpack_wheel(archive: &Path, wanted: &dyn Fn(&str) -> bool, into: &Path) -> Result<()> {
    let damaged = |error: zip::result::ZipError| Error::input(archive.display(), format!("damaged wheel: {error}"));
    let (file, metadata) = files::open(archive)?;
    let mut output = Output::new(archive, into, metadata.len());
    let mut zip = zip::ZipArchive::new(io::BufReader::new(file)).map_err(damaged)?;
    for at in 0..zip.len() {
        output.count()?;
        let mut entry = zip.by_index(at).map_err(damaged)?;
        let name = checked(archive, &String::from_utf8_lossy(entry.name_raw()))?;
        if wanted(&name) && !entry.is_dir() {
            if entry.is_symlink() {
                return Err(Error::input(archive.display(), format!("entry \"{name}\" is a link, expected a file")));
            }
            output.write(&mut entry, &name)?;
        }
    }
    Ok(())
}

/// Unpacks an npm package; its entries all lie in one folder (`package/`), which is left out of the names.
pub(super) fn unpack_tarball(archive: &Path, wanted: &dyn Fn(&str) -> bool, into: &Path) -> Result<()> {
    let damaged = |source: io::Error| Error::input(archive.display(), format!("damaged package: {source}"));
    let (file, metadata) = files::open(archive)?;
    let mut output = Output::new(archive, into, metadata.len());
    // `tar` reads long names and attributes into memory: between entries only so many bytes come through.
    let header = Cell::new(Some(LARGEST_HEADER));
    let unpacked = flate2::read::GzDecoder::new(io::BufReader::new(file));
    let mut tar = tar::Archive::new(Metered { inner: unpacked, left: &header });
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        header.set(None);
        output.count()?;
        unpack_entry(&mut entry, archive, wanted, &mut output)?;
        // What is not wanted is read over here, where its length is that of an entry.
        let unread = io::copy(&mut entry.by_ref().take(output.left + 1), &mut io::sink()).map_err(damaged)?;
        output.spend(unread)?;
        header.set(Some(LARGEST_HEADER));
    }
    Ok(())
}

fn unpack_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    archive: &Path,
    wanted: &dyn Fn(&str) -> bool,
    output: &mut Output<'_>,
) -> Result<()> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() || kind.is_dir() {
        return Ok(());
    }
    let name = checked(archive, &path)?;
    match name.split_once('/') {
        Some((_, name)) if wanted(name) && kind.is_file() => output.write(entry, name),
        Some((_, name)) if wanted(name) => {
            Err(Error::input(archive.display(), format!("entry \"{name}\" is a link, expected a file")))
        }
        _ => Ok(()),
    }
}

/// The name of an entry that stays in its folder.
fn checked(archive: &Path, name: &str) -> Result<String> {
    if name.len() > LONGEST_PATH || name.split('/').count() > DEEPEST {
        let problem = format!("entry {name:?}: the path is longer than {LONGEST_PATH} bytes or {DEEPEST} folders");
        Err(Error::input(archive.display(), problem))
    } else if is_plain(name) {
        Ok(name.to_owned())
    } else {
        Err(Error::input(archive.display(), format!("entry {name:?} leaves the folder; the package is not trusted")))
    }
}

/// What is unpacked, and how much more may be.
struct Output<'a> {
    archive: &'a Path,
    into: &'a Path,
    /// Bytes that may still come.
    left: u64,
    entries: usize,
}

impl<'a> Output<'a> {
    fn new(archive: &'a Path, into: &'a Path, bytes: u64) -> Self {
        Output { archive, into, left: bytes.saturating_mul(LARGEST_RATIO).saturating_add(ALWAYS_ALLOWED), entries: 0 }
    }

    fn fault(&self, problem: String) -> Error {
        Error::input(self.archive.display(), format!("{problem}; the package is not trusted"))
    }

    /// One more entry.
    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        let problem = || self.fault(format!("has more than {MOST_ENTRIES} entries"));
        if self.entries > MOST_ENTRIES { Err(problem()) } else { Ok(()) }
    }

    /// So many more bytes.
    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let most = units::bytes(ALWAYS_ALLOWED);
            self.fault(format!("unpacks to more than {LARGEST_RATIO} times its own size and {most}"))
        })?;
        Ok(())
    }

    /// Writes the file `name`, one byte more than is allowed at most.
    fn write(&mut self, entry: &mut impl Read, name: &str) -> Result<()> {
        let path = self.into.join(name);
        // A name that is taken: twice in the archive, or a file in place of a folder, by the rules of this file system.
        let create = |error: io::Error, path: &Path| match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                self.fault(format!("entry {name:?} lies where another entry does"))
            }
            _ => Error::io(path, "create", error),
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| create(error, folder))?;
        }
        let mut file = File::create_new(&path).map_err(|error| create(error, &path))?;
        let mut entry = Source { inner: entry.take(self.left.saturating_add(1)), failed: false };
        match io::copy(&mut entry, &mut file) {
            Ok(bytes) => self.spend(bytes),
            Err(error) if entry.failed => Err(self.fault(format!("entry {name:?} is damaged: {error}"))),
            Err(error) => Err(Error::io(&path, "write", error)),
        }
    }
}

/// Knows whether it was reading that failed: the archive is damaged, and the disk is not at fault.
struct Source<R> {
    inner: R,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.failed |= read.as_ref().is_err_and(|error| error.kind() != ErrorKind::Interrupted);
        read
    }
}

/// A reader that ends with an error where no more bytes are `left`; `None` is without a limit.
struct Metered<'c, R> {
    inner: R,
    left: &'c Cell<Option<u64>>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let left = left.checked_sub(read as u64).ok_or_else(|| io::Error::other("a header without an end"))?;
            self.left.set(Some(left));
        }
        Ok(read)
    }
}
