//! Estimates as people read them: `2.31x [2.25, 2.38]`, `+2.1 % [1.6, 2.6]`, `12.3 ms [12.1, 12.6]`.

use std::fmt;

use super::estimates::{Estimate, Unit};
use super::run::{Answer, Outcome};

impl Estimate {
    /// The point alone, with its unit: `2.31x`.
    pub fn point(&self) -> String {
        let (factor, unit, signed) = self.scale();
        let digits = self.digits(factor);
        let sign = if signed && self.value >= 0.0 && self.value.is_sign_positive() { "+" } else { "" };
        format!("{sign}{}{unit}", number(self.value * factor, digits))
    }

    /// The interval alone, in the unit of [`Estimate::point`]: `[2.25, 2.38]`; `None` where there is none.
    pub fn interval(&self) -> Option<String> {
        let (factor, _, _) = self.scale();
        let digits = self.digits(factor);
        let (low, high) = (self.low? * factor, self.high? * factor);
        Some(format!("[{}, {}]", number(low, digits), number(high, digits)))
    }

    /// Factor from the stored unit to the shown one, the shown unit, and whether a sign is always written.
    fn scale(&self) -> (f64, &'static str, bool) {
        match self.unit {
            Unit::Seconds if self.value < 1e-3 => (1e6, " us", false),
            Unit::Seconds if self.value < 1.0 => (1e3, " ms", false),
            Unit::Seconds => (1.0, " s", false),
            Unit::TokensPerSecond => (1.0, " tok/s", false),
            Unit::Ratio => (1.0, "x", false),
            Unit::Nats => (1.0, " nats", true),
            Unit::Points => (1.0, " points", true),
            Unit::Percent => (1.0, " %", true),
            Unit::Share => (100.0, " %", false),
            Unit::Perplexity => (1.0, "", false),
            Unit::Cosine => (1.0, "", true),
            Unit::Joules => (1.0, " J", false),
        }
    }

    /// Decimals that show the first digit of a quarter of the interval's width (three digits of the
    /// value where there is none).
    fn digits(&self, factor: f64) -> usize {
        let resolution = match (self.low, self.high) {
            (Some(low), Some(high)) if high > low => (high - low) * factor / 4.0,
            _ => self.value.abs() * factor / 100.0,
        };
        let least = if self.unit == Unit::Ratio { 2 } else { 1 };
        if resolution > 0.0 { (-resolution.log10().floor()).clamp(f64::from(least), 5.0) as usize } else { 2 }
    }
}

/// With so many decimals; by its power of ten where the digits before the point would be too many to read.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() && value.abs() >= 1e9 { format!("{value:.1e}") } else { format!("{value:.digits$}") }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.point())?;
        self.interval().map_or(Ok(()), |interval| write!(f, " {interval}"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Accept => "accept",
            Outcome::Reject => "reject",
            Outcome::Inconclusive => "inconclusive",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Direction;

    fn shown(value: f64, bounds: Option<(f64, f64)>, unit: Unit) -> String {
        let (low, high) = bounds.unzip();
        Estimate { value, low, high, confidence: 0.95, unit, direction: Direction::Higher, n: 9, method: String::new() }
            .to_string()
    }

    #[test]
    fn estimates_read_well() {
        assert_eq!(shown(2.3123, Some((2.2501, 2.3799)), Unit::Ratio), "2.31x [2.25, 2.38]");
        assert_eq!(shown(2.1, Some((1.6, 2.6)), Unit::Percent), "+2.1 % [1.6, 2.6]");
        assert_eq!(shown(0.0123, Some((0.0121, 0.0126)), Unit::Seconds), "12.3 ms [12.1, 12.6]");
        assert_eq!(shown(-0.01304, Some((-0.0141, -0.0121)), Unit::Nats), "-0.0130 nats [-0.0141, -0.0121]");
        assert_eq!(shown(84.21, None, Unit::TokensPerSecond), "84.2 tok/s");
        assert_eq!(shown(0.0, Some((0.0, 0.0)), Unit::Points), "+0.00 points [0.00, 0.00]");
        assert_eq!(shown(1.234e69, Some((-6.0, 1.9e70)), Unit::Percent), "+1.2e69 % [-6.0, 1.9e70]");
        assert_eq!(shown(f64::NAN, Some((f64::NAN, 1.0)), Unit::Percent), "NaN % [NaN, 1.00]");
    }
}
