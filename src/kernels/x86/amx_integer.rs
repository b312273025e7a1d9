//! AMX: integer inputs, exact integer sums, scales per channel or per group (W8A8, W4A8), for many tokens.
//!
//! With scales per channel, sums run over all inputs (see [`super::amx`]). With groups, every group ends with its sums in
//! memory, where they are scaled and added up. Two tiles of sums (two token blocks by one panel) are stored while two
//! others take the next group, and the sums of two groups are added up at once while the next two are multiplied. Inputs
//! come with each group padded to whole tiles; panels are first unpacked to signed bytes less base and zero point, so
//! that sums need no correction.

use std::arch::x86_64::*;
use std::ops::Range;

use super::amx::{FULL, TILE, TILE_SUMS, Tiles, integer_channel, load_tile, multiply_tiles, store_tile, zero_tile};
use super::avx512::{load_group, load_zeros, store};
use super::avx512_integer::unpack_nibbles;
use super::with_scratch;
use crate::kernels::activations::IntegerInput;
use crate::kernels::activations::tiles::TILE_TOKENS;
use crate::kernels::matrix::Output;
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, PackedZero, Width};

/// `y = x wᵀ`, integers times integers.
///
/// # Safety
/// The processor has AMX and AVX-512 F and BW; `x` has tiles and fits `w`, and `panels` exist.
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::kernels) unsafe fn integer(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    assert!(x.sums.len() >= x.tokens * w.groups && x.scales.len() >= x.tokens);
    assert!(w.codes.len() >= panels.end * w.panel_bytes());
    let stored = |panels: Range<usize>, _| w.codes[panels.start * w.panel_bytes()..].as_ptr();
    let unpacked = |panels: Range<usize>, out: *mut u8| {
        for (p, panel) in panels.enumerate() {
            // SAFETY: the panel exists, and there is room for two.
            unsafe { unpack_nibbles(w, panel, out.add(p * w.k * LANES)) };
        }
        out.cast_const()
    };
    // SAFETY: the caller's promise, with sizes as asserted.
    unsafe {
        match w.width {
            _ if w.groups > 1 => grouped(w, x, y, panels),
            Width::Int8 => integer_channel(w, x, y, panels, &stored),
            Width::Int4 => integer_channel(w, x, y, panels, &unpacked),
        }
    }
}

/// Panel `panel` as signed codes, `[group][k / 4][16][4]`, each group in whole tiles (what lies behind its codes meets
/// inputs of zero). Takes off the base and, where they fit a byte, the zero points.
///
/// # Safety
/// The processor has the features, the panel exists, and `out` holds all tiles.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_signed(w: &IntegerPanels, panel: usize, out: *mut u8) {
    let group_bytes = w.group.next_multiple_of(BLOCK) * LANES;
    // SAFETY: rows of the panel, and of the tiles of its groups.
    unsafe {
        let codes = w.codes.as_ptr().add(panel * w.panel_bytes());
        match w.width {
            Width::Int8 => {
                let base = _mm512_set1_epi8(w.base() as i8);
                for group in 0..w.groups {
                    let (from, to) = (codes.add(group * w.group * LANES), out.add(group * group_bytes));
                    for row in 0..w.group / 4 {
                        let signed = _mm512_sub_epi8(_mm512_loadu_si512(from.add(row * 64).cast()), base);
                        _mm512_storeu_si512(to.add(row * 64).cast(), signed);
                    }
                }
            }
            Width::Int4 => {
                let low = _mm512_set1_epi8(15);
                for group in 0..w.groups {
                    let [zero] = load_zeros::<1>(w, panel, group);
                    // From 0 to 15, in each of the four bytes of a lane.
                    let zero = _mm512_mullo_epi32(zero, _mm512_set1_epi32(0x0101_0101));
                    for (at, half) in (group * w.group / 32..(group + 1) * w.group / 32).enumerate() {
                        let shift = _mm_cvtsi32_si128((half % 2 * 4) as i32);
                        let from = codes.add(half / 2 * (BLOCK * LANES / 2));
                        let to = out.add(group * group_bytes + at * 32 * LANES);
                        for row in 0..8 {
                            let pairs = _mm512_loadu_si512(from.add(row * 64).cast());
                            let nibbles = _mm512_and_si512(_mm512_srl_epi32(pairs, shift), low);
                            _mm512_storeu_si512(to.add(row * 64).cast(), _mm512_sub_epi8(nibbles, zero));
                        }
                    }
                }
            }
        }
    }
}

