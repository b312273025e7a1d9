//! Mixtures of formats: what each unit of a model loses in each format, and the mixture that loses least under a budget.

mod knapsack;
mod options;
mod search;
mod survey;
#[cfg(test)]
mod tests;
mod units;

pub use search::search;
pub use survey::{Survey, Work};
