//! The timing stage: blocks of slots in random order.
//!
//! The number of blocks is fixed before any result is looked at: the suite's largest, or under a budget as many as
//! fit by the duration of the first block, at least the suite's fewest. Stopping when a result looks good would turn
//! five percent of false accepts into about 24.

use std::time::Duration;

use super::Session;
use super::blocks::{self, Place};
use super::disturbances;
use crate::error::{Error, Result};
use crate::results::{Event, Slot};
use crate::worker::TimeJob;

impl Session<'_> {
    /// Times every built variant in blocks; `budget` is for the whole run.
    ///
    /// # Errors
    /// When the journal cannot be written, or the user interrupts.
    pub fn time(&mut self, budget: Option<Duration>) -> Result<()> {
        let began = self.workers.elapsed_s();
        if self.evidence.planned_blocks.is_none() {
            self.plan(budget)?;
        }
        let blocks = self.evidence.planned_blocks.unwrap_or(0);
        let left: usize = (0..blocks).map(|b| self.missing(b).len()).sum();
        self.progress.expect("time", left);
        for block in 0..blocks {
            self.measure_block(block, blocks)?;
        }
        if let Some(text) = disturbances::in_words(&self.evidence) {
            self.warn(&text)?;
        }
        self.record_stage("time", self.workers.elapsed_s() - began)
    }

    /// Fixes the number of blocks; under a budget the first block is measured for that.
    fn plan(&mut self, budget: Option<Duration>) -> Result<()> {
        let (fewest, most) = self.inputs.suite.workload.blocks;
        let blocks = match budget {
            None => most.max(fewest),
            Some(budget) => {
                self.progress.expect("time", self.missing(0).len());
                self.measure_block(0, fewest)?;
                let block_s: f64 = self.evidence.variants.values().flat_map(|v| &v.slots).map(|slot| slot.wall_s).sum();
                let left_s = budget.as_secs_f64() - self.workers.elapsed_s();
                blocks::blocks_in_budget((fewest, most), block_s, left_s)
            }
        };
        self.record(Event::Planned { blocks })
    }

    fn measure_block(&mut self, block: usize, blocks: usize) -> Result<()> {
        for place in self.missing(block) {
            // Its variant may have failed earlier in this block.
            if !self.has_failed(&place.variant, "time") {
                self.measure_slot(&place, blocks)?;
            }
        }
        Ok(())
    }

    /// Places of a block that are to be measured: built, never failed, not in the journal.
    fn missing(&self, block: usize) -> Vec<Place> {
        let mut places = blocks::block(&self.inputs.suite, block);
        places.retain(|place| {
            self.artefact(&place.variant).is_some()
                && !self.has_failed(&place.variant, "time")
                && self.found(&place.variant).is_some_and(|found| !found.slots.iter().any(|slot| is_at(slot, place)))
        });
        places
    }

    fn measure_slot(&mut self, place: &Place, blocks: usize) -> Result<()> {
        let Some(artefact) = self.artefact(&place.variant) else { return Ok(()) };
        let workload = &self.inputs.suite.workload;
        let job = TimeJob {
            artefact,
            kv_cache: self.kv_cache(&place.variant),
            prompts: self.token_files().prompts(),
            batch: place.batch,
            threads: place.threads,
            generate: workload.generate,
            iterations: workload.iterations,
            profile: place.block == 0 && !place.control,
        };
        let label = in_words(place, blocks);
        self.progress.step("time", &label);
        let began = self.workers.elapsed_s();
        let timing = self.workers.time(job);
        let wall_s = self.workers.elapsed_s() - began;
        let timing = match self.unless_interrupted(timing) {
            Ok(timing) => timing,
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => return self.fail(&place.variant, "time", &error),
        };
        self.saw_peak(timing.memory.peak_rss);
        self.record(Event::Slot(Slot {
            variant: place.variant.clone(),
            control: place.control,
            block: place.block,
            position: place.position,
            batch: place.batch,
            threads: place.threads,
            samples: timing.samples,
            memory: timing.memory,
            kernels: timing.kernels,
            covariates: timing.covariates,
            phases: timing.phases,
            load_s: timing.load_s,
            warmup_iterations: timing.warmup_iterations,
            wall_s,
        }))?;
        self.progress.done("time", &label, wall_s, "");
        Ok(())
    }
}

fn is_at(slot: &Slot, place: &Place) -> bool {
    (slot.control, slot.block, slot.batch, slot.threads) == (place.control, place.block, place.batch, place.threads)
}

fn in_words(place: &Place, blocks: usize) -> String {
    let control = if place.control { " (control)" } else { "" };
    let batch = if place.batch > 1 { format!(", batch {}", place.batch) } else { String::new() };
    let plural = if place.threads == 1 { "" } else { "s" };
    format!(
        "block {} of {blocks}: {}{control}, {} thread{plural}{batch}",
        place.block + 1,
        place.variant,
        place.threads
    )
}
