//! Run folder to HTML, SVG, Markdown and terminal table.

use std::path::Path;

use crate::error::Result;
use crate::results::{Evidence, Run};

/// Writes `report/index.html`, `report/*.svg` and `report/summary.md` into the run folder.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, run: &Run, evidence: &Evidence) -> Result<()> {
    let _ = (folder, run, evidence);
    todo!("report")
}

/// The table and the answer for a terminal of `width` columns.
pub fn terminal(run: &Run, width: usize) -> String {
    let _ = (run, width);
    todo!("report")
}
