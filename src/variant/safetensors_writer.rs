//! A safetensors file written tensor by tensor, without holding more than one of them.
//!
//! The format wants its header, with all offsets, before the data, and no gaps between tensors; readers want every
//! tensor aligned to its element size. So the data of each element size is spooled to a file of its own, and the spools
//! are joined behind the header in falling order of element size.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

/// Element sizes in the order of the file.
pub(super) const ELEMENT_BYTES: [usize; 4] = [8, 4, 2, 1];

/// Name, type, shape and bytes of a tensor.
type Entry = (String, Dtype, Vec<usize>, usize);

/// The tensors written so far by spool, in the order written.
pub(super) type Written = Vec<Vec<Entry>>;

/// An unfinished safetensors file.
#[derive(Debug)]
pub(super) struct SafetensorsWriter {
    path: PathBuf,
    /// One for each of [`ELEMENT_BYTES`].
    spools: Vec<Spool>,
}

#[derive(Debug)]
struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    tensors: Vec<Entry>,
}

impl SafetensorsWriter {
    /// Begins the file at `path`; spools lie in `folder`.
    ///
    /// # Errors
    /// Files that cannot be made.
    pub(super) fn create(path: &Path, folder: &Path) -> Result<Self> {
        SafetensorsWriter::resume(path, folder, vec![Vec::new(); ELEMENT_BYTES.len()])
    }

    /// Goes on behind the tensors `written`, as [`SafetensorsWriter::written`] has told them.
    ///
    /// # Errors
    /// Spools that are missing or shorter than what was written.
    pub(super) fn resume(path: &Path, folder: &Path, written: Written) -> Result<Self> {
        let spool = |(size, tensors): (usize, Vec<Entry>)| {
            let path = folder.join(format!("tensors-{size}"));
            let failed = |e| Error::io(&path, "open", e);
            let mut file =
                File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            let bytes: u64 = tensors.iter().map(|(.., bytes)| *bytes as u64).sum();
            if file.metadata().map_err(failed)?.len() < bytes {
                return Err(Error::input(path.display(), format!("expected {bytes} bytes or more")));
            }
            file.set_len(bytes).and_then(|()| file.seek(io::SeekFrom::End(0))).map_err(failed)?;
            Ok(Spool { file: BufWriter::new(file), path, tensors })
        };
        let spools = ELEMENT_BYTES.into_iter().zip(written).map(spool).collect::<Result<Vec<_>>>()?;
        Ok(SafetensorsWriter { path: path.to_path_buf(), spools })
    }

    /// Makes what was added durable, and tells it.
    ///
    /// # Errors
    /// A full disk.
    pub(super) fn written(&mut self) -> Result<Written> {
        let durable = |spool: &mut Spool| {
            let flushed = spool.file.flush().and_then(|()| spool.file.get_ref().sync_data());
            flushed.map_err(|e| Error::io(&spool.path, "write", e))?;
            Ok(spool.tensors.clone())
        };
        self.spools.iter_mut().map(durable).collect()
    }

    /// Adds a tensor; `values` row-major. Its bytes are written as they lie in memory, which is little-endian on all
    /// machines that the kernels run on.
    ///
    /// # Panics
    /// When the shape does not hold as many values.
    pub(super) fn add<T: bytemuck::NoUninit>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        values: &[T],
    ) -> Result<()> {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        assert_eq!(dtype.bitsize(), 8 * size_of::<T>(), "{name}");
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let spool = ELEMENT_BYTES.iter().position(|&size| size == size_of::<T>()).map(|at| &mut self.spools[at]);
        let spool = spool.unwrap_or_else(|| unreachable!("{dtype:?} has 1, 2, 4 or 8 bytes"));
        spool.file.write_all(bytes).map_err(|e| Error::io(&spool.path, "write", e))?;
        spool.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes.len()));
        Ok(())
    }

    /// Writes the file and makes it durable.
    pub(super) fn finish(self) -> Result<()> {
        let path = self.path;
        let failed = |e: io::Error| Error::io(&path, "write", e);
        let header = header(&self.spools).map_err(|e| Error::input(path.display(), e.to_string()))?;
        let mut out = File::create(&path).map_err(failed)?;
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        for spool in self.spools {
            let mut spooled = spool.file.into_inner().map_err(|e| failed(e.into_error()))?;
            spooled.rewind().map_err(failed)?;
            io::copy(&mut spooled, &mut out).map_err(failed)?;
            fs::remove_file(&spool.path).map_err(|e| Error::io(&spool.path, "remove", e))?;
        }
        out.sync_all().map_err(failed)
    }
}

/// The JSON header, padded with spaces to whole 8 bytes.
fn header(spools: &[Spool]) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut start = 0;
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    if let Some((twin, ..)) = spools.iter().flat_map(|spool| &spool.tensors).find(|(name, ..)| !names.insert(name)) {
        return Err(format!("two tensors would be called \"{twin}\"; the model has one of that name already").into());
    }
    for (name, dtype, shape, bytes) in spools.iter().flat_map(|spool| &spool.tensors) {
        let data_offsets = (start, start + bytes);
        infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
        start += bytes;
    }
    // Readers of the ecosystem refuse a file that does not name its framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(metadata), infos)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn the_file_holds_what_was_added_and_every_tensor_is_aligned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, folder.path()).unwrap();
        writer.add("odd", Dtype::I8, &[3], &[1i8, -2, 3]).unwrap();
        writer.add("scale", Dtype::F32, &[1, 2], &[0.5f32, -1.0]).unwrap();
        // A program that is killed behind this point leaves "lost" in its spool.
        let written = writer.written().unwrap();
        writer.add("lost", Dtype::F32, &[1], &[9.0f32]).unwrap();
        drop(writer);
        let mut writer = SafetensorsWriter::resume(&path, folder.path(), written.clone()).unwrap();
        writer.add("half", Dtype::F16, &[1], &[half::f16::ONE]).unwrap();
        writer.add("shape", Dtype::I64, &[2], &[3i64, 4]).unwrap();
        writer.add("more", Dtype::F32, &[1], &[7.0f32]).unwrap();
        writer.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), 5);
        assert_eq!(file.tensor("odd").unwrap().data(), [1, 254, 3]);
        assert_eq!(file.tensor("scale").unwrap().shape(), [1, 2]);
        assert_eq!(file.tensor("more").unwrap().data(), 7.0f32.to_le_bytes());
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert!(header.is_multiple_of(8));
        for (name, info) in metadata.tensors() {
            assert!(info.data_offsets.0.is_multiple_of(info.dtype.bitsize() / 8), "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "spools are gone");
        let problem = SafetensorsWriter::resume(&path, folder.path(), written).unwrap_err().to_string();
        assert!(problem.contains("tensors-4") && problem.contains("expected 8 bytes or more"), "{problem}");
    }
}