/// Sums of one or two groups of up to 32 tokens and a panel, which are added to the tokens' totals row by row.
#[derive(Clone, Copy)]
struct Fold<'a> {
    w: &'a IntegerPanels,
    x: IntegerInput<'a>,
    panel: usize,
    token: usize,
    groups: (usize, usize),
    /// `[group][token]` rows of 16 sums, for two groups.
    dots: *const i32,
    /// `[token]` rows of 16 totals.
    totals: *mut f32,
    row: usize,
    rows: usize,
}

/// Sums of a group in memory: two tiles.
const GROUP_SUMS: usize = 2 * TILE_SUMS;

impl Fold<'_> {
    /// Adds the next `count` rows to the totals.
    ///
    /// # Safety
    /// The processor has the features; sums and totals are in place.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn advance(&mut self, count: usize) {
        let rows = self.row..(self.row + count).min(self.rows);
        self.row = rows.end;
        let w = self.w;
        for group in self.groups.0..self.groups.1 {
            // SAFETY: the group, its sums, and rows of tokens that exist.
            unsafe {
                let [scale] = load_group::<1>(&w.scales, w.groups, self.panel, group);
                let offset = match &w.zero {
                    PackedZero::Offsets(offsets) => Some(load_group::<1>(offsets, w.groups, self.panel, group)[0]),
                    _ => None,
                };
                let point = match (&w.zero, w.width) {
                    (PackedZero::Points(_), Width::Int8) => {
                        let [zero] = load_zeros::<1>(w, self.panel, group);
                        Some(_mm512_sub_epi32(zero, _mm512_set1_epi32(w.base())))
                    }
                    _ => None,
                };
                let dots = self.dots.add((group - self.groups.0) * GROUP_SUMS);
                for row in rows.clone() {
                    let sum = *self.x.sums.as_ptr().add((self.token + row) * w.groups + group);
                    let mut dot = _mm512_loadu_si512(dots.add(row * LANES).cast());
                    if let Some(point) = point {
                        dot = _mm512_sub_epi32(dot, _mm512_mullo_epi32(point, _mm512_set1_epi32(sum)));
                    }
                    let at = self.totals.add(row * LANES);
                    let mut total = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), _mm512_loadu_ps(at));
                    if let Some(offset) = offset {
                        total = _mm512_fmadd_ps(offset, _mm512_set1_ps(sum as f32), total);
                    }
                    _mm512_storeu_ps(at, total);
                }
            }
        }
    }
}

