//! Files mapped into memory: read where they lie, copied only when a tensor is asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::{files, machine};

/// A file mapped read-only.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Names the file if it changes while it is read.
    _watched: machine::Watched,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is not a file or is empty.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, metadata) = files::open(path)?;
        if metadata.len() == 0 {
            return Err(Error::input(path.display(), "the file is empty; fetch it again"));
        }
        // SAFETY: the map is private and read-only, and it lives as long as `Mmap`. What the type system cannot rule
        // out is another process that truncates or rewrites the file meanwhile: model files are published once and
        // files in the cache appear by rename and are never rewritten, so the mapped inode does not change. Where one is
        // cut short all the same, the system ends the process and `machine::watch` says why. The bytes are only ever
        // read as `u8`, for which every value is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, "map", source))?;
        Ok(MappedFile { path: path.to_path_buf(), _watched: machine::watch(path, &map), map })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that the pages inside `range` are not needed any more; they are read from the file again if
    /// they are. Only whole pages are dropped. Does nothing where the system has no such call.
    pub(super) fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len());
        #[cfg(unix)]
        {
            let page = page_size();
            let start = range.start.next_multiple_of(page);
            let end = range.end / page * page;
            if start < end {
                // SAFETY: `start..end` lies inside the map (asserted above), starts on a page (a map starts on one) and
                // the map is file-backed, private and never written: dropped pages come back with the same bytes.
                // A refusal only means that the pages stay resident.
                let _ =
                    unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }
}

#[cfg(unix)]
fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(1 << 16)
}
