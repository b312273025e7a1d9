//! Packed weights: what all kernels read.
//!
//! Output columns of the product (rows of the weight) are taken 16 at a time: a panel. A panel is contiguous over all
//! inputs, so that a kernel streams it; a short last panel is padded with zero weights. With `lane = row % 16`:
//!
//! | form | order inside a panel | element |
//! |---|---|---|
//! | F32, F16 | `[cols][16]` | one weight |
//! | BF16 | `[cols / 2][16][2]` | two consecutive inputs, as `vdpbf16ps` and AMX want them; `cols` padded to 32, a tile |
//! | int8 | `[k / 4][16][4]` | `u`, four consecutive inputs, as `vpdpbusd` and AMX want them |
//! | int4 | `[k / 64][8][16][4]` | byte of two nibbles `u`: inputs `i` (low) and `i + 32` (high) of a block of 64 |
//!
//! `k` is `cols` padded to a multiple of 64. Bytes are `u = code + 128` and nibbles `u = code + 8`, except with offsets,
//! whose codes are unsigned as they are. Codes of 2 to 4 bits are nibbles, except in groups that the int4 layout does not
//! hold (of 16 columns), where they are bytes. Scales, zero points and offsets are `[group][16]` in a panel. Scales and offsets are stored in 16 bits
//! when all of them are exactly representable, else in 32.

use half::{bf16, f16};
use rayon::prelude::*;

use super::activations::round_to_bf16;
use super::buffer::AlignedBuffer;
use super::isa::Isa;
use crate::tensor::{DenseFormat, QuantizedTensor, Zero};

/// Weight rows in a panel.
pub(super) const LANES: usize = 16;
/// Inputs in a block of the integer layouts.
pub(super) const BLOCK: usize = 64;
/// Longest group whose integer sum cannot overflow: `2^31 / (255 * 128)`, rounded down to a power of two.
const MAX_INTEGER_GROUP: usize = 1 << 16;

/// Pairs of inputs in a bfloat16 panel: `cols` padded to whole tiles of AMX.
pub(super) fn bf16_pairs(cols: usize) -> usize {
    cols.next_multiple_of(32) / 2
}

/// Weights of a dense matrix.
#[derive(Debug)]
pub(super) enum DensePanels {
    F32(AlignedBuffer<f32>),
    F16(AlignedBuffer<u16>),
    Bf16(AlignedBuffer<u16>),
}

/// Width of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Int4,
    Int8,
}

/// Real numbers of every (group, lane).
#[derive(Debug)]
pub(super) enum Reals {
    F16(AlignedBuffer<u16>),
    F32(AlignedBuffer<f32>),
}

/// Where real zero lies.
#[derive(Debug)]
pub(super) enum PackedZero {
    Symmetric,
    Points(AlignedBuffer<i8>),
    Offsets(Reals),
}

/// Weights of a quantized matrix.
#[derive(Debug)]
pub(super) struct IntegerPanels {
    pub rows: usize,
    pub cols: usize,
    /// `cols` padded to blocks.
    pub k: usize,
    /// Inputs that share a scale; `k` for scales per channel.
    pub group: usize,
    pub groups: usize,
    pub width: Width,
    pub codes: AlignedBuffer<u8>,
    pub scales: Reals,
    pub zero: PackedZero,
}

