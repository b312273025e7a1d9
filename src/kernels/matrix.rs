//! Packed weights and their multiplication.

use std::ops::Range;

use super::activations::{Activations, InputForm, IntegerInput};
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
            (Isa::Avx512Vnni, Weights::Dense(DensePanels::Bf16(_))) if has_bf16(isa) => "avx512bf16",
            (Isa::Avx512Vnni, Weights::Dense(DensePanels::Bf16(_))) => "avx2",
            (Isa::Avx512Vnni, Weights::Dense(_)) => "avx512",
            (Isa::Avx512Vnni, Weights::Integer { .. }) => "avx512vnni",
            (Isa::Avx2, _) => "avx2",
            (Isa::Neon, Weights::Dense(DensePanels::Bf16(_))) if has_bf16(isa) => "neon-bf16",
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
        multiply_all_on(isa, pool, x, [(self, y)]);
    }

    /// Panels of 16 output features.
    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The form of the inputs that the kernel for so many tokens takes; `None` where it reads the columns in another
    /// order.
    pub(super) fn own_input_form(&self, isa: Isa, tokens: usize) -> Option<InputForm> {
        self.input_order.is_none().then(|| self.input_form(isa, tokens))
    }

    fn input_form(&self, isa: Isa, tokens: usize) -> InputForm {
        let tiles = uses_tiles(isa, tokens);
        match &self.weights {
            Weights::Dense(DensePanels::Bf16(_)) if has_bf16(isa) => InputForm::Bf16 { tiles },
            Weights::Dense(DensePanels::Bf16(_)) => InputForm::Bf16Widened,
            Weights::Dense(_) => InputForm::Float { padded: false, sums_of: None },
            Weights::Integer { panels, activations: ActivationScheme::None, .. } => match isa.base() {
                Isa::Avx512Vnni | Isa::Neon => InputForm::FixedPoint { block: panels.input_block() },
                _ => {
                    let sums_of = matches!(panels.zero, PackedZero::Offsets(_)).then_some(panels.group);
                    InputForm::Float { padded: true, sums_of }
                }
            },
            Weights::Integer { panels, activations, .. } => {
                InputForm::Int8 { scheme: *activations, group: panels.group, tiles }
            }
        }
    }

    /// Multiplies some panels by inputs that were made into `form`, which is [`Matrix::input_form`].
    fn multiply_panels(&self, isa: Isa, form: InputForm, x: &Activations, y: &Output, panels: Range<usize>) {
        match &self.weights {
            Weights::Dense(w) => self.multiply_dense(w, isa, form, x, y, panels),
            Weights::Integer { panels: w, activations: ActivationScheme::None, .. } => {
                multiply_weight_only(w, isa, form, x, y, panels);
            }
            Weights::Integer { panels: w, row_sums, .. } => {
                let x = x.int8(form);
                multiply_integers(w, isa, x, y, panels.clone());
                if let Some(row_sums) = row_sums {
                    scalar::subtract_zero_points(row_sums, x, y, panels);
                }
            }
        }
    }

    fn multiply_dense(
        &self,
        w: &DensePanels,
        isa: Isa,
        form: InputForm,
        x: &Activations,
        y: &Output,
        panels: Range<usize>,
    ) {
        match w {
            #[cfg(target_arch = "x86_64")]
            DensePanels::Bf16(w) if uses_tiles(isa, y.tokens) => {
                // SAFETY: the processor has AMX; the weights were packed for `rows` and `cols`, which `x` has, in tiles.
                unsafe { x86::amx::dense_bf16(w, self.cols, x.bf16(form), y, panels) }
            }
            #[cfg(target_arch = "x86_64")]
            DensePanels::Bf16(w) if has_bf16(isa) => {
                // SAFETY: the features are present; the weights were packed for `rows` and `cols`.
                unsafe { x86::avx512::dense_bf16(w, self.cols, x.bf16(form), y, panels) }
            }
            #[cfg(target_arch = "aarch64")]
            DensePanels::Bf16(w) if has_bf16(isa) => {
                // SAFETY: the instruction is present; the weights were packed for `rows` and `cols`.
                unsafe { arm::dense_bf16(w, self.cols, x.bf16(form), y, panels) }
            }
            w => match isa.base() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `isa` is available; the weights were packed for `rows` and `cols`.
                base @ (Isa::Avx2 | Isa::Avx512Vnni) => unsafe {
                    x86::dense(base, w, self.cols, x.float(form), y, panels);
                },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: the weights were packed for `rows` and `cols`.
                Isa::Neon => unsafe { arm::dense(w, self.cols, x.float(form), y, panels) },
                _ => scalar::dense(w, self.cols, x.float(form), y, panels),
            },
        }
    }
}

