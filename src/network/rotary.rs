//! Rotary position angles (Su et al. 2021, arXiv:2104.09864), with the stretchings of `config.json`.
//!
//! Frequencies and angles are rounded to f32 where Hugging Face transformers rounds them (`modeling_rope_utils.py`),
//! so that late positions turn by the same angle.

use crate::network::Config;
use crate::network::rope_config::RopeScaling;

/// Cosines and sines of the positions `0..length`.
#[derive(Debug)]
pub(super) struct Rotary {
    half: usize,
    /// `(length, head_dim / 2)`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// Tables for `length` positions.
    pub fn new(config: &Config, length: usize) -> Self {
        let frequencies = frequencies(config);
        let angles = (0..length).flat_map(|position| frequencies.iter().map(move |f| f * position as f32));
        let (sin, cos) = angles.map(|angle| f64::from(angle).sin_cos()).map(|(s, c)| (s as f32, c as f32)).unzip();
        Rotary { half: frequencies.len(), cos, sin }
    }

    /// Cosines and sines of one position, `head_dim / 2` each.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let at = position * self.half..(position + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

/// What the model divides its rotary frequencies by where they are stretched unevenly, as GGUF files state it, one
/// number for each pair of dimensions; `None` for even stretching and for none.
pub fn frequency_factors(config: &Config) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => None,
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { .. } => {
            Some(plain_frequencies(config).zip(frequencies(config)).map(|(plain, f)| plain / f).collect())
        }
    }
}

/// Angle per position of every pair of dimensions, without stretching.
fn plain_frequencies(config: &Config) -> impl Iterator<Item = f32> {
    let base = |i: usize| 1.0 / config.rope_theta.powf((2 * i) as f64 / config.head_dim as f64) as f32;
    (0..config.head_dim / 2).map(base)
}

/// Angle per position of every pair of dimensions.
fn frequencies(config: &Config) -> Vec<f32> {
    let plain = plain_frequencies(config);
    match &config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
        RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
        &RopeScaling::Llama3 { factor, low, high, original_positions } => plain
            .map(|f| {
                let turns = original_positions * f64::from(f) / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0) as f32;
                (1.0 - kept) * f / factor as f32 + kept * f
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(scaling: serde_json::Value) -> Config {
        let json = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 1, "vocab_size": 10, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "rope_scaling": scaling
        });
        Config::from_json("config.json", &json).unwrap()
    }

    #[test]
    fn first_pair_turns_one_radian_a_position_and_the_last_hardly() {
        let rotary = Rotary::new(&config(json!(null)), 4);
        let (cos, sin) = rotary.at(3);
        assert!((cos[0] - 3f32.cos()).abs() < 1e-7 && (sin[0] - 3f32.sin()).abs() < 1e-7);
        assert!(sin[31] > 0.0 && sin[31] < 1e-4);
        assert_eq!(rotary.at(0).0, [1.0; 32]);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let plain = frequencies(&config(json!(null)));
        let stretched = frequencies(&config(json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        })));
        assert_eq!(stretched[0], plain[0]);
        assert_eq!(stretched[31], plain[31] / 8.0);
        // By transformers 5.23, `_compute_llama3_parameters`: inverse frequency 17 of 32.
        assert!(stretched[17] < plain[17] && stretched[17] > plain[17] / 8.0);
    }

    #[test]
    fn linear_divides_all() {
        let plain = frequencies(&config(json!(null)));
        let halved = frequencies(&config(json!({"rope_type": "linear", "factor": 2.0})));
        assert!(halved.iter().zip(&plain).all(|(h, p)| *h == p / 2.0));
    }
}
