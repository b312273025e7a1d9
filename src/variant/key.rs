//! Under which key an artefact is cached.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::Order;
use crate::assets::cache_dir;
use crate::error::{Error, Result};
use crate::program;
use crate::suite::Recipe;

impl Order<'_> {
    /// Cache key: SHA-256 of model, recipe, calibration tokens and of the sources that make artefacts ([`program::MAKER`]),
    /// as hex. The number of threads is not in it, as it changes no number.
    pub fn key(&self) -> String {
        let recipe = recipe_text(self.recipe);
        let import = self.import.map_or_else(String::new, |path| path.display().to_string());
        let windows = self.calibration.iter().flat_map(|tokens| &tokens.windows);
        let parts = [self.model_sha256.as_bytes(), recipe.as_bytes(), import.as_bytes()].into_iter();
        key_of(&parts.chain(windows.map(|window| bytemuck::cast_slice(window))).collect::<Vec<&[u8]>>())
    }
}

/// A recipe as text; equal recipes have equal ones, since fields are written in the order of their declaration. One that JSON
/// cannot hold, such as a number that is not finite, is written as its fields instead: it has a key of its own too.
fn recipe_text(recipe: &Recipe) -> String {
    serde_json::to_string(recipe).unwrap_or_else(|_| format!("{recipe:?}"))
}

/// SHA-256 of the sources that make artefacts and of `parts`, as hex.
pub(super) fn key_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in [program::MAKER.as_bytes()].iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Environment variable that names another folder for artefacts than `artefacts` in the cache.
pub const ARTEFACTS: &str = "BENCH_ARTEFACTS";

/// Folder of an artefact in the cache; it exists only when complete.
///
/// # Errors
/// As [`cache_dir`].
pub fn cached(key: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(ARTEFACTS).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    Ok(folder.map_or_else(|| Ok(cache_dir()?.join("artefacts")), Ok::<_, Error>)?.join(key))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::CalibrationTokens;
    use super::*;
    use crate::tensor::DenseFormat;

    #[test]
    fn whatever_changes_the_numbers_changes_the_key_and_nothing_else_does() {
        let (f16, bf16) = (Recipe::Cast { dtype: DenseFormat::F16 }, Recipe::Cast { dtype: DenseFormat::Bf16 });
        let tokens = |windows: Vec<Vec<u32>>| CalibrationTokens { windows };
        let (two, split, other) = (tokens(vec![vec![1, 2]]), tokens(vec![vec![1], vec![2]]), tokens(vec![vec![1, 3]]));
        let order = Order {
            model: Path::new("model.gguf"),
            model_sha256: "aa",
            recipe: &f16,
            import: None,
            calibration: Some(&two),
            threads: 1,
        };
        let key = order.key();
        assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(key, Order { threads: 2, model: Path::new("elsewhere.gguf"), ..order.clone() }.key());
        for changed in [
            Order { model_sha256: "ab", ..order.clone() },
            Order { recipe: &bf16, ..order.clone() },
            Order { calibration: Some(&split), ..order.clone() },
            Order { calibration: Some(&other), ..order.clone() },
            Order { calibration: None, ..order.clone() },
        ] {
            assert_ne!(key, changed.key());
        }
    }

    #[test]
    fn a_rotation_is_hashed_and_recipes_without_are_hashed_as_before() {
        let text = "method = \"rtn\"\nweights = { bits = 4, granularity = \"channel\" }\n";
        let recipe = |text: &str| crate::suite::recipe_from_text("test", text).unwrap();
        let (plain, rotated) = (recipe(text), recipe(&format!("{text}rotation = \"hadamard\"\n")));
        let json = |recipe: &Recipe| serde_json::to_string(recipe).unwrap();
        assert!(!json(&plain).contains("rotation"), "{}", json(&plain));
        assert!(json(&rotated).contains("\"rotation\":\"hadamard\""), "{}", json(&rotated));
        assert_eq!(serde_json::from_str::<Recipe>(&json(&rotated)).unwrap(), rotated);
    }
}
