//! Quantized weights in the compressed-tensors layout: `quantization_config` and the parts of each module.
//!
//! | part | `pack-quantized` | `int-quantized` |
//! |---|---|---|
//! | codes | `weight_packed` i32 `(rows, ceil(cols bits / 32))` | `weight` i8 `(rows, cols)` |
//! | shape | `weight_shape` `[rows, cols]` | |
//! | scales | `weight_scale` f32, f16 or bf16, `(rows, groups)` | the same |
//! | zero points | `weight_zero_point` i32 `(ceil(rows bits / 32), groups)`, or i8 as the scales | i8 as the scales |
//! | static inputs | `input_scale` as the scales, `[1]`; `input_zero_point` i8 `[1]` where asymmetric | the same |
//!
//! Packed codes are offset by `2^(bits-1)` and laid without gaps, lowest bits first, along a row (zero points: along a
//! column); in a little-endian file that is one stream of bits. `w = scale (q - zero_point)`.
//! Source: the `compressed-tensors` package, version 0.20 (`compressors/pack_quantized`, `compressors/naive_quantized`).

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;

use super::quantization_config::{Inputs, QuantizationConfig, Scheme};
use super::safetensors::Tensor;
use super::storage::{Format, widen};
use super::{Entry, Slab, Storage, float_format};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, Granularity, QuantizedTensor, StaticActivations, Zero};

/// The parts of one quantized weight, checked against each other.
#[derive(Debug)]
pub(super) struct QuantizedWeight {
    codes: Slab,
    packed: bool,
    scales: Slab,
    scale_format: Format,
    zero_points: Option<(Slab, ZeroLayout)>,
    rows: usize,
    cols: usize,
    group_size: usize,
    scheme: Scheme,
    activations: ActivationScheme,
}

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZeroLayout {
    /// One byte each, laid out as the scales.
    Bytes,
    /// Packed along columns.
    Packed,
}

/// Parts that change what a weight or an input means in ways that no kernel here carries out.
const REFUSED: [&str; 7] = [
    "weight_g_idx",
    "weight_global_scale",
    "input_global_scale",
    "output_scale",
    "output_zero_point",
    "k_scale",
    "v_scale",
];

/// Parts beside the codes.
const PARTS: [&str; 5] = ["weight_scale", "weight_zero_point", "weight_shape", "input_scale", "input_zero_point"];

/// Gathers the parts of quantized weights into entries, in the order of the files; other tensors stay as they are.
/// `tensors` are those of all files, with the place of their file; `bytes` reads a slab.
pub(super) fn gather(
    place: &str,
    config: &QuantizationConfig,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<Entry>> {
    let by_name: HashMap<String, (usize, Tensor)> =
        tensors.iter().map(|(file, tensor)| (tensor.name.clone(), (*file, tensor.clone()))).collect();
    let mut used = HashSet::new();
    let mut entries = Vec::new();
    for (file, tensor) in tensors {
        let (module, part) = tensor.name.rsplit_once('.').unwrap_or(("", &tensor.name));
        let fault = |problem: String| Error::input(format!("{place}: tensor \"{}\"", tensor.name), problem);
        match part {
            "weight_packed" => {}
            "weight" if tensor.dtype == Dtype::I8 => {}
            _ if PARTS.contains(&part) => continue,
            _ if REFUSED.contains(&part) => {
                return Err(fault(
                    "activation order, static outputs and quantized caches are not supported; supported: groups in \
                     order, inputs dynamic per token, static per tensor or none"
                        .into(),
                ));
            }
            "weight" if tensor.shape.len() == 2 && config.claims(module) => {
                let problem = "holds floating-point weights, though quantization_config targets its module and does \
                               not ignore it; the checkpoint is not complete";
                return Err(fault(problem.into()));
            }
            _ => {
                entries.push(Entry::dense(file, tensor));
                continue;
            }
        }
        let scheme = config.scheme_of(module).map_err(fault)?;
        let parts = Parts { place, module, by_name: &by_name, bytes };
        let weight = parts.weight(scheme, &tensor.name)?;
        used.insert(module.to_owned());
        let shape = vec![weight.rows, weight.cols];
        entries.push(Entry { name: format!("{module}.weight"), shape, storage: Storage::Quantized(weight) });
    }
    let orphan = by_name.keys().find(|name| match name.rsplit_once('.') {
        Some((module, part)) => PARTS.contains(&part) && !used.contains(module),
        None => false,
    });
    match orphan {
        None => Ok(entries),
        Some(name) => {
            let problem = "has no codes beside it: expected weight_packed (i32) or weight (i8)";
            Err(Error::input(format!("{place}: tensor \"{name}\""), problem))
        }
    }
}

/// The parts of one module.
struct Parts<'a> {
    place: &'a str,
    module: &'a str,
    by_name: &'a HashMap<String, (usize, Tensor)>,
    bytes: &'a dyn Fn(&Slab) -> Vec<u8>,
}

