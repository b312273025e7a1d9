//! Whether text that is scored was also calibrated on: a variant that learnt from it looks better than it is.
//!
//! Two texts share a passage when [`PASSAGE`] tokens in a row are the same in both (n-gram overlap, as Brown et al. 2020,
//! arXiv 2005.14165, appendix C, with longer n-grams, since tokens may be single bytes). Shorter scored sequences are
//! not compared.

use std::collections::HashSet;

/// Tokens in a row that two texts do not share by chance.
const PASSAGE: usize = 32;

/// Passages of the text that is calibrated on.
#[derive(Debug, Default)]
pub struct Passages<'t>(HashSet<&'t [u32]>);

impl<'t> Passages<'t> {
    /// All passages of these windows.
    pub fn of(windows: &'t [Vec<u32>]) -> Passages<'t> {
        Passages(windows.iter().flat_map(|tokens| tokens.windows(PASSAGE)).collect())
    }

    /// Whether any of its passages is in `tokens`.
    pub fn found_in(&self, tokens: &[u32]) -> bool {
        tokens.windows(PASSAGE).any(|passage| self.0.contains(passage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_found_wherever_it_stands_and_a_shorter_one_is_none() {
        let learnt: Vec<Vec<u32>> = vec![(0..100).collect(), (500..520).collect()];
        let passages = Passages::of(&learnt);
        let scored = |shared: std::ops::Range<u32>| [vec![900, 901], shared.collect(), vec![902]].concat();
        assert!(passages.found_in(&scored(40..72)));
        assert!(!passages.found_in(&scored(40..71)));
        assert!(!passages.found_in(&scored(500..520)), "the window is shorter than a passage");
        assert!(!Passages::default().found_in(&scored(0..100)));
    }
}
