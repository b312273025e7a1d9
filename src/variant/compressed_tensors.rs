//! Quantized tensors in the compressed-tensors layout: how they are named, packed and declared in `config.json`.
//!
//! Codes of fewer than 8 bits are `pack-quantized`: offset by `2^(b-1)` to be unsigned and packed along a row without
//! gaps, lowest bits first, into 32-bit words; zero points likewise along a column. 8-bit codes are `int-quantized`: one
//! signed byte each; so are those of an embedding that is also the head, at any width. Source: the `compressed-tensors` package, version 0.20.

use std::collections::BTreeSet;

use half::f16;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::plan::{EMBEDDING, HEAD, Quantization};
use super::safetensors_writer::SafetensorsWriter;
use crate::error::Result;
use crate::suite::{InputScheme, WeightScheme};
use crate::tensor::{ActivationScheme, Granularity, QuantizedTensor, Zero};

/// Release of the `compressed-tensors` package whose layout is written.
const VERSION: &str = "0.20.1";

/// How codes and zero points are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `pack-quantized`.
    Packed,
    /// `int-quantized`: a byte each.
    Bytes,
}

impl Layout {
    fn of(scheme: WeightScheme) -> Layout {
        if scheme.bits < 8 { Layout::Packed } else { Layout::Bytes }
    }

    /// Name of the format.
    fn name(self) -> &'static str {
        match self {
            Layout::Packed => "pack-quantized",
            Layout::Bytes => "int-quantized",
        }
    }
}

/// Adds the parts of the weight of `module` to the file, and the numbers of its inputs where they are static.
pub(super) fn write(
    writer: &mut SafetensorsWriter,
    module: &str,
    tensor: &QuantizedTensor,
    quantization: &Quantization,
    activations: ActivationScheme,
) -> Result<()> {
    let layout = Layout::of(quantization.scheme);
    write_codes(writer, module, tensor, layout)?;
    if let ActivationScheme::Static(numbers) = activations {
        writer.add(&format!("{module}.input_scale"), Dtype::F32, &[1], &[numbers.scale])?;
        writer.add(&format!("{module}.input_zero_point"), Dtype::I8, &[1], &[numbers.zero_point])?;
    }
    write_numbers(writer, module, tensor, quantization, layout)
}

/// Adds an embedding that is the head too. transformers shares tensors named `weight` between the two and nothing else:
/// codes take a byte each, whatever their bits, and the numbers stand under both names.
pub(super) fn write_tied(
    writer: &mut SafetensorsWriter,
    embedding: &QuantizedTensor,
    quantization: &Quantization,
) -> Result<()> {
    write_codes(writer, EMBEDDING, embedding, Layout::Bytes)?;
    write_numbers(writer, EMBEDDING, embedding, &quantization.of_lookup(), Layout::Bytes)?;
    write_numbers(writer, HEAD, embedding, quantization, Layout::Bytes)
}

fn write_codes(writer: &mut SafetensorsWriter, module: &str, tensor: &QuantizedTensor, layout: Layout) -> Result<()> {
    let (rows, cols) = (tensor.rows, tensor.cols);
    match layout {
        Layout::Packed => {
            let words = (cols * usize::from(tensor.bits)).div_ceil(32);
            let packed: Vec<i32> = tensor.codes.chunks_exact(cols).flat_map(|row| pack(row, tensor.bits)).collect();
            writer.add(&format!("{module}.weight_packed"), Dtype::I32, &[rows, words], &packed)?;
            writer.add(&format!("{module}.weight_shape"), Dtype::I64, &[2], &[rows as i64, cols as i64])
        }
        Layout::Bytes => writer.add(&format!("{module}.weight"), Dtype::I8, &[rows, cols], &tensor.codes),
    }
}

