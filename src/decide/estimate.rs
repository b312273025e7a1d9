//! Intervals to estimates.

use crate::results::{Direction, Estimate, Unit};
use crate::stats::Interval;

/// An estimate, if its point is finite; bounds that are not finite are left out.
pub(super) fn estimate(
    interval: Interval,
    confidence: f64,
    unit: Unit,
    direction: Direction,
    method: impl Into<String>,
) -> Option<Estimate> {
    let bounds = interval.bounds.filter(|(low, high)| low.is_finite() && high.is_finite());
    let (low, high) = bounds.unzip();
    let method = method.into();
    interval.value.is_finite().then_some(Estimate {
        value: interval.value,
        low,
        high,
        confidence,
        unit,
        direction,
        n: interval.n,
        method,
    })
}
