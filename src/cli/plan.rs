//! `bench plan`: what a run would do, without doing it.
//!
//! The estimate of time counts multiplications and bytes and divides them by two speeds that a short probe measures on
//! this machine's own fp16 kernels: many tokens at once (scoring, prompts, calibration) and one token at a time
//! (generating, which is bound by reading the weights). What this leaves out (attention, process starts, disks) makes
//! it a rough guide, commonly within a factor of two.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use comfy_table::{ContentArrangement, Table, presets};

use crate::assets::{Choice, Choices, Documents, Source, read_choices, read_documents};
use crate::error::{Error, Result};
use crate::kernels::{Activations, Matrix, Pool};
use crate::network;
use crate::results::folder_of;
use crate::suite::{self, Budget, Method, Recipe, Suite, Task, TaskKind, WeightScheme, Workload};
use crate::tasks::{LONGEST_SENTENCE, check_lengths};
use crate::tensor::DenseFormat;
use crate::variant::{self, Order};
use crate::{machine, units};

use super::{fetch, provable};

/// Show what a run would do, how long it would take and what it needs.
///
/// Fetches, builds and scores nothing. Lists the sources and whether they are here, the variants with their recipes and
/// whether they are cached, and the work. Where the model is here, it also estimates time, memory and disk from the
/// model's shapes and a probe of half a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench plan suites/quick.toml")]
pub struct Args {
    /// The suite file.
    suite: PathBuf,
}

