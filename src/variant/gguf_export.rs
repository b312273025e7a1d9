//! A checkpoint as a GGUF file that other programs load, with every weight exactly as it is.
//!
//! Matrices keep their format, norms and biases are F32, quantized tensors go into the blocks that hold them exactly
//! ([`super::gguf_blocks`]); nothing is rounded. The finished file is opened again and compared bit for bit before it
//! gets its name. Metadata and row order are those of llama.cpp's own conversion (`convert_hf_to_gguf.py`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use half::{bf16, f16};

use super::gguf_blocks::encode;
use super::gguf_metadata::{Metadata, model_metadata, tokenizer_metadata};
use super::gguf_writer::GgufWriter;
use super::{Order, build, rotation};
use crate::checkpoint::{Checkpoint, FREQUENCY_FACTORS, StoredTensor, gguf_name};
use crate::error::{Error, Result};
use crate::network::{Architecture, Config, frequency_factors};
use crate::results::{Artefact, folder_of};
use crate::tensor::ActivationScheme;

/// What a GGUF file came out as.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The file.
    pub artefact: Artefact,
    /// Tensors by format.
    pub formats: BTreeMap<&'static str, usize>,
    /// What of the variant a GGUF file does not say.
    pub notes: Vec<&'static str>,
}

/// Makes the variant of `order`, or takes the imported one, and writes it to the GGUF file `into` (a new file).
/// `progress` as in [`build()`].
///
/// # Errors
/// As [`build()`]; a tensor that no block format holds exactly, a tokenizer that a GGUF file cannot describe.
pub fn build_gguf(order: &Order<'_>, into: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Exported> {
    let start = Instant::now();
    let parent = folder_of(into);
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
    let beside = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(parent)
        .map_err(|e| Error::io(parent, "create a folder in", e))?;
    // Before the long work, as either may be refused.
    let source = Checkpoint::open(order.import.unwrap_or(order.model))?;
    refuse_rotated_stream(&source, order)?;
    let tokenizer = tokenizer_metadata(&source)?;
    let mut artefact = build(order, &beside.path().join("artefact"), progress)?;
    let checkpoint = Checkpoint::open(Path::new(&artefact.path))?;
    let unnamed = beside.path().join("model.gguf");
    let title = into.file_stem().unwrap_or_default().to_string_lossy();
    let written = Export::new(&checkpoint, beside.path())?.write(&title, tokenizer, &unnamed)?;
    check_same(&checkpoint, &unnamed)?;
    fs::rename(&unnamed, into).map_err(|e| Error::io(into, "rename the finished file to", e))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| Error::io(parent, "write", e))?;
    artefact.path = into.display().to_string();
    artefact.file_bytes = fs::metadata(into).map_err(|e| Error::io(into, "read", e))?.len();
    artefact.seconds = start.elapsed().as_secs_f64();
    artefact.bits_per_weight =
        (written.quantized_weights > 0).then(|| 8.0 * written.block_bytes as f64 / written.quantized_weights as f64);
    Ok(Exported { artefact, formats: written.formats, notes: written.notes })
}

/// A GGUF file cannot say that the residual stream is rotated at run time.
fn refuse_rotated_stream(source: &Checkpoint, order: &Order<'_>) -> Result<()> {
    let place = source.path().display().to_string();
    let config = Config::from_json(&place, source.config())?;
    if config.rotation_seed.is_none() && !(config.tied_head && rotation::rotates(order.recipe)) {
        return Ok(());
    }
    let problem =
        "the head is tied, so the residual stream is rotated while the model runs, which a GGUF file cannot say";
    Err(Error::input(place, format!("{problem}; leave `rotation` out, or write the compressed-tensors format")))
}

/// What has been written.
#[derive(Debug, Default)]
struct Written {
    formats: BTreeMap<&'static str, usize>,
    notes: Vec<&'static str>,
    quantized_weights: usize,
    block_bytes: usize,
}

/// A GGUF file in the making.
struct Export<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    writer: GgufWriter,
    written: Written,
}

impl<'a> Export<'a> {
    /// Begins a file; what must wait lies unnamed in `folder`.
    fn new(checkpoint: &'a Checkpoint, folder: &Path) -> Result<Self> {
        let config = Config::from_json(&checkpoint.path().display().to_string(), checkpoint.config())?;
        Ok(Export { checkpoint, config, writer: GgufWriter::create(folder)?, written: Written::default() })
    }

    /// Writes the whole file to `path`; `title` is the model's name in it.
    fn write(mut self, title: &str, tokenizer: Metadata, path: &Path) -> Result<Written> {
        let failed = |e| Error::io(path, "write", e);
        if tokenizer.is_empty() {
            self.note(
                "the model has no tokenizer.json, so the file has no vocabulary, and other programs may refuse it",
            );
        }
        if self.config.sliding_window.is_some_and(|window| window < self.config.max_positions) {
            self.note("llama.cpp does not read the sliding window of a llama: contexts longer than it give other results there");
        }
        if let Some(factors) = frequency_factors(&self.config) {
            let model_type = &self.config.model_type;
            if !matches!(model_type.as_str(), "llama" | "mistral") {
                let problem =
                    format!("a GGUF file cannot state the scaling llama3 of rotary frequencies in a {model_type}");
                return Err(Error::input(
                    self.checkpoint.path().display(),
                    format!("{problem}; write the compressed-tensors format"),
                ));
            }
            let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            self.writer.add(FREQUENCY_FACTORS, 0, &[factors.len()], &bytes).map_err(failed)?;
        }
        for name in Architecture::of(self.checkpoint)?.kept_tensors(self.checkpoint)? {
            self.add(&name)?;
            self.checkpoint.release(&name);
        }
        let file_type = self.file_type();
        let mut metadata = model_metadata(&self.config, title, file_type);
        metadata.extend(tokenizer);
        let mut file = File::create(path).map_err(failed)?;
        self.writer.finish(&metadata, &mut file).map_err(failed)?;
        Ok(self.written)
    }

