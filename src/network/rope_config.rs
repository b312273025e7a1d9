//! The rotary settings of a `config.json`: base and stretching of the frequencies.
//!
//! `rope_parameters` since transformers 5, `rope_scaling` with a `rope_theta` beside it before; a file may state them in
//! both ways, and then the two must agree. Keys and defaults are those of `modeling_rope_utils.py`.

use serde_json::Value;

use crate::error::Result;
use crate::network::config::MAX_POSITIONS;
use crate::network::config_keys::Only;
use crate::network::keys::Keys;

/// Stretching of rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low` are divided.
        low: f64,
        /// Wavelengths below `original_positions / high` are kept.
        high: f64,
        /// Context length before stretching.
        original_positions: f64,
    },
    /// Frequency `i` divided by `factors[i]`: how GGUF files state Llama 3.1's stretching.
    Factors(Vec<f32>),
}

/// Base of the rotary frequencies where a file does not say.
const DEFAULT_THETA: f64 = 10_000.0;
const MAX_THETA: f64 = 1e12;
const MAX_FACTOR: f64 = 1e6;

/// What one of the two objects says.
#[derive(Debug, PartialEq)]
struct Stated {
    key: &'static str,
    theta: Option<f64>,
    scaling: RopeScaling,
}

/// Base and stretching; `max_positions` is the longest sequence.
///
/// # Errors
/// A stretching that is not supported, and two statements that differ.
pub(super) fn rope(keys: &Keys<'_>, max_positions: usize) -> Result<(f64, RopeScaling)> {
    let original = keys.optional_number("original_max_position_embeddings", 0.0, MAX_POSITIONS as f64)?;
    let mut objects = Vec::new();
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(json) = keys.object(key)? {
            let place = format!("{}: {key}", keys.place);
            let (theta, scaling) = stated(&Keys::new(&place, json), original, max_positions)?;
            objects.push(Stated { key, theta, scaling });
        }
    }
    if let [first, second] = &objects[..]
        && first.scaling != second.scaling
    {
        let (first, second) = (first.key, second.key);
        return Err(keys.fault(format!("\"{first}\" and \"{second}\" state different scalings; keep one of them")));
    }
    let own = keys.optional_number("rope_theta", 1.0, MAX_THETA)?.map(|theta| ("rope_theta", theta));
    let thetas = objects.iter().filter_map(|object| object.theta.map(|theta| (object.key, theta))).chain(own);
    let thetas: Vec<(&str, f64)> = thetas.collect();
    if let Some((key, theta)) = thetas.iter().find(|(_, theta)| *theta != thetas[0].1) {
        let (first, other) = thetas[0];
        return Err(keys.fault(format!(
            "\"rope_theta\" is stated twice and differs: {other} in \"{first}\", {theta} in \"{key}\"; keep one of them"
        )));
    }
    let theta = thetas.first().map_or(DEFAULT_THETA, |(_, theta)| *theta);
    Ok((theta, objects.pop().map_or(RopeScaling::None, |object| object.scaling)))
}

/// The base, where it is stated here, and the stretching of one object.
fn stated(rope: &Keys<'_>, original: Option<f64>, max_positions: usize) -> Result<(Option<f64>, RopeScaling)> {
    let theta = rope.optional_number("rope_theta", 1.0, MAX_THETA)?;
    let kind = kind(rope)?;
    rope.only("partial_rotary_factor", Only::Number(1.0))?;
    rope.only("attention_factor", Only::Number(1.0))?;
    // Whether the model was trained with the scaling, and on how many positions: history, except for Llama 3.
    rope.optional_flag("finetuned")?;
    let inside = rope.optional_number("original_max_position_embeddings", 0.0, MAX_POSITIONS as f64)?;
    let factor = || rope.number("factor", 0.0, MAX_FACTOR);
    let scaling = match kind.as_str() {
        "default" => {
            rope.only("factor", Only::Number(1.0))?;
            RopeScaling::None
        }
        "linear" => RopeScaling::Linear { factor: factor()? },
        "llama3" => {
            if let (Some(inside), Some(outside)) = (inside, original)
                && inside != outside
            {
                return Err(rope.fault(format!(
                    "\"original_max_position_embeddings\" is {inside}, and {outside} beside this object; keep one of them"
                )));
            }
            let low = rope.number("low_freq_factor", 0.0, MAX_FACTOR)?;
            RopeScaling::Llama3 {
                factor: factor()?,
                low,
                high: rope.number("high_freq_factor", low, MAX_FACTOR)?,
                original_positions: inside.or(original).unwrap_or(max_positions as f64),
            }
        }
        "frequency_factors" => RopeScaling::Factors(frequency_factors(rope)?),
        other => {
            let problem = "is not supported; supported are default, linear and llama3";
            return Err(rope.fault(format!("rope scaling \"{other}\" {problem}")));
        }
    };
    match rope.unread().first() {
        None => Ok((theta, scaling)),
        Some(key) => {
            Err(rope
                .fault(format!("\"{key}\" of rope scaling \"{kind}\" is not supported; remove it if it is not used")))
        }
    }
}

