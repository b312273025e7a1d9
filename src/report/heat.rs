//! Layer errors as a heat map: a row for each block, a column for each matrix in it, one map a variant. All maps share a
//! logarithmic scale, so that variants can be compared by eye.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::results::Run;
use crate::text::{name, one_line};

/// Stands for what lies outside the blocks, such as the head.
const OUTSIDE: usize = usize::MAX;

/// The map of a variant.
#[derive(Debug, Serialize)]
pub(super) struct HeatMap {
    variant: String,
    columns: Vec<String>,
    rows: Vec<Row>,
    /// Mean over all tensors.
    mean: String,
}

/// A block, or what lies outside the blocks.
#[derive(Debug, Serialize)]
struct Row {
    label: String,
    /// One for each column; `None` where the block has no such tensor.
    cells: Vec<Option<Cell>>,
}

#[derive(Debug, Clone, Serialize)]
struct Cell {
    error: String,
    /// 0 for the smallest error of all maps, 100 for the largest.
    heat: u32,
}

/// The maps of variants whose method measures errors.
pub(super) fn maps(run: &Run) -> Vec<HeatMap> {
    let measured = run.variants.iter().filter_map(|v| Some((v.name.as_str(), &v.artefact.as_ref()?.layer_errors)));
    of_values(&measured.filter(|(_, errors)| !errors.is_empty()).collect::<Vec<_>>())
}

/// Maps of values by the names of tensors, each with its title.
pub(super) fn of_values(measured: &[(&str, &BTreeMap<String, f64>)]) -> Vec<HeatMap> {
    let logs = || measured.iter().flat_map(|(_, errors)| errors.values()).filter(|e| **e > 0.0).map(|e| e.ln());
    let (low, high) = (logs().fold(f64::INFINITY, f64::min), logs().fold(f64::NEG_INFINITY, f64::max));
    let heat = |error: f64| {
        let share = if error > 0.0 && high > low { (error.ln() - low) / (high - low) } else { 0.0 };
        (100.0 * share.clamp(0.0, 1.0)).round() as u32
    };
    let map = |variant: &str, errors: &BTreeMap<String, f64>| {
        let columns: BTreeSet<&str> = errors.keys().map(|tensor| place(tensor).1).collect();
        let mut blocks: BTreeMap<usize, BTreeMap<&str, Cell>> = BTreeMap::new();
        for (tensor, error) in errors {
            let (block, matrix) = place(tensor);
            let cell = Cell { error: format!("{error:.1e}"), heat: heat(*error) };
            blocks.entry(block.unwrap_or(OUTSIDE)).or_default().insert(matrix, cell);
        }
        let row = |(block, found): (usize, BTreeMap<&str, Cell>)| Row {
            label: if block == OUTSIDE { "outside".into() } else { block.to_string() },
            cells: columns.iter().map(|column| found.get(column).cloned()).collect(),
        };
        let mean = errors.values().sum::<f64>() / errors.len() as f64;
        HeatMap {
            variant: name(variant),
            rows: blocks.into_iter().map(row).collect(),
            mean: format!("{mean:.2e}"),
            columns: columns.iter().map(|column| one_line(column)).collect(),
        }
    };
    measured.iter().map(|(variant, errors)| map(variant, errors)).collect()
}

/// Block and matrix of a tensor: `model.layers.3.mlp.down_proj.weight` is `down_proj` of block 3.
fn place(tensor: &str) -> (Option<usize>, &str) {
    let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let matrix = module.rsplit('.').next().unwrap_or(module);
    (module.split('.').find_map(|part| part.parse().ok()), matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_its_block_and_matrix() {
        assert_eq!(place("model.layers.12.mlp.down_proj.weight"), (Some(12), "down_proj"));
        assert_eq!(place("model.layers.3.self_attn.q_proj"), (Some(3), "q_proj"));
        assert_eq!(place("lm_head.weight"), (None, "lm_head"));
    }
}
