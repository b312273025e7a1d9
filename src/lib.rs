//! quantbench answers one question with evidence: which quantized form of a model should ship on this CPU?
//!
//! ```text
//! suite file -> Suite -> Model -> Variants -> Scores (accuracy)  \
//!                                         \-> Timings, Memory     -> Run on disk -> decide -> report
//! ```
//!
//! [`pipeline`] tells this story from top to bottom. Modules are listed from the top layer to the bottom one; imports
//! go down only (`tests/layering.rs` holds the table).

pub mod cli;
pub mod pipeline;
pub mod report;
pub mod gate;
pub mod decide;
pub mod measure;
pub mod worker;
pub mod tasks;
pub mod variant;
pub mod quantize;
pub mod network;
pub mod checkpoint;
pub mod assets;
pub mod results;
pub mod suite;
pub mod machine;
pub mod kernels;
pub mod stats;
pub mod tensor;
pub mod files;
pub mod text;
pub mod units;
pub mod program;
pub mod error;
