//! AWQ folders, as AutoAWQ and GPTQModel write them: 4 bits with zero points.
//!
//! With `K` inputs, `N` outputs and `G` groups, of a linear layer are stored:
//!
//! | part | `gemm` | `gemv` |
//! |---|---|---|
//! | `qweight` | i32 `(K, N / 8)`, along a row | i32 `(N, K / 8)`, along a row |
//! | `qzeros` | i32 `(G, N / 8)`, along a row | i32 `(N, W)`, along a row, padded |
//! | `scales` | f16 `(G, N)` | f16 `(N, 8 W)`, padded |
//!
//! In `gemm`, the nibbles of a word, lowest first, are columns 0, 2, 4, 6, 1, 3, 5, 7 of its eight; in `gemv` they are in
//! order, and `W = ceil(G / 8)` is rounded up to a multiple of 2 for groups of 64, of 4 for groups of 32.
//! `w[n][k] = scales[g][n] * (q[k][n] - z[g][n])`, `g = k / group_size`; all numbers unsigned. The product is exact up to
//! one rounding to f32 here; AutoAWQ computes it in f16.
//! Source: the `autoawq` package, version 0.2.9 (`modules/linear`, `utils/packing_utils.py`).

use std::fmt::Debug;

use serde::Deserialize;
use serde_json::Value;

use super::Slab;
use super::packed_words::{transposed, unpack};
use super::quantized::{PackedWeight, Parts, Scales, check_group_size};
use crate::error::Result;
use crate::tensor::{ActivationScheme, QuantizedTensor, Zero};

/// Bits of a code.
const BITS: u8 = 4;
/// Codes in a word.
const PER_WORD: usize = 8;
/// Column, of the eight of a word, that each nibble of `gemm` holds.
const ORDER: [usize; PER_WORD] = [0, 2, 4, 6, 1, 3, 5, 7];

/// `quantization_config` of an AWQ folder. Each fact has two names, of which a file may state both.
#[derive(Debug, Deserialize)]
struct Stored {
    #[serde(default)]
    bits: Option<u8>,
    #[serde(default)]
    w_bit: Option<u8>,
    #[serde(default)]
    group_size: Option<i64>,
    #[serde(default)]
    q_group_size: Option<i64>,
    #[serde(default = "yes")]
    zero_point: bool,
    #[serde(default)]
    version: Option<String>,
    /// What newer files call the version.
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    sym: Option<bool>,
    #[serde(default)]
    desc_act: bool,
}

/// The configuration, checked.
#[derive(Debug)]
pub(super) struct Config {
    /// Columns of a group; -1 for one group.
    group_size: i64,
    layout: Layout,
    /// Every zero point is the middle one.
    symmetric: bool,
}

fn yes() -> bool {
    true
}

/// Keys beside those of [`Stored`] that change no number.
pub(super) const SILENT: &[&str] = &[
    "backend",
    "checkpoint_format",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "lm_head",
    "meta",
    "modules_to_fuse",
    "modules_to_not_convert",
    "quant_method",
];
/// Keys of [`Stored`].
pub(super) const READ: &[&str] =
    &["bits", "desc_act", "format", "group_size", "q_group_size", "sym", "version", "w_bit", "zero_point"];

/// Order of codes, zero points and scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Gemm,
    Gemv,
}

/// The parts of one weight.
#[derive(Debug)]
struct Weight {
    qweight: Slab,
    qzeros: Slab,
    scales: Scales,
    rows: usize,
    cols: usize,
    group_size: usize,
    layout: Layout,
}

impl Config {
    /// Reads and checks the configuration.
    pub(super) fn read(stored: &Value) -> std::result::Result<Self, String> {
        let stored = Stored::deserialize(stored).map_err(|error| error.to_string())?;
        let bits = one_of(("bits", stored.bits), ("w_bit", stored.w_bit))?.ok_or("missing field `bits`")?;
        if bits != BITS || !stored.zero_point || stored.desc_act {
            let got = format!("AWQ of {bits} bits with zero_point {}, desc_act {}", stored.zero_point, stored.desc_act);
            return Err(format!("{got} is not supported; supported: 4 bits with zero_point true, desc_act false"));
        }
        let group_size = one_of(("group_size", stored.group_size), ("q_group_size", stored.q_group_size))?;
        let group_size = group_size.ok_or("missing field `group_size`")?;
        check_group_size(group_size)?;
        let lower = |version: Option<String>| version.map(|version| version.to_ascii_lowercase());
        let version = one_of(("version", lower(stored.version)), ("format", lower(stored.format)))?;
        let layout = match version.as_deref() {
            None | Some("gemm") => Layout::Gemm,
            Some("gemv") => Layout::Gemv,
            Some(other) => return Err(format!("version \"{other}\" of AWQ is not supported; supported: gemm, gemv")),
        };
        Ok(Config { group_size, layout, symmetric: stored.sym == Some(true) })
    }