/// Prints the plan.
pub fn run(args: &Args) -> Result<ExitCode> {
    let suite = suite::read_for_any_machine(&args.suite)?;
    let base = folder_of(&args.suite);
    let mut text = format!("{}\n\nsources\n", suite.title);
    for (what, source) in fetch::sources(&suite) {
        let state = match fetch::parse(&args.suite, &source)? {
            parsed if parsed.is_local(base) => "on this machine",
            Source::Pypi { .. } | Source::Npm { .. } => "to be fetched",
            Source::Path(path) if base.join(&path).symlink_metadata().is_err() => {
                "missing: no such file; edit the suite"
            }
            // Nothing brings these: the fault is the same for a run.
            parsed => return Err(parsed.fetch(base).err().unwrap_or_else(|| Error::input(&source, "is not here"))),
        };
        _ = writeln!(text, "  {what}: {source}\n    {state}");
    }
    let source = fetch::parse(&args.suite, &suite.model)?;
    let imports = import_bytes(&suite, &args.suite)?;
    let model = if source.is_local(base) { Some(Model::open(&suite, &source, base, imports)?) } else { None };
    text.push_str("\nvariants\n");
    text.push_str(&variants(&suite, model.as_ref()));
    text.push_str("\n\nwork\n");
    text.push_str(&work(&suite));
    text.push_str(&provable::provable(&suite, provable::items(&suite)));
    match &model {
        Some(model) => {
            let threads = suite.workload.threads.iter().copied().max().unwrap_or(1).min(machine::cores());
            let tokens: Vec<Option<u64>> = suite
                .tasks
                .iter()
                .map(|task| Ok(task_tokens(task, &fetch::parse(&args.suite, &task.text.source)?, base)))
                .collect::<Result<_>>()?;
            text.push_str(&estimate(&suite, model, &Speeds::probe(threads), &tokens));
        }
        None => {
            _ = writeln!(
                text,
                "\ntime, memory, disk\n  unknown until the model is here; `bench fetch` brings what is published"
            )
        }
    }
    let cores = machine::cores();
    if let Some(most) = suite.workload.threads.iter().max().filter(|n| **n > cores) {
        _ = writeln!(
            text,
            "\nwarning: [workload] threads asks for {most}; this process may use {cores}, so it cannot run here"
        );
    }
    super::print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the imports that are on this machine, by source.
fn import_bytes(suite: &Suite, path: &Path) -> Result<BTreeMap<String, u64>> {
    let base = folder_of(path);
    let mut bytes = BTreeMap::new();
    for variant in &suite.variants {
        if let Recipe::Import { source: name, .. } = &variant.recipe
            && name != "model"
            && let source = fetch::parse(path, name)?
            && source.is_local(base)
        {
            bytes.insert(name.clone(), source.fetch(base)?.bytes);
        }
    }
    Ok(bytes)
}

/// What the estimate needs of a model.
struct Model {
    path: PathBuf,
    sha256: String,
    file_bytes: u64,
    /// Bytes of imports, by source; those that are not here count as the model.
    imports: BTreeMap<String, u64>,
    /// `(out_features, in_features)` of every linear layer of the blocks.
    linears: Vec<(u64, u64)>,
    /// Weights of the head, read for every token; 0 for an encoder.
    head: u64,
    /// Weights of the embedding, where it is not the head.
    embedding: u64,
}

impl Model {
    fn open(suite: &Suite, source: &Source, base: &Path, imports: BTreeMap<String, u64>) -> Result<Model> {
        let (model, local) = network::Model::fetch(source, base)?;
        let path = local.paths.first().cloned().unwrap_or_default();
        let (architecture, checkpoint) = (model.architecture(), model.checkpoint());
        check_lengths(suite, architecture, &path)?;
        let linears = architecture.block_weights().into_iter().filter_map(|name| match checkpoint.shape(&name)?[..] {
            [rows, cols] => Some((rows as u64, cols as u64)),
            _ => None,
        });
        let linears = linears.collect();
        let table = (architecture.vocab_size() * architecture.hidden_size()) as u64;
        let head = if architecture.head().is_some() { table } else { 0 };
        let embedding = if architecture.tied_head() { 0 } else { table };
        let (sha256, file_bytes) = (local.sha256, local.bytes);
        Ok(Model { path, sha256, file_bytes, imports, linears, head, embedding })
    }

    /// Weights of the blocks' linear layers.
    fn blocks(&self) -> f64 {
        self.linears.iter().map(|(rows, cols)| (rows * cols) as f64).sum()
    }

    /// Bytes of the weights under a recipe: codes and 4-byte scales. Overrides of single layers are left out.
    fn weight_bytes(&self, recipe: &Recipe) -> f64 {
        let dense = |n: u64, format: DenseFormat| n as f64 * format.bytes() as f64;
        match recipe {
            Recipe::Cast { dtype } => {
                self.blocks() * dtype.bytes() as f64 + dense(self.head, *dtype) + dense(self.embedding, *dtype)
            }
            Recipe::Quantize(method) => {
                let scheme = method.weights;
                let blocks: f64 = self
                    .linears
                    .iter()
                    .map(|(rows, cols)| (rows * cols) as f64 * bytes_per_weight(scheme, *cols))
                    .sum();
                let hidden = self.linears.first().map_or(1, |(_, cols)| *cols);
                let head = match head_scheme(method) {
                    Some(scheme) => self.head as f64 * bytes_per_weight(scheme, hidden),
                    None => dense(self.head, method.dense),
                };
                blocks + head + dense(self.embedding, method.dense)
            }
            // The budget bounds it, or else all is 8 bits at most.
            Recipe::Search(search) => {
                let (scheme, dense) = (1.0, search.dense);
                match search.budget {
                    Budget::Bytes(bytes) => bytes as f64,
                    Budget::Speedup(_) | Budget::Divergence(_) => {
                        (self.blocks() + self.head as f64) * scheme + self.embedding as f64 * dense.bytes() as f64
                    }
                }
            }
            Recipe::Import { source, .. } => *self.imports.get(source).unwrap_or(&self.file_bytes) as f64,
        }
    }

    /// Whether the variant's artefact is in the cache; `None` where the key depends on text that is not read here.
    fn is_cached(&self, recipe: &Recipe) -> Option<bool> {
        match recipe {
            Recipe::Import { .. } => return Some(true),
            recipe if recipe.learns().is_some() => return None,
            _ => {}
        }
        let order = Order {
            model: &self.path,
            model_sha256: &self.sha256,
            recipe,
            import: None,
            calibration: None,
            threads: machine::cores(),
        };
        Some(variant::cached(&order.key()).is_ok_and(|folder| folder.exists()))
    }
}

/// The last override that names the head.
fn head_scheme(method: &Method) -> Option<WeightScheme> {
    method.overrides.iter().rev().find(|o| matches!(o.tensors.as_str(), "lm_head" | "*")).and_then(|o| o.weights)
}

/// Bytes of one weight in memory: kernels read codes of 8 bits, or of 4 where groups are multiples of 32.
fn bytes_per_weight(scheme: WeightScheme, cols: u64) -> f64 {
    let code = if scheme.bits <= 4 && scheme.group_size.is_none_or(|size| size.is_multiple_of(32)) { 0.5 } else { 1.0 };
    code + 4.0 / scheme.group_size_of(cols as usize) as f64
}

fn variants(suite: &Suite, model: Option<&Model>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(super::width()).unwrap_or(100));
    for variant in &suite.variants {
        let role = if variant.name == suite.reference { " (reference)" } else { "" };
        let state = match model.map(|m| m.is_cached(&variant.recipe)) {
            None => "-",
            Some(Some(true)) if matches!(variant.recipe, Recipe::Import { .. }) => "as published",
            Some(Some(true)) => "cached",
            Some(Some(false)) => "to be built",
            Some(None) => "built unless the same text was used before",
        };
        let size =
            model.map_or("-".into(), |m| format!("about {}", units::bytes(m.weight_bytes(&variant.recipe) as u64)));
        // A name may hold anything printable, but nothing that moves a terminal's cursor.
        let name: String = variant.name.chars().filter(|c| !c.is_control()).collect();
        table.add_row([format!("{name}{role}"), variant.describe(), size, state.into()]);
    }
    table.to_string()
}

