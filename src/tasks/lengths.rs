//! Whether a suite asks for sequences that its model was made for.
//!
//! An encoder has a table of positions and cannot read beyond it. A decoder's rotary positions go on, but the model never saw
//! such distances: what it answers there says little about a variant, so a suite that asks for it is refused.

use std::path::Path;

use crate::error::{Error, Result};
use crate::network::Architecture;
use crate::suite::{Suite, TaskKind};

/// Tokens of the longest sentence where neither suite nor model says less.
pub const LONGEST_SENTENCE: usize = 128;

/// Checks the lengths of a suite's windows, sentences and prompts against the positions of the model at `path`. A suite for
/// the other kind of network is refused elsewhere.
///
/// # Errors
/// The first length that exceeds them.
pub fn check_lengths(suite: &Suite, architecture: &Architecture, path: &Path) -> Result<()> {
    let positions = match architecture {
        Architecture::Decoder(config) => config.positions(),
        Architecture::Encoder { config, .. } => config.max_positions(),
    };
    if matches!(architecture, Architecture::Encoder { .. }) != suite.workload.encodes() {
        return Ok(());
    }
    let of_task = |kind: TaskKind| match kind {
        TaskKind::Perplexity { length, .. } => Some(length),
        TaskKind::Similarity { length, .. } => length,
        TaskKind::Choice { .. } => None,
    };
    let tasks =
        suite.tasks.iter().filter_map(|task| Some((format!("task {:?}: `length`", task.name), of_task(task.kind)?)));
    // Sentences are cut where the model ends, windows are not.
    let calibration = suite.calibration.as_ref().filter(|_| !suite.workload.encodes());
    let calibration = calibration.map(|calibration| ("[data] calibration: `length`".to_owned(), calibration.length));
    let workload = match suite.workload.encodes() {
        true => "[workload] `length`",
        false => "[workload] `prompt` and `generate` together",
    };
    let workload = (workload.to_owned(), suite.workload.prompt + suite.workload.generate);
    match tasks.chain(calibration).chain([workload]).find(|(_, tokens)| *tokens > positions) {
        Some((what, tokens)) => {
            let problem = format!("{what} of {tokens} tokens exceed the model's {positions} positions; ask for fewer");
            Err(Error::input(path.display(), problem))
        }
        None => Ok(()),
    }
}
