//! The run folder: `results/runs/<suite>/<utc>-<host>/`, and what lies where in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::journal::JOURNAL;
use super::whole::{BESIDE, create_folder};
use crate::error::{Error, Result};

/// A run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder `root/<suite>/<utc>-<host>`; a number is appended when a run started in the same second.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(root: &Path, suite: &str, unix_s: f64, host: &str) -> Result<RunFolder> {
        let parent = root.join(file_name(suite));
        create_folder(&parent)?;
        let name = format!("{}-{}", utc(unix_s), file_name(host));
        for attempt in 0..1000 {
            let path = parent.join(if attempt == 0 { name.clone() } else { format!("{name}-{attempt}") });
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder { path }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(&path, "create", e)),
            }
        }
        Err(Error::input(parent.display(), "a thousand runs started in this second; give another folder with --out"))
    }

    /// `path` itself, which must be empty or absent.
    ///
    /// # Errors
    /// When it holds anything, or cannot be created.
    pub fn create_at(path: &Path) -> Result<RunFolder> {
        create_folder(path)?;
        let mut entries = fs::read_dir(path).map_err(|e| Error::io(path, "read", e))?;
        if entries.next().is_some() {
            return Err(Error::Usage(format!(
                "--out {}: the folder is not empty; give a new one, or go on with its run by --resume",
                path.display()
            )));
        }
        Ok(RunFolder { path: path.to_path_buf() })
    }

    /// The folder of a run that exists.
    ///
    /// # Errors
    /// When it has no journal.
    pub fn open(path: &Path) -> Result<RunFolder> {
        if !path.join(JOURNAL).is_file() {
            return Err(Error::input(
                path.display(),
                format!("has no {JOURNAL}, so it is no run folder; give the folder that `bench run` printed"),
            ));
        }
        Ok(RunFolder { path: path.to_path_buf() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Token windows and prompts, kept so that every worker and a resumed run read the same tokens.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Hidden states of the reference, deleted when scoring ends.
    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// The judged run.
    pub fn run_json(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// Every timed iteration.
    pub fn samples_csv(&self) -> PathBuf {
        self.path.join("samples.csv")
    }

    /// Every window's score.
    pub fn scores_csv(&self) -> PathBuf {
        self.path.join("scores.csv")
    }
}

/// Removes what a killed process has left in a run's folder: hidden states that were in use, and files that were being written.
/// The caller holds the journal.
///
/// # Errors
/// What cannot be removed.
pub fn remove_remains(folder: &RunFolder) -> Result<()> {
    let scratch = folder.scratch();
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(|e| Error::io(&scratch, "delete", e))?;
    }
    for place in [folder.path().to_path_buf(), folder.data(), folder.path().join("report")] {
        // One that is absent holds nothing.
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(BESIDE)) {
                fs::remove_file(entry.path()).map_err(|e| Error::io(&entry.path(), "delete", e))?;
            }
        }
    }
    Ok(())
}

/// A user's name as a file name: anything but letters, digits, `.`, `_` and `-` becomes `-`; never starts with a dot.
fn file_name(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let safe = safe.trim_start_matches('.');
    if safe.is_empty() { "unnamed".into() } else { safe.to_string() }
}

/// A time as `20261121T101500Z` (ISO 8601 basic format, UTC).
pub fn utc(unix_s: f64) -> String {
    let seconds = unix_s.max(0.0) as i64;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last; 400 years have 146,097 days
/// (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(0.0), "19700101T000000Z");
        assert_eq!(utc(951_782_399.9), "20000228T235959Z");
        assert_eq!(utc(951_782_400.0), "20000229T000000Z");
        assert_eq!(utc(1_795_256_100.0), "20261121T101500Z");
        assert_eq!(utc(4_107_542_400.0), "21000301T000000Z");
    }

    #[test]
    fn days_follow_each_other_over_four_centuries() {
        let days_in = |year: i64, month: i64| match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(civil(days), (year, month, day));
            day += 1;
            if day > days_in(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn runs_of_one_second_get_folders_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let first = RunFolder::create(root.path(), "lm", 0.0, "a/b").unwrap();
        let second = RunFolder::create(root.path(), "lm", 0.0, "a/b").unwrap();
        assert!(first.path().ends_with("lm/19700101T000000Z-a-b"));
        assert!(second.path().ends_with("lm/19700101T000000Z-a-b-1"));
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        assert_eq!(file_name("../../etc"), "-..-etc");
        assert_eq!(file_name(".."), "unnamed");
    }

    #[test]
    fn a_folder_with_anything_in_it_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("note"), "x").unwrap();
        assert!(RunFolder::create_at(root.path()).unwrap_err().to_string().contains("not empty"));
        RunFolder::create_at(&root.path().join("new")).unwrap();
    }
}
