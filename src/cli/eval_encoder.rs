//! `bench eval` of an encoder: how close its embeddings of sentences are to those of another model.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::eval::Args;
use super::model;
use crate::assets::{Documents, read_documents};
use crate::error::{Error, Result};
use crate::kernels::{Isa, Pool};
use crate::network::{self, LoadOptions, Model};
use crate::results::KernelUse;
use crate::tasks::{Embeddings, Encoder, sentences};
use crate::tensor::DenseFormat;

/// Sentences of a forward pass.
const BATCH: usize = 64;

/// What is printed.
#[derive(Debug, Serialize)]
struct Evaluation {
    model: String,
    reference: String,
    isa: &'static str,
    sentences: usize,
    /// Sentences that were longer than `length` tokens and lost their end.
    sentences_cut: usize,
    length: usize,
    /// Special ones included.
    tokens: usize,
    mean_cosine: f64,
    least_cosine: f64,
    /// Spearman's, of the similarities of pairs of at most 512 sentences.
    rank_correlation: Option<f64>,
    kernels: Vec<KernelUse>,
}

/// Embeds the sentences of a text with both models and prints how they compare.
pub(super) fn run(args: &Args, model: &Model, pool: &Pool) -> Result<ExitCode> {
    let Some(reference) = &args.reference else {
        let problem = "is an encoder, whose embeddings are compared with another's; add --reference MODEL";
        return Err(Error::Usage(format!("{}: {problem}", args.model)));
    };
    let original = model::open(reference)?;
    let (sequences, sentences_cut, length) = sequences(args, model)?;
    let options = LoadOptions { dense: args.form.dense(), ..LoadOptions::default() };
    let encoder = network::Encoder::load(model.checkpoint(), options)?;
    let own = embed(&encoder, pool, &sequences)?;
    let exact = LoadOptions { dense: Some(DenseFormat::F32), ..LoadOptions::default() };
    let exact = embed(&network::Encoder::load(original.checkpoint(), exact)?, pool, &sequences)?;
    let cosines: Vec<f64> = (0..sequences.len()).map(|at| own.cosine(&exact, at)).collect();
    let found = Evaluation {
        model: args.model.clone(),
        reference: reference.clone(),
        isa: Isa::active().name(),
        sentences: sequences.len(),
        sentences_cut,
        length,
        tokens: sequences.iter().map(Vec::len).sum(),
        mean_cosine: cosines.iter().sum::<f64>() / cosines.len() as f64,
        least_cosine: cosines.iter().copied().fold(1.0, f64::min),
        rank_correlation: own.rank_correlation(&exact),
        kernels: encoder.kernels(sequences.iter().take(BATCH).map(Vec::len).sum()),
    };
    if args.json {
        super::print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rank = found.rank_correlation.map_or("unknown".into(), |rank| format!("{rank:.5}"));
    super::print(&format!("mean cosine {:.5} to {reference} in fp32", found.mean_cosine))?;
    super::print(&format!("  least cosine {:.5}; rank correlation of pairs {rank}", found.least_cosine))?;
    super::print(&format!(
        "  {} sentences, {} tokens; {} on {}",
        found.sentences,
        found.tokens,
        args.form.name(),
        found.isa
    ))?;
    if found.sentences_cut > 0 {
        super::print(&format!("  {} sentences were cut at {length} tokens", found.sentences_cut))?;
    }
    found.kernels.iter().try_for_each(|kernel| super::print(&format!("  {} x {}", kernel.matrices, kernel.kernel)))?;
    Ok(ExitCode::SUCCESS)
}

/// The sentences of the text as tokens; how many were cut, and where.
fn sequences(args: &Args, model: &Model) -> Result<(Vec<Vec<u32>>, usize, usize)> {
    let encoder = Encoder::of(model);
    let Documents::Texts(texts) = read_documents(&model::data(&args.text), Path::new("."))? else {
        return Err(Error::input(&args.text, "expected text, got a token file; sentences are cut from text"));
    };
    let found: Vec<&str> = texts.iter().flat_map(|document| sentences(&document.text)).collect();
    if found.len() < 2 {
        return Err(Error::input(&args.text, "expected at least two sentences; give longer texts"));
    }
    let longest = model::longest_sentence(&encoder, args.length);
    let encoded: Vec<(Vec<u32>, bool)> =
        found.into_iter().map(|sentence| encoder.encode_sentence(sentence, longest)).collect::<Result<_>>()?;
    let cut = encoded.iter().filter(|(_, cut)| *cut).count();
    Ok((encoded.into_iter().map(|(tokens, _)| tokens).collect(), cut, longest))
}

fn embed(encoder: &network::Encoder, pool: &Pool, sequences: &[Vec<u32>]) -> Result<Embeddings> {
    let (mut memory, mut values) = (encoder.memory(), Vec::new());
    for batch in sequences.chunks(BATCH) {
        values.extend_from_slice(encoder.forward(pool, batch, &mut memory)?);
    }
    Embeddings::new(&values, encoder.width()).map_err(Error::Measurement)
}