impl DensePanels {
    /// Packs rows that `row(i, buffer)` writes.
    pub fn pack(format: DenseFormat, rows: usize, cols: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Self {
        let panels = rows.div_ceil(LANES);
        let fetch = |panel: usize, write: &mut dyn FnMut(usize, &[f32])| {
            let mut values = vec![0.0; cols];
            for lane in 0..LANES.min(rows - panel * LANES) {
                row(panel * LANES + lane, &mut values);
                write(lane, &values);
            }
        };
        match format {
            DenseFormat::F32 => {
                let mut data = AlignedBuffer::<f32>::zeroed(panels * cols * LANES);
                data.par_chunks_mut((cols * LANES).max(1)).enumerate().for_each(|(panel, out)| {
                    fetch(panel, &mut |lane, values| {
                        values.iter().enumerate().for_each(|(k, &v)| out[k * LANES + lane] = v);
                    });
                });
                DensePanels::F32(data)
            }
            DenseFormat::F16 => {
                let mut data = AlignedBuffer::<u16>::zeroed(panels * cols * LANES);
                data.par_chunks_mut((cols * LANES).max(1)).enumerate().for_each(|(panel, out)| {
                    fetch(panel, &mut |lane, values| {
                        values
                            .iter()
                            .enumerate()
                            .for_each(|(k, &v)| out[k * LANES + lane] = f16::from_f32(v).to_bits());
                    });
                });
                DensePanels::F16(data)
            }
            DenseFormat::Bf16 => {
                let padded = 2 * bf16_pairs(cols);
                let mut data = AlignedBuffer::<u16>::zeroed(panels * padded * LANES);
                data.par_chunks_mut((padded * LANES).max(1)).enumerate().for_each(|(panel, out)| {
                    let mut bits = vec![0; padded];
                    fetch(panel, &mut |lane, values| {
                        round_to_bf16(Isa::active(), values, &mut bits[..cols]);
                        let pairs = out.chunks_exact_mut(2).skip(lane).step_by(LANES);
                        pairs.zip(bits.chunks_exact(2)).for_each(|(out, pair)| out.copy_from_slice(pair));
                    });
                });
                DensePanels::Bf16(data)
            }
        }
    }

    pub fn format(&self) -> DenseFormat {
        match self {
            DensePanels::F32(_) => DenseFormat::F32,
            DensePanels::F16(_) => DenseFormat::F16,
            DensePanels::Bf16(_) => DenseFormat::Bf16,
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            DensePanels::F32(data) => data.bytes(),
            DensePanels::F16(data) | DensePanels::Bf16(data) => data.bytes(),
        }
    }

    /// Weight `k` of row `row`.
    #[inline]
    pub fn weight(&self, cols: usize, row: usize, k: usize) -> f32 {
        let (panel, lane) = (row / LANES, row % LANES);
        match self {
            DensePanels::F32(data) => data[(panel * cols + k) * LANES + lane],
            DensePanels::F16(data) => f16::from_bits(data[(panel * cols + k) * LANES + lane]).to_f32(),
            DensePanels::Bf16(data) => {
                let pair = panel * bf16_pairs(cols) + k / 2;
                bf16::from_bits(data[(pair * LANES + lane) * 2 + k % 2]).to_f32()
            }
        }
    }
}

impl Reals {
    /// `value(i)` for `len` indices.
    fn pack(len: usize, value: impl Fn(usize) -> f32) -> Self {
        let fits = (0..len).all(|i| {
            let v = value(i);
            f16::from_f32(v).to_f32().to_bits() == v.to_bits()
        });
        if fits {
            let mut data = AlignedBuffer::zeroed(len);
            data.iter_mut().enumerate().for_each(|(i, d)| *d = f16::from_f32(value(i)).to_bits());
            Reals::F16(data)
        } else {
            let mut data = AlignedBuffer::zeroed(len);
            data.iter_mut().enumerate().for_each(|(i, d)| *d = value(i));
            Reals::F32(data)
        }
    }

    #[inline]
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Reals::F16(data) => f16::from_bits(data[index]).to_f32(),
            Reals::F32(data) => data[index],
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Reals::F16(data) => data.bytes(),
            Reals::F32(data) => data.bytes(),
        }
    }
}

impl IntegerPanels {
    /// Packs a quantized tensor.
    ///
    /// # Errors
    /// When no layout holds it exactly.
    pub fn pack(weight: &QuantizedTensor) -> Result<Self, String> {
        weight.validate()?;
        let width = Self::width_of(weight)?;
        let (rows, cols) = (weight.rows, weight.cols);
        let (panels, k) = (rows.div_ceil(LANES), cols.next_multiple_of(BLOCK));
        let per_channel = weight.group_size == cols;
        let group = if per_channel { k } else { weight.group_size };
        let groups = weight.groups();
        let at = |index: usize| {
            let (panel, group, lane) = (index / (groups * LANES), index / LANES % groups, index % LANES);
            let row = panel * LANES + lane;
            (row < rows).then_some(row * groups + group)
        };
        let len = panels * groups * LANES;
        let scales = Reals::pack(len, |i| at(i).map_or(0.0, |at| weight.scales[at]));
        let zero = match &weight.zero {
            Zero::Symmetric => PackedZero::Symmetric,
            Zero::Points(points) => {
                let mut data = AlignedBuffer::zeroed(len);
                data.iter_mut().enumerate().for_each(|(i, d)| *d = at(i).map_or(0, |at| points[at]));
                PackedZero::Points(data)
            }
            Zero::Offsets(offsets) => PackedZero::Offsets(Reals::pack(len, |i| at(i).map_or(0.0, |at| offsets[at]))),
        };
        let mut packed =
            IntegerPanels { rows, cols, k, group, groups, width, codes: AlignedBuffer::zeroed(0), scales, zero };
        packed.pack_codes(weight);
        Ok(packed)
    }

