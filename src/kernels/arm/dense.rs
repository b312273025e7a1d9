//! Dense weights: products in f32, of bfloat16 also by `bfdot`.
//!
//! For up to 4 tokens, 16-bit weights are widened as they stream by. For more, a panel is unpacked to f32 once, and the
//! tile of f32 weights multiplies it with all tokens.

use std::arch::aarch64::*;
use std::ops::Range;

use super::arithmetic::{Arithmetic, Bf16, F32};
use super::tile::{Bytes, Inputs, Source, Stored, add_rows, call_tile, panels_for};
use super::{half, store};
use crate::kernels::activations::{Bf16Input, FloatInput};
use crate::kernels::buffer::with_scratch;
use crate::kernels::matrix::{GEMV_TOKENS, Output};
use crate::kernels::packed::{DensePanels, LANES, bf16_pairs};

/// Tokens of a tile of one panel: 24 sums leave room for a row of weights and the inputs.
const TOKENS: usize = 6;

/// `y = x wᵀ` for f32 inputs (rounded to bfloat16 for such weights).
///
/// # Safety
/// The weights were packed for `cols` columns, which `x` has, and `panels` exist.
pub(in crate::kernels) unsafe fn dense(
    w: &DensePanels,
    cols: usize,
    x: FloatInput<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    let few = x.tokens <= GEMV_TOKENS;
    // SAFETY: the caller's promise; a panel holds `cols` rows, of bfloat16 padded to 32.
    unsafe {
        match w {
            DensePanels::F32(w) => products::<F32>(w.as_ptr().cast(), cols, x.into(), y, panels),
            DensePanels::F16(w) if few => {
                stream::<F32, _>(cols, x.into(), y, panels, |panel| Halves { start: w.as_ptr(), panel, cols });
            }
            DensePanels::F16(w) => unpacked(cols, x, y, panels, &|panel, out| {
                half::widen(bytemuck::cast_slice(&w[panel * cols * LANES..][..cols * LANES]), out);
            }),
            DensePanels::Bf16(w) => {
                let pairs = bf16_pairs(cols);
                let source = |panel| Pairs { start: w.as_ptr().add(panel * pairs * 2 * LANES), pairs };
                if few {
                    stream::<F32, _>(pairs * 2, x.into(), y, panels, source);
                } else {
                    unpacked(pairs * 2, x, y, panels, &|panel, out| widen_pairs(&source(panel), out));
                }
            }
        }
    }
}

/// `y = x wᵀ` for bfloat16 weights and inputs.
///
/// # Safety
/// The processor has BF16; `weights` were packed for `cols` columns, which `x` has, and `panels` exist.
pub(in crate::kernels) unsafe fn dense_bf16(
    weights: &[u16],
    cols: usize,
    x: Bf16Input<'_>,
    y: &Output,
    panels: Range<usize>,
) {
    // SAFETY: the caller's promise; a row is a pair of inputs.
    unsafe { products::<Bf16>(weights.as_ptr().cast(), bf16_pairs(cols), x.into(), y, panels) };
}

/// Products with weights that are stored as `A` wants them, `rows` rows to a panel.
///
/// # Safety
/// The processor has the extension of `A`; the panels exist, and tokens have inputs for `rows`.
unsafe fn products<A: Arithmetic<Sum = float32x4_t>>(
    weights: *const u8,
    rows: usize,
    x: Inputs,
    y: &Output,
    panels: Range<usize>,
) {
    let panel_bytes = rows * 64;
    // SAFETY: the caller's promise.
    let source = |panel: usize| unsafe { Stored { start: weights.add(panel * panel_bytes), panel_bytes, bits: Bytes } };
    // SAFETY: the caller's promise.
    unsafe {
        if x.count <= GEMV_TOKENS {
            stream::<A, _>(rows, x, y, panels, source);
        } else {
            panels.for_each(|panel| multiply_panel::<A>(rows, x, y, panel, &source(panel)));
        }
    }
}

/// Products of up to 4 tokens; `source(panel)` reads panels from `panel` on.
///
/// # Safety
/// As [`products`].
unsafe fn stream<A: Arithmetic<Sum = float32x4_t>, S: Source>(
    rows: usize,
    x: Inputs,
    y: &Output,
    panels: Range<usize>,
    source: impl Fn(usize) -> S,
) {
    let mut panel = panels.start;
    while panel < panels.end {
        let p = panels_for(x.count, panels.end - panel);
        // SAFETY: the caller's promise.
        unsafe { call_tile!(x.count, p, tile::<A>(rows, x, 0, y, panel, &source(panel))) };
        panel += p;
    }
}

