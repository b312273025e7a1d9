//! Quantized tensors in the block formats of GGUF, without rounding anything.
//!
//! A block is 32 columns of a row: `{ f16 d; [f16 m;] [u32 fifth bits;] codes }`. A wider group, or a channel, repeats
//! its scale in every block.
//!
//! | block | weight | takes |
//! |---|---|---|
//! | Q4_0 | `d (u - 8)` | symmetric, 2 to 4 bits |
//! | Q4_1 | `d u + m` | offsets, 2 to 4 bits; zero points where every `-scale (zero point + 2^(b-1))` is an f16 number |
//! | Q5_0 | `d (u - 16)` | symmetric, 5 bits; other zero points of 2 to 4 bits: `code - zero point` has 5 bits |
//! | Q5_1 | `d u + m` | offsets, 5 bits |
//! | Q8_0 | `d q` | symmetric, 6 to 8 bits; zero points where every `code - zero point` has 8 bits |

use half::f16;

use crate::tensor::{QuantizedTensor, Zero};

/// Columns of a block.
const COLUMNS: usize = 32;

/// A block format that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl Block {
    /// Number of the type in a file, and its name.
    pub(super) fn type_id(self) -> (u32, &'static str) {
        match self {
            Block::Q4_0 => (2, "Q4_0"),
            Block::Q4_1 => (3, "Q4_1"),
            Block::Q5_0 => (6, "Q5_0"),
            Block::Q5_1 => (7, "Q5_1"),
            Block::Q8_0 => (8, "Q8_0"),
        }
    }
}

/// How a tensor is written: as `code - zero point + base`, or as `code + base` with an offset for each group.
#[derive(Debug)]
struct Layout {
    block: Block,
    base: i32,
    scales: Vec<f16>,
    /// For each scale; empty where the block has none.
    offsets: Vec<f16>,
}

/// The blocks of a tensor's rows in the order of `rows`.
///
/// # Errors
/// When no block holds exactly these numbers; the message says why, and names no tensor.
pub(super) fn encode(tensor: &QuantizedTensor, rows: &[usize]) -> Result<(Block, Vec<u8>), String> {
    let (cols, group_size) = (tensor.cols, tensor.group_size);
    if !cols.is_multiple_of(COLUMNS) || !group_size.is_multiple_of(COLUMNS) {
        return Err(format!("{cols} columns with a scale for every {group_size} are not blocks of {COLUMNS} columns"));
    }
    if tensor.input_order.is_some() {
        return Err("columns are stored in activation order, which no block format knows".into());
    }
    let layout = layout(tensor)?;
    let mut bytes = Vec::new();
    for &row in rows {
        for column in (0..cols).step_by(COLUMNS) {
            let group = row * tensor.groups() + column / group_size;
            let point = match &tensor.zero {
                Zero::Points(points) if layout.offsets.is_empty() => i32::from(points[group]),
                _ => 0,
            };
            let codes = &tensor.codes[row * cols + column..][..COLUMNS];
            let mut numbers = [0; COLUMNS];
            for (number, &code) in numbers.iter_mut().zip(codes) {
                // In the range of the block, as `layout` has seen to.
                *number = (i32::from(code) - point + layout.base) as u8;
            }
            bytes.extend(layout.scales[group].to_le_bytes());
            bytes.extend(layout.offsets.get(group).into_iter().flat_map(|offset| offset.to_le_bytes()));
            put_numbers(layout.block, &numbers, &mut bytes);
        }
    }
    Ok((layout.block, bytes))
}

