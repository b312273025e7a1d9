//! How the allowed error is divided over variants and questions.
//!
//! With confidence 95 %, the chance that any variant of the run is accepted wrongly is at most 5 %, and so is the chance
//! that any is rejected wrongly; each of V candidates gets a V-th (Bonferroni). A wrong accept of `accuracy and (speed or
//! memory)` needs a wrong yes either to accuracy or to speed, whichever does not hold, so each may use the whole share
//! (an intersection-union test; memory is read, not estimated, and never errs). A wrong reject can come from a wrong no
//! to either, so they share it.

use super::rule::Rule;
use crate::suite::Accept;

/// Largest chance of each wrong answer about one variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorRates {
    /// Of a yes that is wrong.
    pub yes: f64,
    /// Of a no that is wrong.
    pub no: f64,
}

impl ErrorRates {
    /// Rates of each question about each of `candidates` variants; no number, with which nothing is proven, for a
    /// confidence outside the range of suite files.
    pub fn divided(accept: &Accept, candidates: usize) -> Self {
        let allowed = if accept.confidence > 0.5 { 1.0 - accept.confidence } else { f64::NAN };
        let of_variant = allowed / candidates.max(1) as f64;
        let estimated = if Rule::parse(&accept.rule).is_some_and(Rule::asks_speed) { 2.0 } else { 1.0 };
        ErrorRates { yes: of_variant, no: of_variant / estimated }
    }
}
