//! The job that makes an artefact, or finds it in the cache.
//!
//! The cache holds an artefact's folder `<key>` and beside it `<key>.json`, its description. The description is
//! written last, so a folder without one is what a killed build left.

use std::fs;
use std::path::{Path, PathBuf};

use super::protocol::{BuildJob, BuildOutcome};
use crate::assets::cache_dir;
use crate::error::{Error, Result};
use crate::files;
use crate::machine;
use crate::results::{Artefact, Mixture, create_folder, write_whole};
use crate::suite::Recipe;
use crate::tasks::read_tokens;
use crate::variant::{self, CalibrationTokens, Order, cached};

/// Makes the artefact unless the cache has it.
pub(super) fn build(job: &BuildJob, progress: &mut dyn FnMut(usize, usize)) -> Result<BuildOutcome> {
    let calibration = match &job.calibration {
        Some(path) => Some(CalibrationTokens { windows: read_tokens(path)? }),
        None => None,
    };
    let order = Order {
        model: &job.model,
        model_sha256: &job.model_sha256,
        recipe: &job.recipe,
        import: job.import.as_deref(),
        calibration: calibration.as_ref(),
        threads: job.threads,
    };
    let mixture = mixture(&order, job.held_out.as_deref(), progress)?;
    let decided = mixture.as_ref().map(|mixture| Recipe::Quantize(mixture.recipe.clone()));
    let order = Order { recipe: decided.as_ref().unwrap_or(&job.recipe), ..order };
    let folder = cached(&order.key())?;
    let description = PathBuf::from(format!("{}.json", folder.display()));
    let mut artefact = match described(&description) {
        Some(artefact) => artefact,
        None => make(&order, &folder, &description, progress)?,
    };
    artefact.mixture = mixture.map(Box::new);
    Ok(BuildOutcome { artefact, peak_rss: machine::peak_rss() })
}

/// What a search decides on; `None` for any other recipe.
fn mixture(
    order: &Order<'_>,
    held_out: Option<&Path>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Mixture>> {
    let (Recipe::Search(search), Some(held_out)) = (order.recipe, held_out) else { return Ok(None) };
    let held_out = CalibrationTokens { windows: read_tokens(held_out)? };
    variant::search(order, search, &held_out, &cache_dir()?, progress).map(Some)
}

fn make(
    order: &Order<'_>,
    folder: &Path,
    description: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Artefact> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| Error::io(folder, "delete the remains of", e))?;
    }
    if let Some(cache) = folder.parent() {
        create_folder(cache)?;
    }
    let artefact = variant::build(order, folder, progress)?;
    // A published file is not the cache's to remember.
    if Path::new(&artefact.path) == folder {
        let json =
            serde_json::to_vec_pretty(&artefact).map_err(|e| Error::input(description.display(), e.to_string()))?;
        write_whole(description, &json)?;
    }
    Ok(artefact)
}

/// The artefact in the cache; one that cannot be read or is not all there is made again.
fn described(description: &Path) -> Option<Artefact> {
    let artefact: Artefact = serde_json::from_slice(&files::read(description, files::limit::JSON).ok()?).ok()?;
    (bytes_in(Path::new(&artefact.path)).ok()? == artefact.file_bytes).then_some(Artefact {
        cached: true,
        seconds: 0.0,
        ..artefact
    })
}

/// Bytes of all files of a folder, those of its folders too.
fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
