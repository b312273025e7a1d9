//! Which modules a `quantization_config` leaves in floating point; any other matrix of a block must be quantized, or the
//! checkpoint is not complete.
//!
//! | key | of | names |
//! |---|---|---|
//! | `modules_to_not_convert` | transformers (AWQ, torchao, fake quantizers) | parts of names |
//! | `dynamic` | GPTQModel | patterns behind `-:`, which match from the start of a name |
//! | `modules_in_block_to_quantize` | GPTQ | the only modules of a block that are quantized, in lists |

use serde::Deserialize;
use serde_json::{Map, Value};

use super::quantization_config::Patterns;
use super::{Entry, Storage};
use crate::error::{Error, Result};

#[derive(Debug, Default, Deserialize)]
struct Stored {
    #[serde(default)]
    modules_to_not_convert: Option<Vec<String>>,
    #[serde(default)]
    dynamic: Option<Map<String, Value>>,
    #[serde(default)]
    modules_in_block_to_quantize: Option<Vec<Vec<String>>>,
}

/// Refuses matrices of blocks that are in floating point though `stored`, the `quantization_config`, does not say so.
pub(super) fn refuse_others(place: &str, stored: &Value, entries: &[Entry]) -> Result<()> {
    let fault = |problem: String| Error::input(format!("{place}: quantization_config"), problem);
    let stored = Stored::deserialize(stored).map_err(|error| fault(error.to_string()))?;
    let patterns = stored.dynamic.iter().flat_map(Map::keys).filter_map(|key| key.strip_prefix("-:"));
    let mut compiled = Patterns::default();
    let mut pattern =
        |text: &str| compiled.matching_from_start(text).map_err(|problem| fault(format!("dynamic: {problem}")));
    let patterns = patterns.map(&mut pattern).collect::<Result<Vec<_>>>()?;
    let left = |module: &str| {
        stored.modules_to_not_convert.iter().flatten().any(|part| module.contains(part))
            || patterns.iter().any(|pattern| pattern.is_match(module))
            || stored.modules_in_block_to_quantize.as_ref().is_some_and(|lists| {
                !lists.iter().flatten().any(|name| module.strip_suffix(name.as_str()).is_some_and(|m| m.ends_with('.')))
            })
    };
    let unquantized = entries.iter().find(|entry| {
        let matrix = entry.shape.len() == 2 && !matches!(entry.storage, Storage::Quantized(_));
        let module = entry.name.strip_suffix(".weight").filter(|module| module.starts_with("model.layers."));
        matrix && module.is_some_and(|module| !left(module))
    });
    match unquantized {
        None => Ok(()),
        Some(entry) => Err(Error::input(
            format!("{place}: tensor \"{}\"", entry.name),
            "holds floating-point weights, though quantization_config does not leave its module out; the checkpoint is not \
             complete (or name the module in modules_to_not_convert)",
        )),
    }
}
