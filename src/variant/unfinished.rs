//! The folder in which an artefact is made, and what a build that was cut short leaves there so that the next one of the
//! same order goes on behind the last block that was kept.
//!
//! The folder's name holds the order's key, so it is found again by the next build of the same artefact; a lock makes a second
//! build at the same time wait for the first. An error removes the folder; only a killed program leaves it. What is kept: the
//! tensors written so far, and the calibration sequences behind the last block.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::maker::Made;
use super::propagation::Propagation;
use super::safetensors_writer::{ELEMENT_BYTES, SafetensorsWriter, Written};
use crate::error::{Error, Result};
use crate::files;
use crate::kernels::Isa;
use crate::machine::crash_point;
use crate::results::{Lock, folder_of, sha256_of, write_whole};

/// Time between two times that a build is kept: the work that a killed program loses.
pub(super) const KEEP_EVERY: Duration = Duration::from_secs(30);

/// Name of the lock's file in the folder.
const LOCK: &str = "lock";

/// Environment variable for tests: another such time, in milliseconds.
const KEEP_EVERY_MS: &str = "BENCH_KEEP_EVERY_MS";

/// [`KEEP_EVERY`], or what a test asks for.
pub(super) fn keep_every() -> Duration {
    let asked = std::env::var(KEEP_EVERY_MS).ok().and_then(|text| text.parse().ok());
    asked.map_or(KEEP_EVERY, Duration::from_millis)
}

/// How long a folder that nobody works in is kept for its build to be started again.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A folder for an artefact in the making.
#[derive(Debug)]
pub(super) struct Unfinished {
    folder: PathBuf,
    /// Held until the end; `None` where the file system has no locks and the folder has a name of its own.
    lock: Option<Lock>,
    every: Duration,
    last: Instant,
}

/// What is known of a build that was kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Blocks that are done.
    pub layers: usize,
    pub made: Made,
    pub written: Written,
    /// Instruction set on which calibration ran: 8-bit products are the same on all, sums in floating point are not.
    isa: String,
    /// File of the sequences behind the last block, and its SHA-256; `None` without calibration.
    streams: Option<(String, String)>,
}

