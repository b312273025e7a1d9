//! The header of a safetensors file: names, types, shapes and places of its tensors, and its `__metadata__`.
//!
//! The `safetensors` crate reads and checks it (contiguous, whole, no overflow); this module says in words what is
//! wrong, with the tensor's name where there is one.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};

use crate::error::{Error, Result};

/// A tensor as described in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// Bytes of the file.
    pub(super) bytes: Range<usize>,
}

/// Bytes that hold the length of the header.
const LENGTH: usize = 8;

/// Reads the header of a whole file; `place` names it in errors. Tensors are in the order of their bytes; with them come
/// the texts of `__metadata__` by name.
pub(super) fn parse(place: &str, bytes: &[u8]) -> Result<(Vec<Tensor>, HashMap<String, String>)> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| Error::input(place, explain(&error, bytes)))?;
    Ok((tensors(&metadata, LENGTH + header), metadata.metadata().clone().unwrap_or_default()))
}

fn tensors(metadata: &Metadata, data_start: usize) -> Vec<Tensor> {
    let described = |name: String| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        let (dtype, shape) = (info.dtype, info.shape.clone());
        Some(Tensor { name, dtype, shape, bytes: data_start + start..data_start + end })
    };
    metadata.offset_keys().into_iter().filter_map(described).collect()
}

/// What is wrong, in words.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    const ZIP: &[u8] = b"PK\x03\x04";
    const PICKLE: u8 = 0x80;
    if bytes.starts_with(ZIP) || bytes.first() == Some(&PICKLE) && bytes.get(1).is_some_and(|&b| b <= 5) {
        return "expected safetensors, got a zip or pickle file, which can run code when read; convert the model to \
                safetensors"
            .into();
    }
    let header_end = bytes.get(..LENGTH).map(|length| {
        let length = length.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        length.saturating_add(LENGTH as u64)
    });
    let size = bytes.len();
    match (error, header_end) {
        (SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooLarge, Some(end)) => {
            format!("the header ends at byte {end}, the file at byte {size}; it is truncated or no safetensors file")
        }
        (SafeTensorError::HeaderTooSmall, _) => format!("{size} bytes are too few for a header; fetch the file again"),
        (SafeTensorError::InvalidHeader(_) | SafeTensorError::InvalidHeaderDeserialization(_), _) => {
            format!("the header is not that of a safetensors file: {error}; fetch the file again")
        }
        (_, Some(end)) => culprit(bytes, end as usize).unwrap_or_else(|| format!("{error}; the file is damaged")),
        (_, None) => format!("{error}; the file is damaged"),
    }
}

/// The first tensor, in the order of bytes, that does not fit: what it needs and what there is.
fn culprit(bytes: &[u8], data_start: usize) -> Option<String> {
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes.get(LENGTH..data_start)?).ok()?;
    let described = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let described = described.map(|(name, info)| Some((name, serde_json::from_value::<TensorInfo>(info).ok()?)));
    let mut described = described.collect::<Option<Vec<_>>>()?;
    described.sort_by_key(|(_, info)| info.data_offsets);
    let present = bytes.len() - data_start;
    let mut expected_start = 0;
    for (name, info) in described {
        let (start, end) = info.data_offsets;
        let elements = info.shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        let needed = elements.and_then(|n| n.checked_mul(info.dtype.bitsize())).map(|bits| bits.div_ceil(8));
        let Some(needed) = needed else {
            return Some(format!("tensor \"{name}\": shape {:?} is absurd; the file is damaged", info.shape));
        };
        if start != expected_start || end < start {
            return Some(format!(
                "tensor \"{name}\": expected its bytes to start at {expected_start}, got {start}..{end}; the file is \
                 damaged"
            ));
        }
        if end - start != needed {
            let (shape, dtype, got) = (info.shape, info.dtype, end - start);
            return Some(format!(
                "tensor \"{name}\": shape {shape:?} of {dtype} needs {needed} bytes, got {got}; the file is damaged"
            ));
        }
        if end > present {
            return Some(format!(
                "tensor \"{name}\" ends at byte {end} of the data, the file has {present}; it is truncated, fetch it \
                 again"
            ));
        }
        expected_start = end;
    }
    let extra = present - expected_start;
    Some(format!("{extra} bytes follow the last tensor; the file is damaged, fetch it again"))
}
