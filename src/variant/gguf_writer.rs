//! The GGUF container, version 3, little endian: metadata, then tensor descriptions, then aligned data.
//!
//! The descriptions come before the data and hold its offsets, so tensors are spooled to a file of their own first.
//! Source: the format's specification (`ggml/docs/gguf.md`).

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that the start of the data and of every tensor is a multiple of: the format's default.
const ALIGNMENT: usize = 32;

/// A metadata value.
#[derive(Debug)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Integers(Vec<u32>),
    Texts(Vec<String>),
}

/// An unfinished GGUF file.
#[derive(Debug)]
pub(super) struct GgufWriter {
    spool: BufWriter<File>,
    spooled: u64,
    descriptions: Vec<u8>,
    tensors: u64,
}

impl GgufWriter {
    /// Begins a file; the spool lies unnamed in `folder`.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let spool = tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, "create a file in", e))?;
        Ok(GgufWriter { spool: BufWriter::new(spool), spooled: 0, descriptions: Vec::new(), tensors: 0 })
    }

    /// Adds a tensor of ggml type `type_id`; `shape` outermost first, `bytes` row-major.
    pub(super) fn add(&mut self, name: &str, type_id: u32, shape: &[usize], bytes: &[u8]) -> io::Result<()> {
        put_text(&mut self.descriptions, name);
        self.descriptions.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| self.descriptions.extend((size as u64).to_le_bytes()));
        self.descriptions.extend(type_id.to_le_bytes());
        self.descriptions.extend(self.spooled.to_le_bytes());
        self.tensors += 1;
        self.spool.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.spool.write_all(&[0; ALIGNMENT][..padding])?;
        self.spooled += (bytes.len() + padding) as u64;
        Ok(())
    }

    /// Writes the whole file to `out` and makes it durable.
    pub(super) fn finish(self, metadata: &[(String, Value)], out: &mut File) -> io::Result<()> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend(self.tensors.to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            put_value(&mut header, value);
        }
        header.extend(self.descriptions);
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header)?;
        let mut spool = self.spool.into_inner().map_err(io::IntoInnerError::into_error)?;
        spool.rewind()?;
        io::copy(&mut spool, out)?;
        out.sync_all()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value behind the number of its type.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const TEXT: u32 = 8;
    const ARRAY: u32 = 9;
    let put_list = |out: &mut Vec<u8>, kind: u32, length: usize| {
        out.extend(ARRAY.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((length as u64).to_le_bytes());
    };
    match value {
        Value::U32(number) => {
            out.extend(U32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            out.extend(F32.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        Value::Bool(yes) => {
            out.extend(BOOL.to_le_bytes());
            out.push(u8::from(*yes));
        }
        Value::Text(text) => {
            out.extend(TEXT.to_le_bytes());
            put_text(out, text);
        }
        Value::Integers(numbers) => {
            // Token types, the one list of numbers, are signed wherever such files are made and read.
            put_list(out, I32, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Value::Texts(texts) => {
            put_list(out, TEXT, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
    }
}
