//! Estimates, intervals, tests: pure functions over numbers, each with its source and known answers.
