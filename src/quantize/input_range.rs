//! Which range the codes of static 8-bit inputs cover: one for all inputs of a layer, learned from calibration text.
//!
//! Each observer is a function of the [`Histogram`] of a layer's inputs; the moving average alone needs the ranges of
//! single sequences.
//!
//! - `minmax`: all that was seen.
//! - `moving_average`: the mean of the ranges of the sequences, from the hundredth on an exponential one with a weight of
//!   0.01 for the newest (Jacob et al. 2018, arXiv 1712.05877, section 3.1).
//! - `percentile`: without the given share of the farthest values (of each end the half, where zero points allow that).
//! - `entropy`: the magnitudes' distribution `P`, clipped at a threshold, loses least information when it is spread over
//!   the 128 levels of the positive codes: the threshold of least `KL(P || Q)` (Migacz 2017, "8-bit inference with
//!   TensorRT").
//! - `mse`: least mean squared error, of rounding and of clipping.

use super::histogram::Histogram;
use crate::suite::{InputObserver, StaticInputs};
use crate::tensor::StaticActivations;

/// Sequences after which the mean of ranges becomes a moving one.
const AVERAGED: usize = 100;
/// Levels of the entropy search: the positive codes and zero.
const LEVELS: usize = 128;
/// Bins of magnitudes of the entropy search at most.
const ENTROPY_BINS: usize = 2048;
/// Ratio of neighbouring ranges that the search for least squared error tries, and how many.
const NARROWER: f64 = 0.96;
const RANGES: i32 = 110;

/// What was seen of a layer's inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InputRange {
    histogram: Histogram,
    /// Least and largest value of every sequence with 0 among them.
    sequences: Vec<(f32, f32)>,
}

impl InputRange {
    /// Adds the inputs of sequences, `(tokens, features)` row-major, whose rows end at `ends`.
    ///
    /// # Errors
    /// NaN or an infinity.
    pub fn add(&mut self, inputs: &[f32], ends: &[usize]) -> Result<(), String> {
        self.histogram.add(inputs)?;
        let features = inputs.len() / ends.last().copied().unwrap_or(1).max(1);
        let mut start = 0;
        for &end in ends {
            let sequence = &inputs[start * features..end * features];
            let range = sequence.iter().fold((0.0f32, 0.0f32), |(least, most), &v| (least.min(v), most.max(v)));
            self.sequences.push(range);
            start = end;
        }
        Ok(())
    }

    /// Scale and zero point that cover the range of the observer's choice.
    ///
    /// # Errors
    /// Inputs so small that their scale has no reciprocal.
    pub fn numbers(&self, how: StaticInputs) -> Result<StaticActivations, String> {
        let histogram = &self.histogram;
        let (least, largest) = match how.observer {
            InputObserver::MinMax => (histogram.least, histogram.largest),
            InputObserver::MovingAverage => moving_average(&self.sequences),
            InputObserver::Percentile(percent) => percentile(histogram, percent, how.symmetric),
            InputObserver::Entropy => {
                let threshold = entropy(histogram);
                (histogram.least.max(-threshold), histogram.largest.min(threshold))
            }
            InputObserver::Mse => least_error(histogram, how.symmetric),
        };
        covering(least, largest, how.symmetric)
    }
}

/// The numbers of 8-bit codes from `least` (at most 0) to `largest` (at least 0), as compressed-tensors calculates them:
/// 255 steps over the range, or over twice the farthest end. A range of nothing but 0 gets the scale 1.
fn covering(least: f32, largest: f32, symmetric: bool) -> Result<StaticActivations, String> {
    let range = if symmetric { 2.0 * largest.max(-least) } else { largest - least };
    let scale = if range > 0.0 { range / 255.0 } else { 1.0 };
    let zero_point = if symmetric { 0 } else { (-128.0 - (least / scale).round_ties_even()) as i64 };
    StaticActivations::new(scale, zero_point.clamp(-128, 127), (-128, 127))
}

