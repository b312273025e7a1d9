//! The suite file: one model, its data, its variants, its workload, its thresholds.
//!
//! [`Suite`] is the file as resolved: every default filled in, every name checked. [`read()`] refuses unknown keys and
//! lists all faults at once, each with file and line. The resolved suite is stored in the run folder, so everything
//! after a run knows what was asked without the file.

mod accept;
mod activations;
mod describe;
mod fields;
mod format;
mod keys;
mod read;
mod schema;
mod variants;

pub use accept::{RULES, changed};
pub use activations::{InputObserver, InputScheme, StaticInputs};
pub use format::Format;
pub use read::{from_text, read, read_for_any_machine};
pub use variants::{METHODS, recipe_from_text};

pub use schema::{
    Accept, AccuracyLimit, AccuracyMetric, Budget, Calibration, GateLimits, MarginOf, MemoryLimit, MemoryMetric,
    Method, Observer, Override, Recipe, RelativeMargin, Rotation, Search, Smooth, SpeedLimit, SpeedMetric, Suite, Task,
    TaskKind, TextSource, Variant, WeightScheme, Workload,
};
