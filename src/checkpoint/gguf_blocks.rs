//! The block formats of GGUF, read into integers with scales exactly as ggml defines them (`ggml-common.h`,
//! `ggml-quants.c`); little endian. Tested bit for bit against the `gguf` Python package.
//!
//! Products of a format's own factors (`d sc`, `dmin m`) have at most 11 + 8 significant bits, so they are exact in f32.

use half::f16;

/// A format whose blocks hold codes that share scales.
#[derive(Debug)]
pub(super) struct BlockFormat {
    /// Type number in a GGUF file.
    pub(super) type_id: u32,
    /// In lower case.
    pub(super) name: &'static str,
    /// Elements of a block.
    pub(super) elements: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Bits of a canonical code.
    pub(super) bits: u8,
    /// Elements that share a scale.
    pub(super) group_size: usize,
    /// Whether groups have offsets, and codes are unsigned.
    pub(super) has_offsets: bool,
    /// Reads one block.
    read: fn(&[u8], Numbers<'_>),
}

/// Where the numbers of a row or of a block go.
pub(super) struct Numbers<'a> {
    /// One for each element.
    pub(super) codes: &'a mut [i8],
    /// One for each group.
    pub(super) scales: &'a mut [f32],
    /// As many as scales; none where the format has none.
    pub(super) offsets: &'a mut [f32],
}

/// All formats, in the order of their type numbers.
pub(super) static FORMATS: [BlockFormat; 12] = [
    BlockFormat::new(2, "q4_0", (32, 18), 4, 32, false, q4_0),
    BlockFormat::new(3, "q4_1", (32, 20), 4, 32, true, q4_1),
    BlockFormat::new(6, "q5_0", (32, 22), 5, 32, false, q5_0),
    BlockFormat::new(7, "q5_1", (32, 24), 5, 32, true, q5_1),
    BlockFormat::new(8, "q8_0", (32, 34), 8, 32, false, q8_0),
    BlockFormat::new(10, "q2_k", (256, 84), 2, 16, true, q2_k),
    BlockFormat::new(11, "q3_k", (256, 110), 3, 16, false, q3_k),
    BlockFormat::new(12, "q4_k", (256, 144), 4, 32, true, q4_k),
    BlockFormat::new(13, "q5_k", (256, 176), 5, 32, true, q5_k),
    BlockFormat::new(14, "q6_k", (256, 210), 6, 16, false, q6_k),
    BlockFormat::new(20, "iq4_nl", (32, 18), 8, 32, false, iq4_nl),
    BlockFormat::new(23, "iq4_xs", (256, 136), 8, 32, false, iq4_xs),
];

impl BlockFormat {
    const fn new(
        type_id: u32,
        name: &'static str,
        (elements, bytes): (usize, usize),
        bits: u8,
        group_size: usize,
        has_offsets: bool,
        read: fn(&[u8], Numbers<'_>),
    ) -> Self {
        BlockFormat { type_id, name, elements, bytes, bits, group_size, has_offsets, read }
    }

    /// Reads a row of whole blocks.
    pub(super) fn read_row(&self, row: &[u8], into: Numbers<'_>) {
        let groups = self.elements / self.group_size;
        let mut offsets = into.offsets.chunks_exact_mut(groups);
        let numbers = into.codes.chunks_exact_mut(self.elements).zip(into.scales.chunks_exact_mut(groups));
        for (block, (codes, scales)) in row.chunks_exact(self.bytes).zip(numbers) {
            (self.read)(block, Numbers { codes, scales, offsets: offsets.next().unwrap_or_default() });
        }
    }
}

impl PartialEq for BlockFormat {
    fn eq(&self, other: &Self) -> bool {
        self.type_id == other.type_id
    }
}

impl Eq for BlockFormat {}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `{ f16 d; i8 q[32] }`, `w = d q`.
fn q8_0(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    into.codes.copy_from_slice(bytemuck::cast_slice(&block[2..]));
}

/// `{ f16 d; u8 q[16] }`, `w = d (q - 8)`.
fn q4_0(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    nibbles(&block[2..], into.codes);
    subtract(into.codes, 8);
}

/// `{ f16 d; f16 m; u8 q[16] }`, `w = d q + m`.
fn q4_1(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    into.offsets[0] = f16_at(block, 2);
    nibbles(&block[4..], into.codes);
}

/// `{ f16 d; u32 qh; u8 q[16] }`, `w = d (q - 16)`; bit `j` of `qh` is the fifth bit of element `j`.
fn q5_0(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    nibbles(&block[6..], into.codes);
    fifth_bits(&block[2..6], into.codes);
    subtract(into.codes, 16);
}

/// `{ f16 d; f16 m; u32 qh; u8 q[16] }`, `w = d q + m`; fifth bits as in Q5_0.
fn q5_1(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    into.offsets[0] = f16_at(block, 2);
    nibbles(&block[8..], into.codes);
    fifth_bits(&block[4..8], into.codes);
}

/// `{ u8 scales[16]; u8 q[64]; f16 d; f16 dmin }`, `w = (d sc) q - (dmin m)` with `sc` in the low and `m` in the high
/// nibble of a scale's byte.
fn q2_k(block: &[u8], into: Numbers<'_>) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for ((scale, offset), byte) in into.scales.iter_mut().zip(into.offsets).zip(&block[..16]) {
        *scale = d * f32::from(byte & 15);
        *offset = -(dmin * f32::from(byte >> 4));
    }
    bit_pairs(&block[16..80], into.codes);
}

