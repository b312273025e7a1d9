//! `[[variant]]`: how the file writes a recipe.
//!
//! | form | keys |
//! |---|---|
//! | cast | `method = "cast"`, `dtype` = `f32`, `f16` or `bf16` |
//! | quantize | `method` = `rtn`, `gptq`, `awq` or `hqq`, `weights`, `activations` (none), `smooth` (none), `bias_correction` (false), `asymmetric_calibration` (false), `rotation` (none), `overrides` (none), `dense` (`f16`) |
//! | search | `method = "search"`, `budget`, `formats` (`["4g32", "4g64", "8"]`), `quantizer` (`gptq`), `observer` (`mse`), `dense` (`f16`), `probe_windows` (4), `check_windows` (16) |
//! | import | `import` = `"model"` or a source, `activations` (none) |
//!
//! `weights` and the `weights` of an override are `{ bits, granularity, group_size, symmetric, observer }`: 2 to 8 bits;
//! granularity `tensor`, `channel` or `group`; `group_size` only for groups; `symmetric` true by default; `observer`
//! `minmax` by default, `mse` for the scale of least squared error, `imatrix_mse` for that of least squared error over
//! calibration inputs.
//! `activations` are `"none"` or a table (`activations.rs`): `{ bits = 8 }` for a scale per token, `mode = "static"` for one
//! per layer.
//! `smooth` is SmoothQuant before `rtn` or `gptq` where inputs are in 8 bits: `"search"` for the best exponent of every
//! input, or an exponent from 0 to 1. `bias_correction` moves what quantization does to the mean of a layer's outputs into its
//! bias, where it has one. `rotation = "hadamard"` rotates the residual stream and the value heads of a decoder first.
//! `asymmetric_calibration` lets `gptq` aim at what a layer puts out in the unquantized network, whose inputs quantized layers
//! before it have changed.
//! A search takes one `budget`: `{ bytes = "80 MiB" }` of all weights, `{ speedup = 2.0 }` of the products of one token over
//! `dense`, or `{ divergence = 0.02 }` from the unquantized model, nats per token. Formats are named as `bench sensitivity`
//! names them: bits, `g` and the columns of a group, `z` for zero points, `a8` for 8-bit inputs.
//! Beside any of them `kv_cache` = `f32`, `f16`, `bf16` or `int8` says how keys and values are stored while the variant runs.
//! An override is `{ tensors = "lm_head", weights = {...} }` or `{ tensors = "*.down_proj", keep = "dense" }`; `tensors`
//! may be a list.

use super::activations::{self, InputScheme};
use super::fields::{At, Faults, Fields, list_names, parse, suggestion};
use super::format::Format;
use super::read::{Looks, name, source};
use super::schema::{Budget, Method, Observer, Override, Recipe, Rotation, Search, Smooth, Variant, WeightScheme};
use crate::error::Result;
use crate::kernels::KvFormat;
use crate::tensor::{DenseFormat, Granularity};
use crate::units;

/// Quantizing methods a suite may name, and whether they learn from calibration data.
pub const METHODS: [(&str, bool); 4] = [("rtn", false), ("gptq", true), ("awq", true), ("hqq", false)];

const DENSE: [(&str, DenseFormat); 3] =
    [("f32", DenseFormat::F32), ("f16", DenseFormat::F16), ("bf16", DenseFormat::Bf16)];

/// Reads one recipe, written as the keys of a `[[variant]]` without `name`; `place` names it in faults.
///
/// # Errors
/// All faults of the text.
pub fn recipe_from_text(place: &str, text: &str) -> Result<Recipe> {
    let table = parse(place, text)?;
    let faults = Faults::default();
    let fields = Fields::new("recipe", table.get_ref(), 0, &faults);
    let recipe = read_recipe(&fields);
    fields.finish();
    match recipe {
        Some(recipe) if faults.is_empty() => Ok(recipe),
        _ => Err(faults.into_error(place, text)),
    }
}

