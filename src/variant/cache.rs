//! The cache of artefacts: a folder `<key>` and beside it `<key>.json`, its description.
//!
//! The description is written last, so a folder without one is what a killed build left. It names every file with its
//! SHA-256, and nothing is used whose bytes are not those: a disk, a copy or a person may have changed them. The place of an
//! artefact follows from its key, never from the description, so that a cache that was copied elsewhere uses its own files.
//! Whoever makes an artefact holds its lock; others wait and take what it made.

use std::path::{Path, PathBuf};

use super::Order;
use super::build::{build, build_in};
use super::key::cached;
use super::unfinished::{Unfinished, keep_every};
use crate::error::{Error, Result};
use crate::files;
use crate::machine::crash_point;
use crate::results::{Artefact, create_folder, folder_of, hash_folder, write_whole_from};
use crate::suite::Recipe;

/// Largest description.
const LARGEST_DESCRIPTION: u64 = 64 << 20;

/// An artefact, and what a reader of the report must know of how it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The artefact.
    pub artefact: Artefact,
    /// Damage that was found and mended.
    pub warnings: Vec<String>,
}

/// What the cache holds under a key.
enum State {
    Absent,
    Whole(Box<Artefact>),
    /// Why it is not used.
    Damaged(String),
}

/// The artefact of `order`: from the cache, where it is whole, or made. Whom a build waits for is told to `waiting`.
///
/// # Errors
/// As [`build`].
pub fn cached_or_built(
    order: &Order<'_>,
    progress: &mut dyn FnMut(usize, usize),
    waiting: &mut dyn FnMut(&str),
) -> Result<Found> {
    let key = order.key();
    let folder = cached(&key)?;
    if let Recipe::Import { .. } = order.recipe {
        // A published file is not the cache's to remember.
        return build(order, &folder, progress).map(|artefact| Found { artefact, warnings: Vec::new() });
    }
    if let State::Whole(artefact) = look(&folder, &key)? {
        Unfinished::clear(&folder, &key);
        return Ok(Found { artefact: *artefact, warnings: Vec::new() });
    }
    create_folder(folder_of(&folder))?;
    let mut unfinished = Unfinished::open(&folder, &key, keep_every(), waiting)?;
    let found = make(order, &folder, &key, &mut unfinished, progress);
    unfinished.remove();
    found
}

