//! The grid of a group: the real numbers that its codes stand for, `scale * (code - zero_point)`.
//!
//! Without a search ([`super::observer`]) scale and zero point are those of GPTQ and compressed-tensors: the range of the values is extended to include
//! 0; a symmetric grid spreads `2^b - 1` steps over `-max|w| ..= max|w|` (so the largest magnitude may clip by half a
//! step), an asymmetric one over `min ..= max`.

use half::f16;

/// Largest relative change by which a scale may be rounded to f16: a quarter of a step at the end of an 8-bit range.
/// Scales below about 2^-15 (subnormal in f16) may change by more.
const F16_TOLERANCE: f32 = 1.0 / 1024.0;

/// Evenly spaced real numbers with a code each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    scale: f32,
    zero_point: i32,
    low: i32,
    high: i32,
}

impl Grid {
    /// The grid of `bits` bits that covers `values`, which are finite.
    ///
    /// The scale is rounded to f16 before anything is quantized, so that what is stored is what was used; it stays f32
    /// where f16 would overflow or change it by more than 1/1024. Values that are all zero get the scale 1.
    pub fn covering(values: &[f32], bits: u8, symmetric: bool) -> Grid {
        let (min, max) = values.iter().fold((0.0f32, 0.0f32), |(min, max), &v| (min.min(v), max.max(v)));
        Grid::spanning(min, max, bits, symmetric)
    }

    /// The grid of [`Grid::covering`] for values from `min` (at most 0) to `max` (at least 0).
    pub(super) fn spanning(min: f32, max: f32, bits: u8, symmetric: bool) -> Grid {
        let (low, high) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
        let steps = f64::from(high - low);
        let range = if symmetric { 2.0 * f64::from(max.max(-min)) } else { f64::from(max) - f64::from(min) };
        if range == 0.0 {
            return Grid { scale: 1.0, zero_point: 0, low, high };
        }
        let scale = storable_scale((range / steps) as f32);
        let grid = Grid { scale, zero_point: 0, low, high };
        if symmetric { grid } else { grid.reaching(min, 0) }
    }

    /// Code of the nearest number of the grid, half to even.
    #[inline]
    pub fn code(&self, value: f32) -> i8 {
        let (low, high) = self.distances();
        (round((value / self.scale).clamp(low, high)) as i32 + self.zero_point) as i8
    }

    /// The number that `code` stands for, by the formula of [`crate::tensor::QuantizedTensor`].
    #[inline]
    pub fn value(&self, code: i8) -> f32 {
        self.scale * (i32::from(code) - self.zero_point) as f32
    }

    /// The same codes for other numbers; `scale` is taken as it is, see [`Grid::stored`].
    pub(super) fn with_scale(self, scale: f32) -> Grid {
        Grid { scale, ..self }
    }

    /// The same scale with the zero point that lets the codes begin at `min`, `shift` codes higher.
    pub(super) fn reaching(self, min: f32, shift: i32) -> Grid {
        let zero_point = (self.low - (min / self.scale).round_ties_even() as i32).saturating_add(shift);
        self.with_zero_point(zero_point)
    }

    /// The same scale with another zero point, the nearest that is a code.
    pub(super) fn with_zero_point(self, zero_point: i32) -> Grid {
        Grid { zero_point: zero_point.clamp(self.low, self.high), ..self }
    }

    /// The grid as an artefact stores it: the scale rounded to f16 where f16 holds it well.
    pub(super) fn stored(self) -> Grid {
        Grid { scale: storable_scale(self.scale), ..self }
    }

    /// Smallest and largest distance of a code from the zero point.
    pub(super) fn distances(&self) -> (f32, f32) {
        ((self.low - self.zero_point) as f32, (self.high - self.zero_point) as f32)
    }

    /// Distance of neighbouring numbers, negative where higher codes stand for lower numbers.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Code of real zero.
    pub fn zero_point(&self) -> i8 {
        self.zero_point as i8
    }
}

/// The nearest whole number, half to even, of a magnitude up to 2^22: addition rounds, and costs no call as
/// `round_ties_even` does on processors of 2003.
#[inline]
pub(super) fn round(value: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND) - ROUND
}

/// `scale` as an artefact stores it: rounded to f16 where f16 holds it well, else as it is.
fn storable_scale(scale: f32) -> f32 {
    let scale = scale.abs().max(f32::MIN_POSITIVE).copysign(scale);
    let rounded = f16::from_f32(scale).to_f32();
    if (rounded - scale).abs() <= scale.abs() * F16_TOLERANCE { rounded } else { scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symmetric_grid_spreads_all_steps_over_twice_the_largest_magnitude() {
        let grid = Grid::covering(&[-7.5, 3.0], 4, true);
        assert_eq!(grid.scale(), 1.0);
        assert_eq!([-7.5, -6.5, 0.5, 1.5, 9.0].map(|v| grid.code(v)), [-8, -6, 0, 2, 7]);
    }

    #[test]
    fn an_asymmetric_grid_covers_the_range_and_zero_exactly() {
        let grid = Grid::covering(&[2.0, 15.0], 4, false);
        assert_eq!((grid.scale(), grid.zero_point()), (1.0, -8));
        assert_eq!(grid.value(grid.code(15.0)), 15.0);
        let negative = Grid::covering(&[-30.0, -1.0], 4, false);
        assert_eq!((negative.scale(), negative.zero_point()), (2.0, 7));
        assert_eq!([0.0, -30.0].map(|v| negative.value(negative.code(v))), [0.0, -30.0]);
    }

    #[test]
    fn scales_are_f16_unless_f16_cannot_hold_them() {
        let is_f16 = |scale: f32| f16::from_f32(scale).to_f32() == scale;
        assert!(is_f16(Grid::covering(&[0.1234567], 4, true).scale()));
        assert!(is_f16(Grid::covering(&[5e-3], 8, true).scale()), "a subnormal f16 that is close enough");
        for extreme in [1e-9, 3e38, 1e-44] {
            let grid = Grid::covering(&[extreme], 4, true);
            assert!(!is_f16(grid.scale()) && grid.scale().is_finite() && grid.scale() > 0.0);
            assert!((grid.value(grid.code(extreme)) - extreme).abs() <= grid.scale() * 0.51);
        }
        let widest = Grid::covering(&[-f32::MAX, f32::MAX], 2, false);
        assert!(widest.scale().is_finite());
    }

    #[test]
    fn zeros_stay_zero() {
        for symmetric in [true, false] {
            let grid = Grid::covering(&[0.0, -0.0], 3, symmetric);
            assert_eq!((grid.scale(), grid.value(grid.code(0.0))), (1.0, 0.0));
        }
    }
}
