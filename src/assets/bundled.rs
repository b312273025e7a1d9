//! `bundled:NAME`: what is shipped with the repository, under `suites/models/` or `suites/data/`, the extension
//! `.safetensors` added where the name alone is not there.

use std::path::{Path, PathBuf};

use super::files;
use crate::error::{Error, Result};

/// The file, folder or glob `name`, looked for from `base` upwards.
pub(super) fn find(name: &str, base: &Path) -> Result<Vec<PathBuf>> {
    // A suite in the working folder has an empty base, which is no path to make absolute.
    let start = std::path::absolute(base.join(".")).map_err(|source| Error::io(base, "read", source))?;
    let places = start.ancestors().flat_map(|folder| [folder.join("suites/models"), folder.join("suites/data")]);
    let names = [name.to_owned(), format!("{name}.safetensors")];
    let paths = places.flat_map(|place| names.each_ref().map(|name| place.join(name)));
    paths.map(|path| files::find(&path)).find(Result::is_ok).unwrap_or_else(|| {
        let problem = format!(
            "not found in suites/models or suites/data, from {} upwards; bundled models and data come with a clone of the \
             repository: name the suite in it, or run the command there",
            start.display()
        );
        Err(Error::input(format!("bundled:{name}"), problem))
    })
}