/// Adds scales and zero points.
fn write_numbers(
    writer: &mut SafetensorsWriter,
    module: &str,
    tensor: &QuantizedTensor,
    quantization: &Quantization,
    layout: Layout,
) -> Result<()> {
    let scheme = quantization.scheme;
    let (rows, groups) = (tensor.rows, tensor.groups());
    let per_tensor = scheme.granularity == Granularity::Tensor;
    let shape: &[usize] = if per_tensor { &[1] } else { &[rows, groups] };
    let kept = shape.iter().product();
    let scale = format!("{module}.weight_scale");
    match as_f16(&tensor.scales[..kept]) {
        Some(scales) => writer.add(&scale, Dtype::F16, shape, &scales)?,
        None => writer.add(&scale, Dtype::F32, shape, &tensor.scales[..kept])?,
    }
    let Zero::Points(points) = &tensor.zero else { return Ok(()) };
    let zero_point = format!("{module}.weight_zero_point");
    if layout == Layout::Packed && !per_tensor {
        let words = (rows * usize::from(tensor.bits)).div_ceil(32);
        let columns: Vec<Vec<i32>> = (0..groups)
            .map(|group| pack(&points.iter().skip(group).step_by(groups).copied().collect::<Vec<_>>(), tensor.bits))
            .collect();
        let packed: Vec<i32> = (0..words).flat_map(|word| columns.iter().map(move |column| column[word])).collect();
        writer.add(&zero_point, Dtype::I32, &[words, groups], &packed)
    } else {
        writer.add(&zero_point, Dtype::I8, shape, &points[..kept])
    }
}

/// Bits that a tensor takes in a file: codes, scales (16 bits where f16 holds them) and zeros.
pub(super) fn stored_bits(tensor: &QuantizedTensor) -> u64 {
    let float_bits = |values: &[f32]| values.len() * if as_f16(values).is_some() { 16 } else { 32 };
    let zeros = match &tensor.zero {
        Zero::Symmetric => 0,
        Zero::Points(points) => points.len() * usize::from(tensor.bits),
        Zero::Offsets(offsets) => float_bits(offsets),
    };
    (tensor.codes.len() * usize::from(tensor.bits) + float_bits(&tensor.scales) + zeros) as u64
}

/// The `quantization_config` of an artefact. `quantized` are the modules with their quantization, `dense` the linear
/// modules left as they are; `scaled` says whether inputs have explicit scales.
///
/// The package knows no such scales and would ignore their tensors. It refuses keys of a group that it does not know, so
/// `pre_quant_scale` (the key of TensorRT-LLM) keeps it from computing something else.
pub(super) fn quantization_config(quantized: &[(String, Quantization)], dense: &[String], scaled: bool) -> Value {
    // The embedding is quantized where it is the head too.
    let tied = quantized.iter().any(|(module, _)| module == EMBEDDING);
    let mut groups: Vec<(Quantization, Layout, Vec<&str>)> = Vec::new();
    for (module, quantization) in quantized {
        let is_tied = tied && [EMBEDDING, HEAD].contains(&module.as_str());
        let layout = if is_tied { Layout::Bytes } else { Layout::of(quantization.scheme) };
        match groups.iter_mut().find(|(known, of, _)| known.declares_as(quantization) && *of == layout) {
            Some((_, _, modules)) => modules.push(module),
            None => groups.push((*quantization, layout, vec![module])),
        }
    }
    let one_format = groups.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let config_groups: serde_json::Map<String, Value> = groups
        .iter()
        .enumerate()
        .map(|(at, (quantization, layout, modules))| {
            // The customary target, where it is unambiguous: `ignore` names the linear layers that it leaves out.
            let all_linear = groups.len() == 1 && !modules.contains(&EMBEDDING);
            let targets = if all_linear { json!(["Linear"]) } else { json!(modules) };
            let mut group = group(quantization, *layout, &targets);
            if scaled {
                group["pre_quant_scale"] = true.into();
            }
            (format!("group_{at}"), group)
        })
        .collect();
    let mut config = json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": if one_format { groups.first().map_or("dense", |(_, layout, _)| layout.name()) } else { "mixed-precision" },
        "config_groups": config_groups,
        "ignore": dense,
    });
    // Where releases pack alike there is nothing to say.
    if !odd_bits(&config).is_empty() {
        config["version"] = VERSION.into();
    }
    config
}

/// Widths of packed weights that do not fill words: releases before 0.18 pack them in another layout.
fn odd_bits(quantization_config: &Value) -> BTreeSet<String> {
    let groups = quantization_config["config_groups"].as_object().into_iter().flat_map(serde_json::Map::values);
    let packed = groups.filter(|group| group["format"] == Layout::Packed.name());
    let bits = |group: &Value| group["weights"]["num_bits"].as_u64().filter(|bits| *bits > 0 && 32 % bits != 0);
    packed.filter_map(bits).map(|bits| bits.to_string()).collect()
}

