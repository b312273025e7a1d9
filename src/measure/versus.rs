//! Two builds of the program side by side: blocks of pairs of slots.
//!
//! A block holds for every undecided variant and every point of the workload one slot of each build, next to each other in
//! time; the order of variants, and within each pair which build goes first, are drawn anew (random interleaving, as for
//! variants in `blocks`). A pair whose threads were moved to other cores is measured again (`moved`). Were the builds equal, which of the two is the slower would be a fair coin in each block.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::blocks::{points, rng};
use super::moved::MOST_ROUNDS;
use super::{Progress, Workers};
use crate::error::{Error, Result};
use crate::kernels::KvFormat;
use crate::machine::Covariates;
use crate::results::Sample;
use crate::suite::Suite;
use crate::worker::{TimeJob, Timing};

/// A variant under both builds.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Variant.
    pub variant: String,
    /// Storage of its keys and values, where the suite says.
    pub kv_cache: Option<KvFormat>,
    /// Its artefact as the base build made it.
    pub base: PathBuf,
    /// As the head build made it.
    pub head: PathBuf,
}

/// One slot of each build in the same block.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Variant.
    pub variant: String,
    /// Block, from 0.
    pub block: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Which build went first.
    pub head_first: bool,
    /// Timed iterations of the base build.
    pub base: Vec<Sample>,
    /// Timed iterations of the head build.
    pub head: Vec<Sample>,
}

/// Both builds and what they work on.
pub struct Versus<'w> {
    /// Workers of the base build.
    pub base: &'w mut dyn Workers,
    /// Workers of the head build.
    pub head: &'w mut dyn Workers,
    /// The suite: workload and seed.
    pub suite: &'w Suite,
    /// Token file of the prompts.
    pub prompts: &'w Path,
    /// Most blocks.
    pub blocks: usize,
    /// Time for all of them, at least one.
    pub budget: Duration,
}

/// Pairs in the order measured, and why variants could not be timed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compared {
    /// Pairs.
    pub pairs: Vec<Pair>,
    /// `base` or `head` with the worker's message, by variant.
    pub failures: BTreeMap<String, String>,
}

impl Versus<'_> {
    /// Times `arms` block after block while `is_open` says of a variant that more pairs can change its answer.
    ///
    /// # Errors
    /// When the user interrupts. A worker that fails costs its own variant.
    pub fn run(
        mut self,
        arms: &[Arm],
        progress: &mut Progress,
        is_open: &dyn Fn(&str, &[Pair]) -> bool,
    ) -> Result<Compared> {
        let mut compared = Compared::default();
        let began = self.head.elapsed_s();
        for block in 0..self.blocks {
            let block_began = self.head.elapsed_s();
            let open =
                |arm: &&Arm| !compared.failures.contains_key(&arm.variant) && is_open(&arm.variant, &compared.pairs);
            let mut open: Vec<&Arm> = arms.iter().filter(open).collect();
            if open.is_empty() {
                break;
            }
            progress.expect("time", open.len() * points(self.suite).len() * (self.blocks - block));
            for (point, (batch, threads)) in points(self.suite).into_iter().enumerate() {
                let mut rng = rng(self.suite.seed, block, point);
                open.shuffle(&mut rng);
                for arm in &open {
                    let head_first = rng.random();
                    let began = self.head.elapsed_s();
                    match self.pair(arm, block, (batch, threads), head_first) {
                        Ok(pair) => compared.pairs.push(pair),
                        Err(error @ Error::Measurement(_)) => return Err(error),
                        Err(error) => _ = compared.failures.insert(arm.variant.clone(), error.to_string()),
                    }
                    let label = format!("block {}: {} under both builds, {threads} threads", block + 1, arm.variant);
                    progress.done("time", &label, self.head.elapsed_s() - began, "");
                }
            }
            let now = self.head.elapsed_s();
            if now - began + (now - block_began) > self.budget.as_secs_f64() {
                break;
            }
        }
        Ok(compared)
    }

    fn pair(&mut self, arm: &Arm, block: usize, (batch, threads): (usize, usize), head_first: bool) -> Result<Pair> {
        let workload = &self.suite.workload;
        let job = |artefact: &PathBuf| TimeJob {
            artefact: artefact.clone(),
            kv_cache: arm.kv_cache,
            prompts: self.prompts.to_path_buf(),
            batch,
            threads,
            generate: workload.generate,
            iterations: workload.iterations,
            memory_limit: None,
            profile: false,
            bandwidth: false,
        };
        let mut once = || {
            let (base_job, head_job) = (job(&arm.base), job(&arm.head));
            if head_first {
                let head = time(self.head, "head", head_job)?;
                Ok((time(self.base, "base", base_job)?, head))
            } else {
                Ok((time(self.base, "base", base_job)?, time(self.head, "head", head_job)?))
            }
        };
        let (mut base, mut head) = once()?;
        for _ in 0..MOST_ROUNDS {
            if !moved(&base.covariates, &head.covariates) {
                break;
            }
            (base, head) = once()?;
        }
        let (base, head) = (base.samples, head.samples);
        Ok(Pair { variant: arm.variant.clone(), block, batch, threads, head_first, base, head })
    }
}

/// Whether the threads of one slot, or of both, were moved to nearer or farther cores.
fn moved(a: &Covariates, b: &Covariates) -> bool {
    a.handover_s.is_some_and(|[before, _]| a.moved_from(before) == Some(true) || b.moved_from(before) == Some(true))
}

fn time(workers: &mut dyn Workers, side: &str, job: TimeJob) -> Result<Timing> {
    let timing = workers.time(job, 0.0);
    if workers.interrupted() {
        return Err(Error::Measurement("interrupted while two builds were timed; start the gate again".into()));
    }
    timing.map_err(|e| Error::Worker { task: format!("timing the {side} build"), reason: e.to_string() })
}
