//! Whether a generation runs in circles: its end repeats a passage again and again, as damaged models do.

/// Longest passage whose repetition is looked for, in tokens.
const LONGEST: usize = 24;

/// Fewest repeated tokens, and fewest repetitions, of a circle.
const LEAST_TOKENS: usize = 24;
const LEAST_TIMES: usize = 3;

/// Whether the last tokens repeat, at least [`LEAST_TIMES`] times, the passage before them.
pub fn runs_in_circles(tokens: &[u32]) -> bool {
    (1..=LONGEST).any(|period| {
        let earlier = tokens.iter().rev().skip(period);
        let repeated = tokens.iter().rev().zip(earlier).take_while(|(token, earlier)| token == earlier).count();
        repeated >= LEAST_TOKENS.max(LEAST_TIMES * period)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_at_the_end_and_nowhere_else() {
        let circle = |passage: &[u32], times: usize| [vec![100, 101, 102], passage.repeat(times)].concat();
        assert!(runs_in_circles(&circle(&[7], 25)));
        assert!(!runs_in_circles(&circle(&[7], 24)), "23 are repeated");
        assert!(runs_in_circles(&circle(&[1, 2, 3, 4, 5], 6)));
        let long: Vec<u32> = (0..20).collect();
        assert!(runs_in_circles(&circle(&long, 4)) && !runs_in_circles(&circle(&long, 3)));
        let over = [circle(&[7], 40), (200..230).collect()].concat();
        assert!(!runs_in_circles(&over) && !runs_in_circles(&[]));
    }
}
