//! Signals that the machine was disturbed during a slot. Their limits are fixed here, before any result is known, and
//! they look at nothing that was timed, so that a block may be measured again for them without bending any result.
//!
//! Limits of shares leave room for the kernel's clock ticks of 10 ms, of which a short slot has few.

use super::event::Slot;
use crate::machine::Covariates;

/// A signal with its limit.
#[derive(Debug, Clone, Copy)]
pub struct Signal {
    /// What is seen, with the limit.
    pub what: &'static str,
    seen: fn(&Covariates) -> Option<bool>,
}

impl Signal {
    /// Whether the signal is beyond its limit; `None` where the machine does not tell it.
    pub fn seen(&self, slot: &Slot) -> Option<bool> {
        (self.seen)(&slot.covariates)
    }
}

/// All signals.
pub const SIGNALS: [Signal; 8] = [
    Signal { what: "processor time stolen by the hypervisor above 5 %", seen: |c| Some(c.steal? > 0.05) },
    Signal { what: "processor time used by others above 15 %", seen: |c| Some(c.others_cpu? > 0.15) },
    Signal { what: "runnable tasks waiting above 30 % of the time", seen: |c| Some(c.cpu_pressure? > 0.3) },
    Signal { what: "tasks waiting for memory above 5 % of the time", seen: |c| Some(c.memory_pressure? > 0.05) },
    Signal { what: "major page faults while timing", seen: |c| Some(c.major_faults? > 0) },
    Signal { what: "pages swapped", seen: |c| Some(c.swapped_pages? > 0) },
    Signal { what: "throttling by a quota", seen: |c| Some(c.throttled? > 0) },
    Signal { what: "throttling by heat", seen: |c| Some(c.thermal_throttles? > 0) },
];

/// The signals beyond their limits in any of these slots, in words; `None` where there are none.
pub fn disturbance<'s>(slots: impl Iterator<Item = &'s Slot>) -> Option<String> {
    let slots: Vec<&Slot> = slots.collect();
    let seen = SIGNALS.iter().filter(|signal| slots.iter().any(|slot| signal.seen(slot) == Some(true)));
    let words: Vec<&str> = seen.map(|signal| signal.what).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
