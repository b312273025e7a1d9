//! Exact sums of products of codes: by the lanes of one row of inputs ([`ByLane`]), or of two rows by two at a time
//! ([`ByPair`]).

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::arithmetic::Arithmetic;
use super::tile::{Bits, Bytes, FlippedBytes, HighNibbles, LowNibbles, Stored, add_rows, load_codes};
use crate::kernels::packed::{BLOCK, IntegerPanels, LANES, Width};

/// How codes lie in memory.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// The int8 layout.
    Bytes,
    /// The int8 layout with 128 added to every code.
    FlippedBytes,
    /// The int4 layout.
    Nibbles,
    /// `[k / 8][8][2][8]`: eight consecutive inputs of two lanes in a register.
    Pairs,
}

/// Codes of the panels of a tile.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub start: *const u8,
    pub panel_bytes: usize,
    pub form: Form,
    /// What is added to a code in `form`, once it is loaded.
    pub base: i32,
}

/// A way to make the sums.
pub(super) trait Dots {
    /// Unpacks a panel for many tokens.
    ///
    /// # Safety
    /// The panel exists, and `out` holds `w.k * 16` bytes.
    unsafe fn unpacked(w: &IntegerPanels, panel: usize, out: *mut u8) -> Codes;

    /// The sums of inputs `from..from + count` of M rows with P panels; both numbers are multiples of 16, of nibbles 32.
    ///
    /// # Safety
    /// The processor has the instructions; inputs and panels exist.
    unsafe fn dots<const M: usize, const P: usize>(
        codes: Codes,
        inputs: [*const u8; M],
        from: usize,
        count: usize,
    ) -> [[[int32x4_t; 4]; P]; M];
}

/// Four codes of every lane with four inputs, by `A`.
pub(super) struct ByLane<A>(PhantomData<A>);

impl<A: Arithmetic<Sum = int32x4_t>> ByLane<A> {
    /// Codes as they are stored, from panel `panel` on.
    pub(super) fn stored(w: &IntegerPanels, panel: usize) -> Codes {
        let form = match w.width {
            Width::Int4 => Form::Nibbles,
            Width::Int8 if Self::flips(w) => Form::FlippedBytes,
            Width::Int8 => Form::Bytes,
        };
        let base = if Self::flips(w) { 0 } else { w.base() };
        let panel_bytes = w.panel_bytes();
        Codes { start: w.codes[panel * panel_bytes..].as_ptr(), panel_bytes, form, base }
    }

    /// Whether stored bytes become signed.
    fn flips(w: &IntegerPanels) -> bool {
        A::SIGNED && w.width == Width::Int8 && w.base() == 128
    }
}

impl<A: Arithmetic<Sum = int32x4_t>> Dots for ByLane<A> {
    unsafe fn unpacked(w: &IntegerPanels, panel: usize, out: *mut u8) -> Codes {
        let codes = Self::stored(w, panel);
        // SAFETY: the caller's promise.
        unsafe {
            match codes.form {
                Form::FlippedBytes => unpack(w, codes.start, FlippedBytes, out, |rows| rows),
                _ => unpack(w, codes.start, Bytes, out, |rows| rows),
            }
        }
        Codes { start: out, panel_bytes: w.k * LANES, form: Form::Bytes, base: codes.base }
    }

    #[inline(always)]
    unsafe fn dots<const M: usize, const P: usize>(
        codes: Codes,
        inputs: [*const u8; M],
        from: usize,
        count: usize,
    ) -> [[[int32x4_t; 4]; P]; M] {
        let mut sums = [[[A::zero(); 4]; P]; M];
        // SAFETY: the caller's promise.
        unsafe {
            match codes.form {
                Form::Bytes => add_bytes::<A, M, P>(&mut sums, codes, Bytes, inputs, from, count),
                Form::FlippedBytes => add_bytes::<A, M, P>(&mut sums, codes, FlippedBytes, inputs, from, count),
                Form::Nibbles => {
                    for half in from / 32..(from + count) / 32 {
                        if half % 2 == 0 {
                            add_nibbles::<A, M, P>(&mut sums, codes, LowNibbles, inputs, half);
                        } else {
                            add_nibbles::<A, M, P>(&mut sums, codes, HighNibbles, inputs, half);
                        }
                    }
                }
                Form::Pairs => unreachable!("pairs are read by `ByPair`"),
            }
        }
        sums
    }
}

/// Adds inputs `from..from + count` of the int8 layout.
///
/// # Safety
/// As [`Dots::dots`].
#[inline(always)]
unsafe fn add_bytes<A: Arithmetic, const M: usize, const P: usize>(
    sums: &mut [[[A::Sum; 4]; P]; M],
    codes: Codes,
    bits: impl Bits,
    inputs: [*const u8; M],
    from: usize,
    count: usize,
) {
    // SAFETY: a row of the layout holds four inputs.
    unsafe {
        let source = Stored { start: codes.start.add(from * LANES), panel_bytes: codes.panel_bytes, bits };
        add_rows::<A, M, P>(sums, count / 4, inputs.map(|inputs| inputs.add(from)), &source);
    }
}

/// Adds the 32 inputs of half a block of the int4 layout.
///
/// # Safety
/// As [`Dots::dots`].
#[inline(always)]
unsafe fn add_nibbles<A: Arithmetic, const M: usize, const P: usize>(
    sums: &mut [[[A::Sum; 4]; P]; M],
    codes: Codes,
    bits: impl Bits,
    inputs: [*const u8; M],
    half: usize,
) {
    // SAFETY: the 8 rows of a block hold both its halves.
    unsafe {
        let start = codes.start.add(half / 2 * (BLOCK * LANES / 2));
        let source = Stored { start, panel_bytes: codes.panel_bytes, bits };
        add_rows::<A, M, P>(sums, 8, inputs.map(|inputs| inputs.add(half * 32)), &source);
    }
}

