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
//! With activation order there is a `weight_g_idx` i32 `(cols)`: the group of every column. Columns keep the order of the
//! inputs in the file. A -1 in it stands for columns in order, as the package initializes it.
//!
//! Packed codes are offset by `2^(bits-1)` and laid without gaps, lowest bits first, along a row (zero points: along a
//! column); in a little-endian file that is one stream of bits. Before version 0.18 of the package codes of 3, 5, 6 and 7 bits
//! did not cross words ([`Packing`]). `w = scale (q - zero_point)`.
//! Source: the `compressed-tensors` package, version 0.20 (`compressors/pack_quantized`, `compressors/naive_quantized`);
//! for `weight_g_idx`, which 0.20 no longer knows, version 0.12 (`quantization/lifecycle/forward.py`).

use std::collections::HashSet;

use safetensors::Dtype;

use super::packed_words::{column, order_by_group, reorder, transposed, unpack};
use super::quantization_config::{Inputs, Packing, QuantizationConfig, Scheme};
use super::quantized::{PackedWeight, Parts, Scales, by_name};
use super::safetensors::Tensor;
use super::{Entry, Slab, Storage};
use crate::error::{Error, Result};
use crate::tensor::{ActivationScheme, Granularity, QuantizedTensor, StaticActivations, Zero};

/// The parts of one quantized weight, checked against each other.
#[derive(Debug)]
pub(super) struct QuantizedWeight {
    codes: Slab,
    /// How codes are packed; `None` for a byte each.
    packing: Option<Packing>,
    scales: Scales,
    zero_points: Option<(Slab, ZeroLayout)>,
    rows: usize,
    cols: usize,
    group_size: usize,
    /// Group of every column, where they are not in order.
    g_idx: Option<Slab>,
    scheme: Scheme,
    activations: ActivationScheme,
}

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZeroLayout {
    /// One byte each, laid out as the scales.
    Bytes,
    /// Packed along columns.
    Packed(Packing),
}

/// Parts that change what a weight or an input means in ways that no kernel here carries out.
const REFUSED: [&str; 6] =
    ["weight_global_scale", "input_global_scale", "output_scale", "output_zero_point", "k_scale", "v_scale"];

/// Parts beside the codes.
const PARTS: [&str; 6] =
    ["weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale", "input_zero_point"];

/// Gathers the parts of quantized weights into entries, in the order of the files; other tensors stay as they are.
/// `tensors` are those of all files, with the place of their file; `bytes` reads a slab.
pub(super) fn gather(
    place: &str,
    config: &QuantizationConfig,
    tensors: Vec<(usize, Tensor)>,
    bytes: &dyn Fn(&Slab) -> Vec<u8>,
) -> Result<Vec<Entry>> {
    let by_name = by_name(&tensors);
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
                    "global scales, static outputs and quantized caches are not supported; supported: inputs dynamic per \
                     token, static per tensor or none"
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
        let weight = parts.weight(scheme, &tensor.name, config.packing())?;
        used.insert(module.to_owned());
        let shape = vec![weight.rows, weight.cols];
        entries.push(Entry { name: format!("{module}.weight"), shape, storage: Storage::Quantized(Box::new(weight)) });
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

impl Parts<'_> {
    fn weight(&self, scheme: Scheme, codes_name: &str, stated: Option<Packing>) -> Result<QuantizedWeight> {
        let packed = codes_name.ends_with("weight_packed");
        let (codes, tensor) = self.needed(if packed { "weight_packed" } else { "weight" })?;
        let [rows, width] = tensor.shape[..] else {
            return Err(self.fault(&tensor.name, format!("expected a matrix, got shape {:?}", tensor.shape)));
        };
        let (cols, packing) = match packed {
            true => self.packed_cols(tensor, rows, width, scheme.bits, stated).map(|(cols, how)| (cols, Some(how)))?,
            false => (width, None),
        };
        if let Some((slab, shape)) = self.part("weight_shape").filter(|_| !packed) {
            let stated = self.stated_shape(&slab, shape)?;
            if stated != (rows as u64, cols as u64) {
                let problem = format!("states {} x {}, but the weight has {rows} x {cols}", stated.0, stated.1);
                return Err(self.fault(&shape.name, problem));
            }
        }
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
        let (scales, tensor) = self.scales("weight_scale")?;
        self.expect_count(tensor, count)?;
        let zero_points = self.zero_points(&scheme, rows, cols / group_size, count, packing.or(stated))?;
        let g_idx = self.g_idx(&scheme, cols)?;
        let activations = self.activations(scheme.inputs)?;
        Ok(QuantizedWeight { codes, packing, scales, zero_points, rows, cols, group_size, g_idx, scheme, activations })
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
        let (scale, tensor) = self.scales("input_scale")?;
        self.expect_count(tensor, 1)?;
        let scale = scale.read(&(self.bytes)(&scale.slab));
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

    /// Groups of the columns, which only grouped scales have.
    fn g_idx(&self, scheme: &Scheme, cols: usize) -> Result<Option<Slab>> {
        let Some((slab, tensor)) = self.part("weight_g_idx") else { return Ok(None) };
        if scheme.granularity != Granularity::Group {
            return Ok(None);
        }
        self.expect_i32(tensor)?;
        self.expect_count(tensor, cols)?;
        Ok(Some(slab))
    }

    /// Columns of a packed matrix of `rows` rows and `words` words a row, as `weight_shape` says, and how the codes are
    /// packed: as `stated`, else as the number of words tells.
    fn packed_cols(
        &self,
        packed: &Tensor,
        rows: usize,
        words: usize,
        bits: u8,
        stated: Option<Packing>,
    ) -> Result<(usize, Packing)> {
        self.expect_i32(packed)?;
        let (slab, tensor) = self.needed("weight_shape")?;
        let (stated_rows, cols) = self.stated_shape(&slab, tensor)?;
        let fits = |packing: Packing| packing.words(cols, bits) == Some(words as u64);
        let fitting: Vec<Packing> = [Packing::Dense, Packing::Padded].into_iter().filter(|&how| fits(how)).collect();
        let packing = match (stated, &fitting[..]) {
            _ if stated_rows != rows as u64 => None,
            // The two are one.
            (_, [first, _]) if 32 % bits == 0 => Some(*first),
            (Some(stated), _) if fits(stated) => Some(stated),
            (None, &[only]) => Some(only),
            (None, [_, _]) => {
                let problem = format!(
                    "codes of {bits} bits may be packed as compressed-tensors before or since 0.18 does, and the shape does \
                     not tell; add the release that wrote them to quantization_config, such as \"version\": \"0.20.1\""
                );
                return Err(self.fault(&packed.name, problem));
            }
            _ => None,
        };
        packing.map(|packing| (cols as usize, packing)).ok_or_else(|| {
            let hint = match (stated, &fitting[..]) {
                (Some(Packing::Dense), [_]) => " (as compressed-tensors before 0.18 packs, it does)",
                (Some(Packing::Padded), [_]) => " (as compressed-tensors since 0.18 packs, it does)",
                _ => "",
            };
            let problem = format!(
                "shape {stated_rows} x {cols} at {bits} bits does not fit weight_packed of {rows} rows of {words} words{hint}"
            );
            self.fault(&tensor.name, problem)
        })
    }

    /// Rows and columns that a `weight_shape` states.
    fn stated_shape(&self, slab: &Slab, tensor: &Tensor) -> Result<(u64, u64)> {
        let width = match tensor.dtype {
            Dtype::I64 => 8,
            Dtype::I32 => 4,
            other => return Err(self.fault(&tensor.name, format!("expected I64 or I32, got {other}"))),
        };
        self.expect_count(tensor, 2)?;
        let bytes = (self.bytes)(slab);
        // A negative size becomes a huge one, which fits no file.
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        Ok((number(&bytes[..width]), number(&bytes[width..])))
    }

    fn zero_points(
        &self,
        scheme: &Scheme,
        rows: usize,
        groups: usize,
        count: usize,
        packing: Option<Packing>,
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
                let packing = packing.unwrap_or(Packing::Dense);
                let words = packing.words(rows as u64, scheme.bits).map_or(0, |words| words as usize);
                self.expect_count(tensor, words * groups)?;
                Ok(Some((slab, ZeroLayout::Packed(packing))))
            }
            other => Err(self.fault(&tensor.name, format!("expected I8, or I32 packed along columns, got {other}"))),
        }
    }
}

