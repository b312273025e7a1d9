//! `bench eval`: perplexity of one model on one text, on the kernels that runs are timed with; of an encoder the closeness
//! of its embeddings ([`super::eval_encoder`]).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::decide::LEAST_CLUSTERS;
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::{Isa, KvFormat, Pool};
use crate::network::{self, Architecture, Config, Decoder, LoadOptions};
use crate::results::KernelUse;
use crate::stats::{Cluster, ratio_interval};
use crate::suite::TextSource;
use crate::tasks::{Coverage, Encoder, windows};

use super::eval_encoder;
use super::model::{self, Form};

/// Perplexity of a model on a text, and by how much it is above that of --reference; of an encoder, how close its embeddings
/// are to the reference's.
///
/// Each document is cut into windows of --length tokens that do not overlap, the last one shorter, as `bench run` does. Where
/// the tokenizer has a beginning-of-sequence token, it stands before every window and the window's first token is
/// predicted too (one that the text begins with is not doubled); otherwise that token only serves as context. Tokens that
/// are not predicted are counted. Use it to check these kernels against another program: --per-token writes every token's
/// score.
///
/// With --reference both models score the same windows. The increase of perplexity is a paired difference with its 95 %
/// interval over documents, so give several (a file each): windows of one text resemble each other.
///
/// An encoder's text is cut into sentences. Printed are the cosines of its embeddings to those of the reference in fp32 (mean
/// and least) and Spearman's rank correlation of the similarities of pairs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench eval model.gguf --text heldout.txt
  bench eval model.gguf --as fp32 --text heldout.txt --length 256 --json
  bench eval artefact/ --reference model.gguf --text 'heldout/*.txt'
  bench eval artefact/ --text heldout.txt --per-token nll.csv
  bench eval artefact/ --reference nll.csv --text heldout.txt
  bench eval encoder-int8/ --reference encoder/ --text heldout.txt")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    pub(super) model: String,
    /// Arithmetic: as stored (quantized weights on integer kernels), or all matrices in one float format.
    #[arg(long = "as", alias = "variant", value_enum, default_value_t = Form::Stored, value_name = "FORM")]
    pub(super) form: Form,
    /// Storage of keys and values: f32, f16, bf16 or int8 [default: f32 or f16 where all weights are; else bf16 where the
    /// model was published in it, or all weights are or have 8-bit inputs; else f16].
    #[arg(long, value_name = "FORMAT", value_parser = model::kv_format)]
    kv_cache: Option<KvFormat>,
    /// The text, UTF-8: a file, a pattern in quotes, or a source; each file is one document. Or a token file.
    #[arg(long, value_name = "FILE")]
    pub(super) text: String,
    /// The model to compare with, as stored (an encoder in fp32): a path or a source; of a decoder also a file that --per-token
    /// wrote.
    #[arg(long, value_name = "MODEL")]
    pub(super) reference: Option<String>,
    /// Tokens of a window [default: 512]; of an encoder's longest sentence, a longer one loses its end [default: what the
    /// model's side files say].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub(super) length: Option<u32>,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The result as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Write window, position, token and its negative log-likelihood (nats) as CSV; the first token of a window, which
    /// is not predicted, has none.
    #[arg(long, value_name = "FILE")]
    per_token: Option<PathBuf>,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Evaluation {
    model: String,
    variant: &'static str,
    isa: &'static str,
    threads: usize,
    length: usize,
    bos: &'static str,
    windows: usize,
    /// Predicted tokens.
    tokens: usize,
    /// Tokens of the text that are not predicted: the first of a window without a beginning-of-sequence token.
    tokens_not_predicted: usize,
    /// Documents in which no token can be predicted.
    documents_left_out: usize,
    /// Positions that the model was made for, where windows are longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    beyond_positions: Option<usize>,
    /// Sum of negative log-likelihood, nats.
    nll_sum: f64,
    perplexity: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    /// Predicted tokens over the time of scoring, load excluded.
    tokens_per_s: f64,
    kernels: Vec<KernelUse>,
}

/// The same windows under the reference.
#[derive(Debug, Serialize)]
struct Against {
    reference: String,
    perplexity: f64,
    documents: usize,
    increase_percent: f64,
    /// 95 %, cluster-robust over documents; `None` below [`LEAST_CLUSTERS`] documents.
    interval: Option<(f64, f64)>,
}

/// The score of one token.
#[derive(Debug, Serialize, Deserialize)]
struct TokenLine {
    window: usize,
    /// In the window, a beginning-of-sequence token included.
    position: usize,
    token: u32,
    /// `None` for the first token of a window.
    nll: Option<f64>,
}

