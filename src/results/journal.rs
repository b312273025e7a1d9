//! `journal.jsonl`: one event a line, flushed to disk before the next step of the run begins.
//!
//! The file is locked while a run writes it, so that two processes never write one run. A process that is killed
//! while writing leaves a last line without its newline: that line is dropped, and the reader is told. Any other
//! damage is an error, because it means that somebody or something changed the record.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::event::Event;
use crate::error::{Error, Result};
use crate::files;

/// The journal's name in a run folder.
pub const JOURNAL: &str = "journal.jsonl";

/// A journal open for appending, locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Complete lines, in order.
    pub events: Vec<Event>,
    /// Bytes of a last line that was cut off while it was written; 0 for a whole journal.
    pub cut_off_bytes: usize,
}

impl Journal {
    /// Starts a new journal in `folder`.
    ///
    /// # Errors
    /// When there is one already, or it cannot be created.
    pub fn create(folder: &Path) -> Result<Journal> {
        let path = folder.join(JOURNAL);
        let file =
            OpenOptions::new().append(true).create_new(true).open(&path).map_err(|e| Error::io(&path, "create", e))?;
        lock(&file, &path)?;
        Ok(Journal { path, file })
    }

    /// Opens the journal in `folder` to go on with it; a line that was cut off is removed from the file.
    ///
    /// # Errors
    /// When another process writes it, or it is missing or damaged.
    pub fn resume(folder: &Path) -> Result<(Journal, Recorded)> {
        let path = folder.join(JOURNAL);
        let mut file =
            OpenOptions::new().read(true).append(true).open(&path).map_err(|e| Error::io(&path, "open", e))?;
        lock(&file, &path)?;
        let recorded = read_journal(folder)?;
        if recorded.cut_off_bytes > 0 {
            let end = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(&path, "read", e))?;
            file.set_len(end - recorded.cut_off_bytes as u64).map_err(|e| Error::io(&path, "shorten", e))?;
        }
        Ok((Journal { path, file }, recorded))
    }

    /// Appends one event and flushes it to disk.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)
            .map_err(|e| Error::input(self.path.display(), format!("cannot write an event as JSON: {e}")))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::io(&self.path, "append to", e))?;
        self.file.sync_data().map_err(|e| Error::io(&self.path, "flush", e))
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::input(path.display(), "another process is writing this run; wait for it to end, or stop it"))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(path, "lock", e)),
    }
}

/// Reads the journal of a run folder; works while a run writes it.
///
/// # Errors
/// When it is missing, or damaged anywhere but in a last line without newline.
pub fn read_journal(folder: &Path) -> Result<Recorded> {
    let path = folder.join(JOURNAL);
    if !path.exists() {
        return Err(Error::input(
            folder.display(),
            format!("has no {JOURNAL}, so it is no run folder; give the folder that `bench run` printed"),
        ));
    }
    let bytes = files::read(&path, files::limit::RESULTS)?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut events = Vec::new();
    for (number, line) in bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate() {
        let event = serde_json::from_slice(line).map_err(|e| {
            Error::input(
                format!("{}:{}", path.display(), number + 1),
                format!(
                    "is no event of this program ({e}); the journal was changed or damaged: restore it or run again"
                ),
            )
        })?;
        events.push(event);
    }
    Ok(Recorded { events, cut_off_bytes: bytes.len() - whole })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn warning(text: &str) -> Event {
        Event::Warning { text: text.into() }
    }

    fn journal_of(texts: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(folder.path()).unwrap();
        for text in texts {
            journal.append(&warning(text)).unwrap();
        }
        folder
    }

    fn cut(folder: &Path, bytes: u64) {
        let file = OpenOptions::new().write(true).open(folder.join(JOURNAL)).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    #[test]
    fn events_come_back_in_order() {
        let folder = journal_of(&["one", "two\nlines", "three"]);
        let recorded = read_journal(folder.path()).unwrap();
        assert_eq!(recorded.events, [warning("one"), warning("two\nlines"), warning("three")]);
        assert_eq!(recorded.cut_off_bytes, 0);
    }

    #[test]
    fn a_line_cut_off_anywhere_is_dropped_and_writing_goes_on_behind_the_last_whole_one() {
        let line = serde_json::to_vec(&warning("two")).unwrap().len() as u64 + 1;
        for missing in 1..line {
            let folder = journal_of(&["one", "two"]);
            cut(folder.path(), missing);
            let (mut journal, recorded) = Journal::resume(folder.path()).unwrap();
            assert_eq!(recorded.events, [warning("one")]);
            assert_eq!(recorded.cut_off_bytes as u64, line - missing);
            journal.append(&warning("three")).unwrap();
            assert_eq!(read_journal(folder.path()).unwrap().events, [warning("one"), warning("three")]);
        }
    }

    #[test]
    fn damage_elsewhere_is_an_error_with_its_line() {
        let folder = journal_of(&["one", "two", "three"]);
        let path = folder.path().join(JOURNAL);
        let damaged = fs::read_to_string(&path).unwrap().replace("\"two\"", "\"tw");
        fs::write(&path, damaged).unwrap();
        let error = read_journal(folder.path()).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:2:"), "{error}");
        assert!(Journal::resume(folder.path()).is_err());
    }

    #[test]
    fn two_writers_are_refused_and_a_run_is_not_overwritten() {
        let folder = journal_of(&["one"]);
        let (_held, _) = Journal::resume(folder.path()).unwrap();
        let error = Journal::resume(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        assert!(Journal::create(folder.path()).is_err());
    }

    #[test]
    fn a_folder_without_journal_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_journal(folder.path()).unwrap_err().to_string().contains("no run folder"));
    }
}
