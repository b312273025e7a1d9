//! The GGUF container, versions 2 and 3, little endian: metadata, then tensor descriptions, then aligned data.
//!
//! Source: the format's specification (`ggml/docs/gguf.md`). The file is untrusted: every count and length is held
//! against the bytes that are left before anything is allocated, and every tensor against the size of the file.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::gguf_blocks;
use super::storage::Format;
use crate::error::{Error, Result};
use crate::units;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: usize = 4;

/// Most metadata entries and tensors: a hundred times those of any published model.
const MAX_METADATA: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 17;
/// Longest list that is kept, outside the vocabulary: one entry for each block.
const MAX_LIST: usize = 1 << 12;
/// Longest list of the vocabulary.
const MAX_VOCABULARY: usize = 1 << 22;
/// Longest text that is kept.
const MAX_TEXT: usize = 1 << 20;
/// Lists that may be as long as a vocabulary.
const VOCABULARY: [&str; 3] = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];

/// A metadata value. Integers of all widths become `i128`, or `i64` in lists, floats `f64`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
    /// A list or a text that is longer than any that a reader asks for: not kept, so that a file of one gigabyte takes no
    /// more memory than its model.
    Long,
}

/// Metadata by key.
pub(super) type Metadata = HashMap<String, Value>;

/// A tensor as described in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    /// GGUF name: `blk.0.attn_q.weight`.
    pub(super) name: String,
    /// Outermost first (the file has them innermost first).
    pub(super) shape: Vec<usize>,
    pub(super) format: Format,
    /// Bytes of the file.
    pub(super) bytes: Range<usize>,
}

/// Reads metadata and tensor descriptions of a whole file; `place` names it in errors. Tensors are in the order of the
/// descriptions; their ranges lie inside the file and do not overlap.
pub(super) fn parse(place: &str, bytes: &[u8]) -> Result<(Metadata, Vec<Tensor>)> {
    let mut cursor = Cursor { place, bytes, at: 0 };
    let (metadata_count, tensor_count) = cursor.header()?;
    let mut metadata = Metadata::new();
    for _ in 0..metadata_count {
        let key = cursor.text("a metadata key")?;
        let value = cursor.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(Error::input(place, format!("metadata key \"{key}\" appears twice; the file is damaged")));
        }
        metadata.insert(key, value);
    }
    let alignment = alignment(place, &metadata)?;
    let described = (0..tensor_count).map(|_| cursor.tensor()).collect::<Result<Vec<_>>>()?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = described.into_iter().map(|tensor| tensor.locate(place, data_start, alignment, bytes.len()));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    check_apart(place, &tensors)?;
    Ok((metadata, tensors))
}

fn alignment(place: &str, metadata: &Metadata) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Some(DEFAULT_ALIGNMENT),
        Some(Value::Integer(n)) => u64::try_from(*n).ok().filter(|n| n.is_power_of_two() && *n <= 1 << 20),
        Some(_) => None,
    }
    .ok_or_else(|| {
        let problem = "general.alignment: expected a power of two up to 1048576; the file is damaged";
        Error::input(place, problem)
    })
}

/// Refuses tensors that share bytes or names.
fn check_apart(place: &str, tensors: &[Tensor]) -> Result<()> {
    let mut names = HashSet::new();
    if let Some(twin) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        return Err(Error::input(place, format!("tensor \"{}\" appears twice; the file is damaged", twin.name)));
    }
    let mut by_start: Vec<&Tensor> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.bytes.start);
    for pair in by_start.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            let problem = format!(
                "tensors \"{}\" (bytes {}..{}) and \"{}\" (bytes {}..{}) overlap; the file is damaged",
                pair[0].name,
                pair[0].bytes.start,
                pair[0].bytes.end,
                pair[1].name,
                pair[1].bytes.start,
                pair[1].bytes.end
            );
            return Err(Error::input(place, problem));
        }
    }
    Ok(())
}

/// A tensor's description, not yet held against the file.
struct Description {
    name: String,
    /// Innermost first.
    dimensions: Vec<u64>,
    type_id: u32,
    /// From the start of the data.
    offset: u64,
}

