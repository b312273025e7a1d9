//! torchao checkpoints: integers with scales per row or group, inputs in 8 bits per token.
//!
//! Two layouts hold the same numbers: modules that the QAT quantizers converted (`Int8DynActInt4WeightLinear`,
//! `Int4WeightOnlyEmbedding`), and `IntxUnpackedToInt8Tensor`s that torchao flattened for safetensors, as transformers
//! saves them.
//!
//! | part | converted | flattened |
//! |---|---|---|
//! | codes, i8 `(rows, cols)`, one a byte | `weight` | `_weight_qdata` |
//! | scales, f32, f16 or bf16, `(rows, groups)` | `scales` (embeddings: `scale`) | `_weight_scale` |
//! | zero points, as the scales | `zeros` (embeddings: `zero_point`) | `_weight_zero_point` |
//! | bits | 4 | 2 to 8, `target_dtype` in `__metadata__` |
//! | inputs | 8 bits (embeddings: none) | 8 bits or none, `activation_quantization` in `__metadata__` |
//! | smallest scale of inputs | the epsilon of f32 | the smallest normal number of `dtype` in `__metadata__` |
//!
//! `w = scale (q - zero_point)`. Zero points are whole numbers whatever their type. Inputs are asymmetric per token,
//! [`ActivationScheme::DynamicTokenAsymmetric`]. Weights and scales of inputs are computed in f32 here, as torchao does
//! for a model in f32; for one in 16 bits it rounds both to 16 bits.
//!
//! A model that was only prepared holds floats, and its scales follow from them by arithmetic in the type that it was
//! trained in, which is not stored: it is refused.
//! Source: the `torchao` package, version 0.18 (`quantization/linear_quant_modules.py`, `quantization/qat`,
//! `quantization/quantize_/workflows/intx`, `prototype/safetensors`).

use std::collections::{BTreeMap, HashMap};

use half::f16;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::quantized::{PackedWeight, Parts, Scales, by_name};
use super::safetensors::Tensor;
use super::storage::{Format, widen};
use super::{Entry, Slab, Storage, float_format};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, QuantizedTensor, Zero};

/// `quant_method` of these checkpoints.
pub(super) const METHOD: &str = "torchao";
/// Codes, scales and zero points of a converted linear module.
const LINEAR: [&str; 3] = ["weight", "scales", "zeros"];
/// The same of a converted embedding.
const EMBEDDING: [&str; 3] = ["weight", "scale", "zero_point"];
/// The same of a flattened tensor.
const FLATTENED: [&str; 3] = ["_weight_qdata", "_weight_scale", "_weight_zero_point"];
/// The class that is read of those that torchao flattens.
const CLASS: &str = "IntxUnpackedToInt8Tensor";
/// What to do with a model that is not converted.
const CONVERT: &str = "run torchao's convert step, quantize_(model, QATConfig(base_config, step=\"convert\")), and save \
                       the model again";

/// The parts of one weight.
#[derive(Debug)]
struct Weight {
    codes: Slab,
    scales: Scales,
    zero_points: Slab,
    zero_points_as: Number,
    rows: usize,
    cols: usize,
    group_size: usize,
    bits: u8,
    activations: ActivationScheme,
}

/// Type of zero points.
#[derive(Debug, Clone, Copy)]
enum Number {
    I8,
    I32,
    Float(Format),
}

/// What `__metadata__` says of a tensor.
#[derive(Deserialize)]
struct Description {
    #[serde(rename = "_type")]
    class: String,
    #[serde(rename = "_data", default)]
    attributes: Value,
}

/// Attributes of a flattened tensor; one that is not known could change its numbers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    target_dtype: TypeName,
    block_size: Vec<usize>,
    dtype: TypeName,
    activation_quantization: Value,
}

/// A type of torch.
#[derive(Deserialize)]
struct TypeName {
    #[serde(rename = "_data")]
    name: String,
}