/// What other programs need to read an artefact with this `config.json`; `None` where any release does.
pub fn packing_note(config: &Value) -> Option<String> {
    let bits = Vec::from_iter(odd_bits(&config["quantization_config"])).join(", ");
    (!bits.is_empty()).then(|| {
        format!("weights of {bits} bits are packed as compressed-tensors 0.18 and later does; older releases cannot read them")
    })
}

fn group(quantization: &Quantization, layout: Layout, targets: &Value) -> Value {
    let scheme = quantization.scheme;
    let inputs = |symmetric: bool, strategy: &str, dynamic: bool| json!({"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": dynamic});
    let inputs = match quantization.inputs {
        InputScheme::None => Value::Null,
        InputScheme::DynamicToken => inputs(true, "token", true),
        InputScheme::Static(how) => inputs(how.symmetric, "tensor", false),
    };
    json!({
        "targets": targets,
        "format": layout.name(),
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": scheme.granularity,
            "group_size": if scheme.granularity == Granularity::Group { scheme.group_size } else { None },
            "dynamic": false,
        },
        "input_activations": inputs,
        "output_activations": null,
    })
}

/// Signed codes of `bits` bits as unsigned ones, packed without gaps, lowest bits first.
fn pack(codes: &[i8], bits: u8) -> Vec<i32> {
    let mut words = vec![0u32; (codes.len() * usize::from(bits)).div_ceil(32)];
    for (at, &code) in codes.iter().enumerate() {
        let unsigned = (i32::from(code) + (1 << (bits - 1))) as u32;
        let bit = at * usize::from(bits);
        let (word, shift) = (bit / 32, bit % 32);
        words[word] |= unsigned << shift;
        if shift + usize::from(bits) > 32 {
            words[word + 1] |= unsigned >> (32 - shift);
        }
    }
    words.into_iter().map(u32::cast_signed).collect()
}

/// The values as f16 where that loses nothing.
fn as_f16(values: &[f32]) -> Option<Vec<f16>> {
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    halves.iter().zip(values).all(|(half, &value)| half.to_f32() == value).then_some(halves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, StoredTensor};
    use crate::suite::{InputObserver, Observer, StaticInputs};
    use crate::tensor::StaticActivations;

    #[test]
    fn inputs_come_back_as_they_were_declared() {
        let scheme = WeightScheme {
            bits: 8,
            granularity: Granularity::Channel,
            group_size: None,
            symmetric: true,
            observer: Observer::MinMax,
        };
        let numbers = StaticActivations { scale: 0.1, zero_point: -7, low: -128, high: 127 };
        let tensor = QuantizedTensor {
            rows: 2,
            cols: 3,
            bits: 8,
            group_size: 3,
            codes: vec![1, -2, 3, 4, 5, -128],
            scales: vec![0.3, 0.5],
            zero: Zero::Symmetric,
            input_order: None,
        };
        let learned = |symmetric| InputScheme::Static(StaticInputs { observer: InputObserver::Mse, symmetric });
        for (inputs, activations) in [
            (InputScheme::None, ActivationScheme::None),
            (InputScheme::DynamicToken, ActivationScheme::DynamicToken),
            (learned(false), ActivationScheme::Static(numbers)),
            (learned(true), ActivationScheme::Static(StaticActivations { zero_point: 0, ..numbers })),
        ] {
            let quantizer = crate::quantize::method("rtn").unwrap();
            let quantization = Quantization { quantizer, scheme, inputs };
            let folder = tempfile::tempdir().unwrap();
            let mut writer =
                SafetensorsWriter::create(&folder.path().join("model.safetensors"), folder.path()).unwrap();
            write(&mut writer, "m", &tensor, &quantization, activations).unwrap();
            writer.finish().unwrap();
            let declared = quantization_config(&[("m".into(), quantization)], &[], true);
            let config = json!({"quantization_config": declared}).to_string();
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            let read = Checkpoint::open(folder.path()).unwrap().tensor("m.weight").unwrap();
            assert_eq!(read, StoredTensor::Quantized(tensor.clone(), activations));
        }
    }
}
