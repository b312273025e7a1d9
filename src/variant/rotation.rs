//! A decoder rotated before it is quantized, so that no weight and no input stands out (`rotation = "hadamard"`): the
//! rotations of QuaRot (Ashkboos et al. 2024, arXiv:2404.00456) and SpinQuant (Liu et al. 2024, arXiv:2405.16406) that
//! cost nothing at run time, R1 and R2, as randomized Hadamard matrices.
//!
//! | matrix | becomes | reads or writes |
//! |---|---|---|
//! | q, k, gate, up | `W diag(g) R1` | the stream, behind a norm of gains g, which become 1 |
//! | v | `R2ᵀ W diag(g) R1` | the same; the heads of values are rotated too |
//! | o | `R1ᵀ W R2` | the heads; writes to the stream |
//! | down | `R1ᵀ W` | writes to the stream |
//! | embedding, head | `E R1`, `W diag(g) R1` | both ends of the stream, where they are two matrices |
//!
//! A root mean square does not change under a rotation, nor do attention's weights, so the network computes what it did. A
//! tied embedding stays as it is, since its two uses would have to become two matrices: the artefact's `config.json` says that
//! the network rotates the stream behind the embedding and back before the last norm, whose gains stay as well.

use std::path::Path;

use ndarray::ArrayView2;
use rayon::ThreadPool;
use rayon::prelude::*;
use safetensors::Dtype;

use super::plan::{EMBEDDING, HEAD};
use super::safetensors_writer::SafetensorsWriter;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Hadamard, Isa};
use crate::network::{Architecture, Config};
use crate::suite::{Method, Recipe, Rotation};

/// Seed of the signs of both rotations.
const SEED: u64 = 1;
/// Norms of a block.
const INPUT_NORM: &str = "input_layernorm";
const MLP_NORM: &str = "post_attention_layernorm";

/// Whether a recipe rotates the model first.
pub(super) fn rotates(recipe: &Recipe) -> bool {
    matches!(recipe, Recipe::Quantize(Method { rotation: Some(Rotation::Hadamard), .. }))
}

/// Writes the rotated model in 32 bits to the new folder `folder` and opens it; one tensor is in memory at a time.
///
/// # Errors
/// An encoder, a model that is rotated already or too oddly sized, NaN or infinite weights, no space.
pub(super) fn rotate(checkpoint: &Checkpoint, workers: &ThreadPool, folder: &Path) -> Result<Checkpoint> {
    let model = Model::new(checkpoint, workers)?;
    if folder.exists() {
        // Of a build that was killed.
        std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, "remove", e))?;
    }
    std::fs::create_dir(folder).map_err(|e| Error::io(folder, "create", e))?;
    let mut writer = SafetensorsWriter::create(&folder.join("model.safetensors"), folder)?;
    for name in model.architecture.kept_tensors(checkpoint)? {
        let (shape, values) = model.tensor(&name)?;
        writer.add(&name, Dtype::F32, &shape, &values)?;
    }
    writer.finish()?;
    let mut config = checkpoint.config().clone();
    if let Some(keys) = config.as_object_mut() {
        keys.remove("quantization_config");
        if model.config.tied_head {
            model.config.declare_rotation(keys, SEED);
        }
    }
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).map_err(|e| Error::io(&path, "write", e))?;
    Checkpoint::open(folder)
}

/// What surrounds a linear layer.
#[derive(Default)]
struct Sides<'a> {
    /// The norm before it, whose gains are folded into it.
    norm: Option<String>,
    /// Rotation of what it reads.
    inputs: Option<&'a Hadamard>,
    /// Rotation of what it puts out.
    outputs: Option<&'a Hadamard>,
}

/// A decoder and its rotations.
struct Model<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    architecture: Architecture,
    workers: &'a ThreadPool,
    /// R1, of the residual stream.
    stream: Hadamard,
    /// R2, of every head of values.
    head: Hadamard,
}

impl<'a> Model<'a> {
    fn new(checkpoint: &'a Checkpoint, workers: &'a ThreadPool) -> Result<Self> {
        let refuse = |problem: String| Err(Error::input(checkpoint.path().display(), problem));
        let architecture = Architecture::of(checkpoint)?;
        let Architecture::Decoder(config) = architecture.clone() else {
            return refuse(
                "is an encoder, whose layer norms subtract a mean that no rotation keeps; remove `rotation`".into(),
            );
        };
        if config.rotation_seed.is_some() {
            return refuse("is rotated already; remove `rotation`".into());
        }
        let stream = Hadamard::new(config.hidden_size, SEED);
        if stream.order() == 1 {
            let size = config.hidden_size;
            return refuse(format!("no Hadamard matrix fits hidden_size {size}, which is odd; remove `rotation`"));
        }
        let head = Hadamard::new(config.head_dim, SEED);
        Ok(Model { checkpoint, config, architecture, workers, stream, head })
    }

