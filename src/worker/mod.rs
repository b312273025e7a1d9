//! Child side: one process that prepares data, builds, scores or times one variant, reports and exits.
//!
//! Parent and child speak JSON lines ([`Job`], [`Message`]): one job on standard input; the child's identity, progress and
//! one result on standard output; standard error is for people. The parent keeps the child's standard input open: when it closes,
//! the parent is gone and the child exits. A job that is done in turns says when it is ready for one, and gets it as a line.

mod build;
mod choose;
mod generate;
mod prepare;
mod protocol;
mod score;
mod similarity;
mod slowdown;
mod time;
mod turns;

pub use protocol::{
    BuildJob, BuildOutcome, Identity, Job, Message, PrepareJob, Prepared, Reference, ScoreJob, TimeJob, Timing, Told,
};
pub use turns::LAST;

use std::any::Any;
use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use serde::Serialize;

use turns::Turns;

use crate::error::{Error, FailureKind, Result};
use crate::machine::crash_point;
use crate::suite::TaskKind;
use crate::text;

/// The hidden subcommand `bench __worker`: reads a job, does it, answers. Exits with 0 when it answered, be it by an
/// error message.
pub fn run() -> ExitCode {
    if let Err(error) = send(&Message::Identity(Identity::own())) {
        text::to_stderr(&format!("worker: cannot write: {error}"));
        return ExitCode::FAILURE;
    }
    crash_point("worker-start");
    let mut line = String::new();
    if let Err(error) = io::stdin().lock().read_line(&mut line) {
        text::to_stderr(&format!("worker: cannot read a job: {error}"));
        return ExitCode::FAILURE;
    }
    let turns = Turns::from_the_parent();
    let answer = match serde_json::from_str(&line) {
        Ok(job) => {
            catch_unwind(AssertUnwindSafe(|| perform(job, &turns))).unwrap_or_else(|panic| Err(panicked(&*panic)))
        }
        Err(error) => Err(Error::Usage(format!("expected one job as a JSON line on standard input: {error}"))),
    };
    let failed = |error: Error| Message::Failed { kind: error.kind(), reason: error.to_string() };
    let message = answer.map_or_else(failed, Message::Result);
    crash_point("worker-answer");
    match send(&message) {
        Ok(()) => {
            crash_point("worker-answered");
            ExitCode::SUCCESS
        }
        Err(error) => {
            text::to_stderr(&format!("worker: cannot answer: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(job: Job, turns: &Turns) -> Result<serde_json::Value> {
    let mut progress = |done: usize, total: usize| {
        // A parent that is gone closes standard input too, and that ends this process.
        let _ = send(&Message::Progress { done, total });
    };
    let mut waiting = |text: &str| {
        let _ = send(&Message::Waiting(text.into()));
    };
    match job {
        Job::Prepare(job) => to_json(&prepare::prepare(&job, &mut progress)?),
        Job::Build(job) => to_json(&build::build(&job, &mut progress, &mut waiting)?),
        Job::Score(job) => match job.kind {
            TaskKind::Perplexity { .. } => to_json(&score::score(&job, &mut progress)?),
            TaskKind::Choice { .. } => to_json(&choose::choose(&job, &mut progress)?),
            TaskKind::Similarity { .. } => to_json(&similarity::compare(&job, &mut progress)?),
        },
        Job::Time(job) => to_json(&time::time(&job, turns)?),
    }
}

fn to_json(answer: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(answer).map_err(|e| Error::Measurement(format!("cannot write the answer as JSON: {e}")))
}

fn send(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    Error::Worker {
        task: "a defect of this program".into(),
        reason: format!("panicked: {text}"),
        kind: FailureKind::Defect,
    }
}
