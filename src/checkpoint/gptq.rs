//! GPTQ folders, as AutoGPTQ and GPTQModel write them.
//!
//! With `K` inputs, `N` outputs, `G` groups and `b` bits (2, 3, 4 or 8), of a linear layer are stored:
//!
//! | part | type and shape | holds |
//! |---|---|---|
//! | `qweight` | i32 `(ceil(K b / 32), N)` | codes, packed along a column without gaps, lowest bits first |
//! | `qzeros` | i32 `(G, ceil(N b / 32))` | zero points, packed likewise along a row |
//! | `scales` | f16 (bf16, f32) `(G, N)` | |
//! | `g_idx` | i32 `(K)` | the group of every input; arbitrary with `desc_act` (activation order) |
//!
//! `w[n][k] = scales[g][n] * (q[k][n] - z[g][n])`, `g = g_idx[k]`; all numbers unsigned. The product is exact up to one
//! rounding to f32 here; GPTQModel rounds it to the type of the scales. `checkpoint_format` "gptq" (or none) is version
//! 1, whose zero points are stored less one; "gptq_v2" stores them as they are. GPTQModel adds the one to whole words
//! (2, 4 and 8 bits), so that a field of all ones carries into the next, as its own conversion from version 2 borrowed:
//! the same is done here. In 3 bits every field wraps by itself.
//! Source: the `gptqmodel` package, version 7.7 (`nn_modules/qlinear`, `utils/model.py`).

use std::cell::Cell;

use serde::Deserialize;
use serde_json::Value;

use super::Slab;
use super::packed_words::{column, order_by_group, reorder, transposed, unpack};
use super::quantized::{PackedWeight, Parts, Scales, check_group_size};
use crate::error::Result;
use crate::tensor::{ActivationScheme, QuantizedTensor, Zero};

/// `quantization_config` of a GPTQ folder, or its `quantize_config.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    bits: u8,
    /// Columns of a group; -1 for one group.
    group_size: i64,
    #[serde(default)]
    desc_act: bool,
    #[serde(default)]
    checkpoint_format: Option<String>,
    #[serde(default)]
    format: Option<String>,
    /// Schemes of single modules, by pattern; patterns that start with `-:` leave modules dense.
    #[serde(default)]
    dynamic: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    is_marlin_format: bool,
    /// Whether every zero point is the middle one.
    #[serde(default)]
    sym: Option<bool>,
    #[serde(default)]
    pack_dtype: Option<String>,
    #[serde(default)]
    rotation: Value,
    #[serde(default)]
    adapter: Value,
    /// Zero points that other programs read in other ways.
    #[serde(skip)]
    wrapped: Cell<usize>,
}

/// Keys beside those of [`Config`] that change no number: how the weights were found, and which kernels run them.
pub(super) const SILENT: &[&str] = &[
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "disable_exllama",
    "exllama_config",
    "hyb_act",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_not_convert",
    "mse",
    "offload_to_disk",
    "offload_to_disk_path",
    "pad_token_id",
    "parallel_packing",
    "quant_method",
    "quantizer",
    "static_groups",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];
/// Keys of [`Config`].
pub(super) const READ: &[&str] = &[
    "adapter",
    "bits",
    "checkpoint_format",
    "desc_act",
    "dynamic",
    "format",
    "group_size",
    "is_marlin_format",
    "pack_dtype",
    "rotation",
    "sym",
];

/// The parts of one weight.
#[derive(Debug)]
struct Weight {
    qweight: Slab,
    qzeros: Slab,
    scales: Scales,
    g_idx: Option<Slab>,
    rows: usize,
    cols: usize,
    group_size: usize,
    bits: u8,
    version: Version,
}

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Less one.
    V1,
    /// As they are.
    V2,
}

/// Compares the configuration inside `config.json` with that of a file beside it, which writers keep for older programs.
pub(super) fn check_copy(own: &Value, copy: &Value) -> std::result::Result<(), String> {
    let stated = |json: &'_ Value, key: &str| json.get(key).filter(|value| !value.is_null()).cloned();
    for key in READ {
        if let (Some(own), Some(copy)) = (stated(own, key), stated(copy, key))
            && own != copy
        {
            return Err(format!("{key} is {copy}, but quantization_config in config.json says {own}"));
        }
    }
    Ok(())
}