    /// Adds the tensor of a published name.
    fn add(&mut self, name: &str) -> Result<()> {
        let fault =
            |problem: String| Error::input(format!("{}: tensor \"{name}\"", self.checkpoint.path().display()), problem);
        let gguf = gguf_name(name).ok_or_else(|| fault("has no name in a GGUF file".into()))?;
        let stored = self.checkpoint.tensor(name)?;
        let (shape, (type_id, format), bytes) = match stored {
            StoredTensor::Dense { shape, values, stored_as } => {
                let rows = self.stored_rows(name, shape.first().copied().unwrap_or(1));
                let kind = if shape.len() < 2 { "f32" } else { stored_as };
                let (kind, bytes) = dense(&values, &rows, kind);
                (shape, kind, bytes)
            }
            StoredTensor::Quantized(tensor, activations) => {
                if activations != ActivationScheme::None {
                    self.note(
                        "8-bit inputs are not said in a GGUF file; programs that read it round inputs their own way",
                    );
                }
                let rows = self.stored_rows(name, tensor.rows);
                let (block, bytes) = encode(&tensor, &rows).map_err(|problem| {
                    fault(format!(
                        "{problem}; nothing is rounded to fit: keep this tensor dense (overrides, keep = \"dense\"), \
                         or write the compressed-tensors format"
                    ))
                })?;
                self.written.quantized_weights += tensor.codes.len();
                self.written.block_bytes += bytes.len();
                (vec![tensor.rows, tensor.cols], block.type_id(), bytes)
            }
        };
        *self.written.formats.entry(format).or_default() += 1;
        self.writer.add(&gguf, type_id, &shape, &bytes).map_err(|e| Error::io(self.checkpoint.path(), "copy", e))
    }

    /// The published rows of a tensor in the order of the file: llama's query and key rows have rotary partners side by
    /// side, which are half a head apart as published.
    fn stored_rows(&self, name: &str, rows: usize) -> Vec<usize> {
        let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
        if !rotated || !matches!(self.config.model_type.as_str(), "llama" | "mistral") {
            return (0..rows).collect();
        }
        let head_dim = self.config.head_dim;
        let published = |row: usize| {
            let (head, inside) = (row / head_dim, row % head_dim);
            head * head_dim + inside % 2 * (head_dim / 2) + inside / 2
        };
        (0..rows).map(published).collect()
    }

    /// llama.cpp's number for the format of most matrices.
    fn file_type(&self) -> u32 {
        let matrices = self.written.formats.iter().filter(|(name, _)| **name != "F32");
        match matrices.max_by_key(|(_, tensors)| **tensors).map_or("F32", |(name, _)| *name) {
            "F16" => 1,
            "Q4_0" => 2,
            "Q4_1" => 3,
            "Q8_0" => 7,
            "Q5_0" => 8,
            "Q5_1" => 9,
            "BF16" => 32,
            _ => 0,
        }
    }

    fn note(&mut self, note: &'static str) {
        if !self.written.notes.contains(&note) {
            self.written.notes.push(note);
        }
    }
}

/// Type and bytes of a dense tensor in the format that it was stored in; `values` by row, in the order of `rows`.
fn dense(values: &[f32], rows: &[usize], stored_as: &str) -> ((u32, &'static str), Vec<u8>) {
    let cols = values.len() / rows.len();
    let ordered = rows.iter().flat_map(|row| &values[row * cols..][..cols]);
    match stored_as {
        "f16" => ((1, "F16"), ordered.flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()),
        "bf16" => ((30, "BF16"), ordered.flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()),
        _ => ((0, "F32"), ordered.flat_map(|value| value.to_le_bytes()).collect()),
    }
}

/// Opens the file and compares every weight with the original, bit for bit.
fn check_same(original: &Checkpoint, file: &Path) -> Result<()> {
    let written = Checkpoint::open(file)?;
    Architecture::of(&written)?;
    for name in written.names().iter().filter(|name| *name != FREQUENCY_FACTORS) {
        let (expected, got) = (original.tensor_f32(name)?, written.tensor_f32(name)?);
        let same = expected.1.iter().zip(&got.1).all(|(a, b)| a.to_bits() == b.to_bits());
        if expected.0 != got.0 || !same {
            let place = format!("{}: tensor \"{name}\"", original.path().display());
            return Err(Error::input(place, "is not in the GGUF file as it is; please report it with this model"));
        }
        original.release(name);
        written.release(name);
    }
    Ok(())
}