impl Description {
    fn locate(self, place: &str, data_start: u64, alignment: u64, file_size: usize) -> Result<Tensor> {
        let fault = |problem: String| Error::input(format!("{place}: tensor \"{}\"", self.name), problem);
        let format = format_of(self.type_id).map_err(fault)?;
        let block = format.block_elements() as u64;
        if !self.dimensions[0].is_multiple_of(block) {
            let (columns, name) = (self.dimensions[0], format.name());
            return Err(fault(format!(
                "{columns} columns are not whole {name} blocks of {block}; the file is damaged"
            )));
        }
        if block > 1 && self.dimensions.len() != 2 {
            let dimensions = self.dimensions.len();
            return Err(fault(format!("expected a matrix in {}, got {dimensions} dimensions", format.name())));
        }
        if !self.offset.is_multiple_of(alignment) {
            return Err(fault(format!(
                "offset {} is not a multiple of the alignment {alignment}; the file is damaged",
                self.offset
            )));
        }
        let elements = self.dimensions.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
        let size = elements.and_then(|n| (n / block).checked_mul(format.block_bytes() as u64));
        let start = data_start.checked_add(self.offset);
        let (Some(size), Some(start)) = (size, start) else {
            return Err(fault(format!("shape {:?} is absurd; the file is damaged", self.dimensions)));
        };
        match start.checked_add(size) {
            Some(end) if end <= file_size as u64 => Ok(Tensor {
                name: self.name,
                shape: self.dimensions.iter().rev().map(|&d| d as usize).collect(),
                format,
                bytes: start as usize..end as usize,
            }),
            _ => Err(fault(format!(
                "needs {} from byte {start}, the file ends at byte {file_size}; it is truncated, fetch it again",
                units::bytes(size)
            ))),
        }
    }
}

/// The format of a ggml type number.
fn format_of(type_id: u32) -> std::result::Result<Format, String> {
    Ok(match type_id {
        0 => Format::F32,
        1 => Format::F16,
        30 => Format::Bf16,
        _ => match gguf_blocks::FORMATS.iter().find(|blocks| blocks.type_id == type_id) {
            Some(blocks) => Format::Blocks(blocks),
            None => {
                let name = match type_id {
                    16..=19 | 21 | 22 | 29 => "an IQ format of 1 to 3 bits",
                    34 | 35 => "a ternary format",
                    39 => "MXFP4",
                    _ => "unknown",
                };
                let blocks = gguf_blocks::FORMATS.each_ref().map(|blocks| blocks.name.to_uppercase()).join(", ");
                return Err(format!(
                    "ggml type {type_id} ({name}) is not supported; supported: F32, F16, BF16, {blocks}"
                ));
            }
        },
    })
}

/// An element of a list; numbers beyond 63 bits, which no reader takes, become the largest.
fn narrowed(integer: i128) -> i64 {
    i64::try_from(integer).unwrap_or(i64::MAX)
}

