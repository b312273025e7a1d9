//! What the tokens of an encoder begin with: the embeddings of word, position and token type 0, added and normalized.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Activations, LayerNorm, Matrix, Pool, rows};
use crate::network::EncoderConfig;
use crate::network::encoder_block::{layer_norm_tensors, load_layer_norm};
use crate::network::linear::LoadOptions;
use crate::network::lookup_table::{LookupTable, check_tokens};
use crate::network::tensor_list::Shaped;

/// The tables of an encoder.
#[derive(Debug)]
pub struct EncoderEmbeddings {
    place: String,
    config: EncoderConfig,
    /// `(vocab_size, hidden_size)`.
    words: LookupTable,
    /// Embedding of every position, that of token type 0 added: `(max_positions, hidden_size)`.
    positions: Vec<f32>,
    norm: LayerNorm,
}

impl EncoderEmbeddings {
    /// Loads the tables; `prefix` comes before all names of the network.
    ///
    /// # Errors
    /// A missing or wrongly shaped tensor.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &EncoderConfig,
        prefix: &str,
        options: LoadOptions,
    ) -> Result<EncoderEmbeddings> {
        let name = |part: &str| format!("{prefix}embeddings.{part}");
        let table = |part: &str, rows| LookupTable::load(checkpoint, &name(part), (rows, config.hidden_size), options);
        let positions = table("position_embeddings.weight", config.position_rows)?;
        let types = table("token_type_embeddings.weight", config.token_types)?;
        Ok(EncoderEmbeddings {
            place: checkpoint.path().display().to_string(),
            words: table("word_embeddings.weight", config.vocab_size)?,
            positions: typed_positions(config, &positions, &types),
            norm: load_layer_norm(checkpoint, &name("LayerNorm"), config)?,
            config: config.clone(),
        })
    }

    /// The tensors of the tables and the norm, with their shapes.
    pub(super) fn tensors(config: &EncoderConfig, prefix: &str) -> Vec<Shaped> {
        let tables = [
            ("word_embeddings", config.vocab_size),
            ("position_embeddings", config.position_rows),
            ("token_type_embeddings", config.token_types),
        ];
        let shaped = |(table, rows)| (format!("{prefix}embeddings.{table}.weight"), vec![rows, config.hidden_size]);
        let norm = layer_norm_tensors(&format!("{prefix}embeddings.LayerNorm"), config);
        tables.map(shaped).into_iter().chain(norm).collect()
    }

    /// Bytes of the tables and the norm.
    pub(super) fn bytes(&self) -> usize {
        let norm = 2 * self.config.hidden_size * size_of::<f32>();
        norm + self.words.bytes() + size_of_val(self.positions.as_slice())
    }

    /// The states of tokens with their positions, for products with `reader`, if there are any.
    pub(super) fn write(
        &self,
        pool: &Pool,
        inputs: &[(u32, usize)],
        hidden: &mut Activations,
        reader: Option<&Matrix>,
    ) {
        let states = hidden.write(inputs.len(), self.config.hidden_size);
        rows::for_rows(pool, inputs.len(), [states], |row, [out]| self.embed(inputs[row], out));
        rows::layer_norm(pool, hidden.change_for(reader), &self.norm);
    }

    /// The states of sequences, one after the other: `(tokens, hidden_size)` row-major.
    ///
    /// # Errors
    /// Those of [`EncoderEmbeddings::check`].
    pub fn states(&self, pool: &Pool, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
        sequences.iter().try_for_each(|sequence| self.check(sequence))?;
        let inputs: Vec<_> = sequences.iter().flat_map(|sequence| sequence.iter().copied().zip(0..)).collect();
        let mut hidden = Activations::default();
        self.write(pool, &inputs, &mut hidden, None);
        Ok(hidden.values().to_vec())
    }

    /// Sum of the embeddings of a token, its position and type 0.
    fn embed(&self, (token, position): (u32, usize), out: &mut [f32]) {
        self.words.read(token as usize, out);
        let of_position = &self.positions[position * out.len()..][..out.len()];
        out.iter_mut().zip(of_position).for_each(|(v, p)| *v += p);
    }

    /// Checks that the network can read a sequence.
    ///
    /// # Errors
    /// An empty or too long sequence, or a token outside the vocabulary.
    pub fn check(&self, sequence: &[u32]) -> Result<()> {
        let (length, longest) = (sequence.len(), self.config.max_positions());
        if length == 0 || length > longest {
            let problem = format!("a sequence has {length} tokens; expected 1 to {longest}; cut longer texts");
            return Err(Error::input(&self.place, problem));
        }
        check_tokens(&self.place, sequence, self.config.vocab_size)
    }
}

/// Embeddings of all positions that tokens can have, that of type 0 added.
fn typed_positions(config: &EncoderConfig, positions: &LookupTable, types: &LookupTable) -> Vec<f32> {
    let mut kind = vec![0.0; config.hidden_size];
    types.read(0, &mut kind);
    let mut out = vec![0.0; config.max_positions() * config.hidden_size];
    for (index, out) in out.chunks_exact_mut(config.hidden_size).enumerate() {
        positions.read(config.first_position + index, out);
        out.iter_mut().zip(&kind).for_each(|(v, k)| *v += k);
    }
    out
}
