//! Requests to end: the first one ends the worker in flight and asks for a clean end, the second one ends the program at once.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Processes that end with the first request; 0 where there is none. Two run at once at most, when two builds are compared.
static WORKERS: [AtomicI32; 4] = [const { AtomicI32::new(0) }; 4];

/// Whether the program was asked to end since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// From now on the first interrupt (SIGINT), request to end (SIGTERM) or loss of the terminal (SIGHUP, unless it is ignored
/// as under `nohup`) ends the workers and is noted; the second one ends this process. A child started later has the
/// system's own behaviour: it ends. Elsewhere than on Unix nothing changes.
pub fn catch_interrupts() {
    #[cfg(unix)]
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeros is a valid `sigaction`: an empty mask, no flags, the default handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: no new action is given, and `action` is a whole `sigaction` to write the present one to.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        if signal == libc::SIGHUP && action.sa_sigaction == libc::SIG_IGN {
            continue;
        }
        // SAFETY: as above.
        action = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // Restart reads, so that waiting for a worker goes on.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: `action` is a complete `sigaction` and no old one is asked for; the handler calls only what a signal
        // handler may call: atomics, `kill`, `signal` and `raise`.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

#[cfg(unix)]
extern "C" fn note(signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        // SAFETY: both calls are allowed in a signal handler. The signal is held back until the handler returns, and then
        // ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    for worker in &WORKERS {
        end(worker.load(Ordering::SeqCst));
    }
}

/// Asks a process to end.
#[cfg(unix)]
fn end(process: i32) {
    if process > 0 {
        // SAFETY: `kill` takes two numbers and may be called in a signal handler. The process is a child that was not waited
        // for yet, so the number is still its own, and the call cannot fail, which would change `errno`.
        unsafe { libc::kill(process, libc::SIGTERM) };
    }
}

#[cfg(not(unix))]
fn end(_: i32) {}

/// A worker that ends with the first request to end, for as long as this lives. It must be dropped before the worker is waited for.
#[derive(Debug)]
pub struct EndsWithUs(Option<usize>);

impl EndsWithUs {
    /// Takes note of a child.
    pub fn child(id: u32) -> EndsWithUs {
        let process = i32::try_from(id).unwrap_or(0);
        let free = |place: &AtomicI32| place.compare_exchange(0, process, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let place = WORKERS.iter().position(free);
        // The request may have come between the start of the child and this note.
        if interrupted() {
            end(process);
        }
        EndsWithUs(place)
    }
}

impl Drop for EndsWithUs {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            WORKERS[place].store(0, Ordering::SeqCst);
        }
    }
}