/// A position in an untrusted file.
struct Cursor<'a> {
    place: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn fault(&self, problem: impl Into<String>) -> Error {
        Error::input(format!("{}: byte {}", self.place, self.at), problem)
    }

    /// Magic, version and the two counts: metadata entries, tensors.
    fn header(&mut self) -> Result<(usize, usize)> {
        let magic = self.take(4, "the magic number")?;
        if magic != MAGIC {
            return Err(Error::input(self.place, format!("expected the magic GGUF, got {}", magic.escape_ascii())));
        }
        match self.u32("the version")? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(Error::input(self.place, "a big-endian GGUF file is not supported; convert it"));
            }
            version => {
                let problem = format!("GGUF version {version} is not supported; supported: 2, 3");
                return Err(Error::input(self.place, problem));
            }
        }
        // Smallest tensor: name length, dimension count, one dimension, type, offset. Smallest entry: key length,
        // type, one byte.
        let tensors = self.count(8 + 4 + 8 + 4 + 8, "the number of tensors")?;
        let metadata = self.count(8 + 4 + 1, "the number of metadata entries")?;
        for (count, limit, what) in [(tensors, MAX_TENSORS, "tensors"), (metadata, MAX_METADATA, "metadata entries")] {
            if count > limit {
                return Err(self.fault(format!("{count} {what}, expected at most {limit}; the file is damaged")));
            }
        }
        Ok((metadata, tensors))
    }

    fn take(&mut self, size: usize, what: &str) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        if size > left {
            return Err(self.fault(format!("{what} needs {size} bytes, {left} are left; the file is truncated")));
        }
        self.at += size;
        Ok(&self.bytes[self.at - size..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `smallest` bytes each, which must fit in what is left of the file.
    fn count(&mut self, smallest: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let room = (self.bytes.len() - self.at) / smallest;
        usize::try_from(count).ok().filter(|count| *count <= room).ok_or_else(|| {
            self.fault(format!("{what} is {count}, but the file has room for {room}; it is truncated or damaged"))
        })
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.count(1, what)?;
        let start = self.at;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
            let at = start + error.valid_up_to();
            Error::input(format!("{}: byte {at}", self.place), format!("{what} is not UTF-8; the file is damaged"))
        })
    }

    fn bool(&mut self, what: &str) -> Result<bool> {
        match self.array::<1>(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(self.fault(format!("{what}: expected a boolean, 0 or 1, got {byte}; the file is damaged"))),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        const ARRAY: u32 = 9;
        match self.u32(key)? {
            ARRAY => {
                let element = self.u32(key)?;
                self.list(element, key)
            }
            kind @ (6 | 12) => self.float(kind, key).map(Value::Float),
            7 => self.bool(key).map(Value::Bool),
            8 => match self.skip_text(key, MAX_TEXT)? {
                true => Ok(Value::Long),
                false => self.text(key).map(Value::Text),
            },
            kind => self.integer(kind, key).map(Value::Integer),
        }
    }

    fn list(&mut self, kind: u32, key: &str) -> Result<Value> {
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.fault(format!("{key}: an array of arrays is not supported"))),
            _ => return Err(self.unknown_kind(kind, key)),
        };
        let count = self.count(smallest, key)?;
        if count > MAX_LIST && !VOCABULARY.contains(&key) {
            return self.skip(kind, smallest, count, key);
        }
        if count > MAX_VOCABULARY {
            return Err(self.fault(format!("{key} has {count} entries, expected at most {MAX_VOCABULARY}")));
        }
        Ok(match kind {
            6 | 12 => Value::Floats((0..count).map(|_| self.float(kind, key)).collect::<Result<_>>()?),
            7 => Value::Bools((0..count).map(|_| self.bool(key)).collect::<Result<_>>()?),
            8 => Value::Texts((0..count).map(|_| self.text(key)).collect::<Result<_>>()?),
            _ => Value::Integers((0..count).map(|_| self.integer(kind, key).map(narrowed)).collect::<Result<_>>()?),
        })
    }

    /// Goes behind a list of `count` elements of at least `smallest` bytes.
    fn skip(&mut self, kind: u32, smallest: usize, count: usize, key: &str) -> Result<Value> {
        if kind == 8 {
            for _ in 0..count {
                self.skip_text(key, 0)?;
            }
        } else {
            // `count` was held against the bytes that are left.
            self.take(count * smallest, key)?;
        }
        Ok(Value::Long)
    }

    /// Goes behind a text of more than `longest` bytes; whether there was one.
    fn skip_text(&mut self, what: &str, longest: usize) -> Result<bool> {
        let start = self.at;
        let length = self.count(1, what)?;
        if length > longest || longest == 0 {
            self.take(length, what)?;
            return Ok(true);
        }
        self.at = start;
        Ok(false)
    }

    fn float(&mut self, kind: u32, key: &str) -> Result<f64> {
        if kind == 6 {
            Ok(f64::from(f32::from_le_bytes(self.array(key)?)))
        } else {
            Ok(f64::from_le_bytes(self.array(key)?))
        }
    }

    fn integer(&mut self, kind: u32, key: &str) -> Result<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(key)?).into(),
            1 => i8::from_le_bytes(self.array(key)?).into(),
            2 => u16::from_le_bytes(self.array(key)?).into(),
            3 => i16::from_le_bytes(self.array(key)?).into(),
            4 => u32::from_le_bytes(self.array(key)?).into(),
            5 => i32::from_le_bytes(self.array(key)?).into(),
            10 => u64::from_le_bytes(self.array(key)?).into(),
            11 => i64::from_le_bytes(self.array(key)?).into(),
            _ => return Err(self.unknown_kind(kind, key)),
        })
    }

    fn unknown_kind(&self, kind: u32, key: &str) -> Error {
        self.fault(format!("{key}: unknown value type {kind}; the file is damaged"))
    }

    fn tensor(&mut self) -> Result<Description> {
        let name = self.text("a tensor name")?;
        let count = self.u32(&name)? as usize;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(self.fault(format!("tensor \"{name}\" has {count} dimensions, expected 1 to {MAX_DIMENSIONS}")));
        }
        let dimensions = (0..count).map(|_| self.u64(&name)).collect::<Result<Vec<_>>>()?;
        if dimensions.contains(&0) {
            return Err(self.fault(format!("tensor \"{name}\" has an empty shape {dimensions:?}")));
        }
        Ok(Description { type_id: self.u32(&name)?, offset: self.u64(&name)?, name, dimensions })
    }
}
