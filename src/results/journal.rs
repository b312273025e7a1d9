//! `journal.jsonl`: one event a line, flushed to disk before the next step of the run begins.
//!
//! The file is locked while a run writes it, so that two processes never write one run. A process that is killed
//! while writing leaves a last line without its newline: that line is dropped, and the reader is told. Any other
//! damage is an error, because it means that somebody or something changed the record: each line ends in a checksum over
//! itself and the line before it, so that changed, doubled, moved and missing lines are found. What a line says must
//! also fit the run's plan (`plausible`).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::event::Event;
use super::run::SCHEMA_VERSION;
use crate::error::{Error, Result};
use crate::files;
use crate::machine::crash_point;

/// The journal's name in a run folder.
pub const JOURNAL: &str = "journal.jsonl";

/// What stands between a line's event and its checksum, and behind it.
const CHECK: &[u8] = b",\"check\":\"";
const CHECK_END: &[u8] = b"\"}\n";

/// Hexadecimal digits of a checksum: the first 64 bits of SHA-256.
const CHECK_DIGITS: usize = 16;

/// A journal open for appending, locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Checksum of the last line; empty before the first.
    last: String,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Complete lines, in order.
    pub events: Vec<Event>,
    /// Bytes of a last line that was cut off while it was written; 0 for a whole journal.
    pub cut_off_bytes: usize,
    /// Checksum of the last complete line.
    last: String,
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
        Ok(Journal { path, file, last: String::new() })
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
        let last = recorded.last.clone();
        Ok((Journal { path, file, last }, recorded))
    }

    /// Appends one event and flushes it to disk.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)
            .map_err(|e| Error::input(self.path.display(), format!("cannot write an event as JSON: {e}")))?;
        let check = checksum(&self.last, &line);
        line.pop();
        line.extend([CHECK, check.as_bytes(), CHECK_END].concat());
        crash_point("journal-before");
        self.file.write_all(&line).map_err(|e| Error::io(&self.path, "append to", e))?;
        self.file.sync_data().map_err(|e| Error::io(&self.path, "flush", e))?;
        self.last = check;
        crash_point("journal-after");
        Ok(())
    }
}

/// Checksum of an event's JSON behind a line with the checksum `last`.
fn checksum(last: &str, event: &[u8]) -> String {
    let digest = Sha256::new().chain_update(last).chain_update(event).finalize();
    digest[..CHECK_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line's event as JSON, and its checksum; `None` where it has none.
fn parts(line: &[u8]) -> Option<(Vec<u8>, &str)> {
    let rest = line.strip_suffix(CHECK_END)?;
    let (rest, check) = rest.split_at_checked(rest.len().checked_sub(CHECK_DIGITS)?)?;
    let event = rest.strip_suffix(CHECK)?;
    Some(([event, b"}"].concat(), std::str::from_utf8(check).ok()?))
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
    let (mut events, mut last) = (Vec::new(), String::new());
    for (number, line) in bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate() {
        let damaged = |what: String| {
            let remedy = "the journal was changed or damaged: restore it or run again";
            Error::input(format!("{}:{}", path.display(), number + 1), format!("{what}; {remedy}"))
        };
        if number == 0 {
            refuse_another_schema(line)?;
        }
        let Some((event, check)) = parts(line) else {
            return Err(damaged("expected a line of this program, which ends in its checksum".into()));
        };
        let expected = checksum(&last, &event);
        if check != expected {
            return Err(damaged(format!("its checksum is {check}, its text and the line before it give {expected}")));
        }
        events.push(serde_json::from_slice(&event).map_err(|e| damaged(format!("is no event of this program ({e})")))?);
        last = expected;
    }
    Ok(Recorded { events, cut_off_bytes: bytes.len() - whole, last })
}

/// A journal of another schema is named as such, before its lines are looked at.
fn refuse_another_schema(line: &[u8]) -> Result<()> {
    let schema = serde_json::from_slice::<serde_json::Value>(line).ok().and_then(|e| e["schema_version"].as_u64());
    match schema {
        Some(schema) if schema != u64::from(SCHEMA_VERSION) => Err(Error::NotComparable(format!(
            "journal has schema {schema}, this program reads {SCHEMA_VERSION}; use the version of bench that measured it, \
             or run again"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
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
        let json = serde_json::to_vec(&warning("two")).unwrap();
        let line = (json.len() - 1 + CHECK.len() + CHECK_DIGITS + CHECK_END.len()) as u64;
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
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let swapped = [lines[0], lines[2], lines[1]];
        let doubled = [lines[0], lines[1], lines[1], lines[2]];
        let cases: [(String, usize); 6] = [
            (whole.replace("\"two\"", "\"tw"), 2),
            (whole.replace("two", "too"), 2),
            (swapped.join("\n") + "\n", 2),
            (doubled.join("\n") + "\n", 3),
            ([lines[0], lines[2]].join("\n") + "\n", 2),
            (whole.replacen(",\"check\"", " ,\"check\"", 1), 1),
        ];
        for (text, line) in cases {
            std::fs::write(&path, &text).unwrap();
            let error = read_journal(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("journal.jsonl:{line}:")), "{error}");
            assert!(Journal::resume(folder.path()).is_err());
        }
    }

    #[test]
    fn every_changed_bit_is_found() {
        let folder = journal_of(&["one", "two"]);
        let path = folder.path().join(JOURNAL);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(read_journal(folder.path()).is_err(), "{at}");
        }
    }

    #[test]
    fn a_journal_of_another_schema_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(JOURNAL), "{\"event\":\"started\",\"schema_version\":1}\n").unwrap();
        let error = read_journal(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("schema 1, this program reads 2"), "{error}");
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
