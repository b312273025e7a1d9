//! Proof of import: what each imported variant's layers were read as, and how far kernels are from the checkpoint.

use serde::Serialize;

use crate::results::LayerProof;
use crate::text::one_line;

/// An imported variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Import {
    /// Linear layers that are quantized, and those in floating point.
    pub quantized: usize,
    pub floating: usize,
    /// Largest mismatches over all layers; `None` where no layer is quantized.
    pub integers: Option<String>,
    pub kernel: Option<String>,
    pub layers: Vec<Layer>,
}

/// One linear layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Layer {
    pub tensor: String,
    pub stored_as: String,
    pub kernels: String,
    pub integers: String,
    pub kernel: String,
}

/// What the proof of an imported variant says.
pub(super) fn import(proof: &[LayerProof]) -> Import {
    let products = || proof.iter().filter_map(|layer| layer.products.as_ref()).flatten();
    let largest = |of: &dyn Fn(&crate::results::ProductProof) -> f64| {
        products().map(of).reduce(f64::max).map(|mismatch| format!("{mismatch:.1e}"))
    };
    let quantized = proof.iter().filter(|layer| layer.products.is_some()).count();
    Import {
        quantized,
        floating: proof.len() - quantized,
        integers: largest(&|p| p.integers),
        kernel: largest(&|p| p.kernel),
        layers: proof.iter().map(layer).collect(),
    }
}

fn layer(proof: &LayerProof) -> Layer {
    let (tensor, stored_as) = (one_line(&proof.tensor), one_line(&proof.stored_as));
    let Some(products) = &proof.products else {
        let (integers, kernel) = (String::new(), String::new());
        return Layer { tensor, stored_as, kernels: "floating point".into(), integers, kernel };
    };
    let names: Vec<&str> = products.iter().map(|p| p.kernel_name.as_str()).collect();
    let largest =
        |of: fn(&crate::results::ProductProof) -> f64| format!("{:.1e}", products.iter().map(of).fold(0.0, f64::max));
    Layer {
        tensor,
        stored_as,
        kernels: one_line(&names.join(", ")),
        integers: largest(|p| p.integers),
        kernel: largest(|p| p.kernel),
    }
}
