//! The job that makes an artefact, or finds it in the cache.
//!
//! The cache holds an artefact's folder `<key>` and beside it `<key>.json`, its description. The description is
//! written last, so a folder without one is what a killed build left.

use std::fs;
use std::path::{Path, PathBuf};

use super::protocol::{BuildJob, BuildOutcome};
use crate::error::{Error, Result};
use crate::machine;
use crate::results::{Artefact, create_folder, write_whole};
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
    let folder = cached(&order.key());
    let description = PathBuf::from(format!("{}.json", folder.display()));
    let artefact = match described(&description) {
        Some(artefact) => artefact,
        None => make(&order, &folder, &description, progress)?,
    };
    Ok(BuildOutcome { artefact, peak_rss: machine::peak_rss() })
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
    let artefact: Artefact = serde_json::from_slice(&fs::read(description).ok()?).ok()?;
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