impl Config {
    /// Reads and checks the configuration.
    pub(super) fn read(stored: &Value) -> std::result::Result<Self, String> {
        let config = Config::deserialize(stored).map_err(|error| error.to_string())?;
        if !matches!(config.bits, 2 | 3 | 4 | 8) {
            return Err(format!("GPTQ of {} bits is not supported; supported: 2, 3, 4, 8", config.bits));
        }
        check_group_size(config.group_size)?;
        let patterns = config.dynamic.iter().flat_map(serde_json::Map::keys);
        if let Some(pattern) = patterns.into_iter().find(|pattern| !pattern.starts_with("-:")) {
            return Err(format!("dynamic \"{pattern}\" is not supported; supported: one scheme for all, or \"-:\""));
        }
        if let Some(other) = config.pack_dtype.as_deref().filter(|dtype| *dtype != "int32") {
            return Err(format!("pack_dtype \"{other}\" is not supported; supported: int32"));
        }
        for (key, value) in [("rotation", &config.rotation), ("adapter", &config.adapter)] {
            if !value.is_null() {
                return Err(format!("{key} {value} is not supported; expected null"));
            }
        }
        config.version().map(|_| config)
    }

    /// What the user should know of the weights read so far.
    pub(super) fn warnings(&self, place: &str) -> Vec<String> {
        match self.wrapped.get() {
            0 => Vec::new(),
            count => vec![format!(
                "{place}: {count} zero points are stored as all ones, which checkpoint_format \"gptq\" cannot mean: programs \
                 differ in what they read (here what GPTQModel reads); quantize again with checkpoint_format \"gptq_v2\""
            )],
        }
    }

    fn version(&self) -> std::result::Result<Version, String> {
        if let (Some(new), Some(old)) = (&self.checkpoint_format, &self.format)
            && new != old
        {
            return Err(format!("checkpoint_format is \"{new}\", but format is \"{old}\"; keep one of them"));
        }
        let format = self.checkpoint_format.as_ref().or(self.format.as_ref()).map_or("gptq", |format| format);
        match format {
            _ if self.is_marlin_format => Err("marlin is not supported; supported: gptq, gptq_v2".into()),
            "gptq" => Ok(Version::V1),
            "gptq_v2" => Ok(Version::V2),
            other => Err(format!("checkpoint_format \"{other}\" of GPTQ is not supported; supported: gptq, gptq_v2")),
        }
    }

    /// The weight of a module, with its shape.
    pub(super) fn weight(&self, parts: &Parts) -> Result<(Vec<usize>, Box<dyn PackedWeight>)> {
        let bits = usize::from(self.bits);
        let (qweight, tensor, [words, rows]) = parts.words("qweight")?;
        let fault = |problem: String| parts.fault(&tensor.name, problem);
        let version = self.version().map_err(fault)?;
        let g_idx = parts.part("g_idx");
        let cols = match &g_idx {
            Some((_, g_idx)) => {
                parts.expect_i32(g_idx)?;
                g_idx.shape.iter().product()
            }
            None if self.desc_act => return Err(parts.missing("g_idx")),
            None => words * 32 / bits,
        };
        if cols == 0 || (cols * bits).div_ceil(32) != words {
            let problem = format!("{words} rows of words do not hold {cols} inputs (as g_idx has) of {bits} bits");
            return Err(fault(problem));
        }
        let group_size = parts.group_size(tensor, self.group_size, cols)?;
        let groups = cols / group_size;
        let (qzeros, tensor, _) = parts.words("qzeros")?;
        parts.expect_shape(tensor, &[groups, (rows * bits).div_ceil(32)])?;
        let (scales, tensor) = parts.scales("scales")?;
        parts.expect_shape(tensor, &[groups, rows])?;
        let g_idx = g_idx.map(|(slab, _)| slab);
        let weight = Weight { qweight, qzeros, scales, g_idx, rows, cols, group_size, bits: self.bits, version };
        self.check_agreement(parts, &weight)?;
        Ok((vec![rows, cols], Box::new(weight)))
    }

