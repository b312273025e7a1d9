//! The journal folded into one value.

use std::collections::BTreeMap;

use super::event::{Artefact, BrokenScore, Event, FileHash, Fit, Leaving, Score, Slot, Stage};
use super::plausible::check;
use crate::error::{Error, FailureKind, Result};
use crate::machine::MachineRecord;
use crate::suite::Suite;

/// Whether a variant's artefact exists.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Built {
    /// Not tried yet.
    #[default]
    Missing,
    /// Ready.
    Ready(Artefact),
}

/// What is known of one variant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VariantEvidence {
    /// Its artefact.
    pub built: Built,
    /// Scores by task.
    pub scores: BTreeMap<String, Score>,
    /// What it scored on the rule's task when it was made again of other calibration windows, by the number of the draw.
    pub redrawn: BTreeMap<usize, std::result::Result<Score, String>>,
    /// Slots in the order measured; controls are under the reference.
    pub slots: Vec<Slot>,
    /// Whether it ran under a limit of its memory; of several limits the last.
    pub fit: Option<Fit>,
    /// Failures as (stage, reason).
    pub failures: Vec<(String, String)>,
}

/// Whether more blocks can still change a candidate's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No: it is decided, or does not depend on the speed.
    Decided,
    /// Yes.
    Open {
        /// About how many more it would take; `None` where none are foreseen to decide.
        missing_blocks: Option<usize>,
    },
}

/// How many blocks are measured, fixed before any result was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlan {
    /// Blocks that were planned first: the one test that is made at the end is made of these.
    pub first: usize,
    /// Blocks that may be measured: the same, or more where a finished run was gone on with.
    pub most: usize,
    /// Blocks that were over when the run was gone on with: nothing is added to them.
    pub closed: usize,
    /// Candidates leave the blocks as soon as their verdict needs no more of them.
    pub racing: bool,
}

/// A failure whose cause may have passed: a signal, a full disk, too little memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passing {
    /// A stage of a variant.
    Stage {
        /// Variant.
        variant: String,
        /// `build`, `score` or `time`.
        stage: String,
    },
    /// The score of a variant made of another draw of calibration windows.
    Redrawn {
        /// Variant.
        variant: String,
        /// Number of the draw.
        draw: usize,
    },
    /// The score of the reference broken on purpose.
    Broken,
    /// Whether a variant runs under a limit of its memory.
    Fit {
        /// Variant.
        variant: String,
    },
}

/// Everything a run has measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Program version that measured.
    pub tool_version: String,
    /// Hash of that program's sources, libraries and target.
    pub build: String,
    /// Start.
    pub started_unix_s: f64,
    /// End, if reached.
    pub finished_unix_s: Option<f64>,
    /// Suite as resolved.
    pub suite: Suite,
    /// SHA-256 of the model's files.
    pub model_sha256: String,
    /// Machine.
    pub machine: MachineRecord,
    /// By variant name.
    pub variants: BTreeMap<String, VariantEvidence>,
    /// Stages ended; the parts of a resumed run are added up.
    pub stages: Vec<Stage>,
    /// Blocks that were planned; `None` before the plan was made.
    pub plan: Option<BlockPlan>,
    /// Iterations of slots after the pilot blocks, where they were chosen.
    pub iterations: Option<usize>,
    /// Candidates that left: after how many blocks, and why.
    pub left: BTreeMap<String, (usize, Leaving)>,
    /// The score of the reference broken on purpose.
    pub broken: Option<BrokenScore>,
    /// Blocks that were set aside because the machine was disturbed, each time with why; their slots are kept in the
    /// journal alone.
    pub set_aside: Vec<(usize, String)>,
    /// Slots that were set aside because their threads had moved.
    pub moved: usize,
    /// Token files; `None` before the texts were prepared.
    pub prepared: Option<Vec<FileHash>>,
    /// Failures whose cause may have passed, and which a resumed run undoes.
    pub passing: Vec<Passing>,
    /// Scored text that was also calibrated on.
    pub leak: Option<String>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Largest resident set of the parent.
    pub parent_peak_rss: Option<u64>,
}

