//! Which candidates stay in the blocks.
//!
//! A candidate races until its verdict needs no more blocks, until deciding would take more blocks than may be measured
//! (futility), or until the budget of time is used up. Verdicts hold whenever one stops: they rest on evidence that may be
//! looked at after every block (`stats`). The reference and its A/A control stay as long as any candidate does.

use std::collections::BTreeMap;

use super::Session;
use crate::error::Result;
use crate::results::{Event, Evidence, Leaving, Standing};

/// Tells from the evidence so far whether more blocks can change each candidate's verdict.
pub type Referee<'r> = &'r dyn Fn(&Evidence) -> BTreeMap<String, Standing>;

/// Blocks below which nothing is called futile: evidence does not grow evenly at first.
const BLOCKS_BEFORE_FUTILITY: usize = 10;

/// Deciding is called futile when it is foreseen to take this many times the blocks that are left.
const FUTILE_FACTOR: usize = 2;

impl Session<'_> {
    /// Names of the candidates in the blocks.
    pub(super) fn in_the_race(&self) -> Vec<String> {
        let suite = &self.inputs.suite;
        let names = suite.variants.iter().map(|v| v.name.clone()).filter(|name| *name != suite.reference);
        let races = |name: &String| {
            self.artefact(name).is_some() && !self.has_failed(name, "time") && !self.evidence.left.contains_key(name)
        };
        names.filter(races).collect()
    }

    /// After `blocks` blocks, lets those leave that need no more of them.
    pub(super) fn race(&mut self, blocks: usize, out_of_time: bool, referee: Referee<'_>) -> Result<()> {
        let standings = referee(&self.evidence);
        let left_to_measure = self.most_blocks().saturating_sub(blocks);
        for variant in self.in_the_race() {
            let why = match standings.get(&variant) {
                None | Some(Standing::Decided) => Leaving::Decided,
                Some(Standing::Open { .. }) if out_of_time => Leaving::Budget,
                Some(Standing::Open { missing_blocks }) if is_futile(*missing_blocks, blocks, left_to_measure) => {
                    Leaving::Futile
                }
                Some(Standing::Open { .. }) => continue,
            };
            self.record(Event::Left { variant, blocks, why })?;
        }
        Ok(())
    }
}

fn is_futile(missing: Option<usize>, blocks: usize, left: usize) -> bool {
    blocks >= BLOCKS_BEFORE_FUTILITY && missing.is_none_or(|missing| missing > FUTILE_FACTOR * left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futility_is_not_called_early_nor_where_a_decision_is_near() {
        assert!(!is_futile(None, 9, 20));
        assert!(is_futile(None, 10, 20) && is_futile(Some(41), 10, 20));
        assert!(!is_futile(Some(40), 10, 20));
    }
}
