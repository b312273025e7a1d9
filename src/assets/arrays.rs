//! Integer arrays of a safetensors data file: tokens and choice items that are shipped without their text.
//!
//! The `safetensors` crate checks the header (contiguous, whole, no overflow); this module checks kind, types and
//! ranges, so that readers above meet numbers they can index with.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};

/// A data file, with the faults that its readers report.
pub(super) struct Arrays<'b> {
    place: String,
    tensors: SafeTensors<'b>,
    metadata: HashMap<String, String>,
}

impl<'b> Arrays<'b> {
    /// Reads the header of a whole file of the `kind` that its metadata must name.
    pub(super) fn parse(path: &Path, bytes: &'b [u8], kind: &str) -> Result<Self> {
        let place = path.display().to_string();
        let damaged = |e| Error::input(&place, format!("no whole safetensors file ({e}); fetch it again"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let arrays = Arrays { metadata: header.metadata().clone().unwrap_or_default(), tensors, place };
        match arrays.metadata.get("kind") {
            Some(found) if found == kind => Ok(arrays),
            Some(found) => Err(arrays.fault(format!("metadata `kind` is {found:?}, expected {kind:?}"))),
            None => Err(arrays.fault(format!("metadata has no `kind`, expected {kind:?}; is it a model's file?"))),
        }
    }

    /// An error of this file.
    pub(super) fn fault(&self, problem: impl Into<String>) -> Error {
        Error::input(&self.place, problem)
    }

    /// The file's name for later errors.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// A text of the metadata.
    pub(super) fn text(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| self.fault(format!("metadata has no `{key}`")))
    }

    /// A JSON list of texts in the metadata.
    pub(super) fn list(&self, key: &str) -> Result<Vec<String>> {
        serde_json::from_str(self.text(key)?)
            .map_err(|e| self.fault(format!("metadata `{key}`: expected a JSON list of texts: {e}")))
    }

    /// A vector of unsigned numbers, whatever their width.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<u32>> {
        match self.array(name)? {
            (shape, numbers) if shape.len() == 1 => Ok(numbers),
            (shape, _) => Err(self.fault(format!("tensor \"{name}\": expected one dimension, got shape {shape:?}"))),
        }
    }

    /// A vector with exactly one number for each of `count` things.
    pub(super) fn vector_of(&self, name: &str, count: usize, things: &str) -> Result<Vec<u32>> {
        let numbers = self.vector(name)?;
        if numbers.len() == count {
            return Ok(numbers);
        }
        Err(self.fault(format!(
            "tensor \"{name}\": expected {count} numbers, one for each of the {things}, got {}",
            numbers.len()
        )))
    }

    /// Genre of each of `count` things, with the genres' names.
    pub(super) fn genres(&self, count: usize, things: &str) -> Result<(Vec<String>, Vec<usize>)> {
        let names = self.list("genres")?;
        let genres = self.vector_of("genres", count, things)?;
        if let Some(wrong) = genres.iter().find(|genre| **genre as usize >= names.len()) {
            return Err(self.fault(format!("tensor \"genres\": genre {wrong} is not one of the {} named", names.len())));
        }
        Ok((names, genres.into_iter().map(|genre| genre as usize).collect()))
    }

    /// Shape and unsigned numbers of a tensor, row-major.
    pub(super) fn array(&self, name: &str) -> Result<(Vec<usize>, Vec<u32>)> {
        let tensor = self.tensors.tensor(name).map_err(|_| {
            let known = self.tensors.names().join(", ");
            self.fault(format!("has no tensor \"{name}\"; it has: {known}"))
        })?;
        Ok((tensor.shape().to_vec(), self.numbers(name, &tensor)?))
    }

    fn numbers(&self, name: &str, tensor: &TensorView<'_>) -> Result<Vec<u32>> {
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::U8 => Ok(data.iter().map(|byte| u32::from(*byte)).collect()),
            Dtype::U16 => Ok(data.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect()),
            Dtype::U32 => Ok(data.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()),
            other => Err(self.fault(format!("tensor \"{name}\": expected U8, U16 or U32, got {other}"))),
        }
    }
}
