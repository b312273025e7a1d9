//! The suite file: one model, its data, its variants, its workload, its thresholds.
//!
//! [`Suite`] is the file as resolved: every default filled in, every name checked. [`read`] refuses unknown keys and
//! lists all faults at once, each with file and line. The resolved suite is stored in the run folder, so everything
//! after a run knows what was asked without the file.

mod describe;
mod schema;

pub use schema::{
    Accept, AccuracyLimit, AccuracyMetric, Calibration, MemoryLimit, MemoryMetric, Method, Override, Recipe,
    SpeedLimit, SpeedMetric, Suite, Task, TaskKind, TextSource, Variant, WeightScheme, Workload,
};