/// `{ u8 high[32]; u8 q[64]; u8 scales[12]; f16 d }`, `w = (d (sc - 32)) (q - 4)` with the third bit of element
/// `32 k + l` in bit `k` of `high[l]`. The low four bits of the 16 scales are the low, then the high nibbles of the
/// first eight bytes; their high two bits are the pairs of bits of the last four.
fn q3_k(block: &[u8], into: Numbers<'_>) {
    let (d, packed) = (f16_at(block, 108), &block[96..108]);
    for (group, scale) in into.scales.iter_mut().enumerate() {
        let low = packed[group % 8] >> (4 * (group / 8)) & 15;
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
    }
    bit_pairs(&block[32..96], into.codes);
    high_bits(&block[..32], into.codes, 2);
    subtract(into.codes, 4);
}

/// `{ f16 d; f16 dmin; u8 scales[12]; u8 q[128] }`, `w = (d sc) q - (dmin m)`.
fn q4_k(block: &[u8], into: Numbers<'_>) {
    six_bit_factors(block, into.scales, into.offsets);
    nibble_blocks(&block[16..], into.codes);
}

/// `{ f16 d; f16 dmin; u8 scales[12]; u8 qh[32]; u8 q[128] }`, as Q4_K with the fifth bit of element `32 k + l` in bit
/// `k` of `qh[l]`.
fn q5_k(block: &[u8], into: Numbers<'_>) {
    six_bit_factors(block, into.scales, into.offsets);
    nibble_blocks(&block[48..], into.codes);
    high_bits(&block[16..48], into.codes, 4);
}

/// `{ u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }`, `w = (d sc) (q - 32)`. In each half of 128 elements, element
/// `32 k + l` takes its low bits from nibble `k / 2` of `ql[32 (k % 2) + l]` and its high bits from bits `2k` of `qh[l]`.
fn q6_k(block: &[u8], into: Numbers<'_>) {
    let d = f16_at(block, 208);
    for (scale, &byte) in into.scales.iter_mut().zip(&block[192..208]) {
        *scale = d * f32::from(byte as i8);
    }
    let halves = block[..128].chunks_exact(64).zip(block[128..192].chunks_exact(32));
    for ((low, high), codes) in halves.zip(into.codes.chunks_exact_mut(128)) {
        nibbles(low, codes);
        for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
            codes.iter_mut().zip(high).for_each(|(code, high)| *code |= ((high >> (2 * k) & 3) << 4) as i8);
        }
    }
    subtract(into.codes, 32);
}

/// The values of IQ4's nibbles: steps that follow the density of normally distributed weights.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `{ f16 d; u8 q[16] }`, `w = d values[q]`.
fn iq4_nl(block: &[u8], into: Numbers<'_>) {
    into.scales[0] = f16_at(block, 0);
    nibbles(&block[2..], into.codes);
    look_up(into.codes);
}

/// `{ f16 d; u16 high; u8 low[4]; u8 q[128] }`, `w = (d (sc - 32)) values[q]`; the 6 bits of a scale are a nibble of
/// `low` and a pair of bits of `high`.
fn iq4_xs(block: &[u8], into: Numbers<'_>) {
    let (d, high) = (f16_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for (group, scale) in into.scales.iter_mut().enumerate() {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let high = (high >> (2 * group) & 3) as u8;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
    }
    block[8..].chunks_exact(16).zip(into.codes.chunks_exact_mut(32)).for_each(|(bytes, codes)| nibbles(bytes, codes));
    look_up(into.codes);
}

/// Splits bytes into their low nibbles, then their high nibbles.
fn nibbles(bytes: &[u8], codes: &mut [i8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = (byte & 15) as i8;
        *high = (byte >> 4) as i8;
    }
}

/// [`nibbles`] of every 32 bytes.
fn nibble_blocks(bytes: &[u8], codes: &mut [i8]) {
    bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)).for_each(|(bytes, codes)| nibbles(bytes, codes));
}

/// Splits every 32 bytes into their lowest pairs of bits, then the next ones, and so on.
fn bit_pairs(bytes: &[u8], codes: &mut [i8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
            codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = (byte >> (2 * k) & 3) as i8);
        }
    }
}

/// Adds bit `j` of `bits` to element `j` as its fifth bit.
fn fifth_bits(bits: &[u8], codes: &mut [i8]) {
    for (j, code) in codes.iter_mut().enumerate() {
        *code |= ((bits[j / 8] >> (j % 8) & 1) << 4) as i8;
    }
}

/// Adds bit `k` of byte `l` to element `32 k + l` as its bit `at`.
fn high_bits(bits: &[u8], codes: &mut [i8], at: u32) {
    for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
        codes.iter_mut().zip(bits).for_each(|(code, bits)| *code |= ((bits >> k & 1) << at) as i8);
    }
}

fn subtract(codes: &mut [i8], zero: i8) {
    codes.iter_mut().for_each(|code| *code -= zero);
}

fn look_up(codes: &mut [i8]) {
    codes.iter_mut().for_each(|code| *code = IQ4_VALUES[*code as usize]);
}

/// Scales `d sc` and offsets `-(dmin m)` of the 8 groups of Q4_K and Q5_K, with 6-bit `sc` and `m`.
fn six_bit_factors(block: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (group, (scale, offset)) in scales.iter_mut().zip(offsets).enumerate() {
        let (sc, m) = six_bit_pair(&block[4..16], group);
        *scale = d * f32::from(sc);
        *offset = -(dmin * f32::from(m));
    }
}

/// Scale and minimum of a group: the first four lie in the low 6 bits of bytes 0-3 and 4-7; the others are put together
/// from the nibbles of bytes 8-11 and the top two bits of bytes 0-7.
fn six_bit_pair(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let (nibbles, scale_top, min_top) = (packed[group + 4], packed[group - 4] >> 6, packed[group] >> 6);
        (nibbles & 15 | scale_top << 4, nibbles >> 4 | min_top << 4)
    }
}