/// Slots of one block: every variant, and the reference once more as the control.
fn slots_per_block(suite: &Suite) -> usize {
    (suite.variants.len() + 1) * suite.workload.batch.len() * suite.workload.threads.len()
}

fn work(suite: &Suite) -> String {
    let mut text = String::new();
    for task in &suite.tasks {
        let most = |n: Option<usize>| n.map_or("all".into(), |n| n.to_string());
        let asked = match task.kind {
            TaskKind::Perplexity { length, windows } => format!("{} windows of {length} tokens", most(windows)),
            TaskKind::Choice { items } => format!("{} multiple-choice items", most(items)),
            TaskKind::Similarity { length, sentences } => {
                format!("{} sentences of at most {} tokens", most(sentences), length.unwrap_or(LONGEST_SENTENCE))
            }
        };
        _ = writeln!(text, "  score {}: {} variants, {asked}", task.name, suite.variants.len());
    }
    let again = suite.further_draws().count();
    if again > 0 {
        let task = &suite.accept.accuracy.task;
        _ = writeln!(text, "  other draws of calibration windows: {again} variants more are made and scored on {task}");
    }
    let workload = &suite.workload;
    let (fewest, most) = workload.blocks;
    let blocks = if fewest == most { format!("{most}") } else { format!("{fewest} to {most}") };
    _ = writeln!(
        text,
        "  time: {blocks} blocks of {} slots (each variant and a second reference as control, {} points), at most {} \
         processes; a slot {}",
        slots_per_block(suite),
        workload.batch.len() * workload.threads.len(),
        most * slots_per_block(suite),
        slot_work(workload)
    );
    _ = writeln!(text, "  accept: {}", suite.accept.rule);
    text
}

fn slot_work(workload: &Workload) -> String {
    let Workload { iterations, prompt, generate, .. } = workload;
    match workload.encodes() {
        true => format!("encodes {iterations} batches of sequences of {prompt} tokens"),
        false => format!("answers {iterations} prompts of {prompt} tokens with {generate} tokens"),
    }
}

/// Tokens that a task scores: the suite's windows, else those of its token file, else a guess from the size of its text
/// at four bytes a token.
fn task_tokens(task: &Task, source: &Source, base: &Path) -> Option<u64> {
    let items = match task.kind {
        TaskKind::Perplexity { length, windows: Some(windows) } => return Some((windows * length) as u64),
        TaskKind::Perplexity { windows: None, .. } => None,
        TaskKind::Choice { items } => Some(items.unwrap_or(usize::MAX)),
        TaskKind::Similarity { length, sentences: Some(sentences) } => {
            return Some((sentences * length.unwrap_or(LONGEST_SENTENCE)) as u64);
        }
        TaskKind::Similarity { sentences: None, .. } => None,
    };
    let local = if source.is_local(base) { source.fetch(base).ok()? } else { return None };
    if let [path] = local.paths.as_slice()
        && items.is_none()
        && path.is_file()
        && let Ok(Documents::Tokens(file)) = read_documents(&task.text, base)
    {
        return Some(file.documents.iter().map(|document| document.ids.len() as u64).sum());
    }
    if let Some(most) = items {
        let Ok(Choices::Tokens { items, .. }) = read_choices(&task.text, base) else { return Some(local.bytes / 4) };
        let tokens = |item: &Choice<Vec<u32>>| item.passage.len() + item.continuations.concat().len();
        return Some(items.iter().take(most).map(|item| tokens(item) as u64).sum());
    }
    let files = local.paths.len();
    let (start, end) = task.text.documents.unwrap_or((0, files));
    let share = end.min(files).saturating_sub(start) as f64 / files.max(1) as f64;
    Some((local.bytes as f64 * share / 4.0) as u64)
}