impl<'a> Parts<'a> {
    fn weight(&self, scheme: Scheme, codes_name: &str) -> Result<QuantizedWeight> {
        let packed = codes_name.ends_with("weight_packed");
        let (codes, tensor) = self.needed(if packed { "weight_packed" } else { "weight" })?;
        let [rows, width] = tensor.shape[..] else {
            return Err(self.fault(&tensor.name, format!("expected a matrix, got shape {:?}", tensor.shape)));
        };
        let cols = if packed { self.packed_cols(tensor, rows, width, scheme.bits)? } else { width };
        if rows == 0 || cols == 0 {
            return Err(self.fault(&tensor.name, format!("empty shape {rows} x {cols}")));
        }
        let group_size = match scheme.granularity {
            Granularity::Group => scheme.group_size,
            Granularity::Channel | Granularity::Tensor => cols,
        };
        if !cols.is_multiple_of(group_size) {
            return Err(self.fault(&tensor.name, format!("group_size {group_size} does not divide {cols} columns")));
        }
        let count = if scheme.granularity == Granularity::Tensor { 1 } else { rows * (cols / group_size) };
        let (scales, tensor) = self.needed("weight_scale")?;
        let scale_format = self.float_format(tensor)?;
        self.expect_count(tensor, count)?;
        let zero_points = self.zero_points(&scheme, rows, cols / group_size, count)?;
        let activations = self.activations(scheme.inputs)?;
        Ok(QuantizedWeight {
            codes,
            packed,
            scales,
            scale_format,
            zero_points,
            rows,
            cols,
            group_size,
            scheme,
            activations,
        })
    }

    /// The scheme of inputs, with the scale and zero point of static ones.
    fn activations(&self, inputs: Inputs) -> Result<ActivationScheme> {
        let symmetric = match inputs {
            Inputs::Known(scheme) => match self.part("input_scale").or_else(|| self.part("input_zero_point")) {
                None => return Ok(scheme),
                Some((_, tensor)) => {
                    let problem = "quantization_config does not say that inputs are static: expected input_activations \
                                   with strategy tensor, dynamic false";
                    return Err(self.fault(&tensor.name, problem.into()));
                }
            },
            Inputs::Stored { symmetric } => symmetric,
        };
        let (slab, tensor) = self.needed("input_scale")?;
        self.expect_count(tensor, 1)?;
        let mut scale = [0.0];
        widen(self.float_format(tensor)?, &(self.bytes)(&slab), &mut scale);
        let zero_point = match self.part("input_zero_point") {
            None if symmetric => 0,
            None => return Err(self.missing("input_zero_point")),
            Some((slab, tensor)) => {
                self.expect_count(tensor, 1)?;
                if tensor.dtype != Dtype::I8 {
                    return Err(self.fault(&tensor.name, format!("expected I8, got {}", tensor.dtype)));
                }
                i64::from((self.bytes)(&slab)[0].cast_signed())
            }
        };
        let name = &tensor.name;
        if symmetric && zero_point != 0 {
            let problem = format!("quantization_config says symmetric, but the zero point of inputs is {zero_point}");
            return Err(self.fault(name, problem));
        }
        let numbers = StaticActivations::new(scale[0], zero_point, (-128, 127)).map_err(|p| self.fault(name, p))?;
        Ok(ActivationScheme::Static(numbers))
    }