impl Packing {
    /// Codes less the offset `2^(bits-1)`.
    fn unpack(self, packed: &[u8], bits: u8, codes: &mut [i8]) {
        match self {
            Packing::Dense => unpack(packed, bits, codes),
            Packing::Padded => {
                let words = packed.as_chunks::<4>().0.iter().zip(codes.chunks_mut(usize::from(32 / bits)));
                words.for_each(|(word, codes)| unpack(word, bits, codes));
            }
        }
    }
}

impl PackedWeight for QuantizedWeight {
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let bits = self.scheme.bits;
        let mut codes = vec![0; self.rows * self.cols];
        let stored = bytes(&self.codes);
        match self.packing {
            Some(packing) => {
                let stride = stored.len() / self.rows;
                let rows = stored.chunks_exact(stride).zip(codes.chunks_exact_mut(self.cols));
                rows.for_each(|(packed, codes)| packing.unpack(packed, bits, codes));
            }
            None => codes.copy_from_slice(bytemuck::cast_slice(stored)),
        }
        let zero = match self.zero_points {
            None => Zero::Symmetric,
            Some((ref slab, layout)) => self.zero(bytes(slab), layout)?,
        };
        let scales = self.for_every_row(self.scales.read(bytes(&self.scales.slab)));
        let input_order = match &self.g_idx {
            Some(slab) => order_of(bytes(slab), self.group_size)?,
            None => None,
        };
        if let Some(order) = &input_order {
            reorder(&mut codes, order);
        }
        let (rows, cols, group_size) = (self.rows, self.cols, self.group_size);
        let tensor = QuantizedTensor { rows, cols, bits, group_size, codes, scales, zero, input_order };
        tensor.validate()?;
        Ok((tensor, self.activations))
    }

    fn slabs(&self) -> Vec<&Slab> {
        let zero_points = self.zero_points.iter().map(|(slab, _)| slab);
        [&self.codes, &self.scales.slab].into_iter().chain(zero_points).chain(&self.g_idx).collect()
    }
}

impl QuantizedWeight {
    fn zero(&self, stored: &[u8], layout: ZeroLayout) -> std::result::Result<Zero, String> {
        let bits = self.scheme.bits;
        let points = match layout {
            ZeroLayout::Bytes => self.for_every_row(bytemuck::cast_slice(stored).to_vec()),
            ZeroLayout::Packed(packing) => {
                let groups = self.cols / self.group_size;
                let mut points = vec![0; self.rows * groups];
                for (group, points) in points.chunks_exact_mut(self.rows).enumerate() {
                    packing.unpack(&column(stored, groups, group), bits, points);
                }
                transposed(&points, self.rows)
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

/// Stored order of the columns; -1 anywhere means that they are in order.
fn order_of(g_idx: &[u8], group_size: usize) -> std::result::Result<Option<Vec<u32>>, String> {
    match g_idx.as_chunks::<4>().0.contains(&(-1i32).to_le_bytes()) {
        true => Ok(None),
        false => order_by_group(g_idx, group_size),
    }
}
