//! Products of small f32 matrices that lie in the first cache level: the two products of attention.
//!
//! Up to 4 rows by `B` blocks of 16 columns are held in registers while the inner dimension is walked: half of the 32
//! registers of AVX-512 with `B = 4`, half of the 16 of AVX2 and of the 32 of NEON with `B = 1`. Every sum runs over the
//! inner dimension in order, multiply-adds fused, so all instruction sets give the same bits. Processors that multiply pairs
//! of bfloat16 do so on request, those with AMX in its tiles (`x86::amx_pairs`).

use super::isa::Isa;
use super::matrix::has_bf16;
use super::vector::LANES;

/// Fewest rows that are worth a configuration of tiles.
#[cfg(target_arch = "x86_64")]
const LEAST_AMX_ROWS: usize = 8;

/// What the numbers of a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// 32-bit floats, summed in order.
    F32,
    /// Pairs of bfloat16 in the places of 32-bit floats, summed in 32 bits as `vdpbf16ps` does; only where
    /// [`Numbers::bf16_pairs`] says so.
    Bf16Pairs,
}

impl Numbers {
    /// Whether `isa` multiplies pairs of bfloat16.
    pub fn bf16_pairs(isa: Isa) -> bool {
        isa.base() == Isa::Avx512Vnni && has_bf16(isa)
    }
}

/// Right-hand side of [`product`]: row `i` of block `j` (16 columns) starts at `i * row + j * block`.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    /// The numbers.
    pub numbers: &'a [f32],
    /// Distance of rows.
    pub row: usize,
    /// Distance of blocks.
    pub block: usize,
}

/// Where a register tile reads and writes; distances are in numbers of 32 bits.
#[derive(Clone, Copy)]
pub(super) struct Place {
    numbers: Numbers,
    /// Numbers, or pairs, of a row of `a`; rows of `b`.
    pub inner: usize,
    /// Left-hand side and the distance of its rows.
    pub a: *const f32,
    pub a_row: usize,
    /// Right-hand side, the distances of its rows and blocks.
    pub b: *const f32,
    pub b_row: usize,
    pub b_block: usize,
    /// Sums and the distance of their rows.
    pub c: *mut f32,
    pub c_row: usize,
    /// Whether products are added to what `c` holds.
    pub accumulate: bool,
}

/// `c[r][16 j + l] = sum over i of a[r][i] * b[i][16 j + l]`, added to `c` where `accumulate`.
///
/// `(rows, inner, blocks)` are the sizes; `a` and `c` come with the distance of their rows.
///
/// # Panics
/// When the slices are too short for the sizes, or the processor lacks `isa`.
pub(super) fn product(
    isa: Isa,
    numbers: Numbers,
    (rows, inner, blocks): (usize, usize, usize),
    (a, a_row): (&[f32], usize),
    b: Factor<'_>,
    (c, c_row): (&mut [f32], usize),
    accumulate: bool,
) {
    if rows == 0 || inner == 0 || blocks == 0 {
        return;
    }
    assert!(isa.runs());
    assert!((rows - 1) * a_row + inner <= a.len());
    assert!((rows - 1) * c_row + blocks * LANES <= c.len());
    assert!((inner - 1) * b.row + (blocks - 1) * b.block + LANES <= b.numbers.len());
    let (b_row, b_block) = (b.row, b.block);
    let (a_start, b_start, c_start) = (a.as_ptr(), b.numbers.as_ptr(), c.as_mut_ptr());
    let whole = Place { numbers, inner, a: a_start, a_row, b: b_start, b_row, b_block, c: c_start, c_row, accumulate };
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && numbers == Numbers::Bf16Pairs && rows >= LEAST_AMX_ROWS {
        // SAFETY: the processor has AMX, and the matrices lie inside the slices, as asserted above.
        return unsafe { super::x86::amx_pairs::multiply(rows, blocks, &whole) };
    }
    let isa = isa.base();
    let mut j = 0;
    while j < blocks {
        let wide = if isa == Isa::Avx512Vnni && j + 4 <= blocks { 4 } else { 1 };
        for r in (0..rows).step_by(4) {
            let place = Place {
                a: a[r * a_row..].as_ptr(),
                b: b.numbers[j * b_block..].as_ptr(),
                c: c[r * c_row + j * LANES..].as_mut_ptr(),
                ..whole
            };
            // SAFETY: the processor has the instruction set, and up to 4 rows from r on and `wide` blocks from j on
            // lie inside the slices, as asserted above.
            unsafe {
                match (4.min(rows - r), wide) {
                    (4, 4) => tile::<4, 4>(isa, place),
                    (3, 4) => tile::<3, 4>(isa, place),
                    (2, 4) => tile::<2, 4>(isa, place),
                    (1, 4) => tile::<1, 4>(isa, place),
                    (4, _) => tile::<4, 1>(isa, place),
                    (3, _) => tile::<3, 1>(isa, place),
                    (2, _) => tile::<2, 1>(isa, place),
                    _ => tile::<1, 1>(isa, place),
                }
            }
        }
        j += wide;
    }
}

