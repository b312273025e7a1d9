//! AMX: sums over all inputs at once, for many tokens (integers with scales per channel, bfloat16).
//!
//! A tile is a register of 16 rows of 64 bytes. One instruction multiplies 16 tokens by 64 bytes of each (64 codes, 32
//! bfloat16) with the same inputs of a panel, which lies in memory as such a tile already, and adds to a tile of 16
//! tokens by 16 sums. Two blocks of tokens by two panels are held in four tiles of sums: 4 loads for 4 products, which
//! take 16 cycles each. Panels pass over inputs that stay in the second-level cache, in stretches that the first level
//! holds, and the sums of a block are scaled and written while the next block is multiplied, because they use other
//! units.
//!
//! Rust has no stable intrinsics for AMX, so tiles are named in `asm!`. The compiler uses none by itself, so they keep
//! their contents from one `asm!` to the next. Source: Intel SDM volume 1, chapter 18, and volume 2.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use super::avx512::{Channels, Emit, store};
use super::with_scratch;
use crate::kernels::activations::tiles::TILE_TOKENS;
use crate::kernels::activations::{Bf16Input, IntegerInput};
use crate::kernels::matrix::Output;
use crate::kernels::packed::{IntegerPanels, LANES};

/// Bytes of a tile.
pub(super) const TILE: usize = 16 * 64;
/// Numbers of 32 bits in a tile.
pub(super) const TILE_SUMS: usize = TILE / 4;
/// Longest stretch of inputs, in tiles: two panels of it take 24 KiB, half of the first-level cache.
const STRETCH: usize = 12;
/// Input bytes that stay in the second-level cache while panels pass.
const RESIDENT_BYTES: usize = 1 << 20;

/// Whether processor, operating system and hypervisor all grant AMX with int8 and bfloat16. Asked once: the first use of
/// tiles needs the system's permission, which then holds for the process.
pub(in crate::kernels) fn is_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| has_instructions() && system_saves_tiles() && system_permits_tiles())
}

/// AMX-BF16, AMX-TILE and AMX-INT8: CPUID leaf 7, EDX bits 22, 24, 25.
fn has_instructions() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Whether the system saves tiles with a thread's state: bits 17 and 18 of XCR0.
fn system_saves_tiles() -> bool {
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: reads a register, which the caller has checked to be readable.
        unsafe { _xgetbv(0) }
    }
    const BITS: u64 = 1 << 17 | 1 << 18;
    // SAFETY: where AVX is detected, the system has enabled XGETBV.
    is_x86_feature_detected!("xsave") && is_x86_feature_detected!("avx") && unsafe { xcr0() } & BITS == BITS
}

/// Asks Linux (5.16 or later) for the use of tiles.
#[cfg(target_os = "linux")]
fn system_permits_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this request takes a number and touches no memory of ours; an unknown one is refused.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn system_permits_tiles() -> bool {
    false
}

/// Operand of `ldtilecfg`.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Rows, at most 16, and bytes of a row, at most 64, of each tile.
    pub const fn new(tiles: [(usize, usize); 8]) -> Shapes {
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < tiles.len() {
            assert!(tiles[tile].0 <= 16 && tiles[tile].1 <= 64);
            shapes.rows[tile] = tiles[tile].0 as u8;
            shapes.row_bytes[tile] = tiles[tile].1 as u16;
            tile += 1;
        }
        shapes
    }
}

/// All eight tiles in full size: inputs are padded to whole tiles.
pub(super) static FULL: Shapes = Shapes::new([(16, 64); 8]);

/// The tiles of this thread, in use until dropped: tiles in use make thread switches dearer and other code slower.
pub(super) struct Tiles(());

impl Tiles {
    /// # Safety
    /// The processor has AMX.
    pub unsafe fn configure(shapes: &Shapes) -> Self {
        // SAFETY: reads a valid configuration; all tiles change.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const *shapes, out("tmm0") _, out("tmm1") _, out("tmm2") _,
                out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly));
        }
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the processor has AMX, as `configure` was promised; nobody reads tiles after this.
        unsafe {
            asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, preserves_flags, nomem));
        }
    }
}

