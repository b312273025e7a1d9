//! Checkpoints of quantization-aware training with torch's `FakeQuantize` modules: float weights with the scales that
//! training rounded them by.
//!
//! A state dict holds `<module>.weight` (f32, f16 or bf16) with `<module>.weight_fake_quant.{scale, zero_point, fake_quant_enabled}`,
//! one scale for the tensor or for each row, and for static inputs `<module>.input_fake_quant.{scale, zero_point,
//! fake_quant_enabled}`. It does not hold the range of the codes, which `quantization_config` must say:
//!
//! ```json
//! {"quant_method": "torch-fake-quantize",
//!  "weights": {"quant_min": -127, "quant_max": 127},
//!  "activations": {"mode": "static", "quant_min": 0, "quant_max": 127}}
//! ```
//!
//! `activations` is null, `{"mode": "dynamic-token"}` (symmetric, `max|x| / 127` per token) or static as above. Codes
//! are `clamp(round(w * (1 / scale)) + zero_point, quant_min, quant_max)` in f32, half to even, as in
//! `torch.fake_quantize_per_channel_affine` and `..._per_tensor_affine` (torch 2.15).
//!
//! `activation_post_process` of torch's eager mode rounds the *output* of its module, and which layer reads that is not
//! in a state dict; where such a module is enabled, the checkpoint is refused.

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::quantized::{PackedWeight, Parts, by_name};
use super::safetensors::Tensor;
use super::storage::{Format, widen};
use super::{Entry, Slab, Storage, float_format};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, QuantizedTensor, StaticActivations, Zero};

/// `quant_method` of these checkpoints.
pub(super) const METHOD: &str = "torch-fake-quantize";
/// Part that every fake quantizer of a weight has.
const WEIGHT_SCALE: &str = ".weight_fake_quant.scale";

/// A float weight with the numbers that round it.
#[derive(Debug)]
struct FakeQuantizedWeight {
    values: Slab,
    format: Format,
    rows: usize,
    cols: usize,
    /// One for each row.
    scales: Vec<f32>,
    /// One for each row, of codes as stored: unsigned codes of 8 bits are shifted by 128.
    zero_points: Vec<i8>,
    range: CodeRange,
    activations: ActivationScheme,
}

/// Range of the codes of weights, shifted to signed bytes.
#[derive(Debug, Clone, Copy)]
struct CodeRange {
    low: i8,
    high: i8,
    shift: i64,
    symmetric: bool,
}

/// Keys of the `quantization_config`.
pub(super) const KEYS: &[&str] = &["activations", "modules_to_not_convert", "quant_method", "weights"];

#[derive(Deserialize)]
struct Declared {
    weights: Range,
    #[serde(default)]
    activations: Option<Inputs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    quant_min: i64,
    quant_max: i64,
    /// torch's name of the scheme, `per_channel_symmetric` for one; zero points of a symmetric one are the middle.
    #[serde(default)]
    qscheme: Option<String>,
    /// Axis of scales per channel: rows.
    #[serde(default)]
    ch_axis: i64,
}

#[derive(Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
enum Inputs {
    DynamicToken,
    Static { quant_min: i64, quant_max: i64 },
}

/// Refuses fake quantizers that no configuration explains.
pub(super) fn refuse_undeclared(place: &str, tensors: &[(usize, Tensor)]) -> Result<()> {
    match tensors.iter().find(|(_, tensor)| tensor.name.ends_with(WEIGHT_SCALE)) {
        None => Ok(()),
        Some((_, tensor)) => Err(Error::input(
            format!("{place}: tensor \"{}\"", tensor.name),
            format!(
                "is a fake quantizer, but nothing says the range of its codes; add to config.json \
                 \"quantization_config\": {{\"quant_method\": \"{METHOD}\", \"weights\": {{\"quant_min\": .., \
                 \"quant_max\": ..}}}}"
            ),
        )),
    }
}

