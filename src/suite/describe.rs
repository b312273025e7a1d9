//! A recipe in words, for tables and reports.

use std::fmt;

use super::activations::{InputObserver, InputScheme, StaticInputs};
use super::format::Format;
use super::schema::{Budget, Method, Observer, Override, Recipe, Rotation, Smooth, Variant, WeightScheme};
use crate::kernels::KvFormat;
use crate::tensor::Granularity;
use crate::units;

impl fmt::Display for Recipe {
    /// `GPTQ, 4 bits symmetric, groups of 64, weight-only; lm_head 8 bits symmetric, per channel`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipe::Cast { dtype } => write!(f, "cast to {}", dtype.name()),
            Recipe::Quantize(method) => quantize(method, f),
            Recipe::Search(search) => {
                let formats: Vec<String> = search.formats.iter().map(Format::name).collect();
                let (formats, dense) = (formats.join(", "), search.dense.name());
                write!(
                    f,
                    "{}, formats searched among {formats}, {dense}: {}",
                    search.quantizer.to_uppercase(),
                    search.budget
                )
            }
            Recipe::Import { source, activations } => {
                match source.as_str() {
                    "model" => f.write_str("the model as published")?,
                    other => write!(f, "import of {other}")?,
                }
                match activations {
                    // As the checkpoint says.
                    InputScheme::None => Ok(()),
                    chosen => write!(f, ", {}", inputs(*chosen)),
                }
            }
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Bytes(bytes) => write!(f, "at most {}", units::bytes(*bytes)),
            Budget::Speedup(speedup) => write!(f, "products at least {speedup} times as fast"),
            Budget::Divergence(kl) => write!(f, "divergence at most {kl} nats"),
        }
    }
}

impl Variant {
    /// The recipe in words, with the storage of keys and values where the suite says it.
    pub fn describe(&self) -> String {
        let cache = match self.kv_cache {
            None => "",
            Some(KvFormat::F32) => ", 32-bit KV cache",
            Some(KvFormat::F16) => ", 16-bit KV cache",
            Some(KvFormat::Bf16) => ", bfloat16 KV cache",
            Some(KvFormat::Int8) => ", 8-bit KV cache",
        };
        format!("{}{cache}", self.recipe)
    }
}

impl fmt::Display for WeightScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symmetry = if self.symmetric { "symmetric" } else { "asymmetric" };
        write!(f, "{} bits {symmetry}, ", self.bits)?;
        match (self.granularity, self.group_size) {
            (Granularity::Tensor, _) => f.write_str("per tensor")?,
            (Granularity::Group, Some(size)) => write!(f, "groups of {size}")?,
            (Granularity::Channel, _) | (Granularity::Group, None) => f.write_str("per channel")?,
        }
        f.write_str(match self.observer {
            Observer::MinMax => "",
            Observer::Mse => ", scales of least error",
            Observer::ImatrixMse => ", scales of least error over calibration inputs",
        })
    }
}

fn quantize(method: &Method, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}, {}, {}", method.method.to_uppercase(), method.weights, inputs(method.activations))?;
    match method.smooth {
        Some(Smooth::Search) => f.write_str(" smoothed")?,
        Some(Smooth::Alpha(alpha)) => write!(f, " smoothed by {alpha}")?,
        None => {}
    }
    if method.bias_correction {
        f.write_str(", biases corrected")?;
    }
    if let Some(Rotation::Hadamard) = method.rotation {
        f.write_str(", rotated by Hadamard matrices")?;
    }
    if method.asymmetric_calibration {
        f.write_str(", calibrated to the unquantized outputs")?;
    }
    for alike in method.overrides.chunk_by(Override::is_alike) {
        let Some(rule) = alike.first() else { continue };
        let tensors = match alike.len() {
            1 => rule.tensors.clone(),
            several => format!("{several} layers"),
        };
        match rule.weights {
            Some(scheme) => write!(f, "; {tensors} {scheme}")?,
            None => write!(f, "; {tensors} {}", method.dense.name())?,
        }
        if let Some(activations) = rule.activations {
            write!(f, ", {}", inputs(activations))?;
        }
    }
    Ok(())
}

fn inputs(inputs: InputScheme) -> String {
    match inputs {
        InputScheme::None => "weight-only".into(),
        InputScheme::DynamicToken => "8-bit inputs per token".into(),
        InputScheme::Static(StaticInputs { observer, symmetric }) => {
            let asymmetric = if symmetric { "" } else { " asymmetric" };
            let range = match observer {
                InputObserver::MinMax => "all that was seen".into(),
                InputObserver::MovingAverage => "the mean range".into(),
                InputObserver::Percentile(percent) => format!("{percent} % of all"),
                InputObserver::Entropy => "ranges of least information lost".into(),
                InputObserver::Mse => "ranges of least error".into(),
            };
            format!("8-bit{asymmetric} static inputs over {range}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Observer, Override};
    use crate::tensor::DenseFormat;

    #[test]
    fn recipes_read_well() {
        let channel = WeightScheme {
            bits: 8,
            granularity: Granularity::Channel,
            group_size: None,
            symmetric: true,
            observer: Observer::MinMax,
        };
        let group = WeightScheme {
            bits: 4,
            granularity: Granularity::Group,
            group_size: Some(64),
            symmetric: false,
            observer: Observer::MinMax,
        };
        let gptq = Recipe::Quantize(Method {
            method: "gptq".into(),
            weights: group,
            activations: InputScheme::DynamicToken,
            smooth: None,
            bias_correction: false,
            rotation: None,
            asymmetric_calibration: false,
            overrides: vec![
                Override { tensors: "lm_head".into(), weights: Some(channel), activations: None },
                Override { tensors: "*.0.*".into(), weights: None, activations: None },
            ],
            dense: DenseFormat::F16,
        });
        assert_eq!(
            gptq.to_string(),
            "GPTQ, 4 bits asymmetric, groups of 64, 8-bit inputs per token; lm_head 8 bits symmetric, per channel; *.0.* f16"
        );
        let cast = Recipe::Cast { dtype: DenseFormat::F16 };
        assert_eq!(cast.to_string(), "cast to f16");
        let variant = Variant { name: "v".into(), recipe: cast, kv_cache: Some(KvFormat::Int8) };
        assert_eq!(variant.describe(), "cast to f16, 8-bit KV cache");
        let import = Recipe::Import { source: "model".into(), activations: InputScheme::None };
        assert_eq!(import.to_string(), "the model as published");
    }
}