/// All variants of the file; unique names.
pub(super) fn read(top: &Fields<'_>) -> Vec<At<Variant>> {
    let tables = top.tables("variant");
    if tables.is_empty() {
        top.missing(
            "[[variant]]",
            "one such as name = \"int8\", method = \"rtn\", weights = { bits = 8, granularity = \"channel\" }",
        );
    }
    let mut looks = Looks::default();
    let mut variants = Vec::new();
    for mut table in tables {
        let at = table.at();
        if !table.has("name") {
            table.missing("name", "name = \"int8-ptq\", say");
        }
        let name = name(&table, "name");
        if let Some(name) = name {
            table.rename(format!("variant {:?}", name.value));
            looks.add(&table, name, "variant");
        }
        let recipe = read_recipe(&table);
        let kv_cache = table.choice("kv_cache", &KvFormat::NAMED);
        table.finish();
        if let (Some(name), Some(recipe)) = (name, recipe) {
            variants.push(At { value: Variant { name: name.value.into(), recipe, kv_cache }, at });
        }
    }
    variants
}

fn read_recipe(table: &Fields<'_>) -> Option<Recipe> {
    match (table.has("method"), table.has("import")) {
        (true, true) => {
            table.fault("has both `method` and `import`; keep the one that makes it");
            // Reads both forms, so that their keys are known and their faults are found.
            let _ = (read_import(table), read_method(table));
            None
        }
        (false, false) => {
            table.missing("method", "method = \"rtn\", \"gptq\", \"awq\", \"hqq\" or \"cast\", or import = \"model\"");
            None
        }
        (false, true) => read_import(table),
        (true, false) => read_method(table),
    }
}

fn read_import(table: &Fields<'_>) -> Option<Recipe> {
    let activations = activations::read(table).unwrap_or_default();
    if table.has("rotation") {
        table.fault("`rotation` changes weights before they are quantized, an import is taken as it is; remove it");
    }
    let source = match table.text("import")?.value {
        "model" => "model".into(),
        _ => source(table, "import")?,
    };
    Some(Recipe::Import { source, activations })
}

fn read_method(table: &Fields<'_>) -> Option<Recipe> {
    let method = table.text("method")?;
    if method.value == "cast" {
        if !table.has("dtype") {
            table.missing("dtype", "dtype = \"f16\", \"bf16\" or \"f32\"");
        }
        return table.choice("dtype", &DENSE).map(|dtype| Recipe::Cast { dtype });
    }
    if method.value == "search" {
        return read_search(table).map(Recipe::Search);
    }
    let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).chain(["cast", "search"]).collect();
    if !names.contains(&method.value) {
        let hint = suggestion(method.value, &names);
        let problem = format!("`method` is {:?}; expected {}{hint}", method.value, list_names(&names));
        table.fault_at(method.at, problem);
    }
    if !table.has("weights") {
        table.missing("weights", "weights = { bits = 4, granularity = \"group\", group_size = 64 }");
    }
    let weights = table.table("weights").and_then(read_weights);
    let activations = activations::read(table).unwrap_or_default();
    let overrides: Vec<_> = table.tables("overrides").into_iter().map(read_override).collect();
    let dense = table.choice("dense", &DENSE).unwrap_or(DenseFormat::F16);
    let smooth = read_smooth(table);
    let recipe = Method {
        method: method.value.into(),
        weights: weights?,
        activations,
        smooth,
        bias_correction: table.flag("bias_correction").unwrap_or(false),
        rotation: table.choice("rotation", &[("hadamard", Rotation::Hadamard)]),
        asymmetric_calibration: table.flag("asymmetric_calibration").unwrap_or(false),
        overrides: overrides.into_iter().collect::<Option<Vec<_>>>()?.concat(),
        dense,
    };
    if let Some(problem) = clash(&recipe) {
        table.fault_at(method.at, problem);
    }
    Some(Recipe::Quantize(recipe))
}

