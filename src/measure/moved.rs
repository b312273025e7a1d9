//! Keeps the slots of a block comparable where the machine moves its processors.
//!
//! A hypervisor places the processors of a guest on neighbouring cores, on cores that share no cache, or on one core, and
//! changes that every few seconds without telling; a model then runs a third faster or slower for as long as it lasts. Before
//! and after each slot its threads hand empty work to each other, and the time that this takes tells the places apart. Slots
//! of other places than the last one's are set aside and measured again, in their order, until the block was measured in one
//! place, a few times at most. This looks at nothing that was timed.

use std::collections::BTreeMap;

use super::Session;
use crate::error::Result;
use crate::results::{Event, Slot};

/// How often slots of one block are measured again at most.
pub(super) const MOST_ROUNDS: usize = 4;

impl Session<'_> {
    /// Measures the slots that a block lacks, and again those whose threads were moved.
    pub(super) fn measure_block(&mut self, block: usize, blocks: usize) -> Result<()> {
        let mut handover_s = BTreeMap::new();
        for round in 0..=MOST_ROUNDS {
            for place in self.missing(block) {
                // Its variant may have failed earlier in this block.
                if !self.has_failed(&place.variant, "time")
                    && let Some(last) = self.measure_slot(&place, blocks)?
                {
                    handover_s.insert(place.threads, last);
                }
            }
            let moved = self.moved(block, &handover_s);
            if round == MOST_ROUNDS || moved.is_empty() || self.evidence.moved + moved.len() > self.slots() {
                break;
            }
            self.progress.note(&format!("threads were moved to other cores: {} slots are measured again", moved.len()));
            moved.into_iter().try_for_each(|event| self.record(event))?;
            self.expect_slots(block);
        }
        Ok(())
    }

    /// The events that set aside slots of a block that ran elsewhere than the last one with as many threads, which handed
    /// over in `handover_s`.
    fn moved(&self, block: usize, handover_s: &BTreeMap<usize, f64>) -> Vec<Event> {
        let moved = self.evidence.slots_of(block).filter(|slot| {
            let last = handover_s.get(&slot.threads);
            last.is_some_and(|last| slot.covariates.moved_from(*last) == Some(true))
        });
        let event = |slot: &Slot| Event::Moved {
            variant: slot.variant.clone(),
            control: slot.control,
            block,
            batch: slot.batch,
            threads: slot.threads,
        };
        moved.map(event).collect()
    }

    fn slots(&self) -> usize {
        self.evidence.variants.values().map(|variant| variant.slots.len()).sum()
    }
}
