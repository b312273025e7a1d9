//! The job that makes an artefact, or finds it in the cache.

use std::path::Path;

use super::protocol::{BuildJob, BuildOutcome};
use crate::assets::cache_dir;
use crate::error::Result;
use crate::machine;
use crate::results::Mixture;
use crate::suite::Recipe;
use crate::tasks::read_tokens;
use crate::variant::{self, CalibrationTokens, Found, Order};

/// Makes the artefact unless the cache has it.
pub(super) fn build(
    job: &BuildJob,
    progress: &mut dyn FnMut(usize, usize),
    waiting: &mut dyn FnMut(&str),
) -> Result<BuildOutcome> {
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
    let mixture = mixture(&order, job.held_out.as_deref(), progress, waiting)?;
    let decided = mixture.as_ref().map(|mixture| Recipe::Quantize(mixture.recipe.clone()));
    let order = Order { recipe: decided.as_ref().unwrap_or(&job.recipe), ..order };
    let Found { mut artefact, warnings } = variant::cached_or_built(&order, progress, waiting)?;
    artefact.mixture = mixture.map(Box::new);
    Ok(BuildOutcome { artefact, warnings, peak_rss: machine::peak_rss() })
}

/// What a search decides on; `None` for any other recipe.
fn mixture(
    order: &Order<'_>,
    held_out: Option<&Path>,
    progress: &mut dyn FnMut(usize, usize),
    waiting: &mut dyn FnMut(&str),
) -> Result<Option<Mixture>> {
    let (Recipe::Search(search), Some(held_out)) = (order.recipe, held_out) else { return Ok(None) };
    let held_out = CalibrationTokens { windows: read_tokens(held_out)? };
    variant::search(order, search, &held_out, &cache_dir()?, progress, waiting).map(Some)
}
