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

/// `quantization_config` of an AWQ folder.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(alias = "w_bit")]
    bits: u8,
    /// Columns of a group; -1 for one group.
    #[serde(alias = "q_group_size")]
    group_size: i64,
    #[serde(default = "yes")]
    zero_point: bool,
    #[serde(default)]
    version: Option<String>,
    /// What newer files call the version.
    #[serde(default)]
    format: Option<String>,
}

fn yes() -> bool {
    true
}

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
        let config = Config::deserialize(stored).map_err(|error| error.to_string())?;
        if config.bits != BITS || !config.zero_point {
            let (bits, zero_point) = (config.bits, config.zero_point);
            let got = format!("AWQ of {bits} bits with zero_point {zero_point}");
            return Err(format!("{got} is not supported; supported: 4 bits with zero_point true"));
        }
        check_group_size(config.group_size)?;
        config.layout().map(|_| config)
    }

    fn layout(&self) -> std::result::Result<Layout, String> {
        let version = self.version.as_ref().or(self.format.as_ref()).map_or("gemm", |version| version);
        match version.to_ascii_lowercase().as_str() {
            "gemm" => Ok(Layout::Gemm),
            "gemv" => Ok(Layout::Gemv),
            _ => Err(format!("version \"{version}\" of AWQ is not supported; supported: gemm, gemv")),
        }
    }

    /// The weight of a module, with its shape.
    pub(super) fn weight(&self, parts: &Parts) -> Result<(Vec<usize>, Box<dyn PackedWeight>)> {
        let (qweight, tensor, [height, words]) = parts.words("qweight")?;
        let fault = |problem: String| parts.fault(&tensor.name, problem);
        let layout = self.layout().map_err(fault)?;
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
            Layout::Gemm => (
                transposed(&unpack_interleaved(codes), rows),
                transposed(&unpack_interleaved(points), rows),
                transposed(&scales, rows),
            ),
            Layout::Gemv => {
                let groups = cols / group_size;
                let scales = scales.chunks_exact(scales.len() / rows).flat_map(|row| row[..groups].to_vec()).collect();
                (unpack_rows(codes, rows, cols), unpack_rows(points, rows, groups), scales)
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