/// Products of any number of tokens with one panel.
///
/// # Safety
/// As [`products`].
unsafe fn multiply_panel<A: Arithmetic<Sum = float32x4_t>>(
    rows: usize,
    x: Inputs,
    y: &Output,
    panel: usize,
    source: &impl Source,
) {
    for token in (0..x.count).step_by(TOKENS) {
        // SAFETY: the caller's promise.
        unsafe {
            match TOKENS.min(x.count - token) {
                6 => tile::<A, 6, 1>(rows, x, token, y, panel, source),
                5 => tile::<A, 5, 1>(rows, x, token, y, panel, source),
                m => call_tile!(m, 1, tile::<A>(rows, x, token, y, panel, source)),
            }
        }
    }
}

/// M tokens from `token` on times P panels from `panel` on.
///
/// # Safety
/// As [`products`].
unsafe fn tile<A: Arithmetic<Sum = float32x4_t>, const M: usize, const P: usize>(
    rows: usize,
    x: Inputs,
    token: usize,
    y: &Output,
    panel: usize,
    source: &impl Source,
) {
    let mut sums = [[[A::zero(); 4]; P]; M];
    // SAFETY: the caller's promise.
    unsafe { add_rows::<A, M, P>(&mut sums, rows, x.from(token), source) };
    for m in 0..M {
        for p in 0..P {
            store(y, token + m, panel + p, sums[m][p]);
        }
    }
}

/// Products with weights that are first unpacked to f32: `unpack(panel, out)` writes the `k * 16` weights of a panel in
/// the order of f32 panels.
///
/// # Safety
/// Tokens have `k` inputs, and the panels exist.
unsafe fn unpacked(k: usize, x: FloatInput<'_>, y: &Output, panels: Range<usize>, unpack: &dyn Fn(usize, &mut [f32])) {
    with_scratch(k * LANES * 4, |scratch| {
        // SAFETY: the scratch is this thread's own and holds as many numbers, of which all bits are valid.
        let weights = unsafe { std::slice::from_raw_parts_mut(scratch.cast::<f32>(), k * LANES) };
        for panel in panels {
            unpack(panel, weights);
            let source = Stored { start: weights.as_ptr().cast(), panel_bytes: 0, bits: Bytes };
            // SAFETY: the caller's promise; the panel has `k` rows.
            unsafe { multiply_panel::<F32>(k, x.into(), y, panel, &source) };
        }
    });
}

/// Half-precision weights from panel `panel` on.
struct Halves {
    start: *const u16,
    panel: usize,
    cols: usize,
}

impl Source for Halves {
    #[inline(always)]
    unsafe fn load<const LANE: i32>(&self, panel: usize, row: usize) -> [uint8x16_t; 4] {
        // SAFETY: the row exists by the caller's promise.
        unsafe {
            half::load(self.start.add(((self.panel + panel) * self.cols + row + LANE as usize) * LANES))
                .map(|lanes| vreinterpretq_u8_f32(lanes))
        }
    }
}

/// bfloat16 weights, widened: a lane of 32 bits holds those of two inputs, the first in its low half.
struct Pairs {
    start: *const u16,
    pairs: usize,
}

impl Source for Pairs {
    #[inline(always)]
    unsafe fn load<const LANE: i32>(&self, panel: usize, row: usize) -> [uint8x16_t; 4] {
        let pair = (row + LANE as usize) / 2;
        // SAFETY: the row exists by the caller's promise, and with it the other of its pair.
        unsafe {
            let at = self.start.cast::<u32>().add((panel * self.pairs + pair) * LANES);
            [0, 1, 2, 3].map(|quarter| {
                let lanes = vld1q_u32(at.add(quarter * 4));
                let odd = vandq_u32(lanes, vdupq_n_u32(0xffff_0000));
                vreinterpretq_u8_u32(if LANE % 2 == 0 { vshlq_n_u32::<16>(lanes) } else { odd })
            })
        }
    }
}

/// Unpacks one panel.
///
/// # Safety
/// The panel exists.
unsafe fn widen_pairs(source: &Pairs, out: &mut [f32]) {
    let (rows, _) = out.as_chunks_mut::<LANES>();
    for (pair, out) in rows.as_chunks_mut::<2>().0.iter_mut().take(source.pairs).enumerate() {
        // SAFETY: the pair exists; a row of 16 values is written.
        unsafe {
            let both = [source.load::<0>(0, pair * 2), source.load::<1>(0, pair * 2)];
            for (lanes, out) in both.into_iter().zip(out) {
                super::write(out.as_mut_ptr(), lanes.map(|lanes| vreinterpretq_f32_u8(lanes)));
            }
        }
    }
}