    fn width_of(weight: &QuantizedTensor) -> Result<Width, String> {
        let per_channel = weight.group_size == weight.cols;
        let whole = |columns: usize| per_channel || weight.group_size.is_multiple_of(columns);
        let fault = if !(2..=8).contains(&weight.bits) {
            format!("{} bits", weight.bits)
        } else if !whole(16) {
            format!("{} bits in groups of {}", weight.bits, weight.group_size)
        } else if weight.group_size > MAX_INTEGER_GROUP {
            format!("a scale over {} columns", weight.group_size)
        } else {
            return Ok(if weight.bits <= 4 && whole(32) { Width::Int4 } else { Width::Int8 });
        };
        Err(format!(
            "no kernel runs {fault} exactly; there are 2 to 8 bits per channel or in groups of a multiple of 16 \
             (symmetric, zero points or float offsets), with at most {MAX_INTEGER_GROUP} columns to a scale"
        ))
    }

    fn pack_codes(&mut self, weight: &QuantizedTensor) {
        let (rows, cols, base) = (self.rows, self.cols, self.base());
        let panel_bytes = self.panel_bytes();
        // Padding may hold any code: its inputs are zero.
        self.codes = AlignedBuffer::zeroed(rows.div_ceil(LANES) * panel_bytes);
        let width = self.width;
        self.codes.par_chunks_mut(panel_bytes).enumerate().for_each(|(panel, out)| {
            for lane in 0..LANES.min(rows - panel * LANES) {
                let row = panel * LANES + lane;
                for (k, &code) in weight.codes[row * cols..(row + 1) * cols].iter().enumerate() {
                    let u = (i32::from(code) + base) as u8;
                    match width {
                        Width::Int8 => out[(k / 4 * LANES + lane) * 4 + k % 4] = u,
                        Width::Int4 => {
                            let (byte, shift) = nibble_at(k, lane);
                            out[byte] |= u << shift;
                        }
                    }
                }
            }
        });
    }

    /// What is added to a code to store it.
    pub fn base(&self) -> i32 {
        match (&self.zero, self.width) {
            (PackedZero::Offsets(_), _) => 0,
            (_, Width::Int4) => 8,
            (_, Width::Int8) => 128,
        }
    }

    /// Inputs that share a scale in 16-bit block fixed point: a part of a group, so short that the sum of their products
    /// with 8-bit weights fits 32 bits (`64 * 255 * 32639 < 2^31`).
    pub fn input_block(&self) -> usize {
        [BLOCK, 32].into_iter().find(|block| self.group.is_multiple_of(*block)).unwrap_or(16)
    }

    pub fn panel_bytes(&self) -> usize {
        match self.width {
            Width::Int4 => self.k * LANES / 2,
            Width::Int8 => self.k * LANES,
        }
    }

    pub fn bytes(&self) -> usize {
        let zero = match &self.zero {
            PackedZero::Symmetric => 0,
            PackedZero::Points(points) => points.bytes(),
            PackedZero::Offsets(offsets) => offsets.bytes(),
        };
        self.codes.bytes() + self.scales.bytes() + zero
    }

    /// The code of weight `k` of a row, less its zero point.
    #[inline]
    pub fn centred(&self, row: usize, k: usize) -> i32 {
        let (panel, lane) = (row / LANES, row % LANES);
        let codes = &self.codes[panel * self.panel_bytes()..];
        let u = match self.width {
            Width::Int8 => codes[(k / 4 * LANES + lane) * 4 + k % 4],
            Width::Int4 => {
                let (byte, shift) = nibble_at(k, lane);
                codes[byte] >> shift & 15
            }
        };
        let point = match &self.zero {
            PackedZero::Points(points) => i32::from(points[self.real_at(row, k / self.group)]),
            _ => 0,
        };
        i32::from(u) - self.base() - point
    }

    /// Index of a (row, group) in the scales, points and offsets.
    #[inline]
    pub fn real_at(&self, row: usize, group: usize) -> usize {
        (row / LANES * self.groups + group) * LANES + row % LANES
    }

    /// Weight `k` of a row as a real number, by the formula of its convention.
    #[inline]
    pub fn weight(&self, row: usize, k: usize) -> f32 {
        let at = self.real_at(row, k / self.group);
        let product = self.scales.get(at) * self.centred(row, k) as f32;
        match &self.zero {
            PackedZero::Offsets(offsets) => product + offsets.get(at),
            _ => product,
        }
    }
}

/// Byte in a panel and shift of the nibble of input `k`.
#[inline]
fn nibble_at(k: usize, lane: usize) -> (usize, u32) {
    let (block, i) = (k / BLOCK, k % BLOCK);
    (block * BLOCK * LANES / 2 + ((i % 32) / 4 * LANES + lane) * 4 + i % 4, if i < 32 { 0 } else { 4 })
}
