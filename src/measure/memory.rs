//! Refuses to start a worker that would not fit into memory: a failure with numbers instead of a machine that swaps.

use std::fs;
use std::path::Path;

use sysinfo::System;

use crate::units;
use crate::worker::{Job, Reference};

/// What a worker needs besides weights: tokens, caches, logits, buffers.
const BUFFERS: u64 = 96 << 20;

/// About how many bytes a job needs at its peak. Weights are held packed, which is about their size on disk; what is
/// read from the mapped file counts too, but the system can take it back.
pub(super) fn need(job: &Job) -> u64 {
    match job {
        Job::Prepare(_) => BUFFERS,
        Job::Build(job) => BUFFERS + size(&job.model),
        Job::Score(job) => {
            let head = match &job.reference {
                // The head of a small model is a large part of it.
                Reference::Compare { artefact, .. } => size(artefact) / 2,
                Reference::Store(_) | Reference::Absent => 0,
            };
            BUFFERS + size(&job.artefact) + head
        }
        Job::Time(job) => BUFFERS + size(&job.artefact),
    }
}

/// Bytes that can be had without swapping; `None` where the system does not tell.
pub(super) fn available() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// # Errors
/// A message with both numbers when `available` is too little.
pub(super) fn check(need: u64, available: Option<u64>) -> Result<(), String> {
    match available {
        Some(available) if available < need => Err(format!(
            "not started: it needs about {}, {} are available; close other programs or take a larger machine",
            units::bytes(need),
            units::bytes(available)
        )),
        _ => Ok(()),
    }
}

/// Bytes of a file, or of the files of a folder; 0 for what is missing, which the worker will report.
fn size(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => {
            entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
        }
        Err(_) => fs::metadata(path).map_or(0, |m| m.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_are_told() {
        let refused = check(3 << 30, Some(1 << 30)).unwrap_err();
        assert!(refused.contains("3.0 GiB") && refused.contains("1.0 GiB"), "{refused}");
        assert_eq!(check(1 << 30, Some(3 << 30)), Ok(()));
        assert_eq!(check(u64::MAX, None), Ok(()));
    }

    #[test]
    fn a_folder_counts_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [0; 100]).unwrap();
        fs::write(folder.path().join("b"), [0; 23]).unwrap();
        assert_eq!(size(folder.path()), 123);
        assert_eq!(size(&folder.path().join("a")), 100);
        assert_eq!(size(&folder.path().join("absent")), 0);
        assert!(available().is_some());
    }
}