/// Gathers weights and their fake quantizers into entries, in the order of the files; other tensors stay as they are.
/// `stored` is the `quantization_config`, `bytes` reads a slab.
pub(super) fn gather(
    place: &str,
    stored: &Value,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<Entry>> {
    let fault = |problem: String| Error::input(format!("{place}: quantization_config"), problem);
    let declared = Declared::deserialize(stored).map_err(|error| fault(error.to_string()))?;
    let range = declared.weights.codes().map_err(fault)?;
    let by_name = by_name(&tensors);
    let parts = Parts { place, module: "", by_name: &by_name, bytes };
    let mut entries = Vec::new();
    for (file, tensor) in tensors {
        if is_part(&tensor.name) {
            parts.check_quantizer(&tensor.name)?;
            continue;
        }
        let module = tensor.name.strip_suffix(".weight");
        let module = module.filter(|module| by_name.contains_key(&format!("{module}{WEIGHT_SCALE}")));
        let Some(module) = module else {
            entries.push(Entry::dense(file, tensor));
            continue;
        };
        let weight = Parts { module, ..parts }.fake_quantized(file, &tensor, range, &declared.activations)?;
        let shape = tensor.shape;
        entries.push(Entry { name: tensor.name, shape, storage: Storage::Quantized(Box::new(weight)) });
    }
    Ok(entries)
}

/// Whether a tensor belongs to a fake quantizer or an observer.
fn is_part(name: &str) -> bool {
    let of_quantizer = |part: &str| {
        matches!(part, "weight_fake_quant" | "input_fake_quant") || part.starts_with("activation_post_process")
    };
    name.split('.').any(of_quantizer)
}

impl Range {
    fn codes(&self) -> std::result::Result<CodeRange, String> {
        let Range { quant_min, quant_max, ch_axis, .. } = *self;
        let symmetric = match self.qscheme.as_deref().map(|scheme| scheme.strip_prefix("torch.").unwrap_or(scheme)) {
            None | Some("per_channel_affine" | "per_tensor_affine") => false,
            Some("per_channel_symmetric" | "per_tensor_symmetric") => true,
            Some(other) => return Err(format!("weights: qscheme \"{other}\" is not supported")),
        };
        if ch_axis != 0 {
            return Err(format!("weights: ch_axis {ch_axis} is not supported; expected 0"));
        }
        let shift = if quant_max > 127 { 128 } else { 0 };
        let byte = |code: i64| code.checked_sub(shift).and_then(|code| i8::try_from(code).ok());
        match (byte(quant_min), byte(quant_max)) {
            (Some(low), Some(high)) if low < high => Ok(CodeRange { low, high, shift, symmetric }),
            _ => Err(format!("weights: codes {quant_min}..={quant_max} are no range of at most 8 bits")),
        }
    }
}

impl CodeRange {
    /// Whether a zero point is that of a symmetric scheme: 0, or in the middle of a range of unsigned codes.
    fn is_middle(self, point: i8) -> bool {
        let sum = i32::from(self.low) + i32::from(self.high);
        let is_signed = self.shift == 0 && self.low < 0;
        if is_signed { point == 0 } else { (sum - 1..=sum + 1).contains(&(2 * i32::from(point))) }
    }

    /// Bits of the smallest signed integer that holds the range.
    fn bits(self) -> u8 {
        let fits = |bits: &u8| i32::from(self.low) >= -(1 << (bits - 1)) && i32::from(self.high) < 1 << (bits - 1);
        (2..8).find(fits).unwrap_or(8)
    }
}

impl Parts<'_> {
    /// Checks a part that no weight asks for: quantizers without a weight, and enabled ones of outputs.
    fn check_quantizer(&self, name: &str) -> Result<()> {
        if let Some(module) =
            name.strip_suffix(WEIGHT_SCALE).filter(|m| !self.by_name.contains_key(&format!("{m}.weight")))
        {
            return Err(self.fault(name, format!("there is no \"{module}.weight\"; the checkpoint is not complete")));
        }
        let Some((quantizer, "fake_quant_enabled")) = name.rsplit_once('.') else { return Ok(()) };
        if quantizer.ends_with(".weight_fake_quant")
            || quantizer.ends_with(".input_fake_quant")
            || !(Parts { module: quantizer, ..*self }).is_enabled()?
        {
            return Ok(());
        }
        let problem = "rounds the output of its module, and which layers read it is not in a state dict; save the fake \
                       quantizer of a linear layer's inputs as \"<module>.input_fake_quant\"";
        Err(self.fault(name, problem.into()))
    }

    /// The weight of the module.
    fn fake_quantized(
        &self,
        file: usize,
        tensor: &Tensor,
        range: CodeRange,
        inputs: &Option<Inputs>,
    ) -> Result<FakeQuantizedWeight> {
        let [rows, cols] = tensor.shape[..] else {
            return Err(self.fault(&tensor.name, format!("expected a matrix, got shape {:?}", tensor.shape)));
        };
        let Some(format) = float_format(tensor.dtype).filter(|_| rows > 0 && cols > 0) else {
            let (dtype, shape) = (tensor.dtype, &tensor.shape);
            let problem = format!("expected F32, F16 or BF16 of at least one value, got {dtype} {shape:?}");
            return Err(self.fault(&tensor.name, problem));
        };
        let quantizer = format!("{}.weight_fake_quant", self.module);
        let (scales, zero_points) = Parts { module: &quantizer, ..*self }.quantizer_numbers()?;
        if ![1, rows].contains(&scales.len()) {
            let problem = format!("expected 1 or {rows} scales and as many zero points, got {}", scales.len());
            return Err(self.fault(&format!("{quantizer}.scale"), problem));
        }
        if let Some(scale) = scales.iter().find(|&&s| !(s > 0.0 && s.is_finite() && s.recip().is_finite())) {
            return Err(self.fault(&format!("{quantizer}.scale"), format!("{scale} is not a positive number")));
        }
        let shifted = |zero: &i64| {
            let shifted = zero.checked_sub(range.shift).and_then(|z| i8::try_from(z).ok());
            let problem = || format!("zero point {zero} is outside the range of the codes");
            shifted
                .filter(|z| (range.low..=range.high).contains(z))
                .ok_or_else(|| self.fault(&format!("{quantizer}.zero_point"), problem()))
        };
        let zero_points = zero_points.iter().map(shifted).collect::<Result<Vec<i8>>>()?;
        if let Some(point) = zero_points.iter().find(|point| range.symmetric && !range.is_middle(**point)) {
            let problem = format!(
                "quantization_config says that the weights are symmetric, but there is a zero point {}",
                i64::from(*point) + range.shift
            );
            return Err(self.fault(&format!("{quantizer}.zero_point"), problem));
        }
        let activations = match inputs {
            None => ActivationScheme::None,
            Some(Inputs::DynamicToken) => ActivationScheme::DynamicToken,
            Some(Inputs::Static { quant_min, quant_max }) => self.static_inputs((*quant_min, *quant_max))?,
        };
        let values = Slab { file, bytes: tensor.bytes.clone() };
        let each = rows / scales.len();
        let (scales, zero_points) = (scales.repeat(each), zero_points.repeat(each));
        Ok(FakeQuantizedWeight { values, format, rows, cols, scales, zero_points, range, activations })
    }

    /// The scheme of static inputs.
    fn static_inputs(&self, range: (i64, i64)) -> Result<ActivationScheme> {
        let quantizer = format!("{}.input_fake_quant", self.module);
        let (scales, zero_points) = Parts { module: &quantizer, ..*self }.quantizer_numbers()?;
        let ([scale], [zero_point]) = (&scales[..], &zero_points[..]) else {
            let problem = format!("expected one scale for all inputs, got {}", scales.len());
            return Err(self.fault(&format!("{quantizer}.scale"), problem));
        };
        let numbers = StaticActivations::new(*scale, *zero_point, range)
            .map_err(|problem| self.fault(&format!("{quantizer}.scale"), problem))?;
        Ok(ActivationScheme::Static(numbers))
    }

    /// Scales and zero points, as many, of the fake quantizer that the module is; it must be enabled.
    fn quantizer_numbers(&self) -> Result<(Vec<f32>, Vec<i64>)> {
        if !self.is_enabled()? {
            let problem = "is 0: the weights were not trained to be rounded; enable it, or remove quantization_config";
            return Err(self.fault(&format!("{}.fake_quant_enabled", self.module), problem.into()));
        }
        let (slab, tensor) = self.needed("scale")?;
        if tensor.dtype != Dtype::F32 {
            return Err(self.fault(&tensor.name, format!("expected F32, got {}", tensor.dtype)));
        }
        let stored = (self.bytes)(&slab);
        let mut scales = vec![0.0; stored.len() / 4];
        widen(Format::F32, &stored, &mut scales);
        let zero_points = self.integers_of("zero_point")?;
        if zero_points.len() != scales.len() {
            let problem =
                format!("expected {} zero points, one for each scale, got {}", scales.len(), zero_points.len());
            return Err(self.fault(&format!("{}.zero_point", self.module), problem));
        }
        Ok((scales, zero_points))
    }

    fn is_enabled(&self) -> Result<bool> {
        Ok(self.integers_of("fake_quant_enabled")?.iter().any(|&flag| flag != 0))
    }

    fn integers_of(&self, part: &str) -> Result<Vec<i64>> {
        let (slab, tensor) = self.needed(part)?;
        let stored = (self.bytes)(&slab);
        match tensor.dtype {
            Dtype::I64 => Ok(stored.as_chunks::<8>().0.iter().map(|&word| i64::from_le_bytes(word)).collect()),
            Dtype::I32 => Ok(stored.as_chunks::<4>().0.iter().map(|&word| i32::from_le_bytes(word).into()).collect()),
            Dtype::U8 | Dtype::BOOL => Ok(stored.into_iter().map(i64::from).collect()),
            other => Err(self.fault(&tensor.name, format!("expected I64, I32 or U8, got {other}"))),
        }
    }
}

impl PackedWeight for FakeQuantizedWeight {
    /// Rounds the weights to codes.
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let mut values = vec![0.0; self.rows * self.cols];
        widen(self.format, bytes(&self.values), &mut values);
        if values.iter().any(|value| !value.is_finite()) {
            return Err("a weight is NaN or infinite".into());
        }
        let mut codes = Vec::with_capacity(values.len());
        for (row, values) in values.chunks_exact(self.cols).enumerate() {
            let (inverse, zero) = (self.scales[row].recip(), f32::from(self.zero_points[row]));
            let (low, high) = (f32::from(self.range.low), f32::from(self.range.high));
            let code = |value: &f32| ((value * inverse).round_ties_even() + zero).clamp(low, high) as i8;
            codes.extend(values.iter().map(code));
        }
        let zero = Zero::of_points(self.zero_points.clone());
        let (rows, cols, scales) = (self.rows, self.cols, self.scales.clone());
        let bits = self.range.bits();
        let tensor = QuantizedTensor { rows, cols, bits, group_size: cols, codes, scales, zero, input_order: None };
        tensor.validate()?;
        Ok((tensor, self.activations))
    }

    fn slabs(&self) -> Vec<&Slab> {
        vec![&self.values]
    }
}
