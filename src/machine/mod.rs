//! The machine: fingerprint, instruction sets, what could disturb timing, state during a slot.
//!
//! Everything is optional: a cloud machine tells little, another operating system less. What is not told is absent.

mod affinity;
mod changed;
mod crash;
mod describe;
mod guard;
mod interrupt;
mod limit;
mod pace;
mod probe;
mod proc;
mod record;
mod timer;
mod user;

pub use affinity::pin;
pub use changed::{Watched, explain_changed_files, watch};
pub use crash::{CRASH_AT, crash_point};
pub use describe::describe;
pub use guard::{Allowance, enforce_allowances, explain_aborts, guarded, panics_are_caught};
pub use interrupt::{EndsWithUs, catch_interrupts, interrupted};
pub use limit::limit_memory;
pub use pace::Pace;
pub use probe::Probe;
pub use record::{Covariates, MachineRecord, Timer};
pub use user::user;

/// Name of the environment variable that lengthens timed phases by a share, to test what finds slowdowns.
pub const SLOWDOWN: &str = "BENCH_SLOWDOWN";

/// Processors that this process may use: its affinity, bounded by a control group's quota.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Largest resident set of this process so far (VmHWM), in bytes; `None` where the kernel does not tell.
pub fn peak_rss() -> Option<u64> {
    own_status("VmHWM")
}

/// Resident set of this process now (VmRSS), in bytes; `None` where the kernel does not tell.
pub fn current_rss() -> Option<u64> {
    own_status("VmRSS")
}

fn own_status(name: &str) -> Option<u64> {
    proc::status_bytes(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn resident_sets_grow_with_use() {
        let before = peak_rss().unwrap();
        let block = vec![1u8; 64 << 20];
        let after = peak_rss().unwrap();
        assert!(std::hint::black_box(&block).iter().all(|b| *b == 1));
        assert!(after >= before && after > 64 << 20, "{before} {after}");
        assert!(current_rss().unwrap() <= peak_rss().unwrap());
    }

    #[test]
    fn a_process_has_a_processor() {
        assert!(cores() >= 1);
    }
}