fn read_search(table: &Fields<'_>) -> Option<Search> {
    const QUANTIZERS: [(&str, &str); 3] = [("rtn", "rtn"), ("gptq", "gptq"), ("hqq", "hqq")];
    let quantizer = table.choice("quantizer", &QUANTIZERS).unwrap_or("gptq");
    let own_ranges = quantizer == "hqq";
    let usual = if own_ranges { Observer::MinMax } else { Observer::Mse };
    let observer = table.choice("observer", &Observer::NAMED).unwrap_or(usual);
    if own_ranges && observer != Observer::MinMax {
        table.fault("quantizer \"hqq\" finds ranges of its own; remove `observer`, or use \"rtn\" or \"gptq\"");
    }
    let formats = match table.texts("formats") {
        None if table.has("formats") => None,
        None => ["4g32", "4g64", "8"].iter().map(|name| Format::parse(name, observer).ok()).collect(),
        Some(names) => read_formats(table, &names, observer),
    };
    if !table.has("budget") {
        table.missing("budget", "budget = { bytes = \"80 MiB\" }, { speedup = 2.0 } or { divergence = 0.02 }");
    }
    let budget = table.table("budget").and_then(read_budget);
    let dense = table.choice("dense", &DENSE).unwrap_or(DenseFormat::F16);
    let windows = |key, usual| table.count(key, 1..=4096).unwrap_or(usual);
    let (probe_windows, check_windows) = (windows("probe_windows", 4), windows("check_windows", 16));
    Some(Search {
        quantizer: quantizer.into(),
        formats: formats?,
        budget: budget?,
        dense,
        probe_windows,
        check_windows,
    })
}

fn read_formats(table: &Fields<'_>, names: &[At<&str>], observer: Observer) -> Option<Vec<Format>> {
    let mut formats: Vec<Format> = Vec::new();
    for name in names {
        match Format::parse(name.value, observer) {
            Err(problem) => table.fault_at(name.at, format!("`formats`: {problem}")),
            Ok(format) if formats.contains(&format) => {
                table.fault_at(name.at, format!("`formats` names {} twice; remove one", name.value));
            }
            Ok(format) => formats.push(format),
        }
    }
    (formats.len() == names.len()).then_some(formats)
}

fn read_budget(table: Fields<'_>) -> Option<Budget> {
    let bytes = table.text("bytes").and_then(|text| {
        let bytes = units::parse_bytes(text.value).filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            let problem = "expected a size above 0 with its unit, such as \"80 MiB\"";
            table.fault_at(text.at, format!("`bytes` is {:?}; {problem}", text.value));
        }
        bytes.map(Budget::Bytes)
    });
    let speedup = table.positive("speedup", 100.0).map(Budget::Speedup);
    let divergence = table.positive("divergence", 100.0).map(Budget::Divergence);
    if ["bytes", "speedup", "divergence"].into_iter().filter(|key| table.has(key)).count() != 1 {
        table.fault("expected one of `bytes`, `speedup` and `divergence`");
    }
    table.finish();
    bytes.or(speedup).or(divergence)
}

/// Keys that do not go together.
fn clash(recipe: &Method) -> Option<&'static str> {
    let overridden = recipe.overrides.iter();
    let mut schemes = overridden.clone().filter(|rule| rule.tensors != "lm_head").filter_map(|rule| rule.weights);
    let mut inputs = overridden.filter_map(|rule| rule.activations).chain([recipe.activations]);
    let searches = |scheme: WeightScheme| scheme.observer != Observer::MinMax;
    let own_ranges = ["awq", "hqq"].contains(&recipe.method.as_str());
    if own_ranges && (searches(recipe.weights) || schemes.any(searches)) {
        Some(
            "methods \"awq\" and \"hqq\" find ranges of their own; remove `observer`, or use method \"rtn\" or \"gptq\"",
        )
    } else if recipe.method == "awq" && recipe.smooth.is_some() {
        Some("method \"awq\" rescales inputs by itself; remove `smooth`, or use method \"rtn\" or \"gptq\"")
    } else if recipe.asymmetric_calibration && recipe.method != "gptq" {
        Some("`asymmetric_calibration` is for method \"gptq\"; remove one of the two")
    } else if recipe.asymmetric_calibration && recipe.smooth.is_some() {
        Some(
            "`asymmetric_calibration` compares inputs with those of the unquantized network, which `smooth` rescales; remove one of \
             the two",
        )
    } else if recipe.smooth.is_some() && inputs.all(|inputs| inputs == InputScheme::None) {
        Some("`smooth` is for inputs in 8 bits; add activations = { bits = 8 }, or remove it")
    } else {
        None
    }
}

