//! Who runs this process.

/// Number of the effective user; `None` where the system has none.
pub fn user() -> Option<u32> {
    #[cfg(unix)]
    // SAFETY: the call only returns a number and cannot fail.
    return Some(unsafe { libc::geteuid() });
    #[cfg(not(unix))]
    None
}