/// Keys of the `quantization_config`.
pub(super) const KEYS: &[&str] = &[
    "include_input_output_embeddings",
    "modules_to_not_convert",
    "quant_method",
    "quant_type",
    "quant_type_kwargs",
    "untie_embedding_weights",
];

/// What `quant_type` says of the weights of linear layers, where it says it of all of them.
struct Declared {
    symmetric: bool,
    dtype: Option<String>,
    group_size: Option<u64>,
}

impl Declared {
    fn read(stored: &Value) -> Self {
        let all = &stored["quant_type"]["default"]["_data"];
        let of = |keys: [&str; 2]| keys.into_iter().map(|key| &all[key]).find(|value| !value.is_null());
        let text = |value: Option<&Value>| value.and_then(|value| value["_data"].as_str().map(str::to_owned));
        let granularity = of(["weight_granularity", "granularity"]);
        Declared {
            symmetric: text(of(["weight_mapping_type", "mapping_type"]))
                .is_some_and(|kind| kind.starts_with("SYMMETRIC")),
            dtype: text(of(["weight_dtype", "dtype"])),
            group_size: granularity.and_then(|granularity| granularity["_data"]["group_size"].as_u64()),
        }
    }

    /// Refuses a weight of a linear layer that is not what is declared.
    fn check(&self, parts: &Parts, weight: &Weight) -> Result<()> {
        if parts.module.ends_with("embed_tokens") || parts.module.ends_with("_embeddings") {
            return Ok(());
        }
        let fault = |problem: String| Err(parts.fault(&format!("{}.weight", parts.module), problem));
        let got = format!("int{}", weight.bits);
        if let Some(dtype) = self.dtype.as_ref().filter(|dtype| **dtype != got) {
            return fault(format!("is {got} in __metadata__, but quantization_config says {dtype}"));
        }
        if let Some(size) = self.group_size.filter(|size| *size != weight.group_size as u64) {
            return fault(format!("has groups of {}, but quantization_config says {size}", weight.group_size));
        }
        let points = || whole_numbers(weight.zero_points_as, &(parts.bytes)(&weight.zero_points));
        if self.symmetric && points().is_ok_and(|points| points.iter().any(|&point| point != 0)) {
            return fault("has zero points other than 0, but quantization_config says SYMMETRIC".into());
        }
        Ok(())
    }
}

/// Refuses torchao weights that no configuration explains.
pub(super) fn refuse_undeclared(place: &str, tensors: &[(usize, Tensor)]) -> Result<()> {
    let parts = ["._weight_qdata", ".zeros", "_fake_quantizer.scale"];
    match tensors.iter().find(|(_, tensor)| parts.iter().any(|part| tensor.name.ends_with(part))) {
        None => Ok(()),
        Some((_, tensor)) => Err(Error::input(
            format!("{place}: tensor \"{}\"", tensor.name),
            format!(
                "is part of a torchao weight, but nothing says so; add to config.json \"quantization_config\": \
                 {{\"quant_method\": \"{METHOD}\"}}"
            ),
        )),
    }
}