/// Scores the text and prints the result.
pub fn run(args: &Args) -> Result<ExitCode> {
    let threads = model::threads(args.threads)?;
    Isa::from_env()?;
    // Before the time is spent.
    args.per_token.as_deref().map_or(Ok(()), files::expect_absent)?;
    let length = args.length.unwrap_or(512) as usize;
    let model = model::open(&args.model)?;
    let pool = Pool::new(threads);
    let config = match model.architecture() {
        Architecture::Encoder { .. } => return eval_encoder::run(args, &model, &pool),
        Architecture::Decoder(config) => config,
    };
    let encoder = Encoder::of(&model);
    let data = model::data(&args.text);
    let documents = encoder.read(&data, Path::new("."))?.documents;
    let cut = windows(&documents, length, None, encoder.bos());
    let coverage = Coverage::of(&documents, &cut);
    let (document_of, windows): (Vec<usize>, Vec<Vec<u32>>) = cut.into_iter().map(|w| (w.document, w.tokens)).unzip();
    if windows.is_empty() {
        return Err(Error::input(&args.text, "expected text of two tokens or more, so that one is predicted"));
    }
    // First, so that a reference that does not fit is refused before the time is spent.
    let reference = args.reference.as_deref().map(|reference| -> Result<_> {
        let lines = scored_by(reference, &data, &documents, &windows, &pool)?;
        Ok((reference, clusters(&document_of, &lines)))
    });
    let reference = reference.transpose()?;
    let options = LoadOptions { dense: args.form.dense(), kv_cache: args.kv_cache };
    let decoder = Decoder::load(model.checkpoint(), options)?;
    let start = Instant::now();
    let lines = score(&decoder, &pool, &windows)?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &args.per_token {
        write_tokens(path, &lines)?;
    }
    let own = clusters(&document_of, &lines);
    let nll_sum = nll_sum(&own)?;
    let against = reference.map(|(reference, theirs)| compare(reference, &own, &theirs));
    show(
        args.json,
        &Evaluation {
            model: args.model.clone(),
            variant: args.form.name(),
            isa: Isa::active().name(),
            threads,
            length,
            bos: match encoder.bos() {
                Some(_) => "added before every window, whose first token is predicted",
                None => "none added: the model's tokenizer adds none; a window's first token is not predicted",
            },
            windows: windows.len(),
            tokens: coverage.predicted,
            tokens_not_predicted: coverage.not_predicted,
            documents_left_out: coverage.documents_left_out,
            beyond_positions: beyond_positions(&windows, config),
            nll_sum,
            perplexity: (nll_sum / coverage.predicted as f64).exp(),
            against: against.transpose()?,
            tokens_per_s: coverage.predicted as f64 / seconds,
            kernels: decoder.kernels(length, 1),
        },
    )
}

/// The positions that a model was made for, where some window has more inputs: its last token is predicted only.
fn beyond_positions(windows: &[Vec<u32>], config: &Config) -> Option<usize> {
    let positions = config.positions();
    windows.iter().any(|window| window.len() - 1 > positions).then_some(positions)
}

fn score(decoder: &Decoder, pool: &Pool, windows: &[Vec<u32>]) -> Result<Vec<TokenLine>> {
    let mut lines: Vec<TokenLine> = Vec::new();
    network::score(decoder, pool, windows, &mut |chunk| {
        let window = chunk.window;
        if chunk.position == 0 {
            lines.push(TokenLine { window, position: 0, token: windows[window][0], nll: None });
        }
        for (i, (score, token)) in chunk.scores(pool).iter().zip(chunk.targets).enumerate() {
            lines.push(TokenLine { window, position: chunk.position + i + 1, token: *token, nll: Some(score.nll) });
        }
        Ok(())
    })?;
    Ok(lines)
}

/// The sum of each window's negative log-likelihoods, by document.
fn clusters(document_of: &[usize], lines: &[TokenLine]) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> =
        document_of.iter().map(|document| Cluster { id: *document, sum: 0.0, count: 0.0 }).collect();
    for line in lines {
        if let Some(nll) = line.nll {
            clusters[line.window].sum += nll;
            clusters[line.window].count += 1.0;
        }
    }
    clusters
}

fn nll_sum(clusters: &[Cluster]) -> Result<f64> {
    let sum: f64 = clusters.iter().map(|cluster| cluster.sum).sum();
    if !sum.is_finite() {
        return Err(Error::Measurement(format!("the sum of log-likelihoods is {sum}")));
    }
    Ok(sum)
}

