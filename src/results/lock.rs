//! Work that several processes share: one does it, the others wait and say for whom.
//!
//! A lock is an advisory lock on a file, which the system gives back when its process ends, however it ends: there are no stale
//! locks. The file says who holds it. Whoever is done removes the file, so a process that gets the lock looks whether the file
//! is still the one at its path, and begins again if it is not.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::whole::{create_folder, folder_of};
use crate::error::{Error, Result};
use crate::{files, units};

/// Between two looks at a lock that another process holds.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Between two notes that another process is waited for.
const NOTE_EVERY: Duration = Duration::from_secs(20);

/// Waiting that is not worth a note.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// Holder of a lock, as its file says.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    process: u32,
    host: String,
    since_unix_s: f64,
}

/// A lock that this process holds until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock on the file at `path`, which is made with its folder, and waits while another process holds it. From
    /// time to time `waiting` is told whom for. `None` where the file system has no locks: then nothing keeps others away.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn take(path: &Path, what: &str, waiting: &mut dyn FnMut(&str)) -> Result<Option<Lock>> {
        let began = Instant::now();
        let mut next_note = NOTE_AFTER;
        loop {
            create_folder(folder_of(path))?;
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(false).open(path);
            let mut file = match opened {
                Ok(file) => file,
                // Its last holder has just removed the folder.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(path, "create", e)),
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => {
                    write_owner(&mut file);
                    return Ok(Some(Lock { file, path: path.to_path_buf() }));
                }
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(_)) => return Ok(None),
            }
            if began.elapsed() >= next_note {
                next_note += NOTE_EVERY;
                waiting(&format!("waiting for {what} {}", by(path, began.elapsed())));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// As [`Lock::take`], but `None` too where another process holds it.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn take_at_once(path: &Path) -> Result<Option<Lock>> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|e| Error::io(path, "open", e))?;
        let taken = file.try_lock().is_ok() && is_at(&file, path);
        Ok(taken.then(|| Lock { file, path: path.to_path_buf() }))
    }
}

impl Drop for Lock {
    /// Removes the file, if it is still at its path: as long as it is, nobody else can have made another there.
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // What cannot be removed is taken again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_owner(file: &mut File) {
    let since_unix_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let host = sysinfo::System::host_name().unwrap_or_default();
    let owner = Owner { process: std::process::id(), host, since_unix_s };
    // For people; the lock holds without it.
    let _ = serde_json::to_vec(&owner).map(|json| {
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&json)).and_then(|()| file.flush())
    });
}

/// `by process 123 on host, for 20 s`.
fn by(path: &Path, waited: Duration) -> String {
    let owner: Option<Owner> = files::read(path, 1 << 16).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let waited = units::seconds(waited.as_secs_f64());
    match owner {
        Some(owner) => format!("by process {} on {}, for {waited}", owner.process, owner.host),
        None => format!("by another process, for {waited}"),
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(id).is_some_and(|own| fs::metadata(path).ok().map(id) == Some(own))
}

/// Where files that are open cannot be removed, it does.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_and_the_next_gets_it_when_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("folder/lock");
        let first = Lock::take(&path, "it", &mut |_| panic!("nobody is waited for")).unwrap().unwrap();
        assert!(by(&path, Duration::ZERO).contains(&format!("process {}", std::process::id())));
        let second = {
            let path = path.clone();
            thread::spawn(move || Lock::take(&path, "it", &mut |_| ()).unwrap().unwrap())
        };
        // The second waits on a file that is removed with its folder, and makes another.
        fs::remove_dir_all(root.path().join("folder")).unwrap();
        drop(first);
        let second = second.join().unwrap();
        assert!(path.exists());
        assert!(Lock::take_at_once(&path).unwrap().is_none());
        drop(second);
        assert!(!path.exists());
    }
}
