//! Evidence to answers: estimates, verdicts, Pareto frontier, recommendation. Knows nothing of kernels or models.

use crate::results::{Evidence, Run};
use crate::suite::Accept;

/// Judges a run's evidence under `accept` (the suite's own rule, or another one for old data).
pub fn judge(evidence: &Evidence, accept: &Accept) -> Run {
    let _ = (evidence, accept);
    todo!("decide")
}
