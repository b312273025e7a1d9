//! Estimates and intervals: pure functions over numbers, each with its source and known answers.
//!
//! Every function returns `None` instead of a guess: for no data, for NaN or infinite data, and (in
//! [`Interval::bounds`]) where the data is too little for the confidence that was asked for. There is no bootstrap:
//! at the sizes of a benchmark (5 to 30 blocks) its percentile interval covers 83 to 93 % instead of 95 %, as the
//! negative control in this module's tests shows.

mod mean;
mod order;
mod paired;
mod paired_table;
mod planning;
mod rank;
mod ratio;
mod sequential;
mod signed_rank;
mod split_mix;
mod student;
mod symmetry;

pub use mean::{mean, mean_interval, variance};
pub use order::{median, median_interval, quantile, quantile_interval};
pub use paired::{PairedItem, Proportion, paired_difference, proportion};
pub use paired_table::PairedTable;
pub use planning::{items_needed, smallest_provable_drop, smallest_provable_loss, tokens_needed, values_to_prove};
pub use rank::rank_correlation;
pub use ratio::{Cluster, Ratio, ratio_interval};
pub use sequential::{Claim, sequential_claim};
pub use signed_rank::{hodges_lehmann, signed_rank_p};
pub use split_mix::split_mix;
pub use student::{normal_quantile, t_quantile};
pub use symmetry::{Side, symmetry_evidence};

/// A point with a two-sided interval around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Point estimate.
    pub value: f64,
    /// Lower and upper bound; `None` where there is too little data for the confidence.
    pub bounds: Option<(f64, f64)>,
    /// Independent units behind it.
    pub n: usize,
}

impl Interval {
    /// The interval under an increasing function: `f(value)`, `f(low)`, `f(high)`.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Interval { value: f(self.value), bounds: self.bounds.map(|(low, high)| (f(low), f(high))), n: self.n }
    }

    /// The interval of the negated quantity: bounds change places.
    pub fn negated(self) -> Self {
        Interval { value: -self.value, bounds: self.bounds.map(|(low, high)| (-high, -low)), n: self.n }
    }
}

fn all_finite(values: &[f64]) -> bool {
    !values.is_empty() && values.iter().all(|v| v.is_finite())
}

#[cfg(test)]
mod simulations;
