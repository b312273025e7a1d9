//! How often values of each size occur: what the observers of static inputs read.
//!
//! Bins lie on both sides of zero and are of one width, a power of two. Values beyond the last bin double the width:
//! neighbouring bins are merged, so that one pass over the values does, whatever their range, and the order in which
//! they come changes nothing (as in PyTorch's `HistogramObserver`, which interpolates instead).

use rayon::prelude::*;

/// Bins on each side; after a doubling half of them, so that a step of 8 bits spans 16 bins or more.
pub(super) const BINS: usize = 1 << 12;
/// Values that one task counts; fixed by nothing but speed, as counts are whole numbers.
const CHUNK: usize = 1 << 18;

/// Counts of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Width of a bin; 0 until a value other than 0 was seen.
    pub(super) width: f32,
    /// Counts of `[k width, (k + 1) width)`.
    pub(super) above: Vec<u64>,
    /// Counts of `(-(k + 1) width, -k width]` without 0.
    pub(super) below: Vec<u64>,
    /// Smallest value, or 0.
    pub(super) least: f32,
    /// Largest value, or 0.
    pub(super) largest: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { width: 0.0, above: vec![0; BINS], below: vec![0; BINS], least: 0.0, largest: 0.0 }
    }
}

impl Histogram {
    /// Counts values.
    ///
    /// # Errors
    /// NaN or an infinity.
    pub fn add(&mut self, values: &[f32]) -> Result<(), String> {
        if values.iter().any(|value| !value.is_finite()) {
            return Err("the layer's calibration inputs hold NaN or infinite values".into());
        }
        let ends = |(least, largest): (f32, f32), &value: &f32| (least.min(value), largest.max(value));
        (self.least, self.largest) = values.iter().fold((self.least, self.largest), ends);
        self.widen();
        let (above, below) = values
            .par_chunks(CHUNK)
            .map(|values| self.counts(values))
            .reduce(|| (vec![0; BINS], vec![0; BINS]), |a, b| (sum(&a.0, &b.0), sum(&a.1, &b.1)));
        (self.above, self.below) = (sum(&self.above, &above), sum(&self.below, &below));
        Ok(())
    }

    /// Doubles the bins until they hold the ends.
    fn widen(&mut self) {
        let farthest = self.largest.max(-self.least);
        if self.width == 0.0 && farthest > 0.0 {
            // What was counted so far are zeros, which are in the first bin at any width.
            self.width = f32::MIN_POSITIVE;
        }
        while self.width > 0.0 && (farthest / self.width) as usize >= BINS {
            self.width *= 2.0;
            for side in [&mut self.above, &mut self.below] {
                (0..BINS / 2).for_each(|bin| side[bin] = side[2 * bin] + side[2 * bin + 1]);
                side[BINS / 2..].fill(0);
            }
        }
    }

    fn counts(&self, values: &[f32]) -> (Vec<u64>, Vec<u64>) {
        let inverse = if self.width > 0.0 { 1.0 / self.width } else { 0.0 };
        let (mut above, mut below) = (vec![0; BINS], vec![0; BINS]);
        for &value in values {
            let side = if value < 0.0 { &mut below } else { &mut above };
            side[((value.abs() * inverse) as usize).min(BINS - 1)] += 1;
        }
        (above, below)
    }

    /// The middle of every bin that is not empty, with its count, from the lowest to the highest.
    pub(super) fn middles(&self) -> impl Iterator<Item = (f64, u64)> {
        let middle = |bin: usize| (bin as f64 + 0.5) * f64::from(self.width);
        let below = self.below.iter().enumerate().rev().map(move |(bin, &count)| (-middle(bin), count));
        let above = self.above.iter().enumerate().map(move |(bin, &count)| (middle(bin), count));
        below.chain(above).filter(|(_, count)| *count > 0)
    }

    /// Counts of magnitudes, both sides together.
    pub(super) fn magnitudes(&self) -> Vec<u64> {
        sum(&self.above, &self.below)
    }
}

fn sum(a: &[u64], b: &[u64]) -> Vec<u64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.0, -0.0]).unwrap();
        assert_eq!((histogram.width, histogram.above[0]), (0.0, 2));
        histogram.add(&[4095.0, 1.5, -1.5, -0.25]).unwrap();
        assert_eq!((histogram.width, histogram.least, histogram.largest), (1.0, -1.5, 4095.0));
        assert_eq!((histogram.above[0], histogram.above[1], histogram.above[4095]), (2, 1, 1));
        assert_eq!((histogram.below[0], histogram.below[1]), (1, 1));
        histogram.add(&[-4096.0]).unwrap();
        assert_eq!((histogram.width, histogram.below[2048], histogram.above[2047]), (2.0, 1, 1));
        assert_eq!(histogram.above[0], 3);
        let middles: Vec<(f64, u64)> = histogram.middles().collect();
        assert_eq!(middles, [(-4097.0, 1), (-1.0, 2), (1.0, 3), (4095.0, 1)]);
        assert_eq!(histogram.magnitudes()[0], 5);
        assert!(histogram.add(&[1.0, f32::NAN]).unwrap_err().contains("NaN"));
        assert!(histogram.add(&[f32::NEG_INFINITY]).is_err());
    }

    proptest! {
        #[test]
        fn neither_order_nor_batches_change_a_count(
            mut values in prop::collection::vec(-1e6f32..1e6, 1..200), exponent in -30i32..20, at in 0usize..200,
        ) {
            values.iter_mut().for_each(|value| *value *= 2f32.powi(exponent));
            let mut whole = Histogram::default();
            whole.add(&values).unwrap();
            let mut parts = Histogram::default();
            values.reverse();
            let (first, second) = values.split_at(at.min(values.len()));
            parts.add(first).unwrap();
            parts.add(second).unwrap();
            prop_assert_eq!(&whole, &parts);
            prop_assert_eq!(whole.middles().map(|(_, count)| count).sum::<u64>(), values.len() as u64);
        }
    }
}