    fn float_format(&self, tensor: &Tensor) -> Result<Format> {
        float_format(tensor.dtype)
            .ok_or_else(|| self.fault(&tensor.name, format!("expected F32, F16 or BF16, got {}", tensor.dtype)))
    }

    /// Columns of a packed matrix of `rows` rows and `words` words a row, as `weight_shape` says.
    fn packed_cols(&self, packed: &Tensor, rows: usize, words: usize, bits: u8) -> Result<usize> {
        if packed.dtype != Dtype::I32 {
            return Err(self.fault(&packed.name, format!("expected I32, got {}", packed.dtype)));
        }
        let (slab, tensor) = self.needed("weight_shape")?;
        let width = match tensor.dtype {
            Dtype::I64 => 8,
            Dtype::I32 => 4,
            other => return Err(self.fault(&tensor.name, format!("expected I64 or I32, got {other}"))),
        };
        self.expect_count(tensor, 2)?;
        let bytes = (self.bytes)(&slab);
        // A negative size becomes a huge one, which fits no file.
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let (stated_rows, cols) = (number(&bytes[..width]), number(&bytes[width..]));
        let needed_words = cols.checked_mul(u64::from(bits)).map(|bits| bits.div_ceil(32));
        if stated_rows != rows as u64 || needed_words != Some(words as u64) {
            let problem = format!(
                "shape {stated_rows} x {cols} at {bits} bits does not fit weight_packed of {rows} rows of {words} words"
            );
            return Err(self.fault(&tensor.name, problem));
        }
        Ok(cols as usize)
    }

    fn zero_points(
        &self,
        scheme: &Scheme,
        rows: usize,
        groups: usize,
        count: usize,
    ) -> Result<Option<(Slab, ZeroLayout)>> {
        let Some((slab, tensor)) = self.part("weight_zero_point") else {
            if scheme.symmetric {
                return Ok(None);
            }
            return Err(self.missing("weight_zero_point"));
        };
        match tensor.dtype {
            Dtype::I8 => {
                self.expect_count(tensor, count)?;
                Ok(Some((slab, ZeroLayout::Bytes)))
            }
            Dtype::I32 if scheme.granularity != Granularity::Tensor => {
                let words = (rows * usize::from(scheme.bits)).div_ceil(32);
                self.expect_count(tensor, words * groups)?;
                Ok(Some((slab, ZeroLayout::Packed)))
            }
            other => Err(self.fault(&tensor.name, format!("expected I8, or I32 packed along columns, got {other}"))),
        }
    }

    fn part(&self, part: &str) -> Option<(Slab, &'a Tensor)> {
        let (file, tensor) = self.by_name.get(&format!("{}.{part}", self.module))?;
        Some((Slab { file: *file, bytes: tensor.bytes.clone() }, tensor))
    }

    fn needed(&self, part: &str) -> Result<(Slab, &'a Tensor)> {
        self.part(part).ok_or_else(|| self.missing(part))
    }

    fn missing(&self, part: &str) -> Error {
        self.fault(&format!("{}.{part}", self.module), "missing; the checkpoint is not complete".into())
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::input(format!("{}: tensor \"{tensor}\"", self.place), problem)
    }

    fn expect_count(&self, tensor: &Tensor, count: usize) -> Result<()> {
        let got: usize = tensor.shape.iter().product();
        if got == count {
            return Ok(());
        }
        Err(self.fault(&tensor.name, format!("expected {count} values, got {got} (shape {:?})", tensor.shape)))
    }
}