/// Quantized weights times floating-point inputs: in 16-bit fixed point where integers are the faster way.
fn multiply_weight_only(
    w: &IntegerPanels,
    isa: Isa,
    form: InputForm,
    x: &Activations,
    y: &Output,
    panels: Range<usize>,
) {
    match isa.base() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is available; the inputs have the matrix's columns, padded, in its blocks.
        Isa::Avx512Vnni => unsafe {
            x86::avx512_weight_only::weight_only(w, x.fixed_point(w.input_block()), y, panels);
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `isa` is available; the inputs have the matrix's columns, padded, in its blocks.
        Isa::Neon => unsafe { arm::weight_only(isa, w, x.fixed_point(w.input_block()), y, panels) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is available; the inputs have the matrix's columns, padded.
        Isa::Avx2 => unsafe { x86::avx2::weight_only(w, x.float(form), y, panels) },
        _ => scalar::weight_only(w, x.float(form), y, panels),
    }
}

/// Quantized weights times 8-bit inputs, without the part of their zero points.
fn multiply_integers(w: &IntegerPanels, isa: Isa, x: IntegerInput<'_>, y: &Output, panels: Range<usize>) {
    match isa.base() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AMX; the inputs have the matrix's columns, in tiles.
        _ if uses_tiles(isa, y.tokens) => unsafe { x86::amx_integer::integer(w, x, y, panels) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is available; the inputs have the matrix's columns, padded.
        Isa::Avx512Vnni => unsafe { x86::avx512_integer::integer(w, x, y, panels) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::avx2_integer::integer(w, x, y, panels, isa == Isa::AvxVnni) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { arm::integer(isa, w, x, y, panels) },
        _ => scalar::integer(w, x, y, panels),
    }
}

/// Multiplies the same inputs by several matrices, each with its result as for [`Matrix::multiply`]. Those that take the
/// inputs in the same form are shared out over the threads together, so that threads wait for each other once.
///
/// # Panics
/// When the sizes do not fit.
pub fn multiply_all<const N: usize>(pool: &Pool, x: &mut Activations, products: [(&Matrix, &mut [f32]); N]) {
    multiply_all_on(Isa::active(), pool, x, products);
}

fn multiply_all_on<const N: usize>(isa: Isa, pool: &Pool, x: &mut Activations, products: [(&Matrix, &mut [f32]); N]) {
    assert!(isa.runs(), "this processor lacks {isa}");
    let tokens = x.tokens();
    let products = products.map(|(matrix, y)| {
        assert_eq!(x.features(), matrix.cols, "inputs must have the matrix's {} columns", matrix.cols);
        assert_eq!(y.len(), tokens * matrix.rows, "outputs must be (tokens, rows)");
        (matrix, Output { start: y.as_mut_ptr(), tokens, rows: matrix.rows })
    });
    if tokens == 0 {
        return;
    }
    let form = |matrix: &Matrix| matrix.own_input_form(isa, tokens);
    let same = products.iter().all(|(matrix, _)| form(matrix).is_some() && form(matrix) == form(products[0].0));
    for together in products.chunks(if same { N } else { 1 }) {
        multiply_together(isa, pool, x, together);
    }
}

/// Products with matrices that take the inputs in the same form and order.
fn multiply_together(isa: Isa, pool: &Pool, x: &mut Activations, products: &[(&Matrix, Output)]) {
    let (first, tokens) = (products[0].0, x.tokens());
    let form = first.input_form(isa, tokens);
    let x = &*pool.part(Part::Inputs, || {
        let x = match &first.input_order {
            None => x,
            Some(order) => x.gathered(pool, order),
        };
        x.make(isa, pool, form);
        x
    });
    let weights: usize = products.iter().map(|(matrix, _)| matrix.rows * matrix.cols).sum();
    let panels = products.iter().map(|(matrix, _)| matrix.panels()).sum();
    pool.split(panels, 1, tokens * weights >= SPLIT_PRODUCTS, &|share| {
        let mut start = 0;
        for (matrix, y) in products {
            let end = start + matrix.panels();
            let own = share.start.clamp(start, end) - start..share.end.clamp(start, end) - start;
            if !own.is_empty() {
                matrix.multiply_panels(isa, form, x, y, own);
            }
            start = end;
        }
    });
}

/// Whether products of this many tokens use the tiles of AMX, where it has such numbers.
fn uses_tiles(isa: Isa, tokens: usize) -> bool {
    isa == Isa::Amx && tokens > GEMV_TOKENS
}

/// Whether kernels of `isa` multiply pairs of bfloat16: `vdpbf16ps`, `bfdot`.
pub fn has_bf16(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa.base() == Isa::Avx512Vnni && is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return isa == Isa::NeonI8mm && std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        _ = isa;
        false
    }
}
