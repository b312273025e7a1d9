//! What a change must not make worse: a run against a stored baseline, or against another build of this program.
//!
//! A gate measures a suite as a run does and keeps what it found in one value, [`Observed`]. It is held against a
//! [`Baseline`], which holds what was accepted before, level by level:
//!
//! - *variants*: each one of the baseline is there under its name and did not fail;
//! - *thresholds*: none of the suite's was loosened;
//! - *exact*: hashes and bytes of artefacts, which items are right, sums of log-likelihood and of divergence by document,
//!   kernels. On one class of machines ([`number_class`]) they repeat to the last bit, so any difference is a change;
//! - *accuracy*: what differs is tested on paired items, with a margin; this also serves on another class of machines;
//! - *behaviour*: limits that averages hide (answers that flipped, the worst genre, the tail of the divergence);
//! - *drift*: the same accuracy and size against an anchor, such as the last release, so that many small steps add up;
//! - *instruction sets*: the same variant under every set of the machine;
//! - *timing*: against another build in the same session by a sequential test of non-inferiority, or against stored
//!   sessions of the same machine by a prediction interval.
//!
//! Nothing here measures. `pipeline::gate` does, then calls the judges of this room.

mod accuracy;
mod baseline;
mod behaviour;
mod class;
mod drift;
mod exact;
mod isa;
mod metrics;
mod observed;
mod presence;
mod record;
mod same_session;
mod stored_timing;
mod thresholds;
mod tier;
mod verdict;

pub use accuracy::against as accuracy;
pub use baseline::{Anchor, Baseline, Change, Event, TimingClass, Update};
pub use behaviour::behaviour;
pub use class::{machine_class, number_class};
pub use drift::drift;
pub use exact::{Exactness, against_baseline, compare};
pub use isa::{UnderIsa, across_instruction_sets};
pub use metrics::metrics;
pub use observed::{Observed, Session};
pub use presence::presence;
pub use record::{Record, TaskRecord, VariantRecord};
pub use same_session::{SameSession, Series};
pub use stored_timing::{TimingMode, stored_timing};
pub use thresholds::thresholds;
pub use tier::Tier;
pub use verdict::{Check, GateReport, Inconclusive, Level, Metric, REPORT_SCHEMA, State};