/// Writes a stored panel as bytes: nibbles are taken apart, and `bits` makes codes of bytes. `arrange` orders the
/// registers of two rows.
///
/// # Safety
/// `stored` is a panel, and `out` holds `w.k * 16` bytes.
#[inline(always)]
unsafe fn unpack(
    w: &IntegerPanels,
    stored: *const u8,
    bits: impl Bits,
    out: *mut u8,
    arrange: impl Fn([[uint8x16_t; 4]; 2]) -> [[uint8x16_t; 4]; 2],
) {
    // SAFETY: the rows exist; a row that is written is 64 bytes, of which `out` holds `w.k / 4`.
    unsafe {
        let put = |row: usize, rows| {
            for (register, bytes) in arrange(rows).as_flattened().iter().enumerate() {
                vst1q_u8(out.add(row * 64 + register * 16), *bytes);
            }
        };
        let rows = |row: usize| [row, row + 1].map(|row| load_codes(Bytes, stored.add(row * 64)));
        match w.width {
            Width::Int8 => {
                for row in (0..w.k / 4).step_by(2) {
                    put(row, rows(row).map(|row| row.map(|bytes| bits.of(bytes))));
                }
            }
            Width::Int4 => {
                for row in (0..w.k / 8).step_by(2) {
                    // 8 rows of nibbles for each block become 16 rows of bytes.
                    let to = row / 8 * 16 + row % 8;
                    put(to, rows(row).map(|row| row.map(|bytes| LowNibbles.of(bytes))));
                    put(to + 8, rows(row).map(|row| row.map(|bytes| HighNibbles.of(bytes))));
                }
            }
        }
    }
}

/// Eight codes of two lanes with eight inputs of two rows at once, by `usmmla` of I8MM.
pub(super) struct ByPair;

impl Dots for ByPair {
    unsafe fn unpacked(w: &IntegerPanels, panel: usize, out: *mut u8) -> Codes {
        let stored = w.codes[panel * w.panel_bytes()..].as_ptr();
        // SAFETY: the caller's promise; the lanes of two rows of four inputs become pairs of lanes of eight.
        unsafe {
            unpack(w, stored, Bytes, out, |[first, second]| {
                let pair = |quarter: usize| {
                    let (a, b) = (vreinterpretq_u32_u8(first[quarter]), vreinterpretq_u32_u8(second[quarter]));
                    [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
                };
                let [[a, b], [c, d], [e, f], [g, h]] = [pair(0), pair(1), pair(2), pair(3)];
                [[a, b, c, d], [e, f, g, h]]
            });
        }
        Codes { start: out, panel_bytes: w.k * LANES, form: Form::Pairs, base: w.base() }
    }

    #[inline(always)]
    unsafe fn dots<const M: usize, const P: usize>(
        codes: Codes,
        inputs: [*const u8; M],
        from: usize,
        count: usize,
    ) -> [[[int32x4_t; 4]; P]; M] {
        // SAFETY: NEON is part of aarch64.
        let zero = unsafe { vdupq_n_s32(0) };
        // Those of rows `m` and `m + 1` stand at even `m`; a last row without another is paired with itself.
        let mut sums = [[[zero; 8]; P]; M];
        // SAFETY: 16 inputs of each row and their 256 bytes of each panel exist by the caller's promise.
        unsafe {
            for at in (from..from + count).step_by(16) {
                for m in (0..M).step_by(2) {
                    let rows = [m, (m + 1).min(M - 1)];
                    let [a, b] = rows.map(|row| vreinterpretq_u64_u8(vld1q_u8(inputs[row].add(at))));
                    let inputs = [vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))];
                    for p in 0..P {
                        let weights = codes.start.add(p * codes.panel_bytes + at * LANES);
                        for (eight, inputs) in inputs.into_iter().enumerate() {
                            for (pair, sum) in sums[m][p].iter_mut().enumerate() {
                                *sum = add_pair(*sum, vld1q_u8(weights.add((eight * 8 + pair) * 16)), inputs);
                            }
                        }
                    }
                }
            }
            let mut dots = [[[zero; 4]; P]; M];
            for m in 0..M {
                for p in 0..P {
                    for quarter in 0..4 {
                        // Two lanes of both rows each: rows of inputs alternate.
                        let (a, b) = (sums[m / 2 * 2][p][2 * quarter], sums[m / 2 * 2][p][2 * quarter + 1]);
                        dots[m][p][quarter] = if m % 2 == 0 { vuzp1q_s32(a, b) } else { vuzp2q_s32(a, b) };
                    }
                }
            }
            dots
        }
    }
}

/// `sum` with the products of two lanes (eight unsigned codes each) and two rows of eight signed inputs:
/// `[lane 0 row 0, lane 0 row 1, lane 1 row 0, lane 1 row 1]`.
///
/// # Safety
/// The processor has I8MM.
#[inline(always)]
pub(super) unsafe fn add_pair(mut sum: int32x4_t, weights: uint8x16_t, inputs: uint8x16_t) -> int32x4_t {
    // SAFETY: registers only; the processor has the extension by the caller's promise.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "usmmla {sum:v}.4s, {weights:v}.16b, {inputs:v}.16b",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            inputs = in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
