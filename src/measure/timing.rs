//! The timing stage: blocks of slots in random order.
//!
//! With `blocks = 8` exactly eight blocks hold every variant. With a range, or when asked to go on until decided,
//! candidates race (`racing`): those whose verdict needs no more blocks leave after the fewest, and the stage ends when
//! none is left, at the most blocks, or when the next block would not fit the budget. How many blocks there are at most
//! is fixed before any result is looked at. A block in which the machine was disturbed (`results`' signals, which see
//! nothing that was timed) is measured again as a whole, one in four at most; slots whose threads were moved are measured
//! again alone (`moved`).

use std::path::PathBuf;
use std::time::Duration;

use super::Session;
use super::blocks::{self, Place};
use super::racing::Referee;
use crate::error::{Error, Result};
use crate::results::{Event, Slot, Standing, disturbance};
use crate::worker::TimeJob;

/// Of so many blocks one may be measured again because the machine was disturbed.
const BLOCKS_A_REDONE_ONE: usize = 4;

/// Most blocks where a suite names no more and shall be measured until decided.
const MOST_BLOCKS_UNTIL_DECIDED: usize = 60;

impl Session<'_> {
    /// Times every built variant in blocks; `budget` is for the whole run. Candidates race where the suite names a range
    /// of blocks, or `until_decided`.
    ///
    /// # Errors
    /// When the journal cannot be written, or the user interrupts.
    pub fn time(&mut self, budget: Option<Duration>, until_decided: bool, referee: Referee<'_>) -> Result<()> {
        let began = self.workers.elapsed_s();
        let (fewest, most) = self.inputs.suite.workload.blocks;
        if self.evidence.plan.is_none() {
            let blocks = if until_decided { most.max(MOST_BLOCKS_UNTIL_DECIDED) } else { most };
            self.record(Event::Planned { blocks, racing: until_decided || fewest < most })?;
        }
        let blocks = self.most_blocks();
        self.expect_slots(0);
        for done in 1..=blocks {
            let block_began = self.workers.elapsed_s();
            self.measure_block(done - 1, blocks)?;
            while self.is_to_be_redone(done)? {
                self.measure_block(done - 1, blocks)?;
            }
            self.choose_iterations(done)?;
            // A resumed run has raced after its earlier blocks already.
            if !self.is_racing() || done < fewest || self.evidence.timed_blocks() > done {
                continue;
            }
            let now = self.workers.elapsed_s();
            let out_of_time = budget.is_some_and(|budget| now + (now - block_began) > budget.as_secs_f64());
            self.race(done, out_of_time, referee)?;
            if self.in_the_race().is_empty() {
                break;
            }
        }
        self.record_stage("time", self.workers.elapsed_s() - began)
    }

    /// Goes on with a finished run in which candidates are undecided: plans as many blocks again as it takes to decide,
    /// at most 60 or the suite's most. Tells whether there is anything to go on with.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn go_on(&mut self, referee: Referee<'_>) -> Result<bool> {
        if !referee(&self.evidence).values().any(|standing| matches!(standing, Standing::Open { .. })) {
            return Ok(false);
        }
        let unix_s = self.workers.unix_s();
        self.record(Event::Resumed { unix_s })?;
        let more = self.inputs.suite.workload.blocks.1.max(MOST_BLOCKS_UNTIL_DECIDED);
        self.record(Event::Planned { blocks: self.evidence.timed_blocks() + more, racing: true })?;
        Ok(true)
    }

    /// Whether candidates leave the blocks when they are decided.
    pub fn is_racing(&self) -> bool {
        self.evidence.plan.is_some_and(|plan| plan.racing)
    }

    /// Counts the slots that are to be measured from block `first` on.
    pub(super) fn expect_slots(&mut self, first: usize) {
        let left = (first..self.most_blocks()).map(|block| self.missing(block).len()).sum();
        self.progress.expect("time", left);
    }

    pub(super) fn most_blocks(&self) -> usize {
        self.evidence.plan.map_or(0, |plan| plan.most)
    }

    /// Sets a block aside in which the machine was disturbed, unless a quarter of the blocks was measured twice already.
    /// The last block only, and none of a run that was finished before: those are decided about.
    fn is_to_be_redone(&mut self, blocks: usize) -> Result<bool> {
        let block = blocks - 1;
        let allowed = blocks.div_ceil(BLOCKS_A_REDONE_ONE);
        let closed = self.evidence.plan.is_some_and(|plan| block < plan.closed);
        if closed || self.evidence.timed_blocks() != blocks || self.evidence.set_aside.len() >= allowed {
            return Ok(false);
        }
        let Some(why) = disturbance(self.evidence.slots_of(block)) else { return Ok(false) };
        self.progress.note(&format!("block {blocks} is measured again: {why}"));
        self.record(Event::SetAside { block, why })?;
        self.expect_slots(block);
        Ok(true)
    }

    /// Places of a block that are to be measured: built, never failed, in the race, not in the journal.
    pub(super) fn missing(&self, block: usize) -> Vec<Place> {
        let closed = self.evidence.plan.map_or(0, |plan| plan.closed);
        let mut places = if block < closed { Vec::new() } else { blocks::block(&self.inputs.suite, block) };
        places.retain(|place| {
            self.artefact(&place.variant).is_some()
                && !self.has_failed(&place.variant, "time")
                && self.evidence.left.get(&place.variant).is_none_or(|(blocks, _)| place.block < *blocks)
                && self.found(&place.variant).is_some_and(|found| !found.slots.iter().any(|slot| is_at(slot, place)))
        });
        places
    }

    /// The timed work of a variant at a point, `(batch, threads)`.
    pub(super) fn time_job(&self, variant: &str, artefact: PathBuf, (batch, threads): (usize, usize)) -> TimeJob {
        let workload = &self.inputs.suite.workload;
        TimeJob {
            artefact,
            kv_cache: self.kv_cache(variant),
            prompts: self.token_files().prompts(),
            batch,
            threads,
            generate: workload.generate,
            iterations: self.evidence.iterations.unwrap_or(workload.iterations),
            memory_limit: None,
            in_turns: false,
            profile: false,
            bandwidth: false,
        }
    }

    /// Measures a slot; returns in what time its threads handed work over in the end, if that is known.
    pub(super) fn measure_slot(&mut self, place: &Place, blocks: usize) -> Result<Option<f64>> {
        let Some(artefact) = self.usable(&place.variant)? else { return Ok(None) };
        let job = TimeJob {
            profile: place.block == 0 && !place.control,
            bandwidth: place.control,
            ..self.time_job(&place.variant, artefact, (place.batch, place.threads))
        };
        let label = in_words(place, blocks);
        let slowdown = self.inputs.planted.get(&place.variant).copied().unwrap_or(0.0);
        let timing = self.attempt(&|workers, progress| {
            progress.step("time", &label);
            let began = workers.elapsed_s();
            let timing = workers.time(job.clone(), slowdown)?;
            Ok((timing, workers.elapsed_s() - began))
        });
        let (timing, wall_s) = match timing {
            Ok(timed) => timed,
            Err(error @ Error::Measurement(_)) => return Err(error),
            Err(error) => return self.fail(&place.variant, "time", error).map(|()| None),
        };
        let handover_s = timing.covariates.handover_s.map(|[_, after]| after);
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
            processors: timing.processors,
            load_s: timing.load_s,
            warmup_iterations: timing.warmup_iterations,
            wall_s,
        }))?;
        self.progress.done("time", &label, wall_s, "");
        Ok(handover_s)
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
