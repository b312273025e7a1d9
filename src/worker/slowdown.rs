//! A slowdown that is planted on purpose, to see whether the judging finds it: `BENCH_SLOWDOWN=0.05` makes every timed
//! phase 5 % longer by waiting busily. `bench selftest` sets it for one arm; tests of a gate set it for a whole run.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::machine::SLOWDOWN;

/// Share by which timed phases are lengthened; 0 unless it was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slowdown(f64);

impl Slowdown {
    /// What the environment asks for.
    ///
    /// # Errors
    /// A value that is no number from 0 to 10.
    pub fn planted() -> Result<Slowdown> {
        match std::env::var(SLOWDOWN) {
            Err(_) => Ok(Slowdown(0.0)),
            Ok(text) => Slowdown::parse(&text),
        }
    }

    fn parse(text: &str) -> Result<Slowdown> {
        let share = text.parse().ok().filter(|share| (0.0..=10.0).contains(share));
        share.map(Slowdown).ok_or_else(|| {
            Error::Usage(format!("{SLOWDOWN} is {text:?}; expected a share from 0 to 10, such as 0.05 for 5 %"))
        })
    }

    /// Waits until the phase that began at `began` has lasted longer by the share.
    pub fn lengthen(self, began: Instant) {
        if self.0 > 0.0 {
            let end = began + began.elapsed().mul_f64(1.0 + self.0);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_phase_is_lengthened_by_its_share() {
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        Slowdown::parse("0").unwrap().lengthen(began);
        let before = began.elapsed();
        Slowdown::parse("0.5").unwrap().lengthen(began);
        assert!(began.elapsed() >= before.mul_f64(1.5));
        assert!(Slowdown::parse("5 %").is_err() && Slowdown::parse("-1").is_err() && Slowdown::parse("NaN").is_err());
    }
}
