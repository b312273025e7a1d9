//! What people write: suites, recipes, sources.

use std::path::Path;

use quantbench::assets::Source;
use quantbench::suite;

/// A suite file; one that is accepted describes itself, and its copy in a run folder is read back.
pub fn suite(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(suite) = suite::from_text("suite.toml", "suite", text, Some(2)) {
        let stored = serde_json::to_string(&suite).expect("an accepted suite can be stored");
        let read: suite::Suite = serde_json::from_str(&stored).expect("a stored suite can be read");
        assert_eq!(read, suite, "a suite changes when it is stored");
    }
}

/// A recipe on the command line.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(recipe) = suite::recipe_from_text("--recipe", text) {
        let _ = recipe.to_string();
    }
}

/// The place of a model or of data.
pub fn source(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(source) = Source::parse(text) else { return };
    // Asks the cache alone; paths are left out because any folder of this machine may be named.
    if matches!(source, Source::Pypi { .. } | Source::Npm { .. }) {
        let _ = source.is_local(Path::new("."));
    }
}