/// The mean range of sequences; see the module's page.
fn moving_average(sequences: &[(f32, f32)]) -> (f32, f32) {
    let mut mean = (0.0f64, 0.0f64);
    for (seen, &(least, largest)) in (1..).zip(sequences) {
        let weight = 1.0 / f64::from(seen.min(AVERAGED as u32));
        mean.0 += weight * (f64::from(least) - mean.0);
        mean.1 += weight * (f64::from(largest) - mean.1);
    }
    (mean.0 as f32, mean.1 as f32)
}

/// The range that holds `percent` of all values: the nearest to zero if `symmetric`, else with equal shares beyond both
/// ends.
fn percentile(histogram: &Histogram, percent: f64, symmetric: bool) -> (f32, f32) {
    let total: u64 = histogram.magnitudes().iter().sum();
    let outside = (100.0 - percent) / 100.0 * total as f64;
    // The end of the last bin that is needed to leave out at most so many values beyond it.
    let end = |counts: &[u64], outside: f64| {
        let mut beyond = 0;
        let bins = counts.iter().enumerate().rev().find(|(_, count)| {
            beyond += **count;
            beyond as f64 > outside
        });
        bins.map_or(0.0, |(bin, _)| (bin + 1) as f32 * histogram.width)
    };
    let (below, above) = if symmetric {
        let threshold = end(&histogram.magnitudes(), outside);
        (threshold, threshold)
    } else {
        (end(&histogram.below, outside / 2.0), end(&histogram.above, outside / 2.0))
    };
    (histogram.least.max(-below), histogram.largest.min(above))
}

/// The threshold of magnitudes of least Kullback-Leibler divergence.
fn entropy(histogram: &Histogram) -> f32 {
    let magnitudes = histogram.magnitudes();
    let used = magnitudes.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    let merged = used.div_ceil(ENTROPY_BINS).max(1);
    let bins: Vec<u64> = magnitudes[..used].chunks(merged).map(|bins| bins.iter().sum()).collect();
    let kept = least_divergence(&bins, LEVELS);
    (kept * merged) as f32 * histogram.width
}

/// Bins to keep, at least `levels`, so that the rest, clipped into the last, and the spreading of `levels` equal parts
/// over their bins that are not empty lose least information; all of fewer bins, and the most of those that lose alike.
fn least_divergence(bins: &[u64], levels: usize) -> usize {
    let candidates = (levels..=bins.len()).map(|kept| (divergence(bins, kept, levels), kept));
    candidates.rev().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(bins.len(), |(_, kept)| kept)
}

/// `KL(P || Q)` up to the logarithm of the number of values, which all thresholds share: `P` are the first `kept` bins with
/// the rest clipped into the last of them, `Q` the same bins, without the rest, in `levels` parts whose count is spread
/// evenly over their bins that are not empty.
fn divergence(bins: &[u64], kept: usize, levels: usize) -> f64 {
    let clipped: u64 = bins[kept..].iter().sum();
    let inside: u64 = bins[..kept].iter().sum();
    let total = (inside + clipped) as f64;
    let mut divergence = 0.0;
    for level in 0..levels {
        let part = level * kept / levels..(level + 1) * kept / levels;
        let filled = bins[part.clone()].iter().filter(|&&count| count > 0).count();
        let spread = bins[part.clone()].iter().sum::<u64>() as f64 / filled.max(1) as f64;
        for bin in part {
            let p = (bins[bin] + if bin + 1 == kept { clipped } else { 0 }) as f64 / total;
            let q = if bins[bin] > 0 { spread / inside as f64 } else { 0.0 };
            match (p > 0.0, q > 0.0) {
                (true, true) => divergence += p * (p / q).ln(),
                // Only the last bin can hold clipped values alone: Q rules out what P has.
                (true, false) => return f64::INFINITY,
                (false, _) => {}
            }
        }
    }
    divergence
}

/// The range of least squared error: the ends are narrowed together, then without symmetry each alone, twice in turns.
fn least_error(histogram: &Histogram, symmetric: bool) -> (f32, f32) {
    let values: Vec<(f64, u64)> = histogram.middles().collect();
    let (least, largest) = (f64::from(histogram.least), f64::from(histogram.largest));
    let shares = || (0..RANGES).map(|step| NARROWER.powi(step));
    let best = |ranges: &mut dyn Iterator<Item = (f64, f64)>| {
        let errors = ranges.map(|range| (squared_error(&values, range, symmetric, f64::from(histogram.width)), range));
        errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or((least, largest), |(_, range)| range)
    };
    let farthest = largest.max(-least);
    let clipped = |end: f64| (least.max(-end), largest.min(end));
    let mut range = best(&mut shares().map(|share| clipped(farthest * share)));
    if !symmetric {
        for _ in 0..2 {
            range = best(&mut shares().map(|share| (range.0, largest * share)));
            range = best(&mut shares().map(|share| (least * share, range.1)));
        }
    }
    (range.0 as f32, range.1 as f32)
}

