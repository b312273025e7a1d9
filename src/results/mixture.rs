//! A mixture of formats as a search chose it, and what it was chosen from.

use serde::{Deserialize, Serialize};

use crate::suite::Method;

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// The mixture as an ordinary recipe; the artefact is what this makes.
    pub recipe: Method,
    /// Number of units by the short name of their format, the most frequent first.
    pub units: Vec<(String, usize)>,
    /// Mixtures that were made and compared, in order; the chosen one is among them.
    pub tried: Vec<TriedMixture>,
    /// Place of the chosen one.
    pub chosen: usize,
    /// Whether it keeps to the budget; only a divergence, which is known last, may be missed.
    pub within_budget: bool,
}

/// A mixture that was made and compared with the unquantized model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriedMixture {
    /// How it was found: `knapsack`, `all 4g32, head 8`, `2 units reverted`.
    pub found_by: String,
    /// Sum of the divergences of its units, each quantized alone.
    pub predicted_kl: f64,
    /// KL(unquantized || mixture) on windows that were not used to find it, nats per token.
    pub kl: f64,
    /// Its 95 % interval over windows; `None` for a single window.
    pub kl_interval: Option<(f64, f64)>,
    /// Bytes of all weights as the kernels hold them.
    pub bytes: u64,
    /// Seconds of one token's products with all linear layers, where the budget is a speedup.
    pub products_s: Option<f64>,
}

impl Mixture {
    /// The mixture that was chosen.
    pub fn best(&self) -> Option<&TriedMixture> {
        self.tried.get(self.chosen)
    }
}
