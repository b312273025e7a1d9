//! Mixtures of formats: what each unit of a model loses in each format.

#[cfg(test)]
mod knapsack;
mod survey;
#[cfg(test)]
mod tests;
mod units;

pub use survey::{Survey, Work};
