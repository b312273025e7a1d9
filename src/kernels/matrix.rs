//! Packed weights and their multiplication.

use std::ops::Range;

use super::activations::Activations;
#[cfg(target_arch = "aarch64")]
use super::arm;
use super::isa::Isa;
use super::packed::{DensePanels, IntegerPanels, LANES, PackedZero, Width};
use super::pool::Pool;
use super::profile::Part;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::tensor::{ActivationScheme, DenseFormat, QuantizedTensor};

/// Tokens up to which kernels stream the packed weights once (decode); above, they are unpacked into a scratch block
/// that many tokens share (prefill).
pub(super) const GEMV_TOKENS: usize = 4;
/// Products `tokens * rows * cols` below which waking other threads costs more than it saves.
const SPLIT_PRODUCTS: usize = 64 * 1024;

/// A weight matrix `(rows = out_features, cols = in_features)` packed for the kernels of one instruction set family.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    weights: Weights,
    /// The input that each packed column multiplies; `None` when they are in order.
    input_order: Option<Box<[u32]>>,
}

#[derive(Debug)]
enum Weights {
    Dense(DensePanels),
    Integer {
        panels: IntegerPanels,
        activations: ActivationScheme,
        /// Sums of the weights of every row, where inputs have zero points.
        row_sums: Option<Vec<f32>>,
    },
}

/// Where a product goes: `(tokens, rows)` row-major. Threads write disjoint columns.
pub(super) struct Output {
    pub start: *mut f32,
    pub tokens: usize,
    pub rows: usize,
}

// SAFETY: threads write disjoint elements: `Matrix::multiply_on` gives each its own panels.
unsafe impl Sync for Output {}

impl Output {
    /// Writes `y[token][row]`; only from the thread that owns the row's panel.
    pub fn set(&self, token: usize, row: usize, value: f32) {
        assert!(token < self.tokens && row < self.rows);
        // SAFETY: inside the array (asserted), and no other thread writes this row.
        unsafe { self.start.add(token * self.rows + row).write(value) };
    }

    /// Adds to `y[token][row]`; only from the thread that owns the row's panel.
    pub fn add(&self, token: usize, row: usize, value: f32) {
        assert!(token < self.tokens && row < self.rows);
        // SAFETY: as above.
        unsafe { *self.start.add(token * self.rows + row) += value };
    }
}

impl Matrix {
    /// Packs a dense matrix from row-major f32 values. `row(i, buffer)` writes row `i`; it is called from several
    /// threads. Values are rounded to the format half to even.
    pub fn from_rows(
        format: DenseFormat,
        rows: usize,
        cols: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Matrix {
        let weights = Weights::Dense(DensePanels::pack(format, rows, cols, row));
        Matrix { rows, cols, weights, input_order: None }
    }

    /// Packs a quantized matrix: codes of 2 to 4 bits in 4 (in 8 where groups are not multiples of 32 columns), of 5 to
    /// 8 bits in 8.
    ///
    /// # Errors
    /// When no kernel runs this scheme exactly; the message says which schemes there are.
    pub fn from_quantized(weight: &QuantizedTensor, activations: ActivationScheme) -> Result<Matrix, String> {
        let row_sums = activations.has_zero_points().then(|| weight.row_sums());
        let weights = Weights::Integer { panels: IntegerPanels::pack(weight)?, activations, row_sums };
        let input_order = weight.input_order.as_deref().map(Box::from);
        Ok(Matrix { rows: weight.rows, cols: weight.cols, weights, input_order })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Format of floating-point weights; `None` where they are quantized.
    pub fn dense_format(&self) -> Option<DenseFormat> {
        match &self.weights {
            Weights::Dense(panels) => Some(panels.format()),
            Weights::Integer { .. } => None,
        }
    }

    /// Whether inputs are rounded to 8 bits for it.
    pub fn has_8_bit_inputs(&self) -> bool {
        matches!(&self.weights, Weights::Integer { activations, .. } if *activations != ActivationScheme::None)
    }

    /// Packed bytes, scales, padding and order of inputs included.
    pub fn bytes(&self) -> usize {
        let order = self.input_order.as_deref().map_or(0, size_of_val);
        order
            + match &self.weights {
                Weights::Dense(panels) => panels.bytes(),
                Weights::Integer { panels, row_sums, .. } => {
                    panels.bytes() + row_sums.as_deref().map_or(0, size_of_val)
                }
            }
    }

    /// Name of the kernel that multiplies `tokens` rows: `x86_64-w8a8-avx512vnni-gemv`, `x86_64-f16-avx2-gemm`,
    /// `scalar-w8a8`.
    pub fn kernel_name(&self, isa: Isa, tokens: usize) -> String {
        let numbers = match &self.weights {
            Weights::Dense(panels) => match panels.format() {
                DenseFormat::F32 => "f32",
                DenseFormat::F16 => "f16",
                DenseFormat::Bf16 => "bf16",
            },
            Weights::Integer { panels, activations, .. } => match (panels.width, activations) {
                (Width::Int4, ActivationScheme::None) => "w4a16",
                (Width::Int4, _) => "w4a8",
                (Width::Int8, ActivationScheme::None) => "w8a16",
                (Width::Int8, _) => "w8a8",
            },
        };
        let phase = if tokens <= GEMV_TOKENS { "gemv" } else { "gemm" };
        let int8 =
            !matches!(&self.weights, Weights::Dense(_) | Weights::Integer { activations: ActivationScheme::None, .. });
        let bf16 = matches!(&self.weights, Weights::Dense(DensePanels::Bf16(_)));
        let features = match (isa.base(), &self.weights) {
            _ if uses_tiles(isa, tokens) && (int8 || bf16) => "amx",
            _ if isa == Isa::AvxVnni && int8 => "avxvnni",
            (Isa::Avx512Vnni, Weights::Dense(DensePanels::Bf16(_))) if has_avx512_bf16() => "avx512bf16",
            (Isa::Avx512Vnni, Weights::Dense(DensePanels::Bf16(_))) => "avx2",
            (Isa::Avx512Vnni, Weights::Dense(_)) => "avx512",
            (Isa::Avx512Vnni, Weights::Integer { .. }) => "avx512vnni",
            (Isa::Avx2, _) => "avx2",
            (Isa::Neon, Weights::Dense(DensePanels::Bf16(_))) if has_neon_bf16(isa) => "neon-bf16",
            (Isa::Neon, Weights::Dense(_)) => "neon",
            (Isa::Neon, Weights::Integer { .. }) => isa.name(),
            _ => return format!("scalar-{numbers}"),
        };
        format!("{}-{numbers}-{features}-{phase}", std::env::consts::ARCH)
    }

    /// Writes weight row `row` as f32: embedding lookup. Exactly the values that [`Matrix::multiply`] uses.
    ///
    /// # Panics
    /// When `row` is outside the matrix or `out` is not `cols` long.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        match &self.weights {
            Weights::Dense(panels) => {
                out.iter_mut().enumerate().for_each(|(k, o)| *o = panels.weight(self.cols, row, k));
            }
            Weights::Integer { panels, .. } => {
                let input = |k| self.input_order.as_ref().map_or(k, |order| order[k] as usize);
                (0..self.cols).for_each(|k| out[input(k)] = panels.weight(row, k));
            }
        }
    }

