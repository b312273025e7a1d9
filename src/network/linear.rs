//! Linear layers and norms: tensors of a checkpoint, packed for the kernels.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{Error, Result};
use crate::kernels::{Activations, Isa, KvFormat, Matrix, Part, Pool, multiply_all, rows};
use crate::network::head::EMBEDDING;
use crate::results::KernelUse;
use crate::tensor::DenseFormat;

/// How to load a network.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadOptions {
    /// Format of all matrices, quantized ones included (they are dequantized); `None` keeps what is stored: quantized
    /// tensors run on integer kernels, floating-point ones in their own format.
    pub dense: Option<DenseFormat>,
    /// Storage of keys and values; `None` is what suits the weights of the blocks: 32 bits or f16 where all are that, else
    /// bfloat16 where the model was published in it, or all are that or have 8-bit inputs, else f16.
    pub kv_cache: Option<KvFormat>,
}

impl LoadOptions {
    /// Format of a floating-point matrix that is stored as `f32`, `f16`, `bf16`.
    pub(super) fn dense_format(self, stored_as: &str) -> DenseFormat {
        self.dense.unwrap_or(match stored_as {
            "f32" => DenseFormat::F32,
            "bf16" => DenseFormat::Bf16,
            _ => DenseFormat::F16,
        })
    }
}

/// A packed weight with its bias.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Loads `{name}.weight`, `(rows, cols)`, and where `bias` says so `{name}.bias`.
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor, or a scheme without a kernel.
    pub fn load(
        checkpoint: &Checkpoint,
        name: &str,
        (rows, cols): (usize, usize),
        bias: bool,
        options: LoadOptions,
    ) -> Result<Self> {
        let weight = load_matrix(checkpoint, &format!("{name}.weight"), (rows, cols), options)?;
        let bias = if bias { Some(load_vector(checkpoint, &format!("{name}.bias"), rows)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// The packed weight.
    pub fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// Replaces the weight of the layer `name` and returns the one before; the bias stays.
    ///
    /// # Errors
    /// Another shape.
    pub fn set_weight(&mut self, name: &str, weight: Matrix) -> Result<Matrix> {
        let (expected, got) = ((self.weight.rows(), self.weight.cols()), (weight.rows(), weight.cols()));
        if expected != got {
            return Err(Error::input(name, format!("expected a weight of shape {expected:?}, got {got:?}")));
        }
        Ok(std::mem::replace(&mut self.weight, weight))
    }

    /// Bytes of weight and bias.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice()))
    }

    /// `y = x w`, without the bias; `y` is `(x.tokens(), rows)`.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub fn multiply(&self, pool: &Pool, x: &mut Activations, y: &mut [f32]) {
        pool.part(Part::Linear, || self.weight.multiply(pool, x, y));
    }

    /// The bias; empty where there is none.
    pub fn bias(&self) -> &[f32] {
        self.bias.as_deref().unwrap_or_default()
    }

    /// The bias, to be replaced by one of the same length.
    pub fn bias_mut(&mut self) -> Option<&mut Vec<f32>> {
        self.bias.as_mut()
    }

    /// `y = x w + bias`, resized to `(x.tokens(), rows)`.
    pub fn apply(&self, pool: &Pool, x: &mut Activations, y: &mut Vec<f32>) {
        apply_all(pool, x, [(self, y)]);
    }
}

/// [`Linear::apply`] of several layers to the same inputs.
pub(super) fn apply_all<const N: usize>(pool: &Pool, x: &mut Activations, mut layers: [(&Linear, &mut Vec<f32>); N]) {
    let products = layers.each_mut().map(|(layer, y)| {
        y.resize(x.tokens() * layer.weight.rows(), 0.0);
        (&layer.weight, y.as_mut_slice())
    });
    pool.part(Part::Linear, || multiply_all(pool, x, products));
    for (layer, y) in layers {
        if let Some(bias) = &layer.bias {
            rows::add_bias(pool, y, bias);
        }
    }
}

/// Storage of keys and values that suits all these layers: 32 bits or f16 where all weights are that; else bfloat16 where the
/// model was published in it, since its keys and values may exceed the range of f16, or where all weights are bfloat16 or
/// have 8-bit inputs, which round more than it does; else f16.
pub(super) fn kv_format<'a>(linears: impl Iterator<Item = &'a Linear> + Clone, published_in_bf16: bool) -> KvFormat {
    let all = |test: &dyn Fn(&Matrix) -> bool| linears.clone().all(|linear| test(&linear.weight));
    let all_are = |format| all(&|weight| weight.dense_format() == Some(format));
    let in_bf16 = |weight: &Matrix| weight.dense_format() == Some(DenseFormat::Bf16) || weight.has_8_bit_inputs();
    if all_are(DenseFormat::F32) {
        KvFormat::F32
    } else if all_are(DenseFormat::F16) {
        KvFormat::F16
    } else if published_in_bf16 || all(&in_bf16) {
        KvFormat::Bf16
    } else {
        KvFormat::F16
    }
}

/// The kernels of matrices, each with a phase and the rows that it multiplies in it, by phase and name.
pub(super) fn kernel_uses<'a>(matrices: impl Iterator<Item = (&'static str, &'a Matrix, usize)>) -> Vec<KernelUse> {
    let mut uses = BTreeMap::<(&str, String), (usize, u64)>::new();
    for (phase, matrix, rows) in matrices {
        let entry = uses.entry((phase, matrix.kernel_name(Isa::active(), rows))).or_default();
        *entry = (entry.0 + 1, entry.1 + matrix.bytes() as u64);
    }
    uses.into_iter()
        .map(|((phase, kernel), (matrices, bytes))| KernelUse { phase: phase.to_owned(), kernel, matrices, bytes })
        .collect()
}

