//! Fused units: the linear layers that read one input. They are quantized alike, because kernels round that input once for
//! all of them and programs that load the result fuse them into one matrix.

use super::super::plan::HEAD;
use crate::network::{Architecture, Site};

/// Linear layers of one format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Block and input; `None` for the head.
    pub place: Option<(usize, Site)>,
    /// Names of the linear layers, as recipes call them.
    pub modules: Vec<String>,
}

impl Unit {
    /// Units of a block in the order of execution.
    pub(super) fn of_block(architecture: &Architecture, layer: usize) -> Vec<Unit> {
        let modules = |site: Site| {
            architecture.linears_at(site).iter().map(|linear| architecture.module(layer, linear)).collect()
        };
        Site::ALL.into_iter().map(|site| Unit { place: Some((layer, site)), modules: modules(site) }).collect()
    }

    /// The output head, with the embedding where they are tied.
    pub(super) fn head() -> Unit {
        Unit { place: None, modules: vec![HEAD.to_owned()] }
    }

    /// Name inside the block.
    pub(super) fn name(&self) -> &'static str {
        match self.place {
            Some((_, Site::AttentionInput)) => "qkv",
            Some((_, Site::AttentionOutput)) => "o",
            Some((_, Site::MlpInput)) => "gate_up",
            Some((_, Site::MlpDown)) => "down",
            None => "head",
        }
    }
}
