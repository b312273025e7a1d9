//! `activations`: what a recipe does to the inputs of linear layers.
//!
//! | form | inputs |
//! |---|---|
//! | `"none"` | stay floating point |
//! | `{ bits = 8, granularity = "token", mode = "dynamic" }`, all three optional | 8 bits, a scale for each token |
//! | `{ bits = 8, granularity = "tensor", mode = "static", observer, symmetric }` | 8 bits, one scale learned from calibration text |
//!
//! `observer` chooses the range that static codes cover: `minmax` (all that was seen, the default), `moving_average`,
//! `percentile` (99.99 of 100 values, or what `percentile` says), `entropy` or `mse`. `symmetric` is true by default; false gives
//! the codes a zero point.

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use crate::tensor::ActivationScheme;

/// Percentile where the suite names none.
const PERCENTILE: f64 = 99.99;

/// What a recipe does to the inputs of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputScheme {
    /// They stay floating point.
    #[default]
    None,
    /// 8 bits, symmetric, a scale for each token.
    DynamicToken,
    /// 8 bits, one scale for all inputs of a layer, learned from calibration text.
    Static(StaticInputs),
}

impl InputScheme {
    /// What the kernels do, where nothing is learned: static inputs have no numbers yet, and stay floating point.
    pub fn unlearned(self) -> ActivationScheme {
        match self {
            InputScheme::DynamicToken => ActivationScheme::DynamicToken,
            InputScheme::None | InputScheme::Static(_) => ActivationScheme::None,
        }
    }

    /// The observer's name for one that learns from calibration text.
    pub fn learns(self) -> Option<&'static str> {
        matches!(self, InputScheme::Static(_)).then_some("activations with mode \"static\"")
    }
}

/// How static inputs are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StaticInputs {
    /// How the range that the codes cover is chosen.
    pub observer: InputObserver,
    /// No zero point.
    pub symmetric: bool,
}

/// How the range that the codes of static inputs cover is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputObserver {
    /// All that was seen.
    #[serde(rename = "minmax")]
    MinMax,
    /// The mean range of the calibration sequences.
    MovingAverage,
    /// So many of 100 values.
    Percentile(f64),
    /// Least information lost.
    Entropy,
    /// Least mean squared error.
    Mse,
}

impl InputObserver {
    /// The name in a suite.
    pub fn name(self) -> &'static str {
        match self {
            InputObserver::MinMax => "minmax",
            InputObserver::MovingAverage => "moving_average",
            InputObserver::Percentile(_) => "percentile",
            InputObserver::Entropy => "entropy",
            InputObserver::Mse => "mse",
        }
    }
}

/// Reads the key `activations`; see the module's page.
pub(super) fn read(table: &Fields<'_>) -> Option<InputScheme> {
    if table.is_text("activations") {
        return table.choice("activations", &[("none", InputScheme::None)]);
    }
    let scheme = table.table("activations")?;
    scheme.whole("bits", 8..=8);
    let is_static = scheme.choice("mode", &[("dynamic", false), ("static", true)]).unwrap_or(false);
    let inputs = if is_static {
        scheme.choice("granularity", &[("tensor", ())]);
        InputScheme::Static(read_static(&scheme))
    } else {
        scheme.choice("granularity", &[("token", ())]);
        InputScheme::DynamicToken
    };
    scheme.finish();
    Some(inputs)
}

fn read_static(scheme: &Fields<'_>) -> StaticInputs {
    use InputObserver::{Entropy, MinMax, MovingAverage, Mse, Percentile};
    let observers =
        [MinMax, MovingAverage, Percentile(PERCENTILE), Entropy, Mse].map(|observer| (observer.name(), observer));
    let mut observer = scheme.choice("observer", &observers).unwrap_or(MinMax);
    if let Some(percent) = scheme.positive("percentile", 100.0) {
        match observer {
            Percentile(_) => observer = Percentile(percent),
            _ => scheme.fault("`percentile` is only for observer = \"percentile\"; remove one of the two"),
        }
    }
    StaticInputs { observer, symmetric: scheme.flag("symmetric").unwrap_or(true) }
}