/// `rope_type`, or `type` as it was called before.
fn kind(rope: &Keys<'_>) -> Result<String> {
    match (rope.optional_text("rope_type")?, rope.optional_text("type")?) {
        (Some(new), Some(old)) if new != old => {
            Err(rope.fault(format!("\"rope_type\" is \"{new}\", but \"type\" is \"{old}\"; keep one of them")))
        }
        (new, old) => Ok(new.or(old).unwrap_or_else(|| "default".to_owned())),
    }
}

fn frequency_factors(rope: &Keys<'_>) -> Result<Vec<f32>> {
    let stated = rope.optional("factors").unwrap_or(&Value::Null);
    let list = stated.as_array().ok_or_else(|| rope.unexpected("factors", stated, "a list of numbers"))?;
    let factor = |factor: &Value| {
        let number = factor.as_f64().map(|f| f as f32).filter(|f| f.is_finite() && *f > 0.0);
        number.ok_or_else(|| rope.fault(format!("rotary frequency factor {factor} is not a number above 0")))
    };
    list.iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(entries: Value) -> Result<(f64, RopeScaling)> {
        rope(&Keys::new("c", &entries), 4096)
    }

    fn message(entries: Value) -> String {
        read(entries).unwrap_err().to_string()
    }

    #[test]
    fn scaling_in_both_spellings() {
        assert_eq!(read(json!({})).unwrap(), (10_000.0, RopeScaling::None));
        assert_eq!(read(json!({"rope_scaling": {}, "rope_theta": 5e5})).unwrap(), (5e5, RopeScaling::None));
        let linear = RopeScaling::Linear { factor: 4.0 };
        for entries in [
            json!({"rope_scaling": {"type": "linear", "factor": 4}}),
            json!({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000}, "rope_theta": 10000.0}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0}, "rope_scaling": {"type": "linear", "factor": 4.0}}),
            json!({"rope_scaling": {"type": "linear", "factor": 4.0, "partial_rotary_factor": 1.0, "attention_factor": null}}),
        ] {
            assert_eq!(read(entries).unwrap(), (10_000.0, linear.clone()));
        }
        let factors: Vec<f32> = (1..=32).map(|f| f as f32).collect();
        let stated = json!({"rope_scaling": {"rope_type": "frequency_factors", "factors": factors}});
        assert_eq!(read(stated).unwrap().1, RopeScaling::Factors(factors));
    }

    #[test]
    fn llama3_takes_the_positions_from_where_transformers_does() {
        let object = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
        let positions = |entries: Value| match read(entries).unwrap().1 {
            RopeScaling::Llama3 { factor, low, high, original_positions } => {
                assert_eq!((factor, low, high), (32.0, 1.0, 4.0));
                original_positions
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(positions(json!({"rope_scaling": object})), 4096.0);
        assert_eq!(positions(json!({"rope_scaling": object, "original_max_position_embeddings": 1024})), 1024.0);
        let mut own = object.clone();
        own["original_max_position_embeddings"] = 8192.into();
        assert_eq!(positions(json!({"rope_parameters": own})), 8192.0);
        let two = json!({"rope_parameters": own, "original_max_position_embeddings": 1024});
        assert!(message(two).contains("keep one of them"));
        for key in ["factor", "low_freq_factor", "high_freq_factor"] {
            let mut lacking = object.clone();
            lacking[key] = Value::Null;
            assert!(message(json!({"rope_scaling": lacking})).contains(&format!("\"{key}\" is missing")));
        }
    }

    #[test]
    fn what_is_not_carried_out_and_what_disagrees_is_refused_by_name() {
        for (entries, expected) in [
            (json!({"rope_scaling": []}), "\"rope_scaling\" is []; expected an object"),
            (json!({"rope_parameters": "linear"}), "expected an object"),
            (json!({"rope_scaling": {"type": "linear"}}), "c: rope_scaling: \"factor\" is missing"),
            (json!({"rope_scaling": {"type": "linear", "factor": "Infinity"}}), "\"factor\" is \"Infinity\""),
            (json!({"rope_scaling": {"type": 1, "factor": 4.0}}), "\"type\" is 1; expected a string"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "rope scaling \"yarn\" is not supported"),
            (json!({"rope_scaling": {"rope_type": "default", "type": "mrope"}}), "\"type\" is \"mrope\""),
            (json!({"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24]}}), "\"mrope_section\" of rope"),
            (json!({"rope_scaling": {"factor": 4.0}}), "\"factor\" is 4.0, which is not supported"),
            (json!({"rope_scaling": {"type": "linear", "factor": 4.0, "attention_factor": 1.2}}), "attention_factor"),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5}}),
                "partial_rotary",
            ),
            (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "\"full_attention\" of rope"),
            (
                json!({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
                "stated twice",
            ),
            (json!({"rope_theta": "1e4"}), "\"rope_theta\" is \"1e4\""),
            (
                json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 4.0}}),
                "state different scalings",
            ),
            (json!({"rope_scaling": {"rope_type": "frequency_factors", "factors": [-1.0]}}), "-1"),
            (json!({"rope_scaling": {"rope_type": "frequency_factors", "factors": 1}}), "expected a list of numbers"),
        ] {
            let text = message(entries);
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
