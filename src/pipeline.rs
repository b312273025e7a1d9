//! The story of a run, from the suite file to the report.