/// The numbers of a block behind its factors.
fn put_numbers(block: Block, numbers: &[u8; COLUMNS], bytes: &mut Vec<u8>) {
    if block == Block::Q8_0 {
        return bytes.extend(numbers);
    }
    if matches!(block, Block::Q5_0 | Block::Q5_1) {
        let bit = |(at, number): (usize, &u8)| u32::from(number >> 4) << at;
        bytes.extend(numbers.iter().enumerate().map(bit).sum::<u32>().to_le_bytes());
    }
    let (low, high) = numbers.split_at(COLUMNS / 2);
    bytes.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

/// The smallest layout that holds the tensor exactly.
fn layout(tensor: &QuantizedTensor) -> Result<Layout, String> {
    let scales = halves(tensor, "scale", &tensor.scales)?;
    let with = |block, base, offsets| Layout { block, base, scales, offsets };
    match (&tensor.zero, tensor.bits) {
        (Zero::Symmetric, ..=4) => Ok(with(Block::Q4_0, 8, Vec::new())),
        (Zero::Symmetric, 5) => Ok(with(Block::Q5_0, 16, Vec::new())),
        (Zero::Symmetric, _) => Ok(with(Block::Q8_0, 0, Vec::new())),
        (Zero::Offsets(offsets), ..=4) => Ok(with(Block::Q4_1, 0, halves(tensor, "offset", offsets)?)),
        (Zero::Offsets(offsets), 5) => Ok(with(Block::Q5_1, 0, halves(tensor, "offset", offsets)?)),
        (Zero::Offsets(_), bits) => Err(format!("codes of {bits} bits with offsets are in no block format")),
        (Zero::Points(points), bits @ ..=4) => {
            let base = 1 << (bits - 1);
            match points_as_offsets(&tensor.scales, points, base) {
                Some(offsets) => Ok(with(Block::Q4_1, base, offsets)),
                None => Ok(with(Block::Q5_0, 16, Vec::new())),
            }
        }
        (Zero::Points(points), _) => {
            let groups = tensor.codes.chunks_exact(tensor.group_size).zip(points);
            let fits = |(codes, &point): (&[i8], &i8)| codes.iter().all(|code| code.checked_sub(point).is_some());
            match groups.into_iter().all(fits) {
                true => Ok(with(Block::Q8_0, 0, Vec::new())),
                false => Err("codes less their zero points need more than 8 bits, which no block format has".into()),
            }
        }
    }
}

/// `-scale (zero point + base)`, what code 0 of an unsigned code stands for; `None` where one is not an f16 number, or a
/// negative scale would turn the sign of zeros.
fn points_as_offsets(scales: &[f32], points: &[i8], base: i32) -> Option<Vec<f16>> {
    let offset = |(&scale, &point): (&f32, &i8)| {
        let exact = -f64::from(scale) * f64::from(i32::from(point) + base);
        let offset = f16::from_f64(exact);
        (offset.to_f64() == exact && scale.is_sign_positive()).then_some(offset)
    };
    scales.iter().zip(points).map(offset).collect()
}

/// Scales or offsets as f16.
fn halves(tensor: &QuantizedTensor, what: &str, values: &[f32]) -> Result<Vec<f16>, String> {
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    match halves.iter().zip(values).position(|(half, value)| half.to_f32().to_bits() != value.to_bits()) {
        None => Ok(halves),
        Some(at) => {
            let (row, group) = (at / tensor.groups(), at % tensor.groups());
            let (value, near, column) = (values[at], halves[at], group * tensor.group_size);
            Err(format!(
                "the {what} {value} of row {row} from column {column} on is not an f16 number (the nearest is {near}), \
                 and blocks hold f16"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(bits: u8, codes: &[i8], scale: f32, zero: Zero) -> QuantizedTensor {
        let codes: Vec<i8> = codes.iter().copied().cycle().take(64).collect();
        QuantizedTensor {
            rows: 2,
            cols: 32,
            bits,
            group_size: 32,
            codes,
            scales: vec![scale; 2],
            zero,
            input_order: None,
        }
    }

    #[test]
    fn the_smallest_exact_block_is_taken() {
        let points = |point: i8| Zero::Points(vec![point; 2]);
        let offsets = |offset: f32| Zero::Offsets(vec![offset; 2]);
        for (tensor, expected) in [
            (tensor(4, &[-8, 7], 0.5, Zero::Symmetric), Block::Q4_0),
            (tensor(2, &[-2, 1], 0.5, Zero::Symmetric), Block::Q4_0),
            (tensor(5, &[-16, 15], 0.5, Zero::Symmetric), Block::Q5_0),
            (tensor(6, &[-32, 31], 0.5, Zero::Symmetric), Block::Q8_0),
            (tensor(4, &[0, 15], 0.5, offsets(-3.5)), Block::Q4_1),
            (tensor(5, &[0, 31], 0.5, offsets(-3.5)), Block::Q5_1),
            // -0.5 (3 + 8) is an f16 number, -1.0009765625 (3 + 8) needs more than 11 bits.
            (tensor(4, &[-8, 7], 0.5, points(3)), Block::Q4_1),
            (tensor(4, &[-8, 7], 1.000_976_6, points(3)), Block::Q5_0),
            (tensor(4, &[-8, 7], -0.5, points(3)), Block::Q5_0),
            (tensor(8, &[-128, 100], 0.5, points(-20)), Block::Q8_0),
        ] {
            assert_eq!(encode(&tensor, &[0, 1]).unwrap().0, expected, "{tensor:?}");
        }
    }

    #[test]
    fn what_no_block_holds_exactly_is_refused_with_the_reason() {
        let refusal = |tensor: &QuantizedTensor| encode(tensor, &[0, 1]).unwrap_err();
        let inexact = tensor(4, &[1], 0.1, Zero::Symmetric);
        assert!(refusal(&inexact).contains("the scale 0.1 of row 0 from column 0 on is not an f16 number"));
        let offset = tensor(4, &[1], 0.5, Zero::Offsets(vec![1.0, 1e-9]));
        assert!(refusal(&offset).contains("the offset 0.000000001 of row 1"), "{}", refusal(&offset));
        assert!(refusal(&tensor(6, &[1], 0.5, Zero::Offsets(vec![0.5; 2]))).contains("6 bits with offsets"));
        assert!(refusal(&tensor(8, &[-128, 127], 0.5, Zero::Points(vec![1; 2]))).contains("more than 8 bits"));
        let mut reordered = tensor(4, &[1], 0.5, Zero::Symmetric);
        reordered.input_order = Some((0..32).rev().collect());
        assert!(refusal(&reordered).contains("activation order"));
        let mut narrow = tensor(4, &[1], 0.5, Zero::Symmetric);
        (narrow.group_size, narrow.scales) = (16, vec![0.5; 4]);
        assert!(refusal(&narrow).contains("a scale for every 16"), "{}", refusal(&narrow));
    }
}