/// Looks again, now that nobody else makes it, and makes it.
fn make(
    order: &Order<'_>,
    folder: &Path,
    key: &str,
    unfinished: &mut Unfinished,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Found> {
    let mut warnings = Vec::new();
    match look(folder, key)? {
        State::Whole(artefact) => return Ok(Found { artefact: *artefact, warnings }),
        State::Absent => {}
        State::Damaged(why) => {
            warnings.push(format!("{}: {why}; it was not used but made again", folder.display()));
            let _ = std::fs::remove_file(description(folder));
        }
    }
    unfinished.take_away(folder)?;
    let artefact = build_in(order, folder, unfinished, progress)?;
    let stored = Artefact { path: key.to_owned(), ..artefact.clone() };
    let json = serde_json::to_vec_pretty(&stored).map_err(|e| Error::input(folder.display(), e.to_string()))?;
    crash_point("description-before");
    // Written in the locked folder, where a killed process leaves nothing that the next one does not find.
    write_whole_from(unfinished.folder(), &description(folder), &json)?;
    Ok(Found { artefact, warnings })
}

/// `<key>.json`.
fn description(folder: &Path) -> PathBuf {
    PathBuf::from(format!("{}.json", folder.display()))
}

fn look(folder: &Path, key: &str) -> Result<State> {
    let description = description(folder);
    if !description.exists() || !folder.exists() {
        return Ok(State::Absent);
    }
    let damaged = |why: String| Ok(State::Damaged(why));
    let json = match files::read(&description, LARGEST_DESCRIPTION) {
        Ok(json) => json,
        Err(error) => return damaged(format!("its description cannot be read ({error})")),
    };
    let artefact: Artefact = match serde_json::from_slice(&json) {
        Ok(artefact) => artefact,
        Err(error) => return damaged(format!("its description cannot be read ({error})")),
    };
    if artefact.key != key {
        return damaged(format!("its description is that of another artefact ({:.8})", artefact.key));
    }
    let found = match hash_folder(folder) {
        Ok(found) => found,
        Err(error) => return damaged(format!("a file of it cannot be read ({error})")),
    };
    if artefact.files.is_empty() || found != artefact.files {
        let differs = artefact.files.iter().find(|file| !found.contains(file));
        let name = differs.or(found.iter().find(|file| !artefact.files.contains(file))).map(|file| file.name.as_str());
        return damaged(format!("{} is not as it was made (SHA-256)", name.unwrap_or("a file")));
    }
    let path = folder.display().to_string();
    Ok(State::Whole(Box::new(Artefact { path, cached: true, seconds: 0.0, ..artefact })))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{calibration, quantize, scheme, unchanged, write_model};
    use super::super::unfinished::KEEP_EVERY;
    use super::*;
    use crate::tensor::Granularity;

    struct Place {
        root: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let root = tempfile::tempdir().unwrap();
            write_model(&root.path().join("model"), false, &unchanged);
            Place { root }
        }

        /// As [`cached_or_built`], in a cache of its own.
        fn find(&self, cache: &str) -> Found {
            let (model, tokens) = (self.root.path().join("model"), calibration());
            let recipe = quantize("rtn", scheme(4, Granularity::Group, true), vec![]);
            let calibration = Some(&tokens);
            let order =
                Order { model: &model, model_sha256: "00", recipe: &recipe, import: None, calibration, threads: 1 };
            let folder = self.root.path().join(cache).join(order.key());
            if let State::Whole(artefact) = look(&folder, &order.key()).unwrap() {
                return Found { artefact: *artefact, warnings: Vec::new() };
            }
            fs::create_dir_all(folder_of(&folder)).unwrap();
            let mut unfinished = Unfinished::open(&folder, &order.key(), KEEP_EVERY, &mut |_| ()).unwrap();
            let found = make(&order, &folder, &order.key(), &mut unfinished, &mut |_, _| ()).unwrap();
            unfinished.remove();
            found
        }
    }

    #[test]
    fn an_artefact_is_used_again_only_with_the_bytes_that_were_made() {
        let place = Place::new();
        let made = place.find("cache");
        assert!(!made.artefact.cached && made.artefact.files.iter().any(|file| file.name == "model.safetensors"));
        let again = place.find("cache");
        assert!(again.artefact.cached && again.warnings.is_empty());
        assert_eq!(again.artefact.files, made.artefact.files);

        let weights = Path::new(&made.artefact.path).join("model.safetensors");
        let whole = fs::read(&weights).unwrap();
        let damages: [&dyn Fn(); 4] = [
            // One sign, and the size as before.
            &|| {
                let mut bytes = whole.clone();
                *bytes.last_mut().unwrap() ^= 0x80;
                fs::write(&weights, bytes).unwrap();
            },
            &|| fs::remove_file(&weights).unwrap(),
            &|| fs::write(weights.with_file_name("other.safetensors"), "x").unwrap(),
            &|| {
                let path = description(Path::new(&made.artefact.path));
                let text = fs::read_to_string(&path).unwrap().replace(&made.artefact.key, &"0".repeat(64));
                fs::write(&path, text).unwrap();
            },
        ];
        for (case, damage) in damages.iter().enumerate() {
            damage();
            let mended = place.find("cache");
            assert!(!mended.artefact.cached && mended.warnings.len() == 1, "case {case}");
            assert_eq!(mended.artefact.files, made.artefact.files, "case {case}");
            assert_eq!(fs::read(&weights).unwrap(), whole, "case {case}");
            assert!(place.find("cache").artefact.cached, "case {case}");
        }
    }

    #[test]
    fn a_cache_that_was_copied_uses_its_own_files_and_a_folder_without_description_is_made_again() {
        let place = Place::new();
        let made = place.find("cache");
        let (old, new) = (place.root.path().join("cache"), place.root.path().join("copy"));
        fs::create_dir(&new).unwrap();
        let copied = std::process::Command::new("cp").arg("-r").arg(old.join(".")).arg(&new).status().unwrap();
        assert!(copied.success());
        let found = place.find("copy");
        assert!(found.artefact.cached && found.artefact.path.starts_with(new.to_str().unwrap()));
        fs::remove_file(description(Path::new(&made.artefact.path))).unwrap();
        let again = place.find("cache");
        assert!(!again.artefact.cached && again.warnings.is_empty());
        let names: Vec<_> = fs::read_dir(&old).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