/// Fills a tile with zeros.
macro_rules! zero_tile {
    ($tile:tt) => {
        std::arch::asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, preserves_flags, nomem))
    };
}
pub(super) use zero_tile;

/// Reads a tile from memory, its rows one behind the other or so many bytes apart.
macro_rules! load_tile {
    ($tile:tt, $from:expr) => {
        $crate::kernels::x86::amx::load_tile!($tile, $from, 64_usize)
    };
    ($tile:tt, $from:expr, $row_bytes:expr) => {
        std::arch::asm!(concat!("tileloadd ", $tile, ", [{from} + {row}*1]"), from = in(reg) $from, row = in(reg) $row_bytes,
            out($tile) _, options(nostack, preserves_flags, readonly))
    };
}
pub(super) use load_tile;

/// Writes a tile to memory, its rows one behind the other or so many bytes apart.
macro_rules! store_tile {
    ($to:expr, $tile:tt) => {
        $crate::kernels::x86::amx::store_tile!($to, $tile, 64_usize)
    };
    ($to:expr, $tile:tt, $row_bytes:expr) => {
        std::arch::asm!(concat!("tilestored [{to} + {row}*1], ", $tile), to = in(reg) $to, row = in(reg) $row_bytes,
            options(nostack, preserves_flags))
    };
}
pub(super) use store_tile;

/// `sums += inputs * weights`, by the given instruction.
macro_rules! multiply_tiles {
    ($instruction:tt, $sums:tt, $inputs:tt, $weights:tt) => {
        std::arch::asm!(concat!($instruction, " ", $sums, ", ", $inputs, ", ", $weights), out($sums) _,
            options(nostack, preserves_flags, nomem))
    };
}
pub(super) use multiply_tiles;

/// Inputs of a product in tiles, `[token block][block][16][64]`, and where its sums are kept meanwhile.
#[derive(Clone, Copy)]
struct Product {
    inputs: *const u8,
    tokens: usize,
    /// Tiles along the inputs, of a token block and of a panel.
    blocks: usize,
    sums: *mut i32,
}

impl Product {
    /// Stretches of inputs of about the same length.
    fn stretches(blocks: usize) -> usize {
        blocks.div_ceil(STRETCH)
    }

    /// Tokens whose inputs stay in the second-level cache: whole pairs of token blocks.
    fn resident_tokens(blocks: usize) -> usize {
        let pair = 2 * TILE_TOKENS;
        (RESIDENT_BYTES / (blocks * 64)).max(pair) / pair * pair
    }

    /// Bytes for the sums of a pair of token blocks by a pair of panels; of all pairs of token blocks where sums wait
    /// for another stretch.
    fn sums_bytes(blocks: usize, tokens: usize) -> usize {
        let pairs = Product::resident_tokens(blocks).min(tokens).div_ceil(2 * TILE_TOKENS);
        4 * TILE * if Product::stretches(blocks) == 1 { 1 } else { pairs }
    }
}

/// Sums that are complete and not yet written: rows `row..rows` of four tiles.
struct Pending {
    sums: *const i32,
    token: usize,
    row: usize,
    rows: usize,
    panels: Range<usize>,
}

impl Pending {
    /// Hands the next `count` rows to `emit(token, panel, sums)`.
    ///
    /// # Safety
    /// The processor has AVX-512 F; the sums are still in place.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn emit(&mut self, count: usize, emit: &impl Fn(usize, usize, __m512i)) {
        let end = (self.row + count).min(self.rows);
        for row in self.row..end {
            for (p, panel) in self.panels.clone().enumerate() {
                let tile = row / TILE_TOKENS * 2 + p;
                // SAFETY: a row of one of the four tiles.
                let sums =
                    unsafe { _mm512_loadu_si512(self.sums.add(tile * TILE_SUMS + row % TILE_TOKENS * LANES).cast()) };
                emit(self.token + row, panel, sums);
            }
        }
        self.row = end;
    }
}

