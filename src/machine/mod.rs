//! The machine: fingerprint, instruction sets, what could disturb timing, state during a slot.

mod record;

pub use record::{Covariates, MachineRecord};

/// Reads what this machine tells about itself.
pub fn describe() -> MachineRecord {
    todo!("machine")
}

/// Largest resident set of this process so far (VmHWM), in bytes.
pub fn peak_rss() -> Option<u64> {
    todo!("machine")
}

/// Resident set of this process now (VmRSS), in bytes.
pub fn current_rss() -> Option<u64> {
    todo!("machine")
}