/// `"search"` or an exponent.
fn read_smooth(table: &Fields<'_>) -> Option<Smooth> {
    if table.is_text("smooth") {
        return table.choice("smooth", &[("search", Smooth::Search)]);
    }
    table.positive("smooth", 1.0).map(Smooth::Alpha)
}

fn read_weights(table: Fields<'_>) -> Option<WeightScheme> {
    const GRANULARITIES: [(&str, Granularity); 3] =
        [("tensor", Granularity::Tensor), ("channel", Granularity::Channel), ("group", Granularity::Group)];
    for (key, remedy) in [("bits", "bits = 4 or 8"), ("granularity", "granularity = \"channel\" or \"group\"")] {
        if !table.has(key) {
            table.missing(key, remedy);
        }
    }
    let bits = table.whole("bits", 2..=8).map(|n| n.value as u8);
    let granularity = table.choice("granularity", &GRANULARITIES);
    let group_size = table.whole("group_size", 1..=1 << 20);
    let symmetric = table.flag("symmetric").unwrap_or(true);
    let observer = table.choice("observer", &Observer::NAMED).unwrap_or_default();
    match (granularity, group_size) {
        (Some(Granularity::Group), None) if !table.has("group_size") => {
            table.missing("group_size", "group_size = 64, a divisor of the layers' inputs");
        }
        (Some(Granularity::Tensor | Granularity::Channel), Some(size)) => {
            table.fault_at(size.at, "`group_size` is only for granularity = \"group\"; remove one of the two");
        }
        (Some(Granularity::Group), Some(size)) => check_group_size(&table, size),
        _ => {}
    }
    table.finish();
    let group_size = group_size.map(|size| size.value as usize);
    Some(WeightScheme { bits: bits?, granularity: granularity?, group_size, symmetric, observer })
}

fn check_group_size(table: &Fields<'_>, size: At<u64>) {
    /// Columns of a row that every kernel reads at a time.
    const UNIT: u64 = 16;
    if !size.value.is_multiple_of(UNIT) {
        let below = size.value / UNIT * UNIT;
        let nearest = if below == 0 { format!("{UNIT}") } else { format!("{below} or {}", below + UNIT) };
        let problem = format!("`group_size` is {}; kernels take multiples of {UNIT}; use {nearest}", size.value);
        table.fault_at(size.at, problem);
    }
}

/// An override for each of the named tensors.
fn read_override(table: Fields<'_>) -> Option<Vec<Override>> {
    if !table.has("tensors") {
        table.missing("tensors", "tensors = \"lm_head\", or a pattern such as \"*.down_proj\"");
    }
    let tensors = match table.is_array("tensors") {
        true => table.texts("tensors"),
        false => table.text("tensors").map(|one| vec![one]),
    };
    let weights = table.table("weights").map(read_weights);
    let activations = activations::read(&table);
    let keep = table.choice("keep", &[("dense", ())]);
    for pattern in tensors.iter().flatten().filter(|t| t.value.trim().is_empty()) {
        table.fault_at(pattern.at, "`tensors` is empty; name a module such as \"lm_head\" or \"*.down_proj\"");
    }
    match (table.has("weights"), table.has("keep")) {
        (true, true) => table.fault("has both `weights` and `keep`; remove one of the two"),
        (false, false) => table.missing("weights", "weights = {...} to quantize these tensors, or keep = \"dense\""),
        _ => {}
    }
    table.finish();
    let weights = match weights {
        Some(scheme) => Some(scheme?),
        None => {
            keep?;
            None
        }
    };
    Some(tensors?.iter().map(|name| Override { tensors: name.value.into(), weights, activations }).collect())
}
