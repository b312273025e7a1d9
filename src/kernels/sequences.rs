//! Which rows of a batch belong to which sequence.

use std::ops::Range;

/// Sequences whose tokens are the rows of one array, one sequence after the other, without padding.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    count: usize,
    longest: usize,
    /// Row after the last of every sequence; `None` where all are of the same length.
    ends: Option<&'a [usize]>,
}

impl<'a> Sequences<'a> {
    /// `count` sequences of `length` tokens each.
    pub fn equal(count: usize, length: usize) -> Sequences<'static> {
        Sequences { count, longest: length, ends: None }
    }

    /// Sequence `s` is the rows `ends[s - 1]..ends[s]`, the first begins at row 0.
    ///
    /// # Panics
    /// When the ends fall.
    pub fn packed(ends: &'a [usize]) -> Self {
        assert!(ends.is_sorted(), "sequences end one after the other");
        let all = Sequences { count: ends.len(), longest: 0, ends: Some(ends) };
        let longest = (0..ends.len()).map(|sequence| all.rows(sequence).len()).max().unwrap_or(0);
        Sequences { longest, ..all }
    }

    /// Sequences.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ends.map_or(self.count * self.longest, |ends| ends.last().copied().unwrap_or(0))
    }

    /// Rows of one sequence.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn rows(&self, sequence: usize) -> Range<usize> {
        assert!(sequence < self.count);
        match self.ends {
            None => sequence * self.longest..(sequence + 1) * self.longest,
            Some(ends) => sequence.checked_sub(1).map_or(0, |before| ends[before])..ends[sequence],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_each_other() {
        let packed = Sequences::packed(&[3, 3, 10]);
        assert_eq!((packed.count(), packed.longest(), packed.tokens()), (3, 7, 10));
        assert_eq!([0, 1, 2].map(|sequence| packed.rows(sequence)), [0..3, 3..3, 3..10]);
        let equal = Sequences::equal(2, 5);
        assert_eq!((equal.count(), equal.longest(), equal.tokens()), (2, 5, 10));
        assert_eq!([0, 1].map(|sequence| equal.rows(sequence)), [0..5, 5..10]);
        assert_eq!(Sequences::packed(&[]).tokens(), 0);
    }
}