/// `R` rows by `B` blocks of 16 columns.
///
/// # Safety
/// The processor has `isa`; `a` holds `R` rows of `inner`, `b` `inner` rows in `B` blocks, `c` `R` rows of `16 * B`,
/// at the given distances.
unsafe fn tile<const R: usize, const B: usize>(isa: Isa, place: Place) {
    // SAFETY: by the contract.
    unsafe {
        match (isa, place.numbers) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni, Numbers::Bf16Pairs) => tile_avx512_bf16::<R, B>(place),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Vnni, Numbers::F32) => tile_avx512::<R, B>(place),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => tile_avx2::<R, B>(place),
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, _) => tile_neon::<R, B>(place),
            _ => tile_scalar::<R, B>(place),
        }
    }
}

/// The definition of [`tile`].
///
/// # Safety
/// As [`tile`].
unsafe fn tile_scalar<const R: usize, const B: usize>(p: Place) {
    for r in 0..R {
        for column in 0..B * LANES {
            let (block, lane) = (column / LANES, column % LANES);
            let mut sum = 0.0_f32;
            for i in 0..p.inner {
                // SAFETY: row r of a, and row i of this block of b, by the contract.
                let (x, y) = unsafe { (*p.a.add(r * p.a_row + i), *p.b.add(i * p.b_row + block * p.b_block + lane)) };
                sum = x.mul_add(y, sum);
            }
            // SAFETY: row r of c, by the contract.
            let c = unsafe { &mut *p.c.add(r * p.c_row + column) };
            *c = if p.accumulate { *c + sum } else { sum };
        }
    }
}

