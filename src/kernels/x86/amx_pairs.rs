//! AMX: products of small matrices of bfloat16 pairs, the two of attention.
//!
//! What [`Place`] describes is what tiles hold: a row of `a` is a row of pairs, a row of a block of `b` 16 of them side by
//! side. Up to four blocks of columns share the load of `a`. The last block of rows and the last step along the inner
//! dimension get tiles of their own size, so nothing is padded or read beyond its end.

use super::amx::{Shapes, Tiles, load_tile, multiply_tiles, store_tile, zero_tile};
use crate::kernels::tile::Place;
use crate::kernels::vector::LANES;

/// Rows of a tile, and pairs of one of its rows.
const SIDE: usize = 16;
/// Blocks of columns that are multiplied at once.
const BLOCKS: usize = 4;

/// `c = a b`, or `c += a b` where `p.accumulate`, for `rows` of `a` and `blocks` of 16 columns; none of the sizes is 0.
///
/// # Safety
/// The processor has AMX; `a` holds `rows` of `p.inner` pairs, `b` `p.inner` rows in `blocks`, `c` `rows` of
/// `16 * blocks` sums, at the given distances.
pub(in crate::kernels) unsafe fn multiply(rows: usize, blocks: usize, p: &Place) {
    let last_rows = (rows - 1) / SIDE * SIDE;
    // SAFETY: the caller's promise; each call works on rows that exist.
    unsafe {
        if last_rows > 0 {
            let _tiles = Tiles::configure(&shapes(SIDE, p.inner));
            (0..last_rows).step_by(SIDE).for_each(|row| multiply_rows(row, blocks, p));
        }
        let _tiles = Tiles::configure(&shapes(rows - last_rows, p.inner));
        multiply_rows(last_rows, blocks, p);
    }
}

/// Sums of `rows` in tiles 0 to 3; `a` in 4, its last step in 5; `b` in 6 and 7 likewise.
fn shapes(rows: usize, inner: usize) -> Shapes {
    let sums = (rows, LANES * 4);
    let last = (inner - 1) % SIDE + 1;
    Shapes::new([sums, sums, sums, sums, (rows, SIDE * 4), (rows, last * 4), (SIDE, LANES * 4), (last, LANES * 4)])
}

/// A block of rows from `row` on, as many as the tiles have.
///
/// # Safety
/// As [`multiply`]; the tiles are configured for these rows.
unsafe fn multiply_rows(row: usize, blocks: usize, p: &Place) {
    let (a_bytes, b_bytes, c_bytes) = (p.a_row * 4, p.b_row * 4, p.c_row * 4);
    let last = (p.inner - 1) / SIDE * SIDE;
    for first in (0..blocks).step_by(BLOCKS) {
        let count = BLOCKS.min(blocks - first);
        // SAFETY: blocks below `blocks`, rows of the tiles' shapes and steps below `p.inner` lie inside the matrices.
        unsafe {
            let a = p.a.add(row * p.a_row);
            let b = |step: usize, block: usize| p.b.add(step * p.b_row + (first + block) * p.b_block);
            let c = |block: usize| p.c.add(row * p.c_row + (first + block) * LANES);
            macro_rules! for_blocks {
                ($work:ident $(, $more:tt)*) => {
                    $work!("tmm0", 0 $(, $more)*);
                    if count > 1 {
                        $work!("tmm1", 1 $(, $more)*);
                    }
                    if count > 2 {
                        $work!("tmm2", 2 $(, $more)*);
                    }
                    if count > 3 {
                        $work!("tmm3", 3 $(, $more)*);
                    }
                };
            }
            macro_rules! begin {
                ($sums:tt, $block:literal) => {
                    if p.accumulate {
                        load_tile!($sums, c($block), c_bytes);
                    } else {
                        zero_tile!($sums);
                    }
                };
            }
            macro_rules! multiply {
                ($sums:tt, $block:literal, $step:ident, $a:tt, $b:tt) => {
                    load_tile!($b, b($step, $block), b_bytes);
                    multiply_tiles!("tdpbf16ps", $sums, $a, $b)
                };
            }
            macro_rules! end {
                ($sums:tt, $block:literal) => {
                    store_tile!(c($block), $sums, c_bytes)
                };
            }
            for_blocks!(begin);
            for step in (0..last).step_by(SIDE) {
                load_tile!("tmm4", a.add(step), a_bytes);
                for_blocks!(multiply, step, "tmm4", "tmm6");
            }
            load_tile!("tmm5", a.add(last), a_bytes);
            for_blocks!(multiply, last, "tmm5", "tmm7");
            for_blocks!(end);
        }
    }
}
