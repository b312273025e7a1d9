//! `bench fetch`: bring everything a suite needs onto this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::assets::Source;
use crate::error::{Error, Result};
use crate::results::folder_of;
use crate::suite::{self, Recipe, Suite};
use crate::units;

/// Fetch the model and the data of a suite, and check their hashes.
///
/// Files go to the cache (BENCH_CACHE, else the user's cache folder). What is here already is only checked. After this,
/// the suite runs without network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bench fetch suites/quick.toml
  BENCH_CACHE=/data/cache bench fetch suite.toml")]
pub struct Args {
    /// The suite file.
    suite: PathBuf,
}

/// Fetches source after source.
pub fn run(args: &Args) -> Result<ExitCode> {
    let suite = suite::read_for_any_machine(&args.suite)?;
    let base = folder_of(&args.suite);
    for (what, text) in sources(&suite) {
        let source = parse(&args.suite, &text)?;
        let before = if source.is_local(base) { "already here" } else { "fetched" };
        let local = source.fetch(base)?;
        super::print(&format!("{what}: {text}"))?;
        let files = if local.paths.len() == 1 { String::new() } else { format!("{} files, ", local.paths.len()) };
        super::print(&format!("  {before}: {files}{}, sha256 {}", units::bytes(local.bytes), local.sha256))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses a source of a suite.
///
/// # Errors
/// An unknown form.
pub(super) fn parse(suite: &Path, text: &str) -> Result<Source> {
    Source::parse(text).map_err(|problem| Error::input(suite.display(), problem))
}

/// Every source of a suite once, with what it is for.
pub(super) fn sources(suite: &Suite) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = vec![("model".into(), suite.model.clone())];
    let calibration = suite.calibration.iter().map(|c| ("calibration".to_string(), c.text.source.clone()));
    let tasks = suite.tasks.iter().map(|t| (format!("task {}", t.name), t.text.source.clone()));
    let imports = suite.variants.iter().filter_map(|v| match &v.recipe {
        Recipe::Import { source, .. } if source != "model" => Some((format!("variant {}", v.name), source.clone())),
        _ => None,
    });
    for (what, source) in calibration.chain(tasks).chain(imports) {
        match found.iter_mut().find(|(_, known)| *known == source) {
            Some((uses, _)) => *uses = format!("{uses}, {what}"),
            None => found.push((what, source)),
        }
    }
    found
}