/// Gathers the parts of quantized weights into entries, in the order of the files; other tensors stay as they are.
/// `stored` is the `quantization_config`, `metadata` holds the texts of the files' `__metadata__`, `bytes` reads a slab.
pub(super) fn gather(
    place: &str,
    stored: &Value,
    metadata: &HashMap<String, String>,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<Entry>> {
    let declared = Declared::read(stored);
    let described = descriptions(place, metadata)?;
    let by_name = by_name(&tensors);
    for module in described.keys() {
        Parts { place, module, by_name: &by_name, bytes }.needed(FLATTENED[0])?;
    }
    let mut entries = Vec::new();
    for (file, tensor) in tensors {
        let (module, part) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
        let parts = Parts { place, module, by_name: &by_name, bytes };
        let fault = |problem: String| Err(parts.fault(&tensor.name, problem));
        let weight = match part {
            "_weight_qdata" => match described.get(module) {
                Some(attributes) => parts.flattened(attributes, &declared)?,
                None => return fault("is not described in __metadata__; fetch the file again".into()),
            },
            "weight" if tensor.dtype == Dtype::I8 => parts.converted()?,
            _ if module.ends_with("_fake_quantizer") => {
                return fault(format!("is part of a fake quantizer, so the model is only prepared; {CONVERT}"));
            }
            _ if FLATTENED.contains(&part) => {
                parts.needed(FLATTENED[0])?;
                continue;
            }
            _ if LINEAR[1..].contains(&part) || EMBEDDING[1..].contains(&part) => {
                parts.codes(LINEAR[0])?;
                continue;
            }
            _ => {
                entries.push(Entry::dense(file, tensor));
                continue;
            }
        };
        let (name, shape) = (format!("{module}.weight"), vec![weight.rows, weight.cols]);
        entries.push(Entry { name, shape, storage: Storage::Quantized(Box::new(weight)) });
    }
    if entries.iter().any(|entry| matches!(entry.storage, Storage::Quantized(_))) {
        return Ok(entries);
    }
    let problem = "quantization_config says that torchao quantized weights, but all are floats; if the model was prepared for \
                   training";
    Err(Error::input(place, format!("{problem}, {CONVERT}")))
}

/// What is said of quantized tensors, by their modules.
fn descriptions(place: &str, metadata: &HashMap<String, String>) -> Result<BTreeMap<String, Attributes>> {
    let mut described = BTreeMap::new();
    let Some(names) = metadata.get("tensor_names") else { return Ok(described) };
    let names: Vec<String> = serde_json::from_str(names)
        .map_err(|error| Error::input(place, format!("__metadata__: tensor_names: {error}; fetch the file again")))?;
    for name in names {
        let fault =
            |problem: String| Error::input(format!("{place}: tensor \"{name}\""), format!("__metadata__: {problem}"));
        let text = metadata.get(&name).ok_or_else(|| fault("there is no description; fetch the file again".into()))?;
        let description: Description = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        match description.class.as_str() {
            "Tensor" => continue,
            CLASS => {}
            other => return Err(fault(format!("{other} of torchao is not supported; supported: {CLASS}"))),
        }
        let attributes = Attributes::deserialize(description.attributes).map_err(|error| fault(error.to_string()))?;
        match name.strip_suffix(".weight") {
            Some(module) => described.insert(module.to_owned(), attributes),
            None => return Err(fault("only the weights of linear layers and embeddings can be quantized".into())),
        };
    }
    Ok(described)
}

impl Attributes {
    fn bits(&self) -> std::result::Result<u8, String> {
        let bits = self.target_dtype.name.strip_prefix("int").and_then(|bits| bits.parse().ok());
        bits.filter(|bits| (2..=8).contains(bits)).ok_or_else(|| {
            format!("target_dtype {} of torchao is not supported; supported: int2 to int8", self.target_dtype.name)
        })
    }

    fn activations(&self) -> std::result::Result<ActivationScheme, String> {
        let min_scale = match self.dtype.name.as_str() {
            "float32" | "bfloat16" => f32::MIN_POSITIVE,
            "float16" => f16::MIN_POSITIVE.to_f32(),
            other => return Err(format!("dtype {other} is not supported; supported: float32, bfloat16, float16")),
        };
        match &self.activation_quantization {
            Value::Null => Ok(ActivationScheme::None),
            Value::String(kind) if kind == "int8_asym_per_token" => {
                Ok(ActivationScheme::DynamicTokenAsymmetric { min_scale })
            }
            other => Err(format!(
                "activation_quantization {other} is not supported; supported: null, \"int8_asym_per_token\""
            )),
        }
    }
}

impl Parts<'_> {
    /// The weight of a converted module.
    fn converted(&self) -> Result<Weight> {
        if self.part(EMBEDDING[1]).is_some() {
            return self.integers(EMBEDDING, 4, ActivationScheme::None);
        }
        self.integers(LINEAR, 4, ActivationScheme::DynamicTokenAsymmetric { min_scale: f32::EPSILON })
    }

    /// The weight of a module whose weight was flattened.
    fn flattened(&self, attributes: &Attributes, declared: &Declared) -> Result<Weight> {
        let fault = |problem: String| self.fault(&format!("{}.weight", self.module), problem);
        let bits = attributes.bits().map_err(fault)?;
        let weight = self.integers(FLATTENED, bits, attributes.activations().map_err(fault)?)?;
        let expected = [1, weight.group_size];
        match &attributes.block_size[..] {
            size if size == expected => {
                declared.check(self, &weight)?;
                Ok(weight)
            }
            size => Err(fault(format!("block_size {size:?} does not fit its scales; expected {expected:?}"))),
        }
    }

    /// The bytes of codes, rows and columns.
    fn codes(&self, part: &str) -> Result<(Slab, usize, usize)> {
        let (slab, tensor) = self.needed(part)?;
        match (tensor.dtype, &tensor.shape[..]) {
            (Dtype::I8, &[rows, cols]) if rows > 0 && cols > 0 => Ok((slab, rows, cols)),
            (dtype, shape) => Err(self.fault(&tensor.name, format!("expected a matrix of I8, got {dtype} {shape:?}"))),
        }
    }

    fn integers(&self, names: [&str; 3], bits: u8, activations: ActivationScheme) -> Result<Weight> {
        let (codes, rows, cols) = self.codes(names[0])?;
        let (scales, tensor) = self.scales(names[1])?;
        let groups = match tensor.shape[..] {
            [height, groups] if height == rows && groups > 0 && cols.is_multiple_of(groups) => groups,
            ref shape => {
                let problem = format!("expected {rows} rows of a divisor of {cols} scales, got shape {shape:?}");
                return Err(self.fault(&tensor.name, problem));
            }
        };
        let (zero_points, tensor) = self.needed(names[2])?;
        self.expect_shape(tensor, &[rows, groups])?;
        let zero_points_as = match (tensor.dtype, float_format(tensor.dtype)) {
            (Dtype::I8, _) => Number::I8,
            (Dtype::I32, _) => Number::I32,
            (_, Some(format)) => Number::Float(format),
            (dtype, None) => {
                return Err(self.fault(&tensor.name, format!("expected I8, I32, F32, F16 or BF16, got {dtype}")));
            }
        };
        let group_size = cols / groups;
        Ok(Weight { codes, scales, zero_points, zero_points_as, rows, cols, group_size, bits, activations })
    }
}

