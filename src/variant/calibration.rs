//! Calibration windows: which tokens a quantizer learns from.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;

use crate::error::{Error, Result};

/// Calibration data as token ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CalibrationTokens {
    /// Windows of a decoder, all of one length, or sentences of an encoder.
    pub windows: Vec<Vec<u32>>,
}

impl CalibrationTokens {
    /// Draws `windows` windows of `length` tokens from `documents` at random without replacement. Windows do not
    /// overlap and do not cross documents; the end of a document that fills no window is left out. A `bos` token is the
    /// first of the `length` tokens.
    ///
    /// The same seed draws the same windows.
    ///
    /// # Errors
    /// Fewer windows than asked for, with how many there are.
    pub fn draw(documents: &[Vec<u32>], bos: Option<u32>, windows: usize, length: usize, seed: u64) -> Result<Self> {
        Ok(Self::draw_with_held_out(documents, bos, (windows, 0), length, seed)?.0)
    }

    /// As [`CalibrationTokens::draw`], the first of two numbers of `windows`; and as many as the second says of those that
    /// were not drawn.
    ///
    /// # Errors
    /// Fewer windows than both together.
    pub fn draw_with_held_out(
        documents: &[Vec<u32>],
        bos: Option<u32>,
        windows: (usize, usize),
        length: usize,
        seed: u64,
    ) -> Result<(Self, Self)> {
        let (drawn, held_out) = windows;
        let body = length.saturating_sub(bos.iter().len());
        if body == 0 || drawn == 0 {
            return Err(Error::Usage(format!("calibration of {drawn} windows of {length} tokens holds no text")));
        }
        let choices: Vec<&[u32]> = documents.iter().flat_map(|document| document.chunks_exact(body)).collect();
        if choices.len() < drawn + held_out {
            let more = if held_out == 0 { String::new() } else { format!(" and {held_out} held out from it") };
            return Err(Error::Usage(format!(
                "calibration asks for {drawn} windows of {length} tokens{more}, but the {} documents hold {}; ask for fewer \
                 or shorter windows, or give more text",
                documents.len(),
                choices.len()
            )));
        }
        let mut random = StdRng::seed_from_u64(seed);
        let learned: Vec<usize> = sample(&mut random, choices.len(), drawn).into_vec();
        let left: Vec<usize> = (0..choices.len()).filter(|at| !learned.contains(at)).collect();
        let apart: Vec<usize> = sample(&mut random, left.len(), held_out).iter().map(|at| left[at]).collect();
        let window = |&at: &usize| bos.iter().chain(choices[at]).copied().collect();
        let tokens = |places: Vec<usize>| CalibrationTokens { windows: places.iter().map(window).collect() };
        Ok((tokens(learned), tokens(apart)))
    }

    /// Picks so many of the sentences of an encoder at random without replacement. The same seed picks the same.
    ///
    /// # Errors
    /// Fewer sentences than asked for, with how many there are.
    pub fn pick(mut sentences: Vec<Vec<u32>>, windows: usize, seed: u64) -> Result<Self> {
        if windows == 0 || sentences.len() < windows {
            return Err(Error::Usage(format!(
                "calibration asks for {windows} windows, which are sentences for an encoder, but the text holds {}; ask for \
                 fewer (at least one), or give more text",
                sentences.len()
            )));
        }
        let picked = drawn(sentences.len(), windows, seed);
        Ok(CalibrationTokens { windows: picked.into_iter().map(|at| std::mem::take(&mut sentences[at])).collect() })
    }
}

/// `count` of the numbers below `choices`, in random order, none twice.
fn drawn(choices: usize, count: usize, seed: u64) -> Vec<usize> {
    sample(&mut StdRng::seed_from_u64(seed), choices, count).into_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Three documents of 25, 7 and 40 tokens; the tokens number themselves.
    fn documents() -> Vec<Vec<u32>> {
        vec![(0..25).collect(), (100..107).collect(), (200..240).collect()]
    }

    #[test]
    fn windows_are_distinct_whole_and_inside_one_document() {
        let drawn = CalibrationTokens::draw(&documents(), None, 6, 10, 1).unwrap();
        let starts: HashSet<u32> = drawn.windows.iter().map(|window| window[0]).collect();
        assert_eq!(starts, HashSet::from([0, 10, 200, 210, 220, 230]), "all there are, each once");
        for window in &drawn.windows {
            assert!(window.len() == 10 && window.windows(2).all(|pair| pair[1] == pair[0] + 1));
        }
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| CalibrationTokens::draw(&documents(), None, 3, 10, seed).unwrap();
        assert_eq!(draw(1), draw(1));
        assert!((2..20).any(|seed| draw(seed) != draw(1)));
    }

    #[test]
    fn a_beginning_of_sequence_token_counts_into_the_length() {
        let drawn = CalibrationTokens::draw(&documents(), Some(999), 2, 8, 1).unwrap();
        assert!(drawn.windows.iter().all(|window| window.len() == 8 && window[0] == 999 && window[1] != 999));
    }

    #[test]
    fn held_out_windows_are_others_and_leave_the_drawn_ones_as_they_are() {
        let (drawn, held_out) = CalibrationTokens::draw_with_held_out(&documents(), None, (3, 3), 10, 1).unwrap();
        assert_eq!(drawn, CalibrationTokens::draw(&documents(), None, 3, 10, 1).unwrap());
        assert!(held_out.windows.len() == 3 && held_out.windows.iter().all(|window| !drawn.windows.contains(window)));
        let problem = CalibrationTokens::draw_with_held_out(&documents(), None, (4, 3), 10, 1).unwrap_err().to_string();
        assert!(problem.contains("4 windows of 10 tokens and 3 held out from it"), "{problem}");
    }

    #[test]
    fn sentences_are_picked_whole_and_once() {
        let sentences: Vec<Vec<u32>> = (1..=9).map(|length| vec![length; length as usize]).collect();
        let picked = CalibrationTokens::pick(sentences.clone(), 9, 1).unwrap().windows;
        assert!(picked != sentences && picked.iter().all(|sentence| sentences.contains(sentence)));
        assert_eq!(picked.iter().collect::<HashSet<_>>().len(), 9);
        let message = CalibrationTokens::pick(sentences, 10, 1).unwrap_err().to_string();
        assert!(message.contains("asks for 10 windows") && message.contains("holds 9"), "{message}");
    }

    #[test]
    fn too_little_text_says_how_much_there_is() {
        let message = CalibrationTokens::draw(&documents(), None, 7, 10, 1).unwrap_err().to_string();
        assert!(message.contains("7 windows of 10 tokens, but the 3 documents hold 6"), "{message}");
        assert!(CalibrationTokens::draw(&documents(), Some(1), 1, 1, 1).is_err());
    }
}
