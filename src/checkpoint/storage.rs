//! How the elements of a stored tensor are laid out in bytes, and how its rows are read.

use half::{bf16, f16};

use super::gguf_blocks::{BlockFormat, Numbers};
use crate::tensor::{QuantizedTensor, Zero};

/// Layout of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    /// Integers with scales, as GGUF stores them.
    Blocks(&'static BlockFormat),
}

impl Format {
    /// Name as in [`super::StoredTensor::Dense`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Blocks(blocks) => blocks.name,
        }
    }

    /// Elements of a block, which share their bytes and lie in one row.
    pub(super) fn block_elements(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Blocks(blocks) => blocks.elements,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
            Format::Blocks(blocks) => blocks.bytes,
        }
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
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
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

    /// The integers as stored, in `blocks`, the matrix's own format.
    pub(super) fn to_quantized(self, blocks: &BlockFormat) -> QuantizedTensor {
        let groups = self.cols / blocks.group_size;
        let mut codes = vec![0; self.rows * self.cols];
        let mut scales = vec![0.0; self.rows * groups];
        let mut offsets = if blocks.has_offsets { scales.clone() } else { Vec::new() };
        let mut offset_rows = offsets.chunks_exact_mut(groups);
        let rows = codes.chunks_exact_mut(self.cols).zip(scales.chunks_exact_mut(groups));
        for (row, (codes, scales)) in rows.enumerate() {
            let offsets = offset_rows.next().unwrap_or_default();
            blocks.read_row(self.row(row), Numbers { codes, scales, offsets });
        }
        let zero = if blocks.has_offsets { Zero::Offsets(offsets) } else { Zero::Symmetric };
        let (bits, group_size) = (blocks.bits, blocks.group_size);
        QuantizedTensor { rows: self.rows, cols: self.cols, bits, group_size, codes, scales, zero, input_order: None }
    }
}

/// Widens floats to f32.
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
        Format::Blocks(blocks) => unreachable!("{} is read as integers", blocks.name),
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