/// Two speeds of this machine's fp16 kernels.
struct Speeds {
    /// Multiplications a second with many tokens at once.
    many: f64,
    /// Bytes of weights a second with one token.
    read: f64,
}

impl Speeds {
    /// Times one matrix of 64 MiB, larger than most caches.
    fn probe(threads: usize) -> Speeds {
        const ROWS: usize = 8192;
        const COLS: usize = 4096;
        const TOKENS: usize = 64;
        let pool = Pool::new(threads);
        let row = |i: usize, out: &mut [f32]| out.iter_mut().enumerate().for_each(|(j, x)| *x = ((i + j) % 7) as f32);
        let matrix = Matrix::from_rows(DenseFormat::F16, ROWS, COLS, &row);
        let best = |tokens: usize, times: usize| {
            let mut input = Activations::with_capacity(tokens, COLS);
            let mut output = vec![0.0; tokens * ROWS];
            let mut fastest = f64::INFINITY;
            for _ in 0..times {
                input.write(tokens, COLS).fill(0.5);
                let start = Instant::now();
                matrix.multiply(&pool, &mut input, &mut output);
                fastest = fastest.min(start.elapsed().as_secs_f64());
            }
            fastest.max(1e-9)
        };
        Speeds { many: (ROWS * COLS * TOKENS) as f64 / best(TOKENS, 3), read: (ROWS * COLS * 2) as f64 / best(1, 5) }
    }
}

fn estimate(suite: &Suite, model: &Model, speeds: &Speeds, task_tokens: &[Option<u64>]) -> String {
    let build: f64 = suite
        .variants
        .iter()
        .filter(|v| model.is_cached(&v.recipe) != Some(true))
        .map(|v| build_seconds(suite, &v.recipe, model, speeds))
        .sum();
    let scored: Option<u64> = task_tokens.iter().copied().sum();
    let per_token = (model.blocks() + model.head as f64) / speeds.many;
    let rules = suite.tasks.iter().position(|task| task.name == suite.accept.accuracy.task);
    let again = rules.and_then(|at| task_tokens[at]).unwrap_or(0) as f64 * suite.further_draws().count() as f64;
    let score = scored.map(|tokens| (tokens as f64 * suite.variants.len() as f64 + again) * per_token);
    let block: f64 = timed_seconds(suite, model, speeds);
    let (fewest, most) = suite.workload.blocks;
    let bytes = suite.variants.iter().map(|v| model.weight_bytes(&v.recipe));
    let largest = bytes.fold(0.0, f64::max);
    let built = suite.variants.iter().filter(|v| !matches!(v.recipe, Recipe::Import { .. }));
    let disk: f64 = built.map(|v| model.weight_bytes(&v.recipe)).sum();
    let mut text = String::from("\ntime, estimated from the model's size and a short probe of this machine\n");
    _ = writeln!(text, "  build   {}", units::seconds(build));
    _ = writeln!(text, "  score   {}", score.map_or("unknown until its text is here".into(), units::seconds));
    _ = writeln!(text, "  time    {}", range(block * fewest as f64, block * most as f64));
    let rest = build + score.unwrap_or(0.0);
    _ = writeln!(text, "  in all  {}", range(rest + block * fewest as f64, rest + block * most as f64));
    _ = writeln!(
        text,
        "  (probe: {:.0} G multiplications/s with many tokens, {:.1} GB/s with one; commonly right within a factor of two)",
        speeds.many / 1e9,
        speeds.read / 1e9
    );
    // A worker maps the artefact while it packs it, so its weights may be resident twice.
    _ = writeln!(
        text,
        "\nmemory and disk\n  largest worker about {}",
        units::bytes((largest * 2.0) as u64 + (64 << 20))
    );
    _ = writeln!(text, "  artefacts about {} in the cache", units::bytes(disk as u64));
    text
}