impl Evidence {
    /// Folds a journal's events.
    ///
    /// # Errors
    /// When the first event is not `Started`, its schema is another, or an event names a variant that the suite lacks.
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> Result<Self> {
        let mut events = events.into_iter();
        let Some(Event::Started { schema_version, tool_version, unix_s, suite, model_sha256, machine, build }) =
            events.next()
        else {
            return Err(Error::input(
                "journal.jsonl",
                "the first line is not a `started` event; this is no run folder",
            ));
        };
        if schema_version != super::SCHEMA_VERSION {
            return Err(Error::NotComparable(format!(
                "journal has schema {schema_version}, this program reads {}",
                super::SCHEMA_VERSION
            )));
        }
        let variants = suite.variants.iter().map(|v| (v.name.clone(), VariantEvidence::default())).collect();
        let mut evidence = Evidence {
            tool_version,
            build,
            started_unix_s: unix_s,
            finished_unix_s: None,
            suite,
            model_sha256,
            machine,
            variants,
            stages: Vec::new(),
            plan: None,
            iterations: None,
            left: BTreeMap::new(),
            broken: None,
            set_aside: Vec::new(),
            moved: 0,
            prepared: None,
            passing: Vec::new(),
            leak: None,
            warnings: Vec::new(),
            parent_peak_rss: None,
        };
        for (number, event) in events.enumerate() {
            // The first line is `started`.
            check(&evidence, &event).map_err(|problem| {
                let remedy = "this cannot have been measured: restore the journal or run again";
                Error::input(format!("journal.jsonl:{}", number + 2), format!("{problem}; {remedy}"))
            })?;
            evidence.add(event)?;
        }
        Ok(evidence)
    }

