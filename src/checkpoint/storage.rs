//! How the elements of a stored tensor are laid out in bytes, and how its rows are read.

use half::{bf16, f16};

use super::gguf_blocks;
use crate::tensor::{QuantizedTensor, Zero};

/// Layout of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the names that GGUF gives its block formats
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    /// 32 codes of 8 bits with one f16 scale.
    Q8_0,
    /// 32 codes of 4 bits with one f16 scale.
    Q4_0,
    /// 32 codes of 4 bits with f16 scale and offset.
    Q4_1,
    /// 256 codes of 4 bits in 8 groups, whose 6-bit scales and offsets share two f16 factors.
    Q4_K,
    /// 256 codes of 6 bits in 16 groups, whose 8-bit scales share one f16 factor.
    Q6_K,
}

impl Format {
    /// Name as in [`super::StoredTensor::Dense`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q4_K => "q4_k",
            Format::Q6_K => "q6_k",
        }
    }

    /// Elements of a block, which share their bytes and lie in one row.
    pub(super) fn block_elements(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Q8_0 | Format::Q4_0 | Format::Q4_1 => 32,
            Format::Q4_K | Format::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q4_K => 144,
            Format::Q6_K => 210,
        }
    }

    /// Whether the format is integers that a kernel runs exactly.
    pub(super) fn is_quantized(self) -> bool {
        matches!(self, Format::Q8_0 | Format::Q4_0 | Format::Q4_1 | Format::Q4_K)
    }

    /// Bytes of `elements` elements, which must be whole blocks.
    fn bytes_of(self, elements: usize) -> usize {
        elements / self.block_elements() * self.block_bytes()
    }
}

/// Order of a matrix's rows in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As Hugging Face has them.
    Published,
    /// Llama's GGUF order of query and key rows: inside a head of `head_dim` rows, rotary partners are neighbours
    /// (`2i`, `2i+1`) instead of half a head apart (`i`, `i + head_dim/2`).
    RotaryPairs {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where published row `row` is in the file.
    fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Published => row,
            RowOrder::RotaryPairs { head_dim } => {
                let (head, inside) = (row / head_dim, row % head_dim);
                let (half, pair) = (inside / (head_dim / 2), inside % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }
}

/// Bytes of a matrix of `rows` rows and `cols` columns; a vector is a matrix of one column.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredMatrix<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) format: Format,
    pub(super) order: RowOrder,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl<'a> StoredMatrix<'a> {
    /// Bytes of published row `row`.
    fn row(&self, row: usize) -> &'a [u8] {
        let stride = self.format.bytes_of(self.cols);
        let at = self.order.stored(row) * stride;
        &self.bytes[at..at + stride]
    }

    /// Writes row `row` as f32.
    ///
    /// # Panics
    /// When `row` is outside the matrix or `out` is not `cols` long.
    pub(super) fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols);
        widen(self.format, self.row(row), out);
    }

    /// All values, row-major.
    pub(super) fn to_f32(self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.order == RowOrder::Published {
            widen(self.format, self.bytes, &mut out);
        } else {
            out.chunks_exact_mut(self.cols).enumerate().for_each(|(row, out)| self.row_to_f32(row, out));
        }
        out
    }

    /// The integers as stored; for formats where [`Format::is_quantized`] holds.
    pub(super) fn to_quantized(self) -> QuantizedTensor {
        let group_size = 32;
        let groups = self.cols / group_size;
        let mut codes = vec![0; self.rows * self.cols];
        let mut scales = vec![0.0; self.rows * groups];
        let mut offsets = match self.format {
            Format::Q4_1 | Format::Q4_K => vec![0.0; self.rows * groups],
            _ => Vec::new(),
        };
        for row in 0..self.rows {
            let codes = &mut codes[row * self.cols..][..self.cols];
            let scales = &mut scales[row * groups..][..groups];
            match self.format {
                Format::Q8_0 => gguf_blocks::q8_0_row(self.row(row), codes, scales),
                Format::Q4_0 => gguf_blocks::q4_0_row(self.row(row), codes, scales),
                Format::Q4_1 => {
                    gguf_blocks::q4_1_row(self.row(row), codes, scales, &mut offsets[row * groups..][..groups]);
                }
                Format::Q4_K => {
                    gguf_blocks::q4_k_row(self.row(row), codes, scales, &mut offsets[row * groups..][..groups]);
                }
                Format::F32 | Format::F16 | Format::Bf16 | Format::Q6_K => {
                    unreachable!("{} is read as dense", self.format.name())
                }
            }
        }
        let zero = if offsets.is_empty() { Zero::Symmetric } else { Zero::Offsets(offsets) };
        let bits = if self.format == Format::Q8_0 { 8 } else { 4 };
        QuantizedTensor { rows: self.rows, cols: self.cols, bits, group_size, codes, scales, zero }
    }
}

/// Widens whole blocks to f32.
pub(super) fn widen(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => {
            let words = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(words).for_each(|(out, &word)| *out = f32::from_le_bytes(word));
        }
        Format::F16 => {
            let words = bytes.as_chunks::<2>().0;
            out.iter_mut().zip(words).for_each(|(out, &word)| *out = f16::from_le_bytes(word).to_f32());
        }
        Format::Bf16 => {
            let words = bytes.as_chunks::<2>().0;
            out.iter_mut().zip(words).for_each(|(out, &word)| *out = bf16::from_le_bytes(word).to_f32());
        }
        Format::Q6_K => gguf_blocks::q6_k_to_f32(bytes, out),
        Format::Q8_0 | Format::Q4_0 | Format::Q4_1 | Format::Q4_K => {
            unreachable!("{} is read as integers", format.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_pairs_come_back_half_a_head_apart() {
        let order = RowOrder::RotaryPairs { head_dim: 4 };
        // File order inside a head: 0, 2, 1, 3 of the published rows.
        assert_eq!((0..8).map(|row| order.stored(row)).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn dense_rows_widen_exactly() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE, -65504.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let matrix = StoredMatrix { bytes: &bytes, format: Format::Bf16, order: RowOrder::Published, rows: 2, cols: 2 };
        let mut row = [0.0; 2];
        matrix.row_to_f32(1, &mut row);
        assert_eq!(row, [f32::MIN_POSITIVE, bf16::from_f32(-65504.0).to_f32()]);
        assert_eq!(matrix.to_f32()[..2], [1.5, 0.0]);
    }
}
