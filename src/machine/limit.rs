//! A limit of this process's memory.

use crate::error::{Error, Result};

/// Limits the address space of this process to `bytes` from now on: what is allocated beyond fails (`RLIMIT_AS`).
///
/// # Errors
/// Where the system has no such limit, or refuses it.
#[cfg(unix)]
pub fn limit_memory(bytes: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the pointer is to a whole `rlimit`, which the call only reads.
    let code = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    let refused = || format!("cannot limit the memory: {}", std::io::Error::last_os_error());
    if code == 0 { Ok(()) } else { Err(Error::Measurement(refused())) }
}

/// Limits the address space of this process.
///
/// # Errors
/// Always: this system has no such limit.
#[cfg(not(unix))]
pub fn limit_memory(_: u64) -> Result<()> {
    Err(Error::Measurement("this system has no limit of a process's memory".into()))
}
