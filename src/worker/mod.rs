//! Child side: one process that prepares data, builds, scores or times one variant, reports and exits.
//!
//! Parent and child speak JSON lines ([`Job`], [`Message`]): one job on standard input, progress and one result on
//! standard output; standard error is for people. The parent keeps the child's standard input open: when it closes,
//! the parent is gone and the child exits.

mod protocol;

pub use protocol::{
    BuildJob, BuildOutcome, Job, Loadable, Message, PrepareJob, Prepared, Reference, ScoreJob, TimeJob, Timing,
};

use std::process::ExitCode;

/// The hidden subcommand `bench __worker`: reads a job, does it, answers.
pub fn run() -> ExitCode {
    todo!("worker")
}
