//! Run folder to HTML, SVG, Markdown, CSV, JUnit XML and terminal table.
//!
//! All of them show the same [`view`] of a judged run. Names and reasons come from suite files, workers and machines: they
//! are made harmless in one place each ([`crate::text`] for every output, then the escaping of the format).

mod charts;
mod compare;
mod data;
mod details;
mod exports;
mod gate;
mod heat;
mod history;
mod html;
mod imports;
mod markdown;
mod outlook;
mod plot;
mod samples;
mod sensitivity;
mod terminal;
mod view;

use std::path::Path;

use crate::error::Result;
use crate::results::{Evidence, Run, create_folder, write_whole};

pub use compare::Comparison;
pub use gate::{annotations as gate_annotations, markdown as gate_markdown, terminal as gate_terminal, write_gate};
pub use history::write_history;
pub use sensitivity::sensitivity_page;
pub use terminal::terminal;

/// Writes `report/index.html`, `report/*.svg`, `report/summary.md`, `report/summary.csv` and `report/junit.xml` into the
/// run folder.
///
/// The same run and evidence give the same bytes.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, run: &Run, evidence: &Evidence) -> Result<()> {
    let report = folder.join("report");
    create_folder(&report)?;
    let charts = charts::draw(run, evidence)?;
    for chart in &charts {
        write_whole(&report.join(chart.file), chart.svg.as_bytes())?;
    }
    write_whole(&report.join("index.html"), html::page(run, evidence, &charts)?.as_bytes())?;
    write_whole(&report.join("summary.csv"), &exports::csv(run)?)?;
    write_whole(&report.join("junit.xml"), exports::junit(run).as_bytes())?;
    write_whole(&report.join("summary.md"), markdown::summary(run).as_bytes())
}