/// Squared error of all values under the codes that cover a range: that of rounding (`step² / 12` where a bin is wider than
/// a step) and that of clipping.
fn squared_error(values: &[(f64, u64)], (least, largest): (f64, f64), symmetric: bool, width: f64) -> f64 {
    let (least, largest) = if symmetric {
        let end = largest.max(-least);
        (-end, end)
    } else {
        (least, largest)
    };
    let step = (largest - least) / 255.0;
    if step <= 0.0 {
        return values.iter().map(|(value, count)| value * value * *count as f64).sum();
    }
    let error = |value: f64| {
        let inside = value.clamp(least, largest);
        let rounded = (inside / step).round_ties_even() * step;
        match value == inside && step < width {
            true => step * step / 12.0,
            false => (value - rounded).powi(2),
        }
    };
    values.iter().map(|(value, count)| error(*value) * *count as f64).sum()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn range(values: &[f32]) -> InputRange {
        let mut range = InputRange::default();
        range.add(values, &[values.len()]).unwrap();
        range
    }

    fn numbers(range: &InputRange, observer: InputObserver, symmetric: bool) -> StaticActivations {
        range.numbers(StaticInputs { observer, symmetric }).unwrap()
    }

    #[test]
    fn all_is_covered_by_min_max() {
        let range = range(&[0.5, -1.0, 3.0, 0.0]);
        let symmetric = numbers(&range, InputObserver::MinMax, true);
        assert_eq!(symmetric, StaticActivations { scale: 6.0 / 255.0, zero_point: 0, low: -128, high: 127 });
        // -1 is 63.75 steps of 4 / 255 below zero.
        let affine = numbers(&range, InputObserver::MinMax, false);
        assert_eq!(affine, StaticActivations { scale: 4.0 / 255.0, zero_point: -64, low: -128, high: 127 });
        let positive = numbers(&super::tests::range(&[2.0, 5.1]), InputObserver::MinMax, false);
        assert_eq!((positive.scale, positive.zero_point), (0.02, -128), "zero is always covered");
        let zeros = numbers(&super::tests::range(&[0.0, 0.0]), InputObserver::Mse, false);
        assert_eq!((zeros.scale, zeros.zero_point), (1.0, -128));
        let tiny =
            super::tests::range(&[1e-44]).numbers(StaticInputs { observer: InputObserver::MinMax, symmetric: true });
        assert!(tiny.unwrap_err().contains("not a positive number"));
    }

    #[test]
    fn ranges_of_sequences_are_averaged_and_later_ones_count_a_hundredth() {
        let mut range = InputRange::default();
        // Two sequences, of two tokens and of one, with two features.
        range.add(&[-1.0, 2.0, 0.5, 0.25, -3.0, 4.0], &[2, 3]).unwrap();
        assert_eq!(range.sequences, [(-1.0, 2.0), (-3.0, 4.0)]);
        assert_eq!(moving_average(&range.sequences), (-2.0, 3.0));
        let mut sequences = vec![(0.0, 0.0); 150];
        sequences.extend([(-1.0, 10.0), (0.0, 0.0)]);
        let (least, largest) = moving_average(&sequences);
        assert!((least + 0.01 * 0.99).abs() < 1e-9 && (largest - 0.1 * 0.99).abs() < 1e-8, "{least} {largest}");
    }

    #[test]
    fn percentiles_leave_out_the_farthest() {
        // Bins of 1/4 hold one of the numbers each.
        let values: Vec<f32> = (0..1000).map(|v| if v % 2 == 0 { v as f32 } else { -(v as f32) }).collect();
        let histogram = range(&values).histogram;
        // Ten are left out: 990 to 999.
        assert_eq!(percentile(&histogram, 99.0, true), (-989.25, 989.25));
        // Five at each end: the odd 991 to 999 and the even 990 to 998.
        assert_eq!(percentile(&histogram, 99.0, false), (-989.25, 988.25));
        assert_eq!(percentile(&histogram, 100.0, false), (-999.0, 998.0));
        assert_eq!(percentile(&range(&[1.0, 2.0]).histogram, 99.0, false), (0.0, 2.0));
    }

    #[test]
    fn the_divergence_is_that_of_the_definition() {
        let bins = [6, 2, 1, 1];
        // P = 6/10, 4/10; Q = 6/8, 2/8.
        let two = 0.6 * 0.8f64.ln() + 0.4 * 1.6f64.ln();
        // P = 6/10, 2/10, 2/10; Q = 6/9 and 3/9 in equal parts.
        let three = 0.6 * 0.9f64.ln() + 0.4 * 1.2f64.ln();
        // P as it is; Q = 4/10, 4/10, 1/10, 1/10.
        let four = 0.6 * 1.5f64.ln() + 0.2 * 0.5f64.ln();
        for (kept, expected) in [(2, two), (3, three), (4, four)] {
            let found = divergence(&bins, kept, 2);
            assert!((found - expected).abs() < 1e-15, "{kept} bins: {found}, expected {expected}");
        }
        assert_eq!(least_divergence(&bins, 2), 3);
        // Empty bins take no part of a level: nothing is lost by keeping all.
        assert_eq!(
            (least_divergence(&[4, 4, 4, 4, 0, 0, 0, 1], 4), divergence(&[4, 4, 4, 4, 0, 0, 0, 1], 8, 4)),
            (8, 0.0)
        );
        assert_eq!(divergence(&[4, 0, 1], 2, 2), f64::INFINITY);
        assert_eq!((least_divergence(&[3, 1], 4), least_divergence(&[], 4)), (2, 0));
    }

    #[test]
    fn entropy_clips_a_tail_that_says_little() {
        let mut random = StdRng::seed_from_u64(2);
        let bell = |random: &mut StdRng| (0..12).map(|_| random.random_range(-0.5f32..0.5)).sum::<f32>();
        let mut values: Vec<f32> = (0..200_000).map(|_| bell(&mut random)).collect();
        values.push(40.0);
        let threshold = entropy(&range(&values).histogram);
        assert!((2.0..8.0).contains(&threshold), "{threshold} for a bell of width 1 and one value of 40");
    }

    #[test]
    fn the_range_of_least_error_is_that_of_a_fine_raster() {
        let mut random = StdRng::seed_from_u64(3);
        for (outliers, outlier) in [(0, 0.0), (4, 20.0), (400, 20.0), (1, -300.0)] {
            let mut values: Vec<f32> = (0..50_000).map(|_| random.random_range(-0.4f32..1.0).powi(3)).collect();
            values.extend((0..outliers).map(|_| outlier));
            let error = |numbers: StaticActivations| -> f64 {
                let rounded = |value: f32| {
                    let code = (value / numbers.scale).round_ties_even() + f32::from(numbers.zero_point);
                    (code.clamp(-128.0, 127.0) - f32::from(numbers.zero_point)) * numbers.scale
                };
                values.iter().map(|&value| f64::from(value - rounded(value)).powi(2)).sum()
            };
            let seen = range(&values);
            let (least, largest) = (seen.histogram.least, seen.histogram.largest);
            for symmetric in [true, false] {
                let found = error(numbers(&seen, InputObserver::Mse, symmetric));
                let shares: Vec<f32> = (0..16).map(|step| 0.7f32.powi(step)).collect();
                let raster = shares.iter().flat_map(|low| shares.iter().map(move |high| (least * low, largest * high)));
                let best = raster.map(|(low, high)| error(covering(low, high, symmetric).unwrap()));
                let best = best.fold(f64::INFINITY, f64::min);
                assert!(found <= 1.1 * best, "{outliers} of {outlier}, {symmetric}: {found}, raster {best}");
                assert!(found <= error(numbers(&seen, InputObserver::MinMax, symmetric)) * 1.01);
            }
        }
    }
}