    /// Refuses what the configuration says of the numbers and the numbers do not show. Zero points and groups are a small
    /// part of a weight, so this is cheap.
    fn check_agreement(&self, parts: &Parts, weight: &Weight) -> Result<()> {
        let fault = |part: &str, problem: String| Err(parts.fault(&format!("{}.{part}", parts.module), problem));
        if let Some(slab) = weight.g_idx.as_ref().filter(|_| !self.desc_act) {
            match order_by_group(&(parts.bytes)(slab), weight.group_size) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    let problem = "the groups are not in order, but quantization_config says \"desc_act\": false; programs \
                                   that believe it compute another model. Set it to true";
                    return fault("g_idx", problem.into());
                }
                Err(problem) => return fault("g_idx", problem),
            }
        }
        let stored = (parts.bytes)(&weight.qzeros);
        if self.sym != Some(true) {
            if weight.version == Version::V1 {
                self.wrapped.set(self.wrapped.get() + weight.all_ones(&stored));
            }
            return Ok(());
        }
        let middle = 1i32 << (self.bits - 1);
        let points = weight.zero_points(&stored, weight.version);
        let Some(point) = points.into_iter().find(|&point| point != 0) else { return Ok(()) };
        let (this, other, name) = match weight.version {
            Version::V1 => ("gptq", Version::V2, "gptq_v2"),
            Version::V2 => ("gptq_v2", Version::V1, "gptq"),
        };
        let got = format!(
            "quantization_config says \"sym\": true, so every zero point is {middle}, but as checkpoint_format \"{this}\" \
             stores them there is {}",
            i32::from(point) + middle
        );
        let fits = weight.zero_points(&stored, other).iter().all(|&point| point == 0);
        let remedy = match fits {
            true => format!(
                "as \"{name}\" all would be {middle}: set \"checkpoint_format\": \"{name}\" if the writer meant it"
            ),
            false => "set \"sym\" to false if these zero points are meant, or quantize again".into(),
        };
        fault("qzeros", format!("{got}; {remedy}"))
    }
}

impl PackedWeight for Weight {
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let (rows, cols, bits, group_size) = (self.rows, self.cols, self.bits, self.group_size);
        let mut codes = vec![0; rows * cols];
        let stored = bytes(&self.qweight);
        for (row, codes) in codes.chunks_exact_mut(cols).enumerate() {
            unpack(&column(stored, rows, row), bits, codes);
        }
        let input_order = match &self.g_idx {
            Some(slab) => order_by_group(bytes(slab), group_size)?,
            None => None,
        };
        if let Some(order) = &input_order {
            reorder(&mut codes, order);
        }
        let scales = transposed(&self.scales.read(bytes(&self.scales.slab)), rows);
        let zero = Zero::of_points(transposed(&self.zero_points(bytes(&self.qzeros), self.version), rows));
        let tensor = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order };
        tensor.validate()?;
        Ok((tensor, ActivationScheme::None))
    }

    fn slabs(&self) -> Vec<&Slab> {
        [&self.qweight, &self.qzeros, &self.scales.slab].into_iter().chain(&self.g_idx).collect()
    }
}

impl Weight {
    /// How many zero points are stored as all ones.
    fn all_ones(&self, stored: &[u8]) -> usize {
        let largest = ((1i32 << (self.bits - 1)) - 1) as i8;
        self.zero_points(stored, Version::V2).iter().filter(|&&point| point == largest).count()
    }

    /// Zero points less `2^(bits-1)`, `(groups, rows)`, as a version stores them.
    fn zero_points(&self, stored: &[u8], version: Version) -> Vec<i8> {
        let one_each = match (version, self.bits) {
            (Version::V1, 2) => 0x5555_5555,
            (Version::V1, 4) => 0x1111_1111,
            (Version::V1, 8) => 0x0101_0101,
            _ => 0,
        };
        let words = stored.as_chunks::<4>().0.iter();
        let stored: Vec<u8> =
            words.flat_map(|&word| u32::from_le_bytes(word).wrapping_add(one_each).to_le_bytes()).collect();
        let groups = self.cols / self.group_size;
        let mut points = vec![0; groups * self.rows];
        let groups = stored.chunks_exact(stored.len() / groups).zip(points.chunks_exact_mut(self.rows));
        groups.for_each(|(stored, points)| unpack(stored, self.bits, points));
        if (version, self.bits) == (Version::V1, 3) {
            points.iter_mut().for_each(|point| *point = if *point == 3 { -4 } else { *point + 1 });
        }
        points
    }
}