    /// A tensor of the rotated model with its shape.
    fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, mut values) = self.read(name)?;
        let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        if self.is_folded(module) {
            values.fill(1.0);
        }
        let Sides { norm, inputs, outputs } = self.sides(module);
        if let Some(rotation) = inputs.filter(|_| kind == "weight") {
            self.check(name, &shape, shape.last(), rotation)?;
            let gains = norm.map(|norm| self.gains(&format!("{norm}.weight"), rotation)).transpose()?;
            self.rotate_rows(&mut values, gains.as_deref(), rotation);
        }
        if let Some(rotation) = outputs {
            self.check(name, &shape, shape.first(), rotation)?;
            self.rotate_columns(&mut values, shape[0], rotation);
        }
        Ok((shape, values))
    }

    /// What is done to the inputs and to the outputs of a module.
    fn sides(&self, module: &str) -> Sides<'_> {
        let (stream, head) = (Some(&self.stream), Some(&self.head));
        let Some(linear) = self.architecture.linear_of_block(module) else {
            return match module {
                HEAD => Sides { norm: Some("model.norm".into()), inputs: stream, outputs: None },
                EMBEDDING if !self.config.tied_head => Sides { inputs: stream, ..Sides::default() },
                _ => Sides::default(),
            };
        };
        let norm = |name: &str| Some(module.replace(linear, name));
        match linear {
            "self_attn.v_proj" => Sides { norm: norm(INPUT_NORM), inputs: stream, outputs: head },
            "self_attn.o_proj" => Sides { norm: None, inputs: head, outputs: stream },
            "mlp.gate_proj" | "mlp.up_proj" => Sides { norm: norm(MLP_NORM), inputs: stream, outputs: None },
            "mlp.down_proj" => Sides { norm: None, inputs: None, outputs: stream },
            _ => Sides { norm: norm(INPUT_NORM), inputs: stream, outputs: None },
        }
    }

    /// Whether a module is a norm whose gains move into the linear layers behind it.
    fn is_folded(&self, module: &str) -> bool {
        let last = module == "model.norm" && !self.config.tied_head;
        last || [INPUT_NORM, MLP_NORM].iter().any(|norm| module.ends_with(norm))
    }

    /// The gains of a norm.
    fn gains(&self, name: &str, rotation: &Hadamard) -> Result<Vec<f32>> {
        let (shape, gains) = self.read(name)?;
        self.check(name, &shape, Some(&gains.len()).filter(|_| gains.len() == rotation.size()), rotation)?;
        Ok(gains)
    }

    /// Refuses a tensor of which `features` are no whole number of vectors.
    fn check(&self, name: &str, shape: &[usize], features: Option<&usize>, rotation: &Hadamard) -> Result<()> {
        if features.is_some_and(|features| *features > 0 && features.is_multiple_of(rotation.size())) {
            return Ok(());
        }
        let place = format!("{}: tensor \"{name}\"", self.checkpoint.path().display());
        let size = rotation.size();
        Err(Error::input(place, format!("has shape {shape:?}, which does not fit the model's config: expected {size}")))
    }

    /// A tensor of the model as it is.
    fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = self.checkpoint.tensor_f32(name)?;
        self.checkpoint.release(name);
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok((shape, values)),
            Some(value) => {
                let place = format!("{}: tensor \"{name}\"", self.checkpoint.path().display());
                Err(Error::input(place, format!("holds {value}; the model is damaged")))
            }
        }
    }

    /// Multiplies rows by the gains before them and rotates them, in pieces as long as the rotation, in 64 bits.
    fn rotate_rows(&self, values: &mut [f32], gains: Option<&[f32]>, rotation: &Hadamard) {
        let (isa, size) = (Isa::active(), rotation.size());
        let rotate = |exact: &mut Vec<f64>, row: &mut [f32]| {
            exact.clear();
            exact.extend(row.iter().map(|value| f64::from(*value)));
            if let Some(gains) = gains {
                exact.iter_mut().zip(gains).for_each(|(value, gain)| *value *= f64::from(*gain));
            }
            rotation.rotate_f64(isa, exact);
            row.iter_mut().zip(&*exact).for_each(|(value, exact)| *value = *exact as f32);
        };
        self.workers.install(|| values.par_chunks_mut(size).for_each_init(Vec::new, rotate));
    }

    /// Rotates columns of `rows` elements; a bias is one column.
    fn rotate_columns(&self, values: &mut Vec<f32>, rows: usize, rotation: &Hadamard) {
        let transposed = |values: &[f32], rows: usize| -> Vec<f32> {
            let matrix = ArrayView2::from_shape((rows, values.len() / rows), values);
            matrix.map(|matrix| matrix.t().iter().copied().collect()).unwrap_or_default()
        };
        let mut columns = transposed(values, rows);
        self.rotate_rows(&mut columns, None, rotation);
        *values = transposed(&columns, values.len() / rows);
    }
}