/// Multiplies M token blocks by P panels along `steps` tiles, from `inputs` (token blocks `next_inputs` apart) and
/// `weights` (panels `next_weights` apart). Starts at zero when `first`, else at what `sums` holds, and leaves the sums
/// there, as tiles of `(token block, panel)`. Calls `between` after each step.
///
/// # Safety
/// The tiles are configured; the pointers are valid for these sizes.
#[target_feature(enable = "avx512f")]
unsafe fn multiply_block<const BF16: bool, const M: usize, const P: usize>(
    (inputs, next_inputs): (*const u8, usize),
    (weights, next_weights): (*const u8, usize),
    steps: usize,
    sums: *mut i32,
    first: bool,
    mut between: impl FnMut(),
) {
    macro_rules! product {
        ($sums:tt, $inputs:tt, $weights:tt) => {
            if BF16 {
                multiply_tiles!("tdpbf16ps", $sums, $inputs, $weights)
            } else {
                multiply_tiles!("tdpbsud", $sums, $inputs, $weights)
            }
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        if first {
            zero_tile!("tmm0");
            zero_tile!("tmm1");
            zero_tile!("tmm2");
            zero_tile!("tmm3");
        } else {
            load_tile!("tmm0", sums);
            if P == 2 {
                load_tile!("tmm1", sums.add(TILE_SUMS));
            }
            if M == 2 {
                load_tile!("tmm2", sums.add(2 * TILE_SUMS));
            }
            if M == 2 && P == 2 {
                load_tile!("tmm3", sums.add(3 * TILE_SUMS));
            }
        }
        for step in 0..steps {
            let (inputs, weights) = (inputs.add(step * TILE), weights.add(step * TILE));
            load_tile!("tmm6", weights);
            load_tile!("tmm4", inputs);
            product!("tmm0", "tmm4", "tmm6");
            if P == 2 {
                load_tile!("tmm7", weights.add(next_weights));
                product!("tmm1", "tmm4", "tmm7");
            }
            if M == 2 {
                load_tile!("tmm5", inputs.add(next_inputs));
                product!("tmm2", "tmm5", "tmm6");
            }
            if M == 2 && P == 2 {
                product!("tmm3", "tmm5", "tmm7");
            }
            between();
        }
        store_tile!(sums, "tmm0");
        if P == 2 {
            store_tile!(sums.add(TILE_SUMS), "tmm1");
        }
        if M == 2 {
            store_tile!(sums.add(2 * TILE_SUMS), "tmm2");
        }
        if M == 2 && P == 2 {
            store_tile!(sums.add(3 * TILE_SUMS), "tmm3");
        }
    }
}

/// Multiplies all tokens by `panels` and hands every row of sums to `emit(token, panel, sums)`. `weights` makes panels
/// ready, one or two at a time, and says where they lie, one after the other.
///
/// # Safety
/// The processor has AMX and AVX-512 F; `product` is valid, and so is what `weights` returns.
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const BF16: bool>(
    product: Product,
    panels: Range<usize>,
    weights: &impl Fn(Range<usize>) -> *const u8,
    emit: &impl Fn(usize, usize, __m512i),
) {
    let blocks = product.blocks;
    let stretches = Product::stretches(blocks);
    let stretch = blocks.div_ceil(stretches.max(1));
    let resident = Product::resident_tokens(blocks);
    // SAFETY: the caller's promise: all addresses are inside the inputs, the panels and the sums.
    unsafe {
        let _tiles = Tiles::configure(&FULL);
        for first_token in (0..product.tokens).step_by(resident) {
            let tokens = first_token..(first_token + resident).min(product.tokens);
            let mut pending = Pending { sums: product.sums, token: 0, row: 0, rows: 0, panels: 0..0 };
            for panel in panels.clone().step_by(2) {
                let pair = panel..(panel + 2).min(panels.end);
                let weights = weights(pair.clone());
                for from in (0..blocks).step_by(stretch) {
                    let steps = stretch.min(blocks - from);
                    let each = (2 * TILE_TOKENS).div_ceil(steps);
                    for (at, token) in tokens.clone().step_by(2 * TILE_TOKENS).enumerate() {
                        let rows = (tokens.end - token).min(2 * TILE_TOKENS);
                        let inputs = product.inputs.add((token / TILE_TOKENS * blocks + from) * TILE);
                        let weights = weights.add(from * TILE);
                        let sums = product.sums.add(if stretches == 1 { 0 } else { at * 4 * TILE_SUMS });
                        let (inputs, weights) = ((inputs, blocks * TILE), (weights, blocks * TILE));
                        let between = || pending.emit(each, emit);
                        match (rows > TILE_TOKENS, pair.len()) {
                            (true, 2) => multiply_block::<BF16, 2, 2>(inputs, weights, steps, sums, from == 0, between),
                            (true, _) => multiply_block::<BF16, 2, 1>(inputs, weights, steps, sums, from == 0, between),
                            (_, 2) => multiply_block::<BF16, 1, 2>(inputs, weights, steps, sums, from == 0, between),
                            _ => multiply_block::<BF16, 1, 1>(inputs, weights, steps, sums, from == 0, between),
                        }
                        if from + steps == blocks {
                            pending = Pending { sums, token, row: 0, rows, panels: pair.clone() };
                        }
                    }
                }
            }
            let rest = pending.rows;
            pending.emit(rest, emit);
        }
    }
}

/// `y = x wᵀ` for integers with one scale per channel. `weights` is as for [`multiply`], but may unpack panels to where
/// its second argument points.
///
/// # Safety
/// The processor has AMX and AVX-512 F; `x` has tiles and fits `w`, and `panels` exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn integer_channel(
    w: &IntegerPanels,
    x: IntegerInput<'_>,
    y: &Output,
    panels: Range<usize>,
    weights: &impl Fn(Range<usize>, *mut u8) -> *const u8,
) {
    let blocks = w.k / 64;
    assert!(w.groups == 1 && x.tiles.len() >= x.tokens.div_ceil(TILE_TOKENS) * blocks * TILE);
    let sums_bytes = Product::sums_bytes(blocks, x.tokens);
    with_scratch(sums_bytes + 2 * blocks * TILE, |scratch| {
        let product = Product { inputs: x.tiles.as_ptr(), tokens: x.tokens, blocks, sums: scratch.cast() };
        // SAFETY: the scratch holds the sums and, behind them, two panels; the rest is the caller's promise.
        unsafe {
            let weights = |panels: Range<usize>| weights(panels, scratch.add(sums_bytes));
            let outputs = Channels { w, x, y, first: 0 };
            multiply::<false>(product, panels, &weights, &|token, panel, sum| outputs.emit(token, panel, [sum]));
        }
    });
}

