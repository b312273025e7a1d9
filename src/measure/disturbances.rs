//! Slots during which the machine was not quiet. They are counted and told, never dropped: the bounds are fixed here,
//! before any result is known, and look at nothing that was timed.

use crate::results::{Evidence, Slot};

/// A signal, with the bound above which a slot counts as disturbed.
type Signal = (&'static str, fn(&Slot) -> bool);

const SIGNALS: [Signal; 5] = [
    ("stolen processor time above 1 %", |slot| slot.covariates.steal.is_some_and(|s| s > 0.01)),
    ("other processes above 5 % of the processors", |slot| slot.covariates.others_cpu.is_some_and(|s| s > 0.05)),
    ("waiting for a processor above 5 % of the time", |slot| slot.covariates.cpu_pressure.is_some_and(|s| s > 0.05)),
    ("pages read from disk", |slot| slot.covariates.major_faults.is_some_and(|n| n > 0)),
    ("throttling by a quota", |slot| slot.covariates.throttled.is_some_and(|n| n > 0)),
];

/// One sentence for the report; `None` where nothing disturbed.
pub(super) fn in_words(evidence: &Evidence) -> Option<String> {
    let slots: Vec<&Slot> = evidence.variants.values().flat_map(|v| &v.slots).collect();
    let disturbed = slots.iter().filter(|slot| SIGNALS.iter().any(|(_, over)| over(slot))).count();
    if disturbed == 0 {
        return None;
    }
    let counts: Vec<String> = SIGNALS
        .iter()
        .map(|(name, over)| (name, slots.iter().filter(|slot| over(slot)).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} in {count}"))
        .collect();
    Some(format!("the machine was not quiet in {disturbed} of {} slots: {}", slots.len(), counts.join(", ")))
}
