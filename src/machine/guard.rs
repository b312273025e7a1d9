//! Calls into libraries that read untrusted data: a panic becomes an error, and a call that takes too much memory or time
//! ends the process with one line.
//!
//! A panic is caught. An allocation that fails is not a panic: Rust aborts, and so it does when a stack overflows. So
//! around the call the address space is limited to what honest data needs, a timer counts the processor's time, and the
//! signals of both (SIGABRT, SIGVTALRM) are answered by a line that was prepared before, and exit code 2: that is complete
//! for whatever a library does with memory and time, where checks of its input could only cover what they know of. The
//! process ends without clean-up, as if it were killed, which everything else here is made for. What Rust itself prints
//! before an abort (with `RUST_BACKTRACE` pages of it) goes nowhere meanwhile.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Address space beyond what the process has, in bytes.
    pub bytes: u64,
    /// Processor time of the process, in seconds.
    pub seconds: u64,
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside [`guarded`]: its panics become errors, and nothing is printed for them.
pub fn panics_are_caught() -> bool {
    CAUGHT.get()
}

/// Runs `call`, whose panic becomes its message. What takes more than `allowance` ends the process with
/// `error: PLACE: ...` and exit code 2 where [`enforce_allowances`] was called; tests, whose threads share one process, do not.
///
/// # Errors
/// The message of a panic.
pub fn guarded<T>(place: &str, allowance: Allowance, call: impl FnOnce() -> T) -> Result<T, String> {
    let _limits = limits::set(place, allowance);
    let outer = CAUGHT.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(outer);
    outcome.map_err(|panic| reason(&*panic))
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

#[cfg(unix)]
pub(super) use limits::end_with;
#[cfg(unix)]
pub use limits::{enforce_allowances, explain_aborts};

/// From now on [`guarded`] enforces its allowance. Elsewhere than on Unix it only catches panics.
#[cfg(not(unix))]
pub fn enforce_allowances() {}

/// From now on an abort ends the process with exit code 5. Elsewhere than on Unix nothing changes.
#[cfg(not(unix))]
pub fn explain_aborts() {}

#[cfg(not(unix))]
mod limits {
    pub(super) fn set(_: &str, _: super::Allowance) {}
}

#[cfg(unix)]
mod limits {
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::ptr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

    use super::Allowance;
    use crate::{text, units};

    /// Exit code of a fault of input.
    const FAULTY_INPUT: i32 = 2;
    /// Exit code of a process that the system did not let go on.
    const REFUSED: i32 = 5;
    const ABORTED: &str =
        "error: memory ran out, or the program failed; close other programs or take a larger machine\n";

    static ENFORCED: AtomicBool = AtomicBool::new(false);
    /// The limits are those of the process, so one call has them at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    /// What the handler writes.
    static MEMORY: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());
    static TIME: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());
    /// Where it writes to.
    static ERRORS: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

    /// From now on an abort, be it for a failed allocation, ends the process with a line and exit code 5. A worker is better
    /// without: the signal tells its parent more.
    pub fn explain_aborts() {
        handle(libc::SIGABRT, answer_own_abort);
    }

    /// From now on `guarded` enforces its allowance.
    pub fn enforce_allowances() {
        ENFORCED.store(true, Ordering::Relaxed);
    }

    /// Limits that hold until this value is dropped.
    pub(super) struct Limits {
        address_space: Option<libc::rlimit>,
        handlers: [(libc::c_int, libc::sigaction); 2],
        _quiet: Option<Quiet>,
        _alone: std::sync::MutexGuard<'static, ()>,
    }

    pub(super) fn set(place: &str, allowance: Allowance) -> Option<Limits> {
        if !ENFORCED.load(Ordering::Relaxed) {
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().ok()?;
        let takes = |what: String| {
            format!("error: {}: takes more than {what}; it is damaged or hostile\n", text::message(place))
        };
        replace(&MEMORY, takes(format!("{} of memory", units::bytes(allowance.bytes))));
        replace(&TIME, takes(format!("{} s of processor time", allowance.seconds)));
        let address_space = limit_address_space(allowance.bytes);
        // Where the limit is not this one, the input is not at fault.
        let on_abort = if address_space.is_some() { answer_abort } else { answer_own_abort };
        let handlers = [handle(libc::SIGABRT, on_abort), handle(libc::SIGVTALRM, answer_timer)];
        start_timer(allowance.seconds);
        Some(Limits { address_space, handlers, _quiet: Quiet::new(), _alone: alone })
    }

    impl Drop for Limits {
        fn drop(&mut self) {
            start_timer(0);
            for (signal, old) in &self.handlers {
                // SAFETY: `old` is what the system gave for this signal.
                unsafe { libc::sigaction(*signal, old, ptr::null_mut()) };
            }
            if let Some(old) = &self.address_space {
                // SAFETY: the pointer is to a whole `rlimit`, which the call only reads.
                unsafe { libc::setrlimit(libc::RLIMIT_AS, old) };
            }
        }
    }

    /// Standard error leads nowhere, but for the handlers, until this value is dropped.
    struct Quiet(OwnedFd);

    impl Quiet {
        fn new() -> Option<Quiet> {
            let nowhere = File::options().write(true).open("/dev/null").ok()?;
            // SAFETY: duplicates a descriptor, or fails; no memory is touched.
            let kept = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
            if kept < 0 {
                return None;
            }
            // SAFETY: the descriptor was made above and belongs to nobody else.
            let kept = unsafe { OwnedFd::from_raw_fd(kept) };
            ERRORS.store(kept.as_raw_fd(), Ordering::Relaxed);
            // SAFETY: replaces what descriptor 2 leads to; both descriptors are open.
            unsafe { libc::dup2(nowhere.as_raw_fd(), libc::STDERR_FILENO) };
            Some(Quiet(kept))
        }
    }

    impl Drop for Quiet {
        fn drop(&mut self) {
            // SAFETY: as in `new`.
            unsafe { libc::dup2(self.0.as_raw_fd(), libc::STDERR_FILENO) };
            ERRORS.store(libc::STDERR_FILENO, Ordering::Relaxed);
        }
    }

    /// Frees the message before: no handler that reads it is installed now.
    fn replace(place: &AtomicPtr<String>, message: String) {
        let old = place.swap(Box::into_raw(Box::new(message)), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: the pointer came from `Box::into_raw` here, and was swapped out, so nobody else frees it.
            drop(unsafe { Box::from_raw(old) });
        }
    }

    fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> (libc::c_int, libc::sigaction) {
        // SAFETY: all zeros is a valid `sigaction`: an empty mask, no flags, a plain handler.
        let (mut action, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // A stack that overflowed has no room for the handler.
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: both pointers are to whole `sigaction`s; the handlers only load an atomic, write and end.
        unsafe { libc::sigaction(signal, &raw const action, &raw mut old) };
        (signal, old)
    }

    extern "C" fn answer_abort(_: libc::c_int) {
        // SAFETY: the message lives until the next `replace`, which never runs beside a handler.
        end_with(unsafe { MEMORY.load(Ordering::Acquire).as_ref() }.map_or("", String::as_str), FAULTY_INPUT);
    }

    extern "C" fn answer_own_abort(_: libc::c_int) {
        end_with(ABORTED, REFUSED);
    }

    extern "C" fn answer_timer(_: libc::c_int) {
        // SAFETY: as in `answer_abort`.
        end_with(unsafe { TIME.load(Ordering::Acquire).as_ref() }.map_or("", String::as_str), FAULTY_INPUT);
    }

    /// Writes to standard error and ends the process at once; safe in a signal handler.
    pub(in crate::machine) fn end_with(message: &str, code: i32) -> ! {
        // SAFETY: the pointer and the length are those of a text; a failed write changes nothing.
        unsafe { libc::write(ERRORS.load(Ordering::Relaxed), message.as_ptr().cast(), message.len()) };
        // SAFETY: ends the process without running any of its code.
        unsafe { libc::_exit(code) }
    }

    /// Counts the processor's time of this process; 0 stops.
    fn start_timer(seconds: u64) {
        // SAFETY: all zeros is a valid `itimerval`: a timer that is off.
        let mut timer: libc::itimerval = unsafe { std::mem::zeroed() };
        timer.it_value.tv_sec = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
        // SAFETY: the pointer is to a whole `itimerval`, which the call only reads, and no old one is asked for.
        unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, ptr::null_mut()) };
    }

    /// Limits the address space to `bytes` more than now and returns the limit before; `None` where the system does not
    /// say how much that is, or has a stricter limit.
    fn limit_address_space(bytes: u64) -> Option<libc::rlimit> {
        let now = super::super::own_status("VmSize")?;
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a whole `rlimit`, which the call only writes.
        if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut old) } != 0 || old.rlim_cur <= now.saturating_add(bytes) {
            return None;
        }
        let new = libc::rlimit { rlim_cur: now + bytes, ..old };
        // SAFETY: the pointer is to a whole `rlimit`, which the call only reads.
        (unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const new) } == 0).then_some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        let allowance = Allowance { bytes: 1 << 30, seconds: 60 };
        assert_eq!(guarded("x", allowance, || 7), Ok(7));
        assert_eq!(guarded::<()>("x", allowance, || panic!("no {}", 1)), Err("no 1".into()));
        assert!(!panics_are_caught());
    }
}
