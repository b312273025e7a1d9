//! The block formats of GGUF, read into integers with scales exactly as ggml defines them (`ggml-common.h`,
//! `ggml-quants.c`); little endian. Tested bit for bit against the `gguf` Python package.

use half::f16;

/// Elements that share a scale in Q8_0, Q4_0, Q4_1 and in a sub-block of Q4_K.
const GROUP: usize = 32;
/// Elements of a K-quant block.
const SUPER_BLOCK: usize = 256;

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `{ f16 d; i8 q[32] }`, `w = d q`.
pub(super) fn q8_0_row(row: &[u8], codes: &mut [i8], scales: &mut [f32]) {
    let groups = row.as_chunks::<34>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0).zip(scales);
    for ((block, codes), scale) in groups {
        *scale = f16_at(block, 0);
        codes.copy_from_slice(bytemuck::cast_slice(&block[2..]));
    }
}

/// `{ f16 d; u8 q[16] }`, `w = d (q - 8)`; byte j holds elements j (low nibble) and j + 16.
pub(super) fn q4_0_row(row: &[u8], codes: &mut [i8], scales: &mut [f32]) {
    let groups = row.as_chunks::<18>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0).zip(scales);
    for ((block, codes), scale) in groups {
        *scale = f16_at(block, 0);
        nibbles(&block[2..], codes, 8);
    }
}

/// `{ f16 d; f16 m; u8 q[16] }`, `w = d q + m`.
pub(super) fn q4_1_row(row: &[u8], codes: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
    let groups = row.as_chunks::<20>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0).zip(scales).zip(offsets);
    for (((block, codes), scale), offset) in groups {
        *scale = f16_at(block, 0);
        *offset = f16_at(block, 2);
        nibbles(&block[4..], codes, 0);
    }
}

/// `{ f16 d; f16 dmin; u8 scales[12]; u8 q[128] }`, `w = (d sc) q - (dmin m)` with 6-bit `sc` and `m` for each of 8
/// sub-blocks; 32 bytes hold two sub-blocks, the first in the low nibbles.
pub(super) fn q4_k_row(row: &[u8], codes: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
    let blocks = row.as_chunks::<144>().0.iter().zip(codes.as_chunks_mut::<SUPER_BLOCK>().0);
    let factors = scales.as_chunks_mut::<8>().0.iter_mut().zip(offsets.as_chunks_mut::<8>().0);
    for ((block, codes), (scales, offsets)) in blocks.zip(factors) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        for sub in 0..8 {
            let (sc, m) = six_bit_pair(&block[4..16], sub);
            scales[sub] = d * f32::from(sc);
            offsets[sub] = -(dmin * f32::from(m));
        }
        for (bytes, codes) in block[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            nibbles(bytes, codes, 0);
        }
    }
}

/// `{ u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }`, `w = (d sc) (q - 32)`, 16 elements a scale. In each half of 128
/// elements, element `32 k + l` takes its low bits from nibble `k / 2` of `ql[32 (k % 2) + l]` and its high bits from
/// bits `2k` of `qh[l]`.
pub(super) fn q6_k_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
        let d = f16_at(block, 208);
        for half in 0..2 {
            let (low, high) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
            for k in 0..4 {
                for l in 0..32 {
                    let low = low[32 * (k % 2) + l] >> (4 * (k / 2)) & 15;
                    let code = (low | (high[l] >> (2 * k) & 3) << 4) as i8 - 32;
                    let scale = block[192 + 8 * half + 2 * k + l / 16] as i8;
                    out[128 * half + 32 * k + l] = d * f32::from(scale) * f32::from(code);
                }
            }
        }
    }
}

/// Splits bytes into their low nibbles, then their high nibbles, each less `zero`.
fn nibbles(bytes: &[u8], codes: &mut [i8], zero: i8) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = (byte & 15) as i8 - zero;
        *high = (byte >> 4) as i8 - zero;
    }
}

/// Scale and minimum of sub-block `sub`: the first four lie in the low 6 bits of bytes 0-3 and 4-7; the others are put
/// together from the nibbles of bytes 8-11 and the top two bits of bytes 0-7.
fn six_bit_pair(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let (nibbles, scale_top, min_top) = (packed[sub + 4], packed[sub - 4] >> 6, packed[sub] >> 6);
        (nibbles & 15 | scale_top << 4, nibbles >> 4 | min_top << 4)
    }
}