impl QuantizedWeight {
    /// Reads the integers; `bytes` lends a slab.
    ///
    /// # Errors
    /// NaN or infinite scales, codes or zero points outside their range.
    pub(super) fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let bits = self.scheme.bits;
        let mut codes = vec![0; self.rows * self.cols];
        let stored = bytes(&self.codes);
        if self.packed {
            let stride = stored.len() / self.rows;
            let rows = stored.chunks_exact(stride).zip(codes.chunks_exact_mut(self.cols));
            rows.for_each(|(packed, codes)| unpack(packed, bits, codes));
        } else {
            codes.copy_from_slice(bytemuck::cast_slice(stored));
        }
        let zero = match self.zero_points {
            None => Zero::Symmetric,
            Some((ref slab, layout)) => self.zero(bytes(slab), layout)?,
        };
        let stored = bytes(&self.scales);
        let mut scales = vec![0.0; stored.len() / self.scale_format.block_bytes()];
        widen(self.scale_format, stored, &mut scales);
        let scales = self.for_every_row(scales);
        let (rows, cols, group_size) = (self.rows, self.cols, self.group_size);
        let tensor = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order: None };
        tensor.validate()?;
        Ok((tensor, self.activations))
    }

    /// All slabs, to be released.
    pub(super) fn slabs(&self) -> impl Iterator<Item = &Slab> {
        [&self.codes, &self.scales].into_iter().chain(self.zero_points.iter().map(|(slab, _)| slab))
    }

    fn zero(&self, stored: &[u8], layout: ZeroLayout) -> std::result::Result<Zero, String> {
        let bits = self.scheme.bits;
        let points = match layout {
            ZeroLayout::Bytes => self.for_every_row(bytemuck::cast_slice(stored).to_vec()),
            ZeroLayout::Packed => {
                let groups = self.cols / self.group_size;
                let mut points = vec![0; self.rows * groups];
                let mut column = vec![0; self.rows];
                for group in 0..groups {
                    let words = stored.as_chunks::<4>().0.iter().skip(group).step_by(groups);
                    unpack(&words.flatten().copied().collect::<Vec<u8>>(), bits, &mut column);
                    points.iter_mut().skip(group).step_by(groups).zip(&column).for_each(|(out, &z)| *out = z);
                }
                points
            }
        };
        let (low, high) = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        if let Some(point) = points.iter().find(|&&z| i32::from(z) < low || i32::from(z) > high) {
            return Err(format!("zero point {point} is outside {low}..={high} of {bits} bits"));
        }
        match self.scheme.symmetric {
            false => Ok(Zero::Points(points)),
            true if points.iter().all(|&z| z == 0) => Ok(Zero::Symmetric),
            true => Err("quantization_config says symmetric, but there are zero points other than 0".into()),
        }
    }

    /// A value of the whole tensor repeated for every row; values of rows or groups as they are.
    fn for_every_row<T: Clone>(&self, values: Vec<T>) -> Vec<T> {
        match self.scheme.granularity {
            Granularity::Tensor => vec![values[0].clone(); self.rows],
            Granularity::Channel | Granularity::Group => values,
        }
    }
}

/// Codes of `bits` bits from a stream of bits, lowest first, less the offset `2^(bits-1)`.
fn unpack(packed: &[u8], bits: u8, codes: &mut [i8]) {
    let mask = (1u16 << bits) - 1;
    let offset = 1i16 << (bits - 1);
    for (at, code) in codes.iter_mut().enumerate() {
        let bit = at * usize::from(bits);
        let low = packed[bit / 8];
        let high = packed.get(bit / 8 + 1).copied().unwrap_or(0);
        let value = u16::from_le_bytes([low, high]) >> (bit % 8) & mask;
        *code = (value as i16 - offset) as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_come_back_at_every_width() {
        for bits in 2..=8u8 {
            let (low, high) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
            let codes: Vec<i8> = (0..70).map(|i| (low + (i * 7) % (high - low + 1)) as i8).collect();
            // Written as a 32-bit word format, to hold the byte stream against its definition.
            let mut words = vec![0u32; (codes.len() * usize::from(bits)).div_ceil(32)];
            for (at, &code) in codes.iter().enumerate() {
                for bit in 0..usize::from(bits) {
                    let set = (i32::from(code) - low) as u32 >> bit & 1;
                    let place = at * usize::from(bits) + bit;
                    words[place / 32] |= set << (place % 32);
                }
            }
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut read = vec![0; codes.len()];
            unpack(&bytes, bits, &mut read);
            assert_eq!(read, codes, "{bits} bits");
        }
    }
}
