//! Quantized weights that lie in several tensors: which format they have, and how their parts are found.
//!
//! A format gives one entry `{module}.weight` for the parts of a module (`{module}.qweight`, `{module}.scales`, ...).
//! Parts are checked against each other when the file is opened, and read when the weight is asked for.

use std::collections::HashMap;
use std::fmt::Debug;

use safetensors::Dtype;
use serde_json::Value;

use super::quantization_config::{self, QuantizationConfig};
use super::safetensors::Tensor;
use super::storage::{Format, widen};
use super::tied_head::is_tied;
use super::{Entry, Slab, Storage, awq, compressed_tensors, fake_quantize, float_format, gptq, left_dense, torchao};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, QuantizedTensor};

/// A quantized weight whose parts were found.
pub(super) trait PackedWeight: Debug + Send + Sync {
    /// Reads the integers; `bytes` lends a slab.
    ///
    /// # Errors
    /// Values that no tensor may have: NaN or infinite scales, groups out of range.
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String>;

    /// All slabs, to be released.
    fn slabs(&self) -> Vec<&Slab>;
}

/// The entries of all `tensors`, which come with the place of their file, and what the user should know of them. `metadata` holds the texts of the files'
/// `__metadata__`, `bytes` reads a slab.
///
/// # Errors
/// A quantization that is not supported, or parts that are missing or do not fit each other.
pub(super) fn entries(
    place: &str,
    config: &Value,
    metadata: &HashMap<String, String>,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<(Vec<Entry>, Vec<String>)> {
    // Older files say `compression_config`.
    let keys = ["quantization_config", "compression_config"];
    let stored = |key: &'static str| config.get(key).filter(|value| !value.is_null()).map(|value| (key, value));
    let (key, stored) = match (stored(keys[0]), stored(keys[1])) {
        (Some((_, new)), Some((_, old))) if new != old => {
            let problem = format!("\"{}\" and \"{}\" differ; keep one of them", keys[0], keys[1]);
            return Err(Error::input(place, problem));
        }
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => {
            fake_quantize::refuse_undeclared(place, &tensors)?;
            torchao::refuse_undeclared(place, &tensors)?;
            return Ok((tensors.into_iter().map(|(file, tensor)| Entry::dense(file, tensor)).collect(), Vec::new()));
        }
    };
    let fault = |problem: String| Error::input(format!("{place}: {key}"), problem);
    let unknown = |known: &[&[&str]]| unknown_keys(&format!("{place}: {key}"), stored, known);
    let mut warnings = Vec::new();
    let entries = match stored.get("quant_method").and_then(Value::as_str).unwrap_or("missing") {
        "compressed-tensors" => {
            let config = QuantizationConfig::read(stored, is_tied(config)).map_err(fault)?;
            // Which says of every module whether it is quantized.
            let entries = compressed_tensors::gather(place, &config, tensors, bytes)?;
            return Ok((entries, unknown(&[quantization_config::KEYS])));
        }
        "gptq" => {
            let config = gptq::Config::read(stored).map_err(fault)?;
            warnings.extend(unknown(&[gptq::READ, gptq::SILENT]));
            let entries = gather_qweights(place, tensors, bytes, &|parts| config.weight(parts))?;
            warnings.extend(config.warnings(place));
            entries
        }
        "awq" => {
            let config = awq::Config::read(stored).map_err(fault)?;
            warnings.extend(unknown(&[awq::READ, awq::SILENT]));
            gather_qweights(place, tensors, bytes, &|parts| config.weight(parts))?
        }
        torchao::METHOD => {
            warnings.extend(unknown(&[torchao::KEYS]));
            torchao::gather(place, stored, metadata, tensors, bytes)?
        }
        fake_quantize::METHOD => {
            warnings.extend(unknown(&[fake_quantize::KEYS]));
            fake_quantize::gather(place, stored, tensors, bytes)?
        }
        other => {
            return Err(fault(format!(
                "quant_method \"{other}\" is not supported; supported: compressed-tensors, gptq, awq, {}, {} (and GGUF files)",
                torchao::METHOD,
                fake_quantize::METHOD
            )));
        }
    };
    left_dense::refuse_others(place, stored, &entries)?;
    Ok((entries, warnings))
}

/// A warning about the keys of a `quantization_config` that are on none of the lists.
fn unknown_keys(place: &str, stored: &Value, known: &[&[&str]]) -> Vec<String> {
    const SHOWN: usize = 20;
    let is_known = |key: &str| known.iter().any(|list| list.contains(&key));
    let unknown = stored.as_object().into_iter().flatten().filter(|(key, value)| !value.is_null() && !is_known(key));
    let names: Vec<String> = unknown.map(|(key, _)| format!("\"{key:.60}\"")).take(SHOWN).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!("{place}: keys that are not known here and are not carried out: {}", names.join(", "))]
}

/// Tensors by name, each with the place of its file.
pub(super) fn by_name(tensors: &[(usize, Tensor)]) -> HashMap<String, (usize, Tensor)> {
    tensors.iter().map(|(file, tensor)| (tensor.name.clone(), (*file, tensor.clone()))).collect()
}

