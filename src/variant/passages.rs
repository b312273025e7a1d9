//! The calibration sequences inside the network, in memory as long as they fit a bound and on disk beyond it.
//!
//! Sequences run through a block in batches, and a batch is in memory while it does: with a bound on the rest, memory does
//! not grow with the calibration text or the width of the model.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files;
use crate::network::Passage;

/// Where activations go that exceed a number of bytes; `None` where they never do.
pub(super) type Spill<'s> = Option<(&'s Path, usize)>;

/// Batches of sequences.
#[derive(Debug)]
pub(super) enum Passages {
    Memory(Vec<Mutex<Passage>>),
    Disk(Spilled),
}

/// Batches as files of a folder, which is removed with the value.
#[derive(Debug)]
pub(super) struct Spilled {
    folder: tempfile::TempDir,
    /// By batch where its sequences end and how many values its residual stream has.
    batches: Vec<(Vec<usize>, usize)>,
}

impl Passages {
    /// Keeps `batches`, which grow to `bytes`, in memory, or in a new folder where `spill` says so.
    ///
    /// # Errors
    /// Those of `batches`, and of the disk.
    pub(super) fn new(batches: impl Iterator<Item = Result<Passage>>, bytes: usize, spill: Spill<'_>) -> Result<Self> {
        let Some((folder, _)) = spill.filter(|(_, bound)| bytes > *bound) else {
            return Ok(Passages::Memory(batches.map(|batch| batch.map(Mutex::new)).collect::<Result<_>>()?));
        };
        let made = tempfile::Builder::new().prefix("activations-").tempdir_in(folder);
        let folder = made.map_err(|e| Error::io(folder, "create a folder in", e))?;
        let mut spilled = Spilled { folder, batches: Vec::new() };
        for passage in batches {
            let passage = passage?;
            spilled.batches.push((passage.ends.clone(), passage.hidden.len()));
            spilled.write(spilled.batches.len() - 1, &passage)?;
        }
        Ok(Passages::Disk(spilled))
    }

    /// Batches.
    pub(super) fn len(&self) -> usize {
        match self {
            Passages::Memory(batches) => batches.len(),
            Passages::Disk(spilled) => spilled.batches.len(),
        }
    }

    /// A batch, in place of which nothing stays in memory.
    pub(super) fn take(&self, index: usize) -> Result<Passage> {
        match self {
            Passages::Memory(batches) => {
                Ok(std::mem::take(&mut batches[index].lock().unwrap_or_else(PoisonError::into_inner)))
            }
            Passages::Disk(spilled) => spilled.read(index),
        }
    }

    /// Puts a batch back that was taken and changed.
    pub(super) fn put(&self, index: usize, passage: Passage) -> Result<()> {
        match self {
            Passages::Memory(batches) => {
                *batches[index].lock().unwrap_or_else(PoisonError::into_inner) = passage;
                Ok(())
            }
            Passages::Disk(spilled) => spilled.write(index, &passage),
        }
    }

    /// Shows `see` a batch.
    pub(super) fn with<T>(&self, index: usize, see: impl FnOnce(&Passage) -> T) -> Result<T> {
        self.with_some(index..index + 1, |passages| see(passages[0]))
    }

    /// Shows `see` some batches together.
    pub(super) fn with_some<T>(&self, indices: Range<usize>, see: impl FnOnce(&[&Passage]) -> T) -> Result<T> {
        match self {
            Passages::Memory(batches) => {
                let held: Vec<_> =
                    batches[indices].iter().map(|batch| batch.lock().unwrap_or_else(PoisonError::into_inner)).collect();
                Ok(see(&held.iter().map(|passage| &**passage).collect::<Vec<_>>()))
            }
            Passages::Disk(spilled) => {
                let read: Vec<Passage> = indices.map(|index| spilled.read(index)).collect::<Result<_>>()?;
                Ok(see(&read.iter().collect::<Vec<_>>()))
            }
        }
    }

    /// Changes all batches by `change(thread, passage)` on the threads of `workers`.
    pub(super) fn change(&self, workers: &ThreadPool, change: impl Fn(usize, &mut Passage) + Sync) -> Result<()> {
        let change = |index| {
            let mut passage = self.take(index)?;
            change(rayon::current_thread_index().unwrap_or(0), &mut passage);
            self.put(index, passage)
        };
        workers.install(|| (0..self.len()).into_par_iter().try_for_each(change))
    }
}

impl Spilled {
    fn file(&self, index: usize) -> PathBuf {
        self.folder.path().join(index.to_string())
    }

    fn read(&self, index: usize) -> Result<Passage> {
        let (file, (ends, hidden)) = (self.file(index), &self.batches[index]);
        let failed = |e| Error::io(&file, "read", e);
        let (mut open, metadata) = files::open(&file)?;
        let mut values = vec![0.0f32; metadata.len() as usize / size_of::<f32>()];
        open.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(failed)?;
        if values.len() < *hidden {
            return Err(Error::input(
                file.display(),
                "is shorter than what was written; does something else write there?",
            ));
        }
        let inputs = values.split_off(*hidden);
        Ok(Passage { hidden: values, inputs, ends: ends.clone() })
    }

    fn write(&self, index: usize, passage: &Passage) -> Result<()> {
        let file = self.file(index);
        let bytes = [&passage.hidden, &passage.inputs].map(|values| bytemuck::cast_slice::<f32, u8>(values));
        fs::write(&file, bytes.concat()).map_err(|e| Error::io(&file, "write", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_beyond_the_bound_lie_on_disk_and_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let passage = |n: usize| Passage { hidden: vec![n as f32 + 0.1; 6 * n], inputs: vec![], ends: vec![1, 2 * n] };
        let batches = || (1..=5).map(|n| Ok(passage(n)));
        let workers = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for (bound, on_disk) in [(960, false), (959, true)] {
            let passages = Passages::new(batches(), 960, Some((folder.path(), bound))).unwrap();
            assert_eq!(matches!(passages, Passages::Disk(_)), on_disk);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), usize::from(on_disk));
            let extend = |_, passage: &mut Passage| passage.inputs = vec![f32::MIN_POSITIVE / 8.0; passage.ends[1] * 5];
            passages.change(&workers, extend).unwrap();
            for index in 0..5 {
                let mut expected = passage(index + 1);
                extend(0, &mut expected);
                assert!(passages.with(index, |found| *found == expected).unwrap());
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the files go with the value");
        assert!(matches!(Passages::new(batches(), 960, None).unwrap(), Passages::Memory(_)));
    }
}