    /// `y[t][r] = sum over c of x[t][c] * w[r][c]`, `y` being `(x.tokens(), rows)` row-major and overwritten.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub fn multiply(&self, pool: &Pool, x: &mut Activations, y: &mut [f32]) {
        self.multiply_on(Isa::active(), pool, x, y);
    }

    /// As [`Matrix::multiply`] with a given instruction set: for tests, benchmarks and cross checks.
    ///
    /// # Panics
    /// When the processor lacks `isa`, or the sizes do not fit.
    pub fn multiply_on(&self, isa: Isa, pool: &Pool, x: &mut Activations, y: &mut [f32]) {
        assert!(isa.runs(), "this processor lacks {isa}");
        assert_eq!(x.features(), self.cols, "inputs must have the matrix's {} columns", self.cols);
        assert_eq!(y.len(), x.tokens() * self.rows, "outputs must be (tokens, rows)");
        let y = Output { start: y.as_mut_ptr(), tokens: x.tokens(), rows: self.rows };
        if y.tokens == 0 {
            return;
        }
        let x = match &self.input_order {
            None => x,
            Some(order) => pool.part(Part::Inputs, || x.gathered(pool, order)),
        };
        match &self.weights {
            Weights::Dense(w) => self.multiply_dense(w, isa, pool, x, &y),
            Weights::Integer { panels: w, activations: ActivationScheme::None, .. } => {
                self.multiply_weight_only(w, isa, pool, x, &y);
            }
            Weights::Integer { panels: w, activations, row_sums } => {
                self.multiply_integers(w, *activations, row_sums.as_deref(), isa, pool, x, &y);
            }
        }
    }

    /// Gives each thread a share of the panels.
    fn split(&self, pool: &Pool, tokens: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        let worthwhile = tokens * self.rows * self.cols >= SPLIT_PRODUCTS;
        pool.split(self.rows.div_ceil(LANES), 1, worthwhile, task);
    }

    fn multiply_dense(&self, w: &DensePanels, isa: Isa, pool: &Pool, x: &mut Activations, y: &Output) {
        match w {
            #[cfg(target_arch = "x86_64")]
            DensePanels::Bf16(w) if uses_tiles(isa, y.tokens) => {
                let x = pool.part(Part::Inputs, || {
                    x.make_bf16_tiles(pool);
                    x.bf16(pool)
                });
                // SAFETY: the processor has AMX; the weights were packed for `rows` and `cols`, which `x` has, in tiles.
                self.split(pool, y.tokens, &|panels| unsafe { x86::amx::dense_bf16(w, self.cols, x, y, panels) });
            }
            #[cfg(target_arch = "x86_64")]
            DensePanels::Bf16(w) if isa.base() == Isa::Avx512Vnni && has_avx512_bf16() => {
                let x = pool.part(Part::Inputs, || x.bf16(pool));
                // SAFETY: the features are present; the weights were packed for `rows` and `cols`.
                self.split(pool, y.tokens, &|panels| unsafe { x86::avx512::dense_bf16(w, self.cols, x, y, panels) });
            }
            #[cfg(target_arch = "aarch64")]
            DensePanels::Bf16(w) if has_neon_bf16(isa) => {
                let x = pool.part(Part::Inputs, || x.bf16(pool));
                // SAFETY: the instruction is present; the weights were packed for `rows` and `cols`.
                self.split(pool, y.tokens, &|panels| unsafe { arm::dense_bf16(w, self.cols, x, y, panels) });
            }
            w => {
                let x = pool.part(Part::Inputs, || match w {
                    DensePanels::Bf16(_) => x.bf16_widened(pool),
                    _ => x.float(pool, false, None),
                });
                self.split(pool, y.tokens, &|panels| match isa.base() {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: `isa` is available; the weights were packed for `rows` and `cols`.
                    base @ (Isa::Avx2 | Isa::Avx512Vnni) => unsafe { x86::dense(base, w, self.cols, x, y, panels) },
                    #[cfg(target_arch = "aarch64")]
                    // SAFETY: the weights were packed for `rows` and `cols`.
                    Isa::Neon => unsafe { arm::dense(w, self.cols, x, y, panels) },
                    _ => scalar::dense(w, self.cols, x, y, panels),
                });
            }
        }
    }

    /// Quantized weights times floating-point inputs: in 16-bit fixed point where integers are the faster way.
    fn multiply_weight_only(&self, w: &IntegerPanels, isa: Isa, pool: &Pool, x: &mut Activations, y: &Output) {
        match isa.base() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                let x = pool.part(Part::Inputs, || x.fixed_point(isa, pool, w.input_block()));
                let kernel = x86::avx512_weight_only::weight_only;
                // SAFETY: `isa` is available; the inputs have the matrix's columns, padded, in its blocks.
                self.split(pool, y.tokens, &|panels| unsafe { kernel(w, x, y, panels) });
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                let x = pool.part(Part::Inputs, || x.fixed_point(isa, pool, w.input_block()));
                // SAFETY: `isa` is available; the inputs have the matrix's columns, padded, in its blocks.
                self.split(pool, y.tokens, &|panels| unsafe { arm::weight_only(isa, w, x, y, panels) });
            }
            base => {
                let sums_of = matches!(w.zero, PackedZero::Offsets(_)).then_some(w.group);
                let x = pool.part(Part::Inputs, || x.float(pool, true, sums_of));
                self.split(pool, y.tokens, &|panels| match base {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: `isa` is available; the inputs have the matrix's columns, padded.
                    Isa::Avx2 => unsafe { x86::avx2::weight_only(w, x, y, panels) },
                    _ => scalar::weight_only(w, x, y, panels),
                });
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a quantized weight and of a call")]
    fn multiply_integers(
        &self,
        w: &IntegerPanels,
        activations: ActivationScheme,
        row_sums: Option<&[f32]>,
        isa: Isa,
        pool: &Pool,
        x: &mut Activations,
        y: &Output,
    ) {
        let tiles = uses_tiles(isa, y.tokens);
        let x = pool.part(Part::Inputs, || {
            if tiles {
                x.make_int8_tiles(pool, activations, w.group);
            }
            x.int8(pool, activations, w.group)
        });
        self.split(pool, y.tokens, &|panels| {
            match isa.base() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has AMX; the inputs have the matrix's columns, in tiles.
                _ if tiles => unsafe { x86::amx_integer::integer(w, x, y, panels.clone()) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `isa` is available; the inputs have the matrix's columns, padded.
                Isa::Avx512Vnni => unsafe { x86::avx512_integer::integer(w, x, y, panels.clone()) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Isa::Avx2 => unsafe { x86::avx2_integer::integer(w, x, y, panels.clone(), isa == Isa::AvxVnni) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                Isa::Neon => unsafe { arm::integer(isa, w, x, y, panels.clone()) },
                _ => scalar::integer(w, x, y, panels.clone()),
            }
            if let Some(row_sums) = row_sums {
                scalar::subtract_zero_points(row_sums, x, y, panels);
            }
        });
    }
}

/// Whether products of this many tokens use the tiles of AMX, where it has such numbers.
fn uses_tiles(isa: Isa, tokens: usize) -> bool {
    isa == Isa::Amx && tokens > GEMV_TOKENS
}

/// Whether AVX-512 kernels may use `vdpbf16ps`.
pub(super) fn has_avx512_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether kernels of `isa` may use `bfdot`.
pub(super) fn has_neon_bf16(isa: Isa) -> bool {
    #[cfg(target_arch = "aarch64")]
    return isa == Isa::NeonI8mm && std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(target_arch = "aarch64"))]
    {
        _ = isa;
        false
    }
}