/// Loads and packs a matrix.
///
/// # Errors
/// A missing or wrongly shaped tensor, or a scheme without a kernel.
pub(super) fn load_matrix(
    checkpoint: &Checkpoint,
    name: &str,
    (rows, cols): (usize, usize),
    options: LoadOptions,
) -> Result<Matrix> {
    check_shape(checkpoint, name, &[rows, cols])?;
    let dense = |format, read: &(dyn Fn(usize, &mut [f32]) + Sync)| {
        dense_matrix(format, (rows, cols), read).map_err(|problem| fault(checkpoint, name, problem))
    };
    let matrix = if let Some(stored) = checkpoint.dense_rows(name) {
        dense(options.dense_format(stored.stored_as()), &|row, out| stored.read(row, out))?
    } else {
        let StoredTensor::Quantized(tensor, activations) = checkpoint.tensor(name)? else {
            return Err(fault(checkpoint, name, "expected a matrix"));
        };
        match options.dense {
            Some(format) => dense(format, &|row, out| tensor.row_to_f32(row, out))?,
            None => Matrix::from_quantized(&tensor, activations).map_err(|problem| fault(checkpoint, name, problem))?,
        }
    };
    checkpoint.release(name);
    Ok(matrix)
}

/// Packs the rows that `read` gives; a value that the format cannot hold would spoil every answer.
fn dense_matrix(
    format: DenseFormat,
    (rows, cols): (usize, usize),
    read: &(dyn Fn(usize, &mut [f32]) + Sync),
) -> std::result::Result<Matrix, String> {
    let problem = Mutex::new(None);
    let matrix = Matrix::from_rows(format, rows, cols, &|row, out| {
        read(row, out);
        if let Some(text) = unfit(format, out, |column| format!("({row}, {column})")) {
            problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        }
    });
    problem.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(matrix), Err)
}

/// What is wrong with the first of `values` that `format` does not hold as a finite number; `place` tells where it is.
pub(super) fn unfit(format: DenseFormat, values: &[f32], place: impl Fn(usize) -> String) -> Option<String> {
    let (end, largest, remedy) = match format {
        DenseFormat::F16 => (F16_ENDS, "65504, the largest f16", "take bf16 or f32 (--as bf16, dtype = \"bf16\")"),
        DenseFormat::Bf16 => (BF16_ENDS, "3.39e38, the largest bf16", "take f32 (--as fp32, dtype = \"f32\")"),
        DenseFormat::F32 => (f32::INFINITY, "", ""),
    };
    let at = values.iter().position(|value| value.is_nan() || value.abs() >= end)?;
    let (value, place) = (values[at], place(at));
    Some(match value.is_finite() {
        true => format!("weight {place} is {value:e}, beyond {largest}; {remedy}"),
        false => format!("weight {place} is {value}; the file is damaged, fetch it again"),
    })
}

/// The largest f16, and the least numbers that round to infinity.
pub(super) const LARGEST_F16: f32 = 65504.0;
pub(super) const F16_ENDS: f32 = 65520.0;
const BF16_ENDS: f32 = f32::from_bits(0x7f7f_8000);

/// Loads a norm's weight or a bias.
///
/// # Errors
/// A missing or wrongly sized tensor, or one that holds an infinity or NaN.
pub(super) fn load_vector(checkpoint: &Checkpoint, name: &str, length: usize) -> Result<Vec<f32>> {
    check_shape(checkpoint, name, &[length])?;
    let values = checkpoint.tensor_f32(name)?.1;
    match unfit(DenseFormat::F32, &values, |at| format!("({at})")) {
        Some(problem) => Err(fault(checkpoint, name, problem)),
        None => Ok(values),
    }
}

/// Whether a model was published in bfloat16, or is a quantized form of one that was: as its configuration says
/// (`torch_dtype`, `dtype` since transformers 5), else as its embedding is stored.
pub fn published_in_bf16(checkpoint: &Checkpoint) -> bool {
    let config = checkpoint.config();
    let stated = config["torch_dtype"].as_str().or(config["dtype"].as_str());
    match stated {
        Some(dtype) => dtype.trim_start_matches("torch.") == "bfloat16",
        None => checkpoint.dense_rows(EMBEDDING).is_some_and(|rows| rows.stored_as() == "bf16"),
    }
}

/// Replaces the vector called `name`, if the block has it.
///
/// # Errors
/// No such vector, or another length.
pub(super) fn replace(name: &str, vector: Option<&mut Vec<f32>>, values: Vec<f32>) -> Result<()> {
    match vector {
        Some(vector) if vector.len() == values.len() => *vector = values,
        Some(vector) => {
            return Err(Error::input(name, format!("expected {} values, got {}", vector.len(), values.len())));
        }
        None => return Err(Error::input(name, "a block has no such vector that can be replaced")),
    }
    Ok(())
}

/// Refuses a tensor that is missing or has another shape.
pub(super) fn check_shape(checkpoint: &Checkpoint, name: &str, expected: &[usize]) -> Result<()> {
    match checkpoint.shape(name) {
        Some(shape) if shape == expected => Ok(()),
        Some(shape) => {
            Err(fault(checkpoint, name, format!("expected shape {expected:?} by the model's config, got {shape:?}")))
        }
        None => {
            Err(fault(checkpoint, name, "is missing; fetch the model again, or check that its config belongs to it"))
        }
    }
}

/// That of a tensor of a checkpoint.
pub(super) fn fault(checkpoint: &Checkpoint, name: &str, problem: impl std::fmt::Display) -> Error {
    Error::input(checkpoint.path().display(), format!("tensor \"{name}\": {problem}"))
}
