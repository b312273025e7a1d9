//! How much a gate measures.

use serde::{Deserialize, Serialize};

use crate::suite::{Suite, TaskKind};

/// Most windows, items and sentences of a task in the smallest tier.
const SMOKE_WINDOWS: usize = 16;
const SMOKE_ITEMS: usize = 64;
const SMOKE_SENTENCES: usize = 64;

/// How much a gate measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// What repeats exactly, on a small sample of every task; nothing is timed.
    Smoke,
    /// Every item of the suite, timed with its fewest blocks.
    Pr,
    /// Every item, timed with its most blocks.
    Nightly,
}

impl Tier {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Smoke => "smoke",
            Tier::Pr => "pr",
            Tier::Nightly => "nightly",
        }
    }

    /// Name of the sample of items that is scored; records of one sample can be compared.
    pub fn sample(self) -> &'static str {
        match self {
            Tier::Smoke => "smoke",
            Tier::Pr | Tier::Nightly => "full",
        }
    }

    /// The suite with this tier's items and blocks.
    pub fn of(self, suite: &Suite) -> Suite {
        let mut suite = suite.clone();
        let (fewest, most) = suite.workload.blocks;
        match self {
            Tier::Pr => suite.workload.blocks = (fewest, fewest),
            Tier::Nightly => suite.workload.blocks = (most, most),
            Tier::Smoke => {
                for task in &mut suite.tasks {
                    let (limit, most) = match &mut task.kind {
                        TaskKind::Perplexity { windows, .. } => (windows, SMOKE_WINDOWS),
                        TaskKind::Choice { items } => (items, SMOKE_ITEMS),
                        TaskKind::Similarity { sentences, .. } => (sentences, SMOKE_SENTENCES),
                    };
                    *limit = Some(limit.unwrap_or(most).min(most));
                }
            }
        }
        suite
    }
}