/// A weight with its shape.
type Shaped = (Vec<usize>, Box<dyn PackedWeight>);

/// Gathers modules with a `qweight` (GPTQ, AWQ) into entries; other tensors stay as they are.
fn gather_qweights(
    place: &str,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
    weight: &dyn Fn(&Parts) -> Result<Shaped>,
) -> Result<Vec<Entry>> {
    let by_name = by_name(&tensors);
    let mut entries = Vec::new();
    for (file, tensor) in tensors {
        let (module, part) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
        let parts = Parts { place, module, by_name: &by_name, bytes };
        match part {
            "qweight" => {
                let (shape, weight) = weight(&parts)?;
                entries.push(Entry { name: format!("{module}.weight"), shape, storage: Storage::Quantized(weight) });
            }
            "qzeros" | "scales" | "g_idx" => {
                parts.needed("qweight")?;
            }
            _ => entries.push(Entry::dense(file, tensor)),
        }
    }
    if entries.iter().any(|entry| matches!(entry.storage, Storage::Quantized(_))) {
        return Ok(entries);
    }
    Err(Error::input(place, "quantization_config says that weights are quantized, but no tensor is called qweight"))
}

/// Checks the columns of a group as GPTQ and AWQ declare them: -1 is one group.
pub(super) fn check_group_size(declared: i64) -> std::result::Result<(), String> {
    if declared == -1 || declared >= 1 {
        return Ok(());
    }
    Err(format!("group_size {declared} is not supported; supported: -1, or at least 1"))
}

/// The parts of one module.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) place: &'a str,
    pub(super) module: &'a str,
    pub(super) by_name: &'a HashMap<String, (usize, Tensor)>,
    pub(super) bytes: &'a dyn Fn(&Slab) -> Vec<u8>,
}

/// Floating-point scales of a weight.
#[derive(Debug)]
pub(super) struct Scales {
    pub(super) slab: Slab,
    format: Format,
}

impl Scales {
    /// All values, in the order of the file.
    pub(super) fn read(&self, stored: &[u8]) -> Vec<f32> {
        let mut scales = vec![0.0; stored.len() / self.format.block_bytes()];
        widen(self.format, stored, &mut scales);
        scales
    }
}

impl<'a> Parts<'a> {
    pub(super) fn part(&self, part: &str) -> Option<(Slab, &'a Tensor)> {
        let (file, tensor) = self.by_name.get(&format!("{}.{part}", self.module))?;
        Some((Slab { file: *file, bytes: tensor.bytes.clone() }, tensor))
    }

    pub(super) fn needed(&self, part: &str) -> Result<(Slab, &'a Tensor)> {
        self.part(part).ok_or_else(|| self.missing(part))
    }

    /// A matrix of 32-bit words.
    pub(super) fn words(&self, part: &str) -> Result<(Slab, &'a Tensor, [usize; 2])> {
        let (slab, tensor) = self.needed(part)?;
        self.expect_i32(tensor)?;
        match tensor.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => Ok((slab, tensor, [rows, cols])),
            _ => Err(self.fault(&tensor.name, format!("expected a matrix, got shape {:?}", tensor.shape))),
        }
    }

    /// A part that is scales, and its description.
    pub(super) fn scales(&self, part: &str) -> Result<(Scales, &'a Tensor)> {
        let (slab, tensor) = self.needed(part)?;
        let format = float_format(tensor.dtype)
            .ok_or_else(|| self.fault(&tensor.name, format!("expected F32, F16 or BF16, got {}", tensor.dtype)))?;
        Ok((Scales { slab, format }, tensor))
    }

    /// Columns of a group of a `tensor` with `cols` columns, as [`check_group_size`] let it pass.
    pub(super) fn group_size(&self, tensor: &Tensor, declared: i64, cols: usize) -> Result<usize> {
        let group_size = if declared == -1 { cols } else { declared as usize };
        if cols.is_multiple_of(group_size) {
            return Ok(group_size);
        }
        Err(self.fault(&tensor.name, format!("group_size {group_size} does not divide {cols} columns")))
    }

    pub(super) fn missing(&self, part: &str) -> Error {
        self.fault(&format!("{}.{part}", self.module), "missing; the checkpoint is not complete".into())
    }

    pub(super) fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::input(format!("{}: tensor \"{tensor}\"", self.place), problem)
    }

    pub(super) fn expect_i32(&self, tensor: &Tensor) -> Result<()> {
        match tensor.dtype {
            Dtype::I32 => Ok(()),
            other => Err(self.fault(&tensor.name, format!("expected I32, got {other}"))),
        }
    }

    pub(super) fn expect_shape(&self, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        if tensor.shape == shape {
            return Ok(());
        }
        Err(self.fault(&tensor.name, format!("expected shape {shape:?}, got {:?}", tensor.shape)))
    }

    pub(super) fn expect_count(&self, tensor: &Tensor, count: usize) -> Result<()> {
        let got: usize = tensor.shape.iter().product();
        if got == count {
            return Ok(());
        }
        Err(self.fault(&tensor.name, format!("expected {count} values, got {got} (shape {:?})", tensor.shape)))
    }
}