    /// Adds one event.
    ///
    /// # Errors
    /// As [`Evidence::from_events`].
    pub fn add(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Started { .. } => {
                return Err(Error::input("journal.jsonl", "a second `started` event; the journal is damaged"));
            }
            Event::Stage(stage) => self.add_stage(stage),
            Event::Planned { blocks, racing } => self.make_plan(blocks, racing),
            Event::Iterations { count } => self.iterations = Some(count),
            Event::Left { variant, blocks, why } => {
                self.variant(&variant)?;
                self.left.insert(variant, (blocks, why));
            }
            Event::Built { variant, artefact } => self.variant(&variant)?.built = Built::Ready(artefact),
            Event::Scored { variant, score } => {
                self.variant(&variant)?.scores.insert(score.task.clone(), score);
            }
            Event::Prepared { files, warnings, leak } => {
                self.prepared = Some(files);
                self.warnings.extend(warnings);
                self.leak = leak;
            }
            Event::Redrawn { variant, draw, score, kind } => {
                self.variant(&variant)?.redrawn.insert(draw, score);
                self.note_failure(kind, Passing::Redrawn { variant, draw });
            }
            Event::Broken(broken) => {
                self.note_failure(broken.kind, Passing::Broken);
                self.broken = Some(broken);
            }
            Event::Fit { variant, fit } => {
                self.note_failure(fit.kind, Passing::Fit { variant: variant.clone() });
                self.variant(&variant)?.fit = Some(fit);
            }
            Event::Slot(slot) => self.variant(&slot.variant)?.slots.push(slot),
            Event::SetAside { block, why } => {
                self.variants.values_mut().for_each(|found| found.slots.retain(|slot| slot.block != block));
                self.set_aside.push((block, why));
            }
            Event::Moved { variant, control, block, batch, threads } => {
                let same = |s: &Slot| (s.control, s.block, s.batch, s.threads) == (control, block, batch, threads);
                self.variant(&variant)?.slots.retain(|slot| !same(slot));
                self.moved += 1;
            }
            Event::Failed { variant, stage, reason, kind } => {
                self.variant(&variant)?.failures.push((stage.clone(), reason));
                self.note_failure(Some(kind), Passing::Stage { variant, stage });
            }
            Event::Resumed { .. } => {
                self.finished_unix_s = None;
                std::mem::take(&mut self.passing).iter().for_each(|failure| self.undo(failure));
            }
            Event::Warning { text } => self.warnings.push(text),
            Event::Finished { unix_s, parent_peak_rss } => {
                self.finished_unix_s = Some(unix_s);
                self.parent_peak_rss = parent_peak_rss;
            }
        }
        Ok(())
    }

    fn note_failure(&mut self, kind: Option<FailureKind>, failure: Passing) {
        if kind.is_some_and(FailureKind::may_pass) {
            self.passing.push(failure);
        }
    }

    /// Forgets a failure, so that what failed is tried again.
    fn undo(&mut self, failure: &Passing) {
        match failure {
            Passing::Broken => self.broken = None,
            Passing::Stage { variant, stage } => {
                if let Some(found) = self.variants.get_mut(variant) {
                    found.failures.retain(|(failed, _)| failed != stage);
                }
                if stage != "score" {
                    self.forget_blocks_without(variant);
                }
            }
            Passing::Redrawn { variant, draw } => {
                _ = self.variants.get_mut(variant).and_then(|found| found.redrawn.remove(draw));
            }
            Passing::Fit { variant } => {
                _ = self.variants.get_mut(variant).and_then(|found| found.fit.take());
            }
        }
    }

    /// Sets aside the blocks in which a variant is missing: the slots of a block are compared with each other, so they must
    /// be measured in one go. This looks at nothing that was timed.
    fn forget_blocks_without(&mut self, variant: &str) {
        let points = self.suite.workload.batch.len() * self.suite.workload.threads.len();
        let slots = self.variants.get(variant).map_or(&[][..], |found| &found.slots);
        let in_block = |block| slots.iter().filter(|slot| slot.block == block && !slot.control).count();
        let blocks = self.timed_blocks();
        let first = (0..blocks).find(|block| in_block(*block) < points).unwrap_or(blocks);
        self.variants.values_mut().for_each(|found| found.slots.retain(|slot| slot.block < first));
    }

    /// A second plan closes the blocks so far and gives those another chance that left undecided.
    fn make_plan(&mut self, blocks: usize, racing: bool) {
        let closed = if self.plan.is_some() { self.timed_blocks() } else { 0 };
        let first = self.plan.map_or(blocks, |earlier| earlier.first);
        self.plan = Some(BlockPlan { first, most: blocks, closed, racing });
        self.left.retain(|_, (_, why)| *why == Leaving::Decided);
    }

    /// Blocks of which anything is timed.
    pub fn timed_blocks(&self) -> usize {
        self.variants.values().flat_map(|v| &v.slots).map(|slot| slot.block + 1).max().unwrap_or(0)
    }

    /// Slots of a block.
    pub fn slots_of(&self, block: usize) -> impl Iterator<Item = &Slot> {
        self.variants.values().flat_map(|v| &v.slots).filter(move |slot| slot.block == block)
    }

    fn add_stage(&mut self, stage: Stage) {
        match self.stages.iter_mut().find(|s| s.name == stage.name) {
            None => self.stages.push(stage),
            Some(earlier) => {
                earlier.seconds += stage.seconds;
                earlier.worker_peak_rss = earlier.worker_peak_rss.max(stage.worker_peak_rss);
            }
        }
    }

    fn variant(&mut self, name: &str) -> Result<&mut VariantEvidence> {
        self.variants.get_mut(name).ok_or_else(|| {
            Error::input("journal.jsonl", format!("names variant \"{name}\", which its suite does not have"))
        })
    }
}