    /// The weight of a module, with its shape.
    pub(super) fn weight(&self, parts: &Parts) -> Result<(Vec<usize>, Box<dyn PackedWeight>)> {
        let (qweight, tensor, [height, words]) = parts.words("qweight")?;
        let fault = |problem: String| parts.fault(&tensor.name, problem);
        let layout = self.layout;
        if let Some((_, g_idx)) = parts.part("g_idx") {
            return Err(parts.fault(&g_idx.name, "AWQ has no activation order; is quant_method gptq?".into()));
        }
        let width = words.checked_mul(PER_WORD).ok_or_else(|| fault("the shape is absurd".into()))?;
        let (rows, cols) = if layout == Layout::Gemm { (width, height) } else { (height, width) };
        let group_size = parts.group_size(tensor, self.group_size, cols)?;
        let groups = cols / group_size;
        let (qzeros, qzeros_tensor, _) = parts.words("qzeros")?;
        let (scales, scales_tensor) = parts.scales("scales")?;
        match layout {
            Layout::Gemm => {
                parts.expect_shape(qzeros_tensor, &[groups, words])?;
                parts.expect_shape(scales_tensor, &[groups, rows])?;
            }
            Layout::Gemv => {
                let padded = groups.div_ceil(PER_WORD).next_multiple_of(match group_size {
                    ..64 => 4,
                    64..128 => 2,
                    128.. => 1,
                });
                parts.expect_shape(qzeros_tensor, &[rows, padded])?;
                parts.expect_shape(scales_tensor, &[rows, padded * PER_WORD])?;
            }
        }
        let weight = Weight { qweight, qzeros, scales, rows, cols, group_size, layout };
        if self.symmetric && weight.points(&(parts.bytes)(&weight.qzeros)).iter().any(|&point| point != 0) {
            let problem = "quantization_config says \"sym\": true, but there are zero points other than 8; set it to false if \
                           they are meant";
            return Err(parts.fault(&qzeros_tensor.name, problem.into()));
        }
        Ok((vec![rows, cols], Box::new(weight)))
    }
}

impl PackedWeight for Weight {
    fn read<'a>(
        &self,
        bytes: &dyn Fn(&Slab) -> &'a [u8],
    ) -> std::result::Result<(QuantizedTensor, ActivationScheme), String> {
        let (rows, cols, group_size) = (self.rows, self.cols, self.group_size);
        let (codes, points) = (bytes(&self.qweight), bytes(&self.qzeros));
        let scales = self.scales.read(bytes(&self.scales.slab));
        let (codes, points, scales) = match self.layout {
            Layout::Gemm => {
                (transposed(&unpack_interleaved(codes), rows), self.points(points), transposed(&scales, rows))
            }
            Layout::Gemv => {
                let groups = cols / group_size;
                let scales = scales.chunks_exact(scales.len() / rows).flat_map(|row| row[..groups].to_vec()).collect();
                (unpack_rows(codes, rows, cols), self.points(points), scales)
            }
        };
        let zero = Zero::of_points(points);
        let tensor = QuantizedTensor { rows, cols, bits: BITS, group_size, codes, scales, zero, input_order: None };
        tensor.validate()?;
        Ok((tensor, ActivationScheme::None))
    }

    fn slabs(&self) -> Vec<&Slab> {
        vec![&self.qweight, &self.qzeros, &self.scales.slab]
    }
}

impl Weight {
    /// Zero points less 8, `(rows, groups)`.
    fn points(&self, stored: &[u8]) -> Vec<i8> {
        match self.layout {
            Layout::Gemm => transposed(&unpack_interleaved(stored), self.rows),
            Layout::Gemv => unpack_rows(stored, self.rows, self.cols / self.group_size),
        }
    }
}

/// The value of a setting that has two names.
fn one_of<T: PartialEq + Debug>(
    (name, value): (&str, Option<T>),
    (other_name, other): (&str, Option<T>),
) -> std::result::Result<Option<T>, String> {
    match (value, other) {
        (Some(value), Some(other)) if value != other => {
            Err(format!("{name} is {value:?}, but {other_name} is {other:?}; keep one of them"))
        }
        (value, other) => Ok(value.or(other)),
    }
}

/// Codes of `gemm` words less 8, in the order of their columns.
fn unpack_interleaved(stored: &[u8]) -> Vec<i8> {
    let mut codes = vec![0; stored.len() * 2];
    for (word, codes) in stored.as_chunks::<4>().0.iter().zip(codes.chunks_exact_mut(PER_WORD)) {
        let mut nibbles = [0; PER_WORD];
        unpack(word, BITS, &mut nibbles);
        ORDER.iter().zip(nibbles).for_each(|(&column, code)| codes[column] = code);
    }
    codes
}

/// The first `count` codes, less 8, of each of `rows` rows of words.
fn unpack_rows(stored: &[u8], rows: usize, count: usize) -> Vec<i8> {
    let mut codes = vec![0; rows * count];
    let stored = stored.chunks_exact(stored.len() / rows);
    stored.zip(codes.chunks_exact_mut(count)).for_each(|(stored, codes)| unpack(stored, BITS, codes));
    codes
}