impl PackedWeight for Weight {
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let (rows, cols, bits, group_size) = (self.rows, self.cols, self.bits, self.group_size);
        let codes = bytemuck::cast_slice(bytes(&self.codes)).to_vec();
        let scales = self.scales.read(bytes(&self.scales.slab));
        let zero = Zero::of_points(whole_numbers(self.zero_points_as, bytes(&self.zero_points))?);
        let tensor = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order: None };
        tensor.validate()?;
        Ok((tensor, self.activations))
    }

    fn slabs(&self) -> Vec<&Slab> {
        vec![&self.codes, &self.scales.slab, &self.zero_points]
    }
}

/// Zero points of any type as bytes.
fn whole_numbers(stored_as: Number, stored: &[u8]) -> std::result::Result<Vec<i8>, String> {
    let values: Vec<f32> = match stored_as {
        Number::I8 => return Ok(bytemuck::cast_slice(stored).to_vec()),
        Number::I32 => stored.as_chunks::<4>().0.iter().map(|&word| i32::from_le_bytes(word) as f32).collect(),
        Number::Float(format) => {
            let mut values = vec![0.0; stored.len() / format.block_bytes()];
            widen(format, stored, &mut values);
            values
        }
    };
    let whole = |value: f32| {
        let point = value as i8;
        let problem = || format!("zero point {value} is no whole number from -128 to 127");
        (f32::from(point) == value).then_some(point).ok_or_else(problem)
    };
    values.into_iter().map(whole).collect()
}
