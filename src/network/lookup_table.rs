//! A table of embeddings, row after row: one row is one run of memory, unlike in a packed [`crate::kernels::Matrix`].

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::network::linear::{LoadOptions, check_shape, fault, unfit};
use crate::tensor::DenseFormat;

/// `(rows, width)` floats in the format in which they are stored.
#[derive(Debug)]
pub(super) struct LookupTable {
    width: usize,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl LookupTable {
    /// Loads a tensor of shape `(rows, width)`.
    ///
    /// # Errors
    /// A missing, wrongly shaped or quantized tensor.
    pub fn load(
        checkpoint: &Checkpoint,
        name: &str,
        (rows, width): (usize, usize),
        options: LoadOptions,
    ) -> Result<Self> {
        check_shape(checkpoint, name, &[rows, width])?;
        let Some(stored) = checkpoint.dense_rows(name) else {
            let place = format!("{}: tensor \"{name}\"", checkpoint.path().display());
            return Err(Error::input(place, "is quantized; an encoder's embeddings must be floating-point numbers"));
        };
        let format = options.dense_format(stored.stored_as());
        let mut problem = None;
        let mut all = |read: &mut dyn FnMut(&[f32])| {
            let mut row = vec![0.0; width];
            (0..rows).for_each(|index| {
                stored.read(index, &mut row);
                problem = problem.take().or_else(|| unfit(format, &row, |at| format!("({index}, {at})")));
                read(&row);
            });
        };
        let mut numbers = match format {
            DenseFormat::F32 => Numbers::F32(Vec::with_capacity(rows * width)),
            DenseFormat::F16 => Numbers::F16(Vec::with_capacity(rows * width)),
            DenseFormat::Bf16 => Numbers::Bf16(Vec::with_capacity(rows * width)),
        };
        match &mut numbers {
            Numbers::F32(to) => all(&mut |row| to.extend_from_slice(row)),
            Numbers::F16(to) => all(&mut |row| to.extend(row.iter().map(|&v| f16::from_f32(v)))),
            Numbers::Bf16(to) => all(&mut |row| to.extend(row.iter().map(|&v| bf16::from_f32(v)))),
        }
        if let Some(problem) = problem {
            return Err(fault(checkpoint, name, problem));
        }
        checkpoint.release(name);
        Ok(LookupTable { width, numbers })
    }

    /// Writes row `row`, widened.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not `width` long.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        let range = row * self.width..(row + 1) * self.width;
        match &self.numbers {
            Numbers::F32(from) => out.copy_from_slice(&from[range]),
            Numbers::F16(from) => from[range].convert_to_f32_slice(out),
            Numbers::Bf16(from) => from[range].convert_to_f32_slice(out),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::F32(numbers) => size_of_val(numbers.as_slice()),
            Numbers::F16(numbers) => size_of_val(numbers.as_slice()),
            Numbers::Bf16(numbers) => size_of_val(numbers.as_slice()),
        }
    }
}

/// Whether every token has a row in a vocabulary of `size`; `place` names the model in the error.
///
/// # Errors
/// The first token that has none.
pub(super) fn check_tokens(place: &str, tokens: &[u32], size: usize) -> Result<()> {
    match tokens.iter().find(|&&token| token as usize >= size) {
        None => Ok(()),
        Some(token) => {
            let problem =
                format!("token {token} is outside the vocabulary of {size}; is it another model's tokenizer?");
            Err(Error::input(place, problem))
        }
    }
}
