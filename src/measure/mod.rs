//! Parent side: what is prepared, built, scored and timed in which order, and what a failure costs.
//!
//! A [`Session`] walks through the stages; every answer of a worker becomes an event in the journal before the next
//! worker starts. What the journal holds is skipped, so a resumed run takes the same path as a fresh one. The parent
//! holds no weights and does nothing while a worker runs. Workers are behind the trait [`Workers`]: real processes
//! ([`Processes`]), a fake with a fake clock in tests.
//!
//! A fact is what the journal says, never that a file exists: a file may be there whose event was not written when the run
//! was killed. Before a run goes on, what its events name is held against the hashes in them.
//!
//! Timing follows the randomized block design: one block holds one slot of the reference, one of its A/A control and
//! one of every candidate that is still in the race, in random order, so that drift of the machine falls on all alike and cancels in the
//! difference within the block (Mytkowicz et al. 2009, "Producing wrong data without doing anything obviously
//! wrong"; Kalibera & Jones 2013, "Rigorous benchmarking in reasonable time").

mod artefacts;
mod blocks;
mod broken;
mod fit;
mod inputs;
mod instruction_sets;
mod memory;
mod moved;
mod pilot;
mod processes;
mod progress;
mod racing;
mod redrawn;
mod running;
mod scoring;
mod session;
mod timing;
mod versus;

pub use inputs::Inputs;
pub use instruction_sets::{IsaOutcome, under_instruction_sets};
pub use processes::Processes;
pub use progress::Progress;
pub use racing::Referee;
pub use session::Session;
pub use versus::{Arm, Compared, Pair, Versus};

use crate::error::Result;
use crate::results::Score;
use crate::worker::{BuildJob, BuildOutcome, PrepareJob, Prepared, ScoreJob, TimeJob, Timing, Told};

/// Hears what a worker tells while it works.
pub type OnProgress<'a> = &'a mut dyn FnMut(Told<'_>);

/// A worker that is timed an iteration at a time and sleeps in between.
pub trait InTurns {
    /// Gives it a turn; returns when it is ready for the next, or with its answer after the last.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn turn(&mut self) -> Result<Option<Timing>>;
    /// Its answer, without further turns.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn end(&mut self) -> Result<Option<Timing>>;
}

/// Those who do the work, with their clock. Every call runs one worker to its end.
pub trait Workers {
    /// Reads and tokenizes texts.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn prepare(&mut self, job: PrepareJob, progress: OnProgress<'_>) -> Result<Prepared>;
    /// Makes an artefact.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn build(&mut self, job: BuildJob, progress: OnProgress<'_>) -> Result<BuildOutcome>;
    /// Scores a variant.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn score(&mut self, job: ScoreJob, progress: OnProgress<'_>) -> Result<Score>;
    /// Times a variant, with `slowdown` planted as a share of its time; tells no progress, so that the parent sleeps.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn time(&mut self, job: TimeJob, slowdown: f64) -> Result<Timing>;
    /// Starts to time a variant in turns with another worker, and returns when it is ready for the first.
    ///
    /// # Errors
    /// The worker's message, or how it died.
    fn time_in_turns(&mut self, job: TimeJob) -> Result<Box<dyn InTurns>>;
    /// Seconds since the run began.
    fn elapsed_s(&self) -> f64;
    /// Seconds since 1970-01-01 UTC.
    fn unix_s(&self) -> f64;
    /// Whether the program was asked to end.
    fn interrupted(&self) -> bool;
}

#[cfg(test)]
mod tests;