/// Makes [`tile`] with one AVX-512 register for each row and block; `$step` adds the products of `x` and `b` to `sum`.
#[cfg(target_arch = "x86_64")]
macro_rules! tile_avx512 {
    ($name:ident, $features:literal, |$sum:ident, $x:ident, $b:ident| $step:expr) => {
        /// # Safety
        /// As [`tile`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const B: usize>(p: Place) {
            use std::arch::x86_64::*;
            let mut sums = [[_mm512_setzero_ps(); B]; R];
            for i in 0..p.inner {
                let mut b = [_mm512_setzero_ps(); B];
                for (j, b) in b.iter_mut().enumerate() {
                    // SAFETY: row i of block j, by the contract.
                    *b = unsafe { _mm512_loadu_ps(p.b.add(i * p.b_row + j * p.b_block)) };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: row r of a, by the contract.
                    let $x = _mm512_set1_ps(unsafe { *p.a.add(r * p.a_row + i) });
                    for (sum, &$b) in sums.iter_mut().zip(&b) {
                        let $sum = *sum;
                        *sum = $step;
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: block j of row r of c, by the contract.
                    unsafe {
                        let c = p.c.add(r * p.c_row + j * LANES);
                        _mm512_storeu_ps(c, if p.accumulate { _mm512_add_ps(_mm512_loadu_ps(c), sum) } else { sum });
                    }
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
tile_avx512!(tile_avx512, "avx512f", |sum, x, b| _mm512_fmadd_ps(x, b, sum));
#[cfg(target_arch = "x86_64")]
tile_avx512!(tile_avx512_bf16, "avx512f,avx512bf16", |sum, x, b| _mm512_dpbf16_ps(
    sum,
    // SAFETY: 512 bits are 512 bits.
    unsafe { std::mem::transmute::<__m512, __m512bh>(x) },
    // SAFETY: as above.
    unsafe { std::mem::transmute::<__m512, __m512bh>(b) }
));

/// [`tile`] with two registers for each row and block.
///
/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const R: usize, const B: usize>(p: Place) {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let mut sums = [[[_mm256_setzero_ps(); 2]; B]; R];
    for i in 0..p.inner {
        let mut b = [[_mm256_setzero_ps(); 2]; B];
        for (j, b) in b.iter_mut().enumerate() {
            for (half, b) in b.iter_mut().enumerate() {
                // SAFETY: row i of block j, by the contract.
                *b = unsafe { _mm256_loadu_ps(p.b.add(i * p.b_row + j * p.b_block + 8 * half)) };
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row r of a, by the contract.
            let x = _mm256_set1_ps(unsafe { *p.a.add(r * p.a_row + i) });
            for (sum, &b) in sums.iter_mut().zip(&b) {
                sum[0] = _mm256_fmadd_ps(x, b[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(x, b[1], sum[1]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (j, &sum) in sums.iter().flatten().enumerate() {
            // SAFETY: half j of row r of c, by the contract.
            unsafe {
                let c = p.c.add(r * p.c_row + j * 8);
                _mm256_storeu_ps(c, if p.accumulate { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum });
            }
        }
    }
}

/// [`tile`] with four registers for each row and block.
///
/// # Safety
/// As [`tile`].
#[cfg(target_arch = "aarch64")]
unsafe fn tile_neon<const R: usize, const B: usize>(p: Place) {
    use std::arch::aarch64::{vaddq_f32, vdupq_n_f32, vfmaq_n_f32, vld1q_f32, vst1q_f32};
    // SAFETY: NEON is part of aarch64.
    let zero = unsafe { vdupq_n_f32(0.0) };
    let mut sums = [[[zero; 4]; B]; R];
    for i in 0..p.inner {
        let mut b = [[zero; 4]; B];
        for (j, b) in b.iter_mut().enumerate() {
            for (quarter, b) in b.iter_mut().enumerate() {
                // SAFETY: row i of block j, by the contract.
                *b = unsafe { vld1q_f32(p.b.add(i * p.b_row + j * p.b_block + 4 * quarter)) };
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row r of a, by the contract.
            let x = unsafe { *p.a.add(r * p.a_row + i) };
            for (sum, &b) in sums.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
                // SAFETY: NEON is part of aarch64.
                *sum = unsafe { vfmaq_n_f32(*sum, b, x) };
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (j, &sum) in sums.as_flattened().iter().enumerate() {
            // SAFETY: quarter j of row r of c, by the contract.
            unsafe {
                let c = p.c.add(r * p.c_row + j * 4);
                vst1q_f32(c, if p.accumulate { vaddq_f32(vld1q_f32(c), sum) } else { sum });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_pairs_follow_the_definition_on_every_isa() {
        // Quarters of small numbers: exact in bfloat16, and so is every order of summation in f32.
        let value = |i: usize, odd: usize| ((i * 7 + odd * 5) % 19) as f32 / 4.0 - 2.0;
        let pair = |i: usize| f32::from_bits((value(i, 1).to_bits() & 0xffff_0000) | value(i, 0).to_bits() >> 16);
        for (rows, inner, blocks) in
            [(1, 1, 1), (8, 3, 5), (16, 16, 4), (21, 19, 3), (63, 32, 8), (63, 64, 4), (33, 40, 5)]
        {
            let (a_row, width) = (inner + 3, blocks * LANES);
            let a: Vec<f32> = (0..rows * a_row).map(pair).collect();
            let b: Vec<f32> = (0..inner * width).map(|i| pair(i + 2)).collect();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.runs() && Numbers::bf16_pairs(*isa)) {
                for ((row, block), accumulate) in [((LANES, inner * LANES), true), ((width, LANES), false)] {
                    let factor = Factor { numbers: &b, row, block };
                    let mut c = vec![1.0; rows * (width + 2)];
                    let sizes = (rows, inner, blocks);
                    product(isa, Numbers::Bf16Pairs, sizes, (&a, a_row), factor, (&mut c, width + 2), accumulate);
                    for (at, &c) in c.iter().enumerate() {
                        let (r, column) = (at / (width + 2), at % (width + 2));
                        let y = |i: usize, odd| value(i * row + column / LANES * block + column % LANES + 2, odd);
                        let products = (0..2 * inner).map(|i| value(r * a_row + i / 2, i % 2) * y(i / 2, i % 2));
                        let exact = match column < width {
                            true => products.sum::<f32>() + f32::from(u8::from(accumulate)),
                            false => 1.0, // Not touched.
                        };
                        assert_eq!(c, exact, "{isa} {rows} {inner} {blocks} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_sizes_follow_the_definition_on_every_isa() {
        for (rows, inner, blocks) in [(1, 1, 1), (3, 5, 4), (4, 64, 8), (5, 17, 5), (7, 128, 3), (9, 2, 9)] {
            let a: Vec<f32> = (0..rows * inner).map(|i| (i % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..inner * blocks * LANES).map(|i| (i % 11) as f32 - 5.0).collect();
            let width = blocks * LANES;
            for isa in Isa::available() {
                // Blocks one after the other (keys), and side by side (values).
                for (row, block) in [(LANES, inner * LANES), (width, LANES)] {
                    let factor = Factor { numbers: &b, row, block };
                    let mut c = vec![1.0; rows * width];
                    product(isa, Numbers::F32, (rows, inner, blocks), (&a, inner), factor, (&mut c, width), true);
                    for (at, &c) in c.iter().enumerate() {
                        let (r, column) = (at / width, at % width);
                        let y = |i: usize| b[i * row + column / LANES * block + column % LANES];
                        // Whole numbers: every order of summation is exact.
                        let exact = 1.0 + (0..inner).map(|i| a[r * inner + i] * y(i)).sum::<f32>();
                        assert_eq!(c, exact, "{isa} {rows} {inner} {blocks} at {at}");
                    }
                }
            }
        }
    }
}
