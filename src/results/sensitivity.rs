//! What quantizing one unit alone does to a model: the result of `bench sensitivity`, and what a search starts from.

use serde::{Deserialize, Serialize};

use crate::suite::Format;

/// Version of the JSON.
pub const SENSITIVITY_SCHEMA: u32 = 1;

/// Effects of every unit of a model in every format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// [`SENSITIVITY_SCHEMA`].
    pub schema_version: u32,
    /// Version of the program.
    pub tool_version: String,
    /// SHA-256 of the model's files.
    pub model_sha256: String,
    /// Quantizer.
    pub method: String,
    /// Format of everything that is not quantized.
    pub reference: String,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Windows of calibration text that the quantizer learned from.
    pub calibration_windows: usize,
    /// Windows of text that predictions were compared on, and their tokens.
    pub windows: usize,
    /// Tokens of all windows.
    pub tokens: usize,
    /// Formats that were tried.
    pub formats: Vec<Format>,
    /// Units in the order of execution, the head last.
    pub units: Vec<UnitSensitivity>,
}

/// Linear layers that read the same input, and whose formats therefore match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitSensitivity {
    /// Block; `None` for the head.
    pub layer: Option<usize>,
    /// `qkv`, `o`, `gate_up`, `down` or `head`.
    pub unit: String,
    /// Names of its linear layers, as recipes call them.
    pub modules: Vec<String>,
    /// Weights of all of them.
    pub weights: u64,
    /// One for each format that fits.
    pub effects: Vec<Effect>,
}

/// What a format does to a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Short name of the format.
    pub format: String,
    /// `E|(W - Q) x|^2 / E|W x|^2` over the inputs that the unit has on the compared text; rounding of inputs is not in it.
    pub output_error: f64,
    /// KL(unquantized || only this unit quantized), nats per token: the mean over the compared tokens.
    pub kl: f64,
    /// Its 95 % interval over windows; `None` for a single window.
    pub kl_interval: Option<(f64, f64)>,
    /// Bytes of its weights as the kernels hold them.
    pub bytes: u64,
}

impl UnitSensitivity {
    /// The effect of a format, by its short name.
    pub fn effect(&self, format: &str) -> Option<&Effect> {
        self.effects.iter().find(|effect| effect.format == format)
    }

    /// `block 3 qkv`, `head`.
    pub fn label(&self) -> String {
        self.layer.map_or_else(|| self.unit.clone(), |layer| format!("block {layer} {}", self.unit))
    }
}
