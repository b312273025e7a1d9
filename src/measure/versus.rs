//! Two builds of the program side by side: blocks of pairs of slots.
//!
//! A block holds for every undecided variant and every point of the workload one slot of each build. Both processes are
//! started and warmed up, one after the other; then they take turns, an iteration each, while the other sleeps, so that
//! what a shared machine does to one it does to the other a moment later (duet benchmarking, Bulej et al. 2020, in turns
//! instead of at once). The order of variants, and which build goes first, are drawn anew in each block. A pair whose threads were moved to other cores is measured again (`moved`). Were the builds equal, which of the two is the slower would be a fair coin in each block.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::blocks::{points, rng};
use super::moved::MOST_ROUNDS;
use super::{InTurns, Progress, Workers};
use crate::error::{Error, Result};
use crate::kernels::KvFormat;
use crate::machine::Covariates;
use crate::results::Sample;
use crate::suite::Suite;
use crate::worker::{TimeJob, Timing};

/// Most turns of each build in a pair, unless the suite asks for more iterations.
const MOST_TURNS: usize = 15;

/// After so many seconds of turns a pair has no more than the suite's iterations: starting two processes and warming them up
/// takes about as long.
const SECONDS_OF_TURNS: f64 = 2.0;

const SIDES: [&str; 2] = ["base", "head"];

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

/// Both builds of a variant in a block.
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
                    let pair = self.pair(arm, block, (batch, threads), head_first);
                    if self.head.interrupted() {
                        return Err(Error::Measurement(
                            "interrupted while two builds were timed; start the gate again".into(),
                        ));
                    }
                    match pair {
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
        let mut timings = self.timings(arm, (batch, threads), head_first)?;
        for _ in 0..MOST_ROUNDS {
            if !moved(&timings[0].covariates, &timings[1].covariates) {
                break;
            }
            timings = self.timings(arm, (batch, threads), head_first)?;
        }
        let [base, head] = timings.map(|timing| timing.samples);
        Ok(Pair { variant: arm.variant.clone(), block, batch, threads, head_first, base, head })
    }

    /// Times both builds in turns; base's timing and head's.
    fn timings(&mut self, arm: &Arm, (batch, threads): (usize, usize), head_first: bool) -> Result<[Timing; 2]> {
        let workload = &self.suite.workload;
        let job = |artefact: &PathBuf| TimeJob {
            artefact: artefact.clone(),
            kv_cache: arm.kv_cache,
            prompts: self.prompts.to_path_buf(),
            batch,
            threads,
            generate: workload.generate,
            iterations: workload.iterations.max(MOST_TURNS),
            memory_limit: None,
            in_turns: true,
            profile: false,
            bandwidth: false,
        };
        let jobs = [job(&arm.base), job(&arm.head)];
        let [base_job, head_job] = jobs;
        let start_base = || of_side("base", self.base.time_in_turns(base_job));
        let start_head = || of_side("head", self.head.time_in_turns(head_job));
        let mut workers = if head_first {
            let head = start_head()?;
            [start_base()?, head]
        } else {
            [start_base()?, start_head()?]
        };
        let clock = || self.head.elapsed_s();
        take_turns(&mut workers, head_first, workload.iterations, &clock)
    }
}

/// Gives base and head turns until both have answered, or had the `fewest` turns and enough time. Which goes first
/// alternates, so that a machine that gets steadily faster or slower favours neither.
fn take_turns(
    workers: &mut [Box<dyn InTurns>; 2],
    head_first: bool,
    fewest: usize,
    clock: &dyn Fn() -> f64,
) -> Result<[Timing; 2]> {
    let mut timings = [None, None];
    let mut first = usize::from(head_first);
    let (began, mut turns) = (clock(), 0);
    loop {
        let enough = turns >= fewest && clock() - began > SECONDS_OF_TURNS;
        for side in [first, 1 - first] {
            if timings[side].is_none() {
                let answer = if enough { workers[side].end() } else { workers[side].turn() };
                timings[side] = of_side(SIDES[side], answer)?;
            }
        }
        first = 1 - first;
        timings = match timings {
            [Some(base), Some(head)] => return Ok([base, head]),
            open => open,
        };
        turns += 1;
    }
}

/// Whether the threads of one slot, or of both, were moved to nearer or farther cores.
fn moved(a: &Covariates, b: &Covariates) -> bool {
    a.handover_s.is_some_and(|[before, _]| a.moved_from(before) == Some(true) || b.moved_from(before) == Some(true))
}

fn of_side<T>(side: &str, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Measurement(_) => error,
        error => {
            let kind = error.kind();
            Error::Worker { task: format!("timing the {side} build"), reason: error.to_string(), kind }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::results::Memory;

    /// Notes its turns under its name, and answers after so many.
    struct Noting {
        name: char,
        left: usize,
        notes: Rc<RefCell<String>>,
    }

    impl Noting {
        fn timing(&self) -> Timing {
            Timing {
                samples: vec![],
                memory: Memory::default(),
                kernels: vec![],
                covariates: Covariates::default(),
                phases: vec![],
                processors: None,
                load_s: f64::from(u32::from(self.name)),
                warmup_iterations: 0,
            }
        }
    }

    impl InTurns for Noting {
        fn turn(&mut self) -> Result<Option<Timing>> {
            self.notes.borrow_mut().push(self.name);
            self.left = self.left.saturating_sub(1);
            Ok((self.left == 0).then(|| self.timing()))
        }

        fn end(&mut self) -> Result<Option<Timing>> {
            self.notes.borrow_mut().push('.');
            Ok(Some(self.timing()))
        }
    }

    /// The turns of two builds, each of which takes a whole `seconds`.
    fn turns(head_first: bool, of_each: [usize; 2], seconds: f64) -> String {
        let notes = Rc::new(RefCell::new(String::new()));
        let worker = |name, left| Box::new(Noting { name, left, notes: Rc::clone(&notes) }) as Box<dyn InTurns>;
        let mut workers = [worker('b', of_each[0]), worker('h', of_each[1])];
        let clock = || seconds * notes.borrow().len() as f64;
        let timings = take_turns(&mut workers, head_first, 2, &clock).unwrap();
        assert_eq!(timings.map(|timing| timing.load_s as u8 as char), ['b', 'h']);
        notes.take()
    }

    #[test]
    fn builds_take_turns_and_take_turns_at_being_first() {
        assert_eq!(turns(false, [3, 3], 0.01), "bhhbbh");
        assert_eq!(turns(true, [3, 3], 0.01), "hbbhhb");
        // A build that knows no turns has answered before the first.
        assert_eq!(turns(false, [1, 3], 0.01), "bhhh");
        // Two turns at least, whatever they take; then time counts.
        assert_eq!(turns(false, [9, 9], 5.0), "bhhb..");
        assert_eq!(turns(false, [9, 9], 0.4), "bhhbbh..");
    }

    #[test]
    fn pairs_count_where_all_threads_stayed_where_they_were() {
        let at = |before, after| Covariates { handover_s: Some([before, after]), ..Covariates::default() };
        assert!(!moved(&at(1e-7, 1.2e-7), &at(1.1e-7, 1e-7)) && !moved(&Covariates::default(), &at(1e-7, 5e-7)));
        assert!(moved(&at(1e-7, 5e-7), &at(1e-7, 1e-7)) && moved(&at(1e-7, 1e-7), &at(1e-7, 5e-7)));
        assert!(moved(&at(5e-7, 5e-7), &at(1e-7, 1e-7)));
    }
}
