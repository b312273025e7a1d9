//! Mapped files that change while they are read: a page that the file no longer has is answered by SIGBUS, which ends a
//! process without a word. The handler here says which file it was.

#[cfg(unix)]
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::text;

/// Most files that are named at a time; a model in more parts than this ends with a message without a name.
const MOST: usize = 1024;

/// Exit code of a process that the system did not let go on.
#[cfg(unix)]
const REFUSED: i32 = 5;

/// A mapped file. `end` is 0 where the place is free; `begin` and `message` are written before it.
struct Place {
    begin: AtomicUsize,
    end: AtomicUsize,
    message: AtomicPtr<String>,
}

static PLACES: [Place; MOST] = [const {
    Place { begin: AtomicUsize::new(0), end: AtomicUsize::new(0), message: AtomicPtr::new(std::ptr::null_mut()) }
}; MOST];

/// A mapped file that is named when it changes, until this value is dropped.
#[derive(Debug)]
pub struct Watched(Option<usize>);

/// Names the file at `path`, mapped at `bytes`, when it changes.
pub fn watch(path: &std::path::Path, bytes: &[u8]) -> Watched {
    let range = bytes.as_ptr_range();
    for (at, place) in PLACES.iter().enumerate() {
        // 1 marks a place that is being taken: no map ends there.
        if place.end.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            let message = format!(
                "error: {}: the file changed or was cut short while it was read; see what writes to it, and run again\n",
                text::message(&path.display().to_string())
            );
            // Never freed, as the handler may be reading it: a few hundred bytes for each file that is opened.
            place.message.store(Box::into_raw(Box::new(message)), Ordering::Relaxed);
            place.begin.store(range.start as usize, Ordering::Relaxed);
            place.end.store(range.end as usize, Ordering::Release);
            return Watched(Some(at));
        }
    }
    Watched(None)
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(place) = self.0.and_then(|at| PLACES.get(at)) {
            place.end.store(0, Ordering::Release);
        }
    }
}

/// From now on a mapped file that changes ends this process with one line and exit code 5. Elsewhere than on Unix nothing
/// changes.
pub fn explain_changed_files() {
    #[cfg(unix)]
    {
        // SAFETY: all zeros is a valid `sigaction`: an empty mask, no flags, a plain handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = explain as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        // The handler gets the address, and runs on the thread's own second stack where it has one.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `action` is a complete `sigaction` and no old one is asked for; what the handler may do is said there.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    }
}

/// Handles SIGBUS. Only loads atomics, writes and ends, all of which are safe in a signal handler. Elsewhere than in a
/// mapped file it returns: the system's own handling is back (`SA_RESETHAND`), and the access is repeated.
#[cfg(unix)]
extern "C" fn explain(_: libc::c_int, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system hands a handler with SA_SIGINFO a whole `siginfo_t`.
    let address = unsafe { (*information).si_addr() } as usize;
    for place in &PLACES {
        let end = place.end.load(Ordering::Acquire);
        if end > 1 && (place.begin.load(Ordering::Relaxed)..end).contains(&address) {
            // SAFETY: a pointer that `watch` stored is never freed, and its text never changes.
            let message = unsafe { place.message.load(Ordering::Relaxed).as_ref() }.map_or("", String::as_str);
            super::guard::end_with(message, REFUSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a process of its own, which it ends.
    #[test]
    #[cfg(unix)]
    fn a_file_that_is_cut_short_is_named() {
        const CHILD: &str = "BENCH_TEST_OF_A_CHANGED_FILE";
        if let Some(path) = std::env::var_os(CHILD) {
            let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
            // SAFETY: this process alone has the file, and is here to be ended for its change.
            let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
            let _watched = watch(path.as_ref(), &map);
            explain_changed_files();
            file.set_len(0).unwrap();
            std::process::exit(i32::from(std::hint::black_box(&map)[5000]));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a\u{1b}[31m.safetensors");
        std::fs::write(&path, [1; 10_000]).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["machine::changed::tests::a_file_that_is_cut_short_is_named", "--exact", "--nocapture"]);
        let output = child.env(CHILD, &path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{text}");
        assert!(text.contains("a [31m.safetensors: the file changed or was cut short"), "{text}");
    }

    #[test]
    fn places_are_taken_and_given_back() {
        let bytes = [0u8; 64];
        let taken = |watched: &Watched| PLACES[watched.0.unwrap()].end.load(Ordering::Relaxed);
        let first = watch("a/model.safetensors".as_ref(), &bytes);
        assert_eq!(taken(&first), bytes.as_ptr_range().end as usize);
        let at = first.0.unwrap();
        drop(first);
        assert_ne!(PLACES[at].end.load(Ordering::Relaxed), bytes.as_ptr_range().end as usize);
    }
}
