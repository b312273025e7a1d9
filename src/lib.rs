//! quantbench answers one question with evidence: which quantized form of a model should ship on this CPU?
//!
//! ```text
//! suite file -> Suite -> Model -> Variants -> Scores (accuracy)  \
//!                                         \-> Timings, Memory     -> Run on disk -> decide -> report
//! ```
//!
//! [`pipeline`] tells this story from top to bottom. Modules are listed from the top layer to the bottom one; imports
//! go down only (`tests/layering.rs` holds the table).

pub mod assets;
pub mod checkpoint;
pub mod cli;
pub mod decide;
pub mod error;
pub mod kernels;
pub mod machine;
pub mod measure;
pub mod network;
pub mod pipeline;
pub mod quantize;
pub mod report;
pub mod results;
pub mod stats;
pub mod suite;
pub mod tasks;
pub mod tensor;
pub mod units;
pub mod variant;
pub mod worker;
