//! What a unit may become: unquantized, or one of the formats that fit it, each with its measured loss, its bytes and, where
//! a search asks for it, its time.

use std::collections::BTreeMap;

use super::super::plan::{EMBEDDING, HEAD, blank};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Pool, synthetic};
use crate::network::Architecture;
use crate::results::{Sensitivity, UnitSensitivity};
use crate::suite::{Format, Method, Override, Search};
use crate::tensor::DenseFormat;

/// Losses are whole numbers of this many nats, so that sums are exact.
const NATS: f64 = 1e-9;
/// Most bytes of the matrices that time a shape: more than caches hold.
const MOST_BYTES: usize = 256 << 20;

/// A unit with all it may become, the first being to stay as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnitOptions {
    pub layer: Option<usize>,
    pub modules: Vec<String>,
    pub options: Vec<UnitOption>,
}

/// One thing that a unit may become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UnitOption {
    /// `None` is unquantized.
    pub format: Option<Format>,
    /// In units of [`NATS`].
    pub loss: u64,
    pub bytes: u64,
    /// Of one token's products; 0 where times are not asked for.
    pub nanoseconds: u64,
}

/// A loss in nats as a whole number.
pub(super) fn whole(nats: f64) -> u64 {
    (nats / NATS).round_ties_even() as u64
}

/// A loss in nats.
pub(super) fn nats(whole: u64) -> f64 {
    whole as f64 * NATS
}

/// Options of every unit.
pub(super) fn options(found: &Sensitivity, search: &Search) -> Vec<UnitOptions> {
    let of_unit = |unit: &UnitSensitivity| {
        let bytes = unit.weights * search.dense.bytes() as u64;
        let mut options = vec![UnitOption { format: None, loss: 0, bytes, nanoseconds: 0 }];
        options.extend(search.formats.iter().filter_map(|format| {
            let format = if unit.layer.is_some() { *format } else { format.of_head() };
            let effect = unit.effect(&format.name())?;
            Some(UnitOption { format: Some(format), loss: whole(effect.kl), bytes: effect.bytes, nanoseconds: 0 })
        }));
        UnitOptions { layer: unit.layer, modules: unit.modules.clone(), options }
    };
    found.units.iter().map(of_unit).collect()
}

/// Measures the time of every option: the products of one token with all of a unit's matrices.
///
/// # Errors
/// A damaged model.
pub(super) fn time(units: &mut [UnitOptions], model: &Checkpoint, dense: DenseFormat, threads: usize) -> Result<()> {
    let pool = Pool::new(threads);
    let mut known: BTreeMap<(usize, usize, String), u64> = BTreeMap::new();
    let architecture = Architecture::of(model)?;
    for unit in units {
        for module in &unit.modules {
            let head = architecture.head().filter(|_| module == HEAD);
            let name = head.map_or_else(|| format!("{module}.weight"), str::to_owned);
            let Some([rows, cols]) = model.shape(&name).and_then(|shape| <[usize; 2]>::try_from(shape).ok()) else {
                return Err(Error::input(model.path().display(), format!("tensor \"{name}\": expected a matrix")));
            };
            for option in &mut unit.options {
                let format = option.format.map_or_else(String::new, |format| format.name());
                let time = known.entry((rows, cols, format)).or_insert_with(|| {
                    let seconds = product_seconds((rows, cols), option.format, dense, &pool);
                    (seconds * 1e9).round_ties_even() as u64
                });
                option.nanoseconds += *time;
            }
        }
    }
    Ok(())
}

/// Seconds of one token's product, the weights coming from memory and not from a cache.
fn product_seconds((rows, cols): (usize, usize), format: Option<Format>, dense: DenseFormat, pool: &Pool) -> f64 {
    let build = || match format {
        None => Some(synthetic::dense(dense, rows, cols)),
        Some(format) => {
            Matrix::from_quantized(&blank(format.weights, rows, cols).ok()?, format.activations.unlearned()).ok()
        }
    };
    let Some(first) = build() else { return f64::INFINITY };
    let copies = MOST_BYTES.div_ceil(first.bytes().max(1)).min(64);
    let matrices: Vec<Matrix> = std::iter::once(first).chain((1..copies).filter_map(|_| build())).collect();
    synthetic::product_seconds(&matrices, pool, 1)
}

/// Bytes of everything that no unit holds: norms and biases in 32 bits, an embedding of its own in `dense`.
pub(super) fn bytes_outside(model: &Checkpoint, units: &[UnitOptions], dense: DenseFormat) -> Result<u64> {
    let architecture = Architecture::of(model)?;
    let in_units = |name: &str| {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        units.iter().any(|unit| unit.modules.iter().any(|known| known == module))
            || module == HEAD
            || (architecture.tied_head() && module == EMBEDDING)
    };
    let bytes = |shape: Vec<usize>| {
        let each = if shape.len() < 2 { DenseFormat::F32 } else { dense }.bytes();
        (shape.iter().product::<usize>() * each) as u64
    };
    let names = architecture.kept_tensors(model)?.into_iter().filter(|name| !in_units(name));
    Ok(names.filter_map(|name| model.shape(&name)).map(bytes).sum())
}

/// The recipe of a choice for every unit: the format of most weights is that of all, the others are overrides. `None` where
/// the search has no formats.
pub(super) fn recipe(units: &[UnitOptions], chosen: &[usize], search: &Search) -> Option<Method> {
    let format_of = |at: usize| units[at].options[chosen[at]].format;
    let blocks: Vec<usize> = (0..units.len()).filter(|&at| units[at].layer.is_some()).collect();
    let weight = |format: &Format| -> u64 {
        // Options begin with the unquantized unit, whose bytes tell its weights.
        blocks.iter().filter(|&&at| format_of(at) == Some(*format)).map(|&at| units[at].options[0].bytes).sum()
    };
    // The last of equals under `max_by_key`, so the first format of the suite after reversing.
    let common = search.formats.iter().rev().max_by_key(|format| weight(format)).copied()?;
    let rule = |tensors: String, format: Option<Format>| Override {
        tensors,
        weights: format.map(|format| format.weights),
        activations: format.map(|format| format.activations).filter(|inputs| *inputs != common.activations),
    };
    let mut overrides = Vec::new();
    for format in std::iter::once(None).chain(search.formats.iter().copied().map(Some)) {
        let others = blocks.iter().filter(|&&at| format != Some(common) && format_of(at) == format);
        overrides.extend(others.flat_map(|&at| &units[at].modules).map(|module| rule(module.clone(), format)));
    }
    for at in (0..units.len()).filter(|&at| units[at].layer.is_none() && format_of(at).is_some()) {
        overrides.extend(units[at].modules.iter().map(|module| rule(module.clone(), format_of(at))));
    }
    Some(Method {
        method: search.quantizer.clone(),
        weights: common.weights,
        activations: common.activations,
        smooth: None,
        bias_correction: false,
        rotation: None,
        asymmetric_calibration: false,
        overrides,
        dense: search.dense,
    })
}