/// Multiplies M token blocks (`next` bytes apart) by a panel along the `steps` tiles of a group and stores the sums;
/// `SECOND` names one of two sets of tiles. Calls `between` after each step.
///
/// # Safety
/// The tiles are configured; the pointers are valid for these sizes.
#[target_feature(enable = "avx512f")]
unsafe fn multiply_group<const M: usize, const SECOND: bool>(
    (inputs, next): (*const u8, usize),
    weights: *const u8,
    steps: usize,
    dots: *mut i32,
    mut between: impl FnMut(),
) {
    macro_rules! run {
        ($low:tt, $high:tt) => {
            zero_tile!($low);
            zero_tile!($high);
            for step in 0..steps {
                load_tile!("tmm6", weights.add(step * TILE));
                load_tile!("tmm4", inputs.add(step * TILE));
                multiply_tiles!("tdpbssd", $low, "tmm4", "tmm6");
                if M == 2 {
                    load_tile!("tmm5", inputs.add(next + step * TILE));
                    multiply_tiles!("tdpbssd", $high, "tmm5", "tmm6");
                }
                between();
            }
            store_tile!(dots, $low);
            if M == 2 {
                store_tile!(dots.add(TILE_SUMS), $high);
            }
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        if SECOND {
            run!("tmm2", "tmm3");
        } else {
            run!("tmm0", "tmm1");
        }
    }
}

/// M token blocks from `token` on by a panel, which lies unpacked at `weights`. Of `room`, 32 rows are for totals and
/// four times as many for sums: two groups that are multiplied, and two that are added up.
///
/// # Safety
/// The tiles are configured; the tokens exist; `weights` and `room` hold what they should.
#[target_feature(enable = "avx512f")]
unsafe fn grouped_block<const M: usize>(
    w: &IntegerPanels,
    x: IntegerInput<'_>,
    y: &Output,
    (token, panel): (usize, usize),
    weights: *const u8,
    room: *mut i32,
) {
    let per_group = w.group.div_ceil(BLOCK);
    let next = w.groups * per_group * TILE;
    let rows = (M * TILE_TOKENS).min(x.tokens - token);
    // SAFETY: tiles of these tokens and this panel; parts of the room as said.
    unsafe {
        let inputs = x.tiles.as_ptr().add(token / TILE_TOKENS * next);
        let (totals, dots) = (room.cast::<f32>(), room.add(GROUP_SUMS));
        (0..rows).for_each(|row| _mm512_storeu_ps(totals.add(row * LANES), _mm512_setzero_ps()));
        let mut fold = Fold { w, x, panel, token, groups: (0, 0), dots, totals, row: 0, rows: 0 };
        for (pair, group) in (0..w.groups).step_by(2).enumerate() {
            let end = (group + 2).min(w.groups);
            let each = (M * TILE_TOKENS).div_ceil((end - group) * per_group);
            let dots = dots.add(pair % 2 * 2 * GROUP_SUMS);
            let at = |group| ((inputs.add(group * per_group * TILE), next), weights.add(group * per_group * TILE));
            let (from, weights) = at(group);
            multiply_group::<M, false>(from, weights, per_group, dots, || fold.advance(each));
            if end - group == 2 {
                let (from, weights) = at(group + 1);
                multiply_group::<M, true>(from, weights, per_group, dots.add(GROUP_SUMS), || fold.advance(each));
            }
            fold = Fold { groups: (group, end), dots, row: 0, rows, ..fold };
        }
        fold.advance(rows);
        for row in 0..rows {
            let total = _mm512_loadu_ps(totals.add(row * LANES));
            store(y, token + row, panel, _mm512_mul_ps(total, _mm512_set1_ps(x.scales[token + row])));
        }
    }
}

/// Several groups of inputs, each with scales of its own.
///
/// # Safety
/// As [`integer`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn grouped(w: &IntegerPanels, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    let panel_bytes = w.groups * w.group.div_ceil(BLOCK) * TILE;
    assert!(x.tiles.len() >= x.tokens.div_ceil(TILE_TOKENS) * panel_bytes);
    let room_bytes = 5 * 4 * GROUP_SUMS;
    with_scratch(room_bytes + panel_bytes, |scratch| {
        // SAFETY: the scratch holds the room and a panel; the rest is the caller's promise.
        unsafe {
            let _tiles = Tiles::configure(&FULL);
            let (room, weights) = (scratch.cast::<i32>(), scratch.add(room_bytes));
            for panel in panels {
                unpack_signed(w, panel, weights);
                for token in (0..x.tokens).step_by(2 * TILE_TOKENS) {
                    if x.tokens - token > TILE_TOKENS {
                        grouped_block::<2>(w, x, y, (token, panel), weights, room);
                    } else {
                        grouped_block::<1>(w, x, y, (token, panel), weights, room);
                    }
                }
            }
        }
    });
}