/// `3 min 20 s`, or `1 min 0 s to 3 min 20 s`.
fn range(low: f64, high: f64) -> String {
    if low == high { units::seconds(low) } else { format!("{} to {}", units::seconds(low), units::seconds(high)) }
}

/// One pass over the weights; for a method that learns also the calibration text through the blocks twice, the second
/// moments of all inputs, and its solver, which costs `out_features * in_features^2` per layer in 64-bit numbers, at
/// about a quarter of the speed of the probe.
fn build_seconds(suite: &Suite, recipe: &Recipe, model: &Model, speeds: &Speeds) -> f64 {
    const WEIGHTS_PER_SECOND: f64 = 1e8;
    const LINEARS_OF_BLOCK: usize = 7;
    let pass = (model.blocks() + model.head as f64) / WEIGHTS_PER_SECOND;
    let (Some(_), Some(calibration)) = (recipe.learns(), &suite.calibration) else { return pass };
    let tokens = (calibration.windows * calibration.length) as f64;
    let forward = 2.0 * tokens * model.blocks() / speeds.many;
    let moments: f64 = model.linears.iter().map(|(_, cols)| tokens * (cols * cols) as f64 * 4.0 / 7.0).sum();
    let solver: f64 = model.linears.iter().map(|(rows, cols)| (rows * cols * cols) as f64).sum();
    let learned = pass + forward + (moments + solver) * 4.0 / speeds.many;
    let Recipe::Search(search) = recipe else { return learned * calibration.seeds as f64 };
    // Four units of every block in every format, each through half of the blocks and the head; then two mixtures.
    let units = 4.0 * (model.linears.len() / LINEARS_OF_BLOCK) as f64 * search.formats.len() as f64;
    let compared = (search.probe_windows * calibration.length) as f64;
    units * compared * (model.blocks() / 2.0 + model.head as f64) / speeds.many
        + learned * (search.formats.len() + 2) as f64
}

/// Seconds of one block: every slot loads, warms up once and answers its prompts.
fn timed_seconds(suite: &Suite, model: &Model, speeds: &Speeds) -> f64 {
    const LOAD_BYTES_PER_SECOND: f64 = 5e8;
    let workload = &suite.workload;
    let reference = suite.variants.iter().filter(|v| v.name == suite.reference);
    let slots = suite.variants.iter().chain(reference);
    let answers = (workload.iterations + 1) as f64;
    let points: f64 = workload.batch.iter().map(|batch| *batch as f64).sum::<f64>() * workload.threads.len() as f64;
    slots
        .map(|variant| {
            let bytes = model.weight_bytes(&variant.recipe);
            let prompt = workload.prompt as f64 * model.blocks() / speeds.many;
            let answer = workload.generate as f64 * bytes / speeds.read;
            (bytes / LOAD_BYTES_PER_SECOND + answers * (prompt + answer)) * points
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Observer;
    use crate::tensor::Granularity;

    fn scheme(bits: u8, group: Option<usize>) -> WeightScheme {
        let granularity = if group.is_some() { Granularity::Group } else { Granularity::Channel };
        WeightScheme { bits, granularity, group_size: group, symmetric: true, observer: Observer::MinMax }
    }

    #[test]
    fn a_weight_costs_its_code_and_its_share_of_a_scale() {
        assert_eq!(bytes_per_weight(scheme(4, Some(64)), 576), 0.5 + 4.0 / 64.0);
        assert_eq!(bytes_per_weight(scheme(8, None), 1000), 1.004);
    }

    #[test]
    fn bytes_of_a_model_follow_its_recipe() {
        let model = Model {
            path: PathBuf::new(),
            sha256: String::new(),
            file_bytes: 77,
            imports: BTreeMap::from([("path:other".into(), 33)]),
            linears: vec![(10, 64), (20, 64)],
            head: 6400,
            embedding: 0,
        };
        let cast = Recipe::Cast { dtype: DenseFormat::F16 };
        assert_eq!(model.weight_bytes(&cast), 2.0 * (30.0 * 64.0 + 6400.0));
        let import = |source: &str| Recipe::Import { source: source.into(), activations: Default::default() };
        assert_eq!(model.weight_bytes(&import("model")), 77.0);
        assert_eq!(model.weight_bytes(&import("path:other")), 33.0);
    }
}
