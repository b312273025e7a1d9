//! The clock that everything is timed with: what a reading costs, and the smallest step that it can tell.

use std::time::{Duration, Instant};

use super::record::Timer;

/// Readings that are timed together.
const READINGS: u32 = 10_000;

/// Reads the clock many times in a row.
pub(super) fn timer() -> Timer {
    let began = Instant::now();
    let mut last = began;
    let mut step = Duration::MAX;
    for _ in 0..READINGS {
        let now = Instant::now();
        if now > last {
            step = step.min(now - last);
        }
        last = now;
    }
    Timer { reading_s: (last - began).as_secs_f64() / f64::from(READINGS), step_s: step.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_takes_less_than_a_millisecond_and_time_goes_on() {
        let timer = timer();
        assert!(timer.reading_s > 0.0 && timer.reading_s < 1e-3, "{timer:?}");
        assert!(timer.step_s > 0.0 && timer.step_s < 1e-3, "{timer:?}");
    }
}
