//! Formats of a weight with its inputs, and their short names.
//!
//! `4g32` is 4 bits in groups of 32 columns, `8` is 8 bits per channel, `8t` per tensor; `z` adds zero points, `a8` 8-bit
//! inputs per token: `4g64z`, `8a8`. How the scales are found (`observer`) is not part of a name.

use serde::{Deserialize, Serialize};

use super::activations::InputScheme;
use super::schema::{Observer, WeightScheme};
use crate::tensor::Granularity;

/// Bits of a code that kernels read as they are.
const BITS: [u8; 2] = [4, 8];

/// How a linear layer runs: its weights, and what happens to its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// Scheme of the weights.
    pub weights: WeightScheme,
    /// Of the inputs.
    #[serde(default)]
    pub activations: InputScheme,
}

impl Format {
    /// The short name.
    pub fn name(&self) -> String {
        let scheme = &self.weights;
        let granularity = match (scheme.granularity, scheme.group_size) {
            (Granularity::Group, Some(size)) => format!("g{size}"),
            (Granularity::Tensor, _) => "t".into(),
            (Granularity::Group, None) | (Granularity::Channel, _) => String::new(),
        };
        let zero = if scheme.symmetric { "" } else { "z" };
        let inputs = if self.activations == InputScheme::None { "" } else { "a8" };
        format!("{}{granularity}{zero}{inputs}", scheme.bits)
    }

    /// The format of a short name, scales being found by `observer`.
    ///
    /// # Errors
    /// Another name, or bits without a kernel of their own; the message says what is expected.
    pub fn parse(name: &str, observer: Observer) -> Result<Format, String> {
        let fault = || format!("{name:?} is no format; expected names such as 4g32, 4g64z, 8 or 8a8");
        let (rest, activations) = match name.strip_suffix("a8") {
            Some(rest) => (rest, InputScheme::DynamicToken),
            None => (name, InputScheme::None),
        };
        let (rest, symmetric) = rest.strip_suffix('z').map_or((rest, true), |rest| (rest, false));
        let (bits, granularity, group_size) = if let Some((bits, size)) = rest.split_once('g') {
            (bits, Granularity::Group, Some(size.parse().map_err(|_| fault())?))
        } else if let Some(bits) = rest.strip_suffix('t') {
            (bits, Granularity::Tensor, None)
        } else {
            (rest, Granularity::Channel, None)
        };
        let bits = bits.parse().map_err(|_| fault())?;
        let weights = WeightScheme { bits, granularity, group_size, symmetric, observer };
        Format { weights, activations }.check().map(|()| Format { weights, activations })
    }

    /// The same for an output head, which learns nothing from calibration text.
    pub fn of_head(&self) -> Format {
        let observer = match self.weights.observer {
            Observer::ImatrixMse => Observer::Mse,
            other => other,
        };
        Format { weights: WeightScheme { observer, ..self.weights }, ..*self }
    }

    /// Refuses what no kernel reads as it is.
    ///
    /// # Errors
    /// Other bits than 4 and 8.
    pub fn check(&self) -> Result<(), String> {
        let bits = self.weights.bits;
        if BITS.contains(&bits) {
            return Ok(());
        }
        Err(format!("{bits} bits have no kernel of their own, so nothing is won by mixing them; use 4 or 8 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["4g32", "4g64z", "8", "8a8", "8t", "8tza8", "4g128a8"] {
            assert_eq!(Format::parse(name, Observer::Mse).unwrap().name(), name);
        }
        let format = Format::parse("4g64za8", Observer::Mse).unwrap();
        assert_eq!((format.weights.bits, format.weights.group_size, format.weights.symmetric), (4, Some(64), false));
        assert_eq!((format.weights.observer, format.activations), (Observer::Mse, InputScheme::DynamicToken));
    }

    #[test]
    fn other_names_and_bits_without_a_kernel_are_refused() {
        for name in ["", "four", "4g", "g32", "4g32x", "a8", "-4"] {
            assert!(Format::parse(name, Observer::MinMax).unwrap_err().contains("no format"), "{name}");
        }
        assert!(Format::parse("3g32", Observer::MinMax).unwrap_err().contains("no kernel"));
    }
}
