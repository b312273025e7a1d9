//! The cache folder: packages, artefacts and built programs, all of which are trusted once they are there. So it must
//! belong to the user and be closed to the writing of everybody; one that is made here is closed to their reading too.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::machine;

/// Name of the environment variable that names the cache folder.
const VARIABLE: &str = "BENCH_CACHE";

/// The cache folder: `BENCH_CACHE`, else `quantbench` in the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`), else
/// `quantbench-UID` in the system's folder for temporary files. It is there and the user's own when this returns.
///
/// # Errors
/// A folder that cannot be made, belongs to another user, or can be written by everybody.
pub fn cache_dir() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    let path = folder(VARIABLE).or_else(|| of_user().map(|user| user.join("quantbench")));
    let path = path.unwrap_or_else(|| std::env::temp_dir().join(shared_name(machine::user())));
    // Clients work in folders of their own, where a relative path would lead elsewhere.
    let path = std::path::absolute(&path).map_err(|e| Error::io(&path, "find", e))?;
    checked(&path, machine::user())?;
    Ok(path)
}

/// Name among other users' files.
fn shared_name(user: Option<u32>) -> String {
    user.map_or_else(|| "quantbench".into(), |user| format!("quantbench-{user}"))
}

/// Makes the folder where it is missing, and checks whose it is.
fn checked(path: &Path, user: Option<u32>) -> Result<()> {
    let fault = |problem: String| {
        let remedy = format!("name another folder with the environment variable {VARIABLE}");
        Error::input(path.display(), format!("the cache folder {problem}; {remedy}"))
    };
    create(path).map_err(|e| fault(format!("cannot be made: {e}")))?;
    let found = std::fs::metadata(path).map_err(|e| fault(format!("cannot be read: {e}")))?;
    if !found.is_dir() {
        return Err(fault("is no folder".into()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if user.is_some_and(|user| user != found.uid()) {
            return Err(fault(format!("belongs to another user ({}), who could change what runs here", found.uid())));
        }
        if found.mode() & 0o002 != 0 {
            return Err(fault("can be written by every user (chmod o-w closes it)".into()));
        }
    }
    Ok(())
}

#[cfg(unix)]
fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{Permissions, metadata, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_cache_is_the_users_own() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("new/cache");
        let user = machine::user();
        checked(&cache, user).unwrap();
        assert_eq!(metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
        for (mode, sound) in [(0o755, true), (0o775, true), (0o777, false), (0o1777, false)] {
            set_permissions(&cache, Permissions::from_mode(mode)).unwrap();
            let outcome = checked(&cache, user).map_err(|error| error.to_string());
            assert_eq!(outcome.is_ok(), sound, "{mode:o}");
            assert!(sound || outcome.unwrap_err().contains("BENCH_CACHE"));
        }
        set_permissions(&cache, Permissions::from_mode(0o700)).unwrap();
        let problem = checked(&cache, user.map(|user| user + 1)).unwrap_err().to_string();
        assert!(problem.contains("belongs to another user") && problem.contains("BENCH_CACHE"), "{problem}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("file"), "").unwrap();
        for path in [root.path().join("file"), root.path().join("file/cache"), "/proc/.cache/quantbench".into()] {
            let problem = checked(&path, machine::user()).unwrap_err().to_string();
            assert!(problem.starts_with(path.to_str().unwrap()) && problem.contains("BENCH_CACHE"), "{problem}");
        }
        assert_eq!(shared_name(Some(1000)), "quantbench-1000");
    }
}