impl Unfinished {
    /// Opens the folder for the artefact of `key` beside `into`, once no other build is in it; `waiting` is told whom for.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub(super) fn open(into: &Path, key: &str, every: Duration, waiting: &mut dyn FnMut(&str)) -> Result<Unfinished> {
        let parent = folder_of(into);
        remove_abandoned(parent, KEPT_FOR);
        let shared = parent.join(format!(".unfinished-{key}"));
        let what = format!("the build of {}", into.display());
        let (folder, lock) = match Lock::take(&shared.join(LOCK), &what, waiting)? {
            Some(lock) => (shared, Some(lock)),
            None => {
                let own = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(parent);
                (own.map_err(|e| Error::io(parent, "create a folder in", e))?.keep(), None)
            }
        };
        let unfinished = Unfinished { folder, lock, every, last: Instant::now() };
        let artefact = unfinished.artefact();
        if artefact.exists() {
            fs::remove_dir_all(&artefact).map_err(|e| Error::io(&artefact, "remove", e))?;
        }
        fs::create_dir(&artefact).map_err(|e| Error::io(&artefact, "create", e))?;
        Ok(unfinished)
    }

    /// Moves what lies at `path`, and is not whole, out of the way: a process that has it open goes on reading it.
    ///
    /// # Errors
    /// What cannot be moved.
    pub(super) fn take_away(&self, path: &Path) -> Result<()> {
        let away = self.folder.join("damaged");
        let _ = fs::remove_dir_all(&away);
        match fs::rename(path, &away) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "move away", e)),
            _ => Ok(()),
        }
    }

    /// Where tensors and activations lie until the artefact is whole.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The artefact's own folder.
    pub(super) fn artefact(&self) -> PathBuf {
        self.folder.join("artefact")
    }

    fn record(&self) -> PathBuf {
        self.folder.join("kept.json")
    }

    /// What an earlier build has kept; `None` where there is nothing, or nothing that is whole.
    pub(super) fn kept(&self) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&files::read(&self.record(), files::limit::JSON).ok()?).ok()?;
        let whole = kept.streams.as_ref().is_none_or(|(name, sha256)| {
            !name.contains(['/', '\\']) && sha256_of(&self.folder.join(name)).is_ok_and(|found| found == *sha256)
        });
        let whole = whole && kept.written.len() == ELEMENT_BYTES.len();
        (whole && kept.isa == Isa::active().name()).then_some(kept)
    }

    /// Puts the sequences where they were when `kept` was.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn restore(&self, kept: &Kept, propagation: &mut [&mut Propagation<'_>]) -> Result<()> {
        let Some((name, _)) = &kept.streams else { return Ok(()) };
        let path = self.folder.join(name);
        let failed = |e| Error::io(&path, "read", e);
        let mut file = BufReader::new(files::open(&path)?.0);
        for propagation in propagation {
            propagation.restore_streams(|stream| file.read_exact(bytemuck::cast_slice_mut(stream)).map_err(failed))?;
        }
        Ok(())
    }

    /// Keeps the build behind its first `layers` blocks, where the last time is long enough ago.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn keep(
        &mut self,
        layers: usize,
        made: &Made,
        writer: &mut SafetensorsWriter,
        propagation: &[&Propagation<'_>],
    ) -> Result<()> {
        if self.last.elapsed() < self.every {
            return Ok(());
        }
        // Two files in turns: the one that the record names is whole at any time.
        let streams = match propagation {
            [] => None,
            through => {
                let name = format!("streams-{}", layers % 2);
                Some((name.clone(), self.write_streams(&name, through)?))
            }
        };
        let (written, isa) = (writer.written()?, Isa::active().name().to_owned());
        let kept = Kept { layers, made: made.clone(), written, isa, streams };
        let json = serde_json::to_vec(&kept).map_err(|e| Error::input(self.record().display(), e.to_string()))?;
        write_whole(&self.record(), &json)?;
        crash_point("build-kept");
        self.last = Instant::now();
        Ok(())
    }

    /// Writes the sequences and returns the file's SHA-256.
    fn write_streams(&self, name: &str, propagation: &[&Propagation<'_>]) -> Result<String> {
        let path = self.folder.join(name);
        let failed = |e| Error::io(&path, "write", e);
        let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
        for propagation in propagation {
            propagation.for_each_stream(|stream| file.write_all(bytemuck::cast_slice(stream)).map_err(failed))?;
        }
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_data().map_err(failed)?;
        sha256_of(&path)
    }

    /// Removes the folder with all that is left in it, the lock's file last: as long as it is there, nobody else enters.
    pub(super) fn remove(self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten().filter(|e| e.file_name() != LOCK) {
            // What cannot be removed is in nobody's way.
            let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
        }
        let Unfinished { folder, lock, .. } = self;
        drop(lock);
        let _ = fs::remove_dir(folder);
    }

    /// Removes what a build of `key` left that was killed when its artefact was finished, unless somebody is in it.
    pub(super) fn clear(into: &Path, key: &str) {
        let folder = folder_of(into).join(format!(".unfinished-{key}"));
        if folder.exists() {
            let lock = Lock::take_at_once(&folder.join(LOCK));
            if let Ok(Some(lock)) = lock {
                Unfinished { folder, lock: Some(lock), every: KEEP_EVERY, last: Instant::now() }.remove();
            } else if lock.is_err() {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Removes the folders of killed builds in `parent` that nothing was written to for `age`. What cannot be looked at or removed stays.
fn remove_abandoned(parent: &Path, age: Duration) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(".unfinished-"));
        if !named || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let changed = entry.metadata().and_then(|found| found.modified());
        let old = changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|since| since >= age));
        // Held for as long as the folder is being removed. One without a lock is known by its age alone.
        let lock = files::open(&entry.path().join(LOCK)).map(|(lock, _)| lock);
        if old && lock.as_ref().map_or(true, |lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::build::build_keeping;
    use super::super::tests::{calibration, quantize, scheme, unchanged, write_model};
    use super::super::{CalibrationTokens, Order};
    use super::*;
    use crate::suite::{Method, Recipe};
    use crate::tensor::Granularity;

    #[test]
    fn abandoned_folders_are_removed_and_others_left() {
        let root = tempfile::tempdir().unwrap();
        let held = Unfinished::open(&root.path().join("into"), "held", KEEP_EVERY, &mut |_| ()).unwrap();
        for folder in [".unfinished-killed/artefact", ".unfinished-own", "unfinished-of-the-user"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join(".unfinished-killed/lock"), "").unwrap();
        fs::write(root.path().join(".unfinished-file"), "").unwrap();
        let names = || {
            let mut names: Vec<String> =
                fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let before = names();
        remove_abandoned(root.path(), KEPT_FOR);
        assert_eq!(names(), before, "young folders may be resumed");
        remove_abandoned(root.path(), Duration::ZERO);
        assert_eq!(names(), [".unfinished-file", ".unfinished-held", "unfinished-of-the-user"]);
        held.remove();
    }

    struct Work {
        root: tempfile::TempDir,
        recipe: Recipe,
        tokens: CalibrationTokens,
    }

    impl Work {
        fn new(method: &str, asymmetric_calibration: bool) -> Work {
            let root = tempfile::tempdir().unwrap();
            write_model(&root.path().join("model"), false, &unchanged);
            let Recipe::Quantize(recipe) = quantize(method, scheme(4, Granularity::Group, true), vec![]) else {
                panic!("a recipe that quantizes");
            };
            let recipe = Recipe::Quantize(Method { asymmetric_calibration, ..recipe });
            Work { root, recipe, tokens: calibration() }
        }

        fn cache(&self) -> PathBuf {
            self.root.path().join("cache")
        }

        fn order<'a>(&'a self, model: &'a Path, threads: usize) -> Order<'a> {
            let calibration = Some(&self.tokens);
            Order { model, model_sha256: "00", recipe: &self.recipe, import: None, calibration, threads }
        }

        /// Builds into `name` and returns the artefact's bytes and the blocks that were told.
        fn build(&self, name: &str, threads: usize) -> (Vec<u8>, Vec<usize>) {
            let (model, into, mut told) = (self.root.path().join("model"), self.cache().join(name), Vec::new());
            let order = self.order(&model, threads);
            build_keeping(&order, &into, Duration::ZERO, &mut |done, _| told.push(done), &mut |_| ()).unwrap();
            (fs::read(into.join("model.safetensors")).unwrap(), told)
        }

        /// A build that dies behind its second block; what it leaves.
        fn killed(&self) -> PathBuf {
            let model = self.root.path().join("model");
            let order = self.order(&model, 1);
            let die = |done, _| assert!(done < 2, "killed");
            let build =
                || build_keeping(&order, &self.cache().join("killed"), Duration::ZERO, &mut { die }, &mut |_| ());
            assert!(catch_unwind(AssertUnwindSafe(build)).is_err());
            self.cache().join(format!(".unfinished-{}", order.key()))
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.cache()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_killed_build_goes_on_behind_the_last_block_and_makes_the_same_bytes() {
        for (method, asymmetric) in [("rtn", false), ("gptq", false), ("gptq", true)] {
            let work = Work::new(method, asymmetric);
            let (expected, told) = work.build("whole", 2);
            assert_eq!(told, [1, 2]);
            assert!(work.killed().exists());
            let (found, told) = work.build("resumed", 2);
            assert_eq!(told, [2], "{method}: the first block is not made again");
            assert!(found == expected, "{method}: other bytes");
            assert_eq!(work.names(), ["resumed", "whole"], "nothing unfinished is left");
        }
    }

    #[test]
    fn what_is_not_whole_is_made_again() {
        let work = Work::new("gptq", false);
        let (expected, _) = work.build("whole", 1);
        let cut = |file: &Path| File::options().write(true).open(file).unwrap().set_len(5).unwrap();
        let damages: [&dyn Fn(&Path); 4] = [
            &|folder| cut(&folder.join("kept.json")),
            &|folder| cut(&folder.join("streams-1")),
            &|folder| cut(&folder.join("tensors-4")),
            &|folder| {
                let record = fs::read_to_string(folder.join("kept.json")).unwrap();
                fs::write(folder.join("kept.json"), record.replace("streams-1", "../model/config.json")).unwrap();
            },
        ];
        for (case, damage) in damages.iter().enumerate() {
            damage(&work.killed());
            let (found, told) = work.build(&format!("again-{case}"), 1);
            assert_eq!(told, [1, 2], "case {case}");
            assert!(found == expected, "case {case}");
        }
    }

    #[test]
    fn a_second_build_at_the_same_time_waits_for_the_first() {
        let work = Work::new("gptq", false);
        let model = work.root.path().join("model");
        let key = work.order(&model, 1).key();
        let open = |into: &str| Unfinished::open(&work.cache().join(into), &key, Duration::ZERO, &mut |_| ()).unwrap();
        let first = open("first");
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let second = open("second");
                order.lock().unwrap().push("second");
                second.remove();
            });
            order.lock().unwrap().push("first");
            first.remove();
        });
        assert_eq!(order.into_inner().unwrap(), ["first", "second"]);
        assert!(work.names().is_empty());
    }

    #[test]
    fn a_build_is_kept_no_oftener_than_it_says() {
        let work = Work::new("gptq", false);
        let model = work.root.path().join("model");
        let mut kept = Vec::new();
        let see =
            |_, _| kept.push(fs::read_dir(work.cache()).unwrap().any(|e| e.unwrap().path().join("kept.json").exists()));
        let into = work.cache().join("into");
        build_keeping(&work.order(&model, 1), &into, KEEP_EVERY, &mut { see }, &mut |_| ()).unwrap();
        assert_eq!(kept, [false, false]);
    }
}