/// `y = x wᵀ` for bfloat16 weights and inputs, accumulated in f32.
///
/// # Safety
/// The processor has AMX and AVX-512 F; `weights` holds `cols` (rounded up to 32) `* 16` values for each of `panels`, `x`
/// has tiles of as many inputs.
#[target_feature(enable = "avx512f")]
pub(in crate::kernels) unsafe fn dense_bf16(
    weights: &[u16],
    cols: usize,
    x: Bf16Input<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    let blocks = cols.div_ceil(32);
    assert!(size_of_val(weights) >= panels.end * blocks * TILE);
    assert!(x.tiles.len() >= x.tokens.div_ceil(TILE_TOKENS) * blocks * TILE);
    with_scratch(Product::sums_bytes(blocks, x.tokens), |scratch| {
        let product = Product { inputs: x.tiles.as_ptr(), tokens: x.tokens, blocks, sums: scratch.cast() };
        // SAFETY: sizes as asserted; the scratch holds the sums.
        unsafe {
            let weights = |panels: Range<usize>| weights.as_ptr().cast::<u8>().add(panels.start * blocks * TILE);
            multiply::<true>(product, panels, &weights, &|token, panel, sum| {
                store(y, token, panel, _mm512_castsi512_ps(sum));
            });
        }
    });
}