/// The scores of the same windows by `reference`: what `--per-token` wrote, or a model that scores them now.
fn scored_by(
    reference: &str,
    data: &TextSource,
    documents: &[Vec<u32>],
    windows: &[Vec<u32>],
    pool: &Pool,
) -> Result<Vec<TokenLine>> {
    if reference.ends_with(".csv") {
        let lines = read_tokens(Path::new(reference))?;
        let tokens = |line: &TokenLine| (line.window, line.position, line.token, line.nll.is_some());
        let in_window = |(window, ids): (usize, &Vec<u32>)| -> Vec<_> {
            ids.iter().enumerate().map(|(position, id)| (window, position, *id, position > 0)).collect()
        };
        let expected = windows.iter().enumerate().flat_map(in_window);
        if !lines.iter().map(tokens).eq(expected) {
            let problem = "holds scores of other windows; write it with the same --text and --length";
            return Err(Error::input(reference, problem));
        }
        return Ok(lines);
    }
    let model = model::open(reference)?;
    if Encoder::of(&model).read(data, Path::new("."))?.documents != documents {
        let problem = "reads the text as other tokens than the model does, so the two predict different things; \
                       expected a reference with the same tokenizer";
        return Err(Error::input(reference, problem));
    }
    score(&Decoder::load(model.checkpoint(), LoadOptions::default())?, pool, windows)
}

/// How much more perplexity a model has than `reference`, from the sums over the same windows of both.
fn compare(reference: &str, own: &[Cluster], theirs: &[Cluster]) -> Result<Against> {
    let differences: Vec<Cluster> =
        own.iter().zip(theirs).map(|(own, theirs)| Cluster { sum: own.sum - theirs.sum, ..*own }).collect();
    let sum = nll_sum(theirs)?;
    let tokens: f64 = theirs.iter().map(|cluster| cluster.count).sum();
    let found = ratio_interval(&differences, 0.95).map(|ratio| ratio.interval.map(|theta| 100.0 * theta.exp_m1()));
    let found = found.ok_or_else(|| Error::Measurement("the models' scores cannot be compared".into()))?;
    Ok(Against {
        reference: reference.to_owned(),
        perplexity: (sum / tokens).exp(),
        documents: found.n,
        increase_percent: found.value,
        interval: found.bounds.filter(|_| found.n >= LEAST_CLUSTERS),
    })
}

fn write_tokens(path: &Path, lines: &[TokenLine]) -> Result<()> {
    let failed = |e: csv::Error| Error::io(path, "write", std::io::Error::other(e));
    let mut writer = csv::Writer::from_writer(files::create_new(path)?);
    for line in lines {
        writer.serialize(line).map_err(failed)?;
    }
    writer.flush().map_err(|e| Error::io(path, "write", e))
}

fn read_tokens(path: &Path) -> Result<Vec<TokenLine>> {
    let text = files::read(path, files::limit::RESULTS)?;
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let damaged = |e| Error::input(path.display(), format!("expected what --per-token writes: {e}"));
    let lines: Vec<TokenLine> = reader.deserialize().collect::<std::result::Result<_, _>>().map_err(damaged)?;
    Ok(lines)
}

fn show(json: bool, found: &Evaluation) -> Result<ExitCode> {
    if json {
        super::print_json(found)?;
        return Ok(ExitCode::SUCCESS);
    }
    super::print(&format!("perplexity {:.4} over {} tokens", found.perplexity, found.tokens))?;
    if let Some(against) = &found.against {
        let interval = against.interval.map_or(
            format!("no interval: {} documents, at least {LEAST_CLUSTERS} are needed", against.documents),
            |(low, high)| format!("95 % [{low:+.2}, {high:+.2}] over {} documents", against.documents),
        );
        super::print(&format!(
            "  {:+.2} % above the {:.4} of {}; {interval}",
            against.increase_percent, against.perplexity, against.reference
        ))?;
    }
    super::print(&format!(
        "  {} windows of at most {} tokens; beginning of sequence: {}",
        found.windows, found.length, found.bos
    ))?;
    if found.tokens_not_predicted > 0 {
        super::print(&format!(
            "  not predicted: {} tokens; {} documents have nothing to predict",
            found.tokens_not_predicted, found.documents_left_out
        ))?;
    }
    if let Some(positions) = found.beyond_positions {
        super::print(&format!("  windows are longer than the {positions} positions that the model was made for"))?;
    }
    super::print(&format!(
        "  {} on {}, threads: {}, {:.0} tokens/s",
        found.variant, found.isa, found.threads, found.tokens_per_s
    ))?;
    for kernel in found.kernels.iter().filter(|k| k.phase == "prefill") {
        super::print(&format!("  {} x {}", kernel.matrices, kernel.kernel))?;
    }
    Ok(ExitCode::SUCCESS)
}
