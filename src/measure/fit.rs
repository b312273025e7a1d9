//! Whether variants run under a limit of their memory, rather than whether a number says so.

use super::Session;
use super::blocks;
use crate::error::{Error, Result};
use crate::results::{Event, Fit};
use crate::units;
use crate::worker::TimeJob;

impl Session<'_> {
    /// Runs every built variant once, in a process that may use `limit_bytes` of address space, at the workload's largest
    /// batch and most threads. What runs so fits into as much memory; what does not may still, since address space holds
    /// mapped files and stacks too.
    ///
    /// # Errors
    /// When the journal cannot be written, or the user interrupts.
    pub fn prove_fit(&mut self, limit_bytes: u64) -> Result<()> {
        let began = self.workers.elapsed_s();
        let point = blocks::points(&self.inputs.suite).into_iter().max().unwrap_or((1, 1));
        for variant in self.reference_first() {
            let name = variant.name;
            let known = self.found(&name).and_then(|found| found.fit.as_ref());
            if known.is_some_and(|fit| fit.limit_bytes == limit_bytes) {
                continue;
            }
            let Some(artefact) = self.usable(&name)? else { continue };
            let label = format!("{name} in {}", units::bytes(limit_bytes));
            let step_began = self.workers.elapsed_s();
            let whole = self.time_job(&name, artefact, point);
            let job = TimeJob { iterations: 1, memory_limit: Some(limit_bytes), ..whole };
            // Once: an allocation that fails ends the process by a signal, and that is the answer.
            let timing = self.attempt_once(&|workers, progress| {
                progress.step("fit", &label);
                workers.time(job.clone(), 0.0)
            });
            let (failure, kind) = match timing {
                Ok(_) => (None, None),
                Err(error @ Error::Measurement(_)) => return Err(error),
                Err(Error::Worker { reason, kind, .. }) => (Some(reason), Some(kind)),
                Err(error) => (Some(error.to_string()), Some(error.kind())),
            };
            let outcome = if failure.is_none() { "it runs" } else { "it does not run" };
            self.record(Event::Fit { variant: name, fit: Fit { limit_bytes, failure, kind } })?;
            self.progress.done("fit", &label, self.workers.elapsed_s() - step_began, outcome);
        }
        self.record_stage("fit", self.workers.elapsed_s() - began)
    }
}
