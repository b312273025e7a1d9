//! A GGUF model in parts: `NAME-00001-of-00005.gguf` and so on, as `llama-gguf-split` writes them. Every part says in its
//! metadata which one it is (`split.no`, from 0), of how many (`split.count`), and how many tensors all have
//! (`split.tensors.count`); the first holds the model's metadata.
//!
//! Source: `llama-model-loader.cpp` and `gguf-split.cpp` of llama.cpp.

use std::path::Path;

use super::gguf::{self, Metadata, Tensor, Value};
use super::map::MappedFile;
use crate::error::{Error, Result};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Keys that say something of a part, not of the model.
const OF_A_PART: [&str; 4] = [NUMBER, COUNT, TENSORS, "general.alignment"];
/// What to do where parts do not make a whole.
const REMEDY: &str = "fetch all parts into one folder, or merge them with llama-gguf-split --merge";

/// The files of a model, with the metadata of all and the tensors, each with the place of its file.
pub(super) struct Parts {
    pub(super) files: Vec<MappedFile>,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<(usize, Tensor)>,
}

/// Name of a part: the parts before its number, its number from 1, the number of all.
pub(super) fn name_of_part(path: &Path) -> Option<(String, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
    Some((name.to_owned(), digits(number)?, digits(count)?))
}

/// One file.
struct Part {
    place: String,
    file: MappedFile,
    metadata: Metadata,
    tensors: Vec<Tensor>,
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        let (place, file) = (path.display().to_string(), MappedFile::open(path)?);
        let (metadata, tensors) = gguf::parse(&place, file.bytes())?;
        Ok(Part { place, file, metadata, tensors })
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) if (0..=i128::from(u32::MAX)).contains(n) => Ok(Some(*n as usize)),
            Some(_) => Err(self.fault(format!("metadata {key}: expected one number of at most 32 bits"))),
        }
    }

    fn expect(&self, key: &str, expected: usize) -> Result<()> {
        match self.count(key)? {
            Some(got) if got == expected => Ok(()),
            got => {
                let got = got.map_or("none".to_owned(), |got| got.to_string());
                Err(self.fault(format!(
                    "metadata {key}: expected {expected}, got {got}; the parts are not of one model; {REMEDY}"
                )))
            }
        }
    }

    fn fault(&self, problem: String) -> Error {
        Error::input(&self.place, problem)
    }
}

/// Opens a file, and the other parts where it is one of several.
///
/// # Errors
/// A part that is missing, is of another model, or says other things of itself than its name.
pub(super) fn open(path: &Path) -> Result<Parts> {
    let part = Part::open(path)?;
    let named = name_of_part(path);
    let count = match (part.count(COUNT)?, &named) {
        (Some(0 | 1) | None, None) => 1,
        (Some(count), Some((_, _, of))) if count == *of => count,
        (None, Some((_, _, 1))) => 1,
        (said, _) => {
            let said = said.map_or("nothing".to_owned(), |count| count.to_string());
            let named = named.map_or("no part".to_owned(), |(_, number, of)| format!("part {number} of {of}"));
            let problem = format!("metadata {COUNT} says {said}, the file's name {named}; expected a name like");
            let like = format!("NAME-00001-of-{:05}.gguf", part.count(COUNT)?.unwrap_or(1));
            return Err(part.fault(format!("{problem} {like}; {REMEDY}")));
        }
    };
    if count == 1 {
        let tensors = part.tensors.into_iter().map(|tensor| (0, tensor)).collect();
        return Ok(Parts { files: vec![part.file], metadata: part.metadata, tensors });
    }
    let name = named.map(|(name, ..)| name).unwrap_or_default();
    let all = part.count(TENSORS)?;
    let mut parts = Parts { files: Vec::new(), metadata: Metadata::new(), tensors: Vec::new() };
    for number in 0..count {
        let path = path.with_file_name(format!("{name}-{:05}-of-{count:05}.gguf", number + 1));
        parts.add(&path, number, count, all)?;
    }
    match all {
        Some(all) if all != parts.tensors.len() => {
            let got = parts.tensors.len();
            Err(part.fault(format!("metadata {TENSORS} says {all}, the {count} parts have {got}; {REMEDY}")))
        }
        _ => Ok(parts),
    }
}

impl Parts {
    fn add(&mut self, path: &Path, number: usize, count: usize, all: Option<usize>) -> Result<()> {
        if !path.exists() {
            let problem = format!("missing: part {} of {count} of the model; {REMEDY}", number + 1);
            return Err(Error::input(path.display(), problem));
        }
        let part = Part::open(path)?;
        part.expect(NUMBER, number)?;
        part.expect(COUNT, count)?;
        if let Some(all) = all {
            part.expect(TENSORS, all)?;
        }
        self.tensors.extend(part.tensors.iter().cloned().map(|tensor| (number, tensor)));
        for (key, value) in part.metadata.iter().filter(|(key, _)| !OF_A_PART.contains(&key.as_str())) {
            match self.metadata.get(key) {
                Some(known) if known != value => {
                    return Err(part.fault(format!("metadata {key} differs from that of another part; {REMEDY}")));
                }
                Some(_) => {}
                None => _ = self.metadata.insert(key.clone(), value.clone()),
            }
        }
        self.files.push(part.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let part =
            |name: &str| name_of_part(Path::new(name)).map(|(name, number, count)| format!("{name} {number} {count}"));
        assert_eq!(part("a/m-Q4_K-00002-of-00012.gguf").as_deref(), Some("m-Q4_K 2 12"));
        for other in
            ["m.gguf", "m-2-of-3.gguf", "m-00001-of-00002.safetensors", "m-0000x-of-00002.gguf", "00001-of-00002.gguf"]
        {
            assert_eq!(part(other), None, "{other}");
        }
    }
}
