//! A package in the cache: `KIND/NAME-VERSION/SELECTION/`, with `record.json` and `files/`.
//!
//! The folder of a version also holds `archive.sha256`, the hash of the archive when it was first fetched; a registry
//! that later gives other bytes under the same version is not believed. Everything is made in a temporary folder beside
//! its place and renamed into it, so that two processes may fetch at the same time: the first to rename wins.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{Unpack, is_plain};
use super::glob::{natural, path_matches};
use super::{Local, files};
use crate::error::{Error, Result};
use crate::files::{limit, open, read, read_text};
use crate::results::write_whole;

/// Names of folders in the making, and of those that are being removed, begin with these.
const FETCHING: &str = ".fetching-";
const DAMAGED: &str = ".damaged-";
/// Time after which a folder is not one that its process is about to lock.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A selection of files of one version of a package.
pub(super) struct Package {
    source: String,
    /// Folder of the version.
    folder: PathBuf,
    inside: String,
}

/// What was unpacked.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    source: String,
    archive_sha256: String,
    files: Vec<RecordedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// `NAME<separator>VERSION#INSIDE` in its parts, checked.
pub(super) fn parts(
    text: &str,
    separator: &str,
    is_name: fn(&str) -> bool,
) -> std::result::Result<(String, String, String), &'static str> {
    let (spec, inside) = text.split_once('#').ok_or("expected #PATH-INSIDE-THE-PACKAGE at the end")?;
    let (name, version) = spec.rsplit_once(separator).ok_or("expected a version after the name")?;
    if !is_name(name) {
        return Err("the package's name has characters that no package has");
    }
    if !is_version(version) {
        return Err("expected one exact version");
    }
    let inside = inside.trim_end_matches('/');
    if !is_plain(inside) {
        return Err("the path inside the package leaves the package");
    }
    Ok((name.to_owned(), version.to_owned(), inside.to_owned()))
}

/// Whether a name can be that of a Python package. The first character is checked too, so that no client takes a name
/// for an option.
pub(super) fn is_python_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known)
}

/// Whether a name can be that of an npm package: `name` or `@scope/name`.
pub(super) fn is_npm_name(name: &str) -> bool {
    match name.strip_prefix('@').and_then(|scoped| scoped.split_once('/')) {
        Some((scope, name)) => is_python_name(scope) && is_python_name(name),
        None => is_python_name(name),
    }
}

/// Whether a text can be one version, and no range of versions.
pub(super) fn is_version(version: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '!');
    version.starts_with(|c: char| c.is_ascii_alphanumeric()) && version.chars().all(known)
}

impl Package {
    /// A package of `kind` (`pypi`, `npm`) in the cache folder `cache`.
    pub(super) fn new(cache: &Path, kind: &str, name: &str, version: &str, inside: &str) -> Self {
        let separator = if kind == "pypi" { "==" } else { "@" };
        Package {
            source: format!("{kind}:{name}{separator}{version}#{inside}"),
            folder: cache.join(kind).join(format!("{}-{version}", name.replace('/', "+"))),
            inside: inside.to_owned(),
        }
    }

    /// Whether the files are in the cache, whole by size.
    pub(super) fn is_cached(&self) -> bool {
        self.record().is_some_and(|record| self.sizes_fit(&record))
    }

    /// The files, downloaded and unpacked where they are missing or damaged.
    pub(super) fn fetch(&self, download: &dyn Fn(&Path) -> Result<PathBuf>, unpack: &Unpack) -> Result<Local> {
        if let Some(record) = self.record().filter(|record| self.sizes_fit(record))
            && self.hashes_fit(&record)?
        {
            return Ok(self.local(&record));
        }
        fs::create_dir_all(&self.folder).map_err(|source| Error::io(&self.folder, "create", source))?;
        remove_abandoned(&self.folder, KEPT_FOR);
        let temporary = tempfile::Builder::new().prefix(FETCHING).tempdir_in(&self.folder);
        let temporary = temporary.map_err(|source| Error::io(&self.folder, "write in", source))?;
        // Says that this process works here, for as long as it lives.
        let lock = temporary.path().join("lock");
        let lock = fs::File::create(&lock).map_err(|source| Error::io(&lock, "create", source))?;
        // A file system without locks: what is left there is known by its age alone.
        let _ = lock.try_lock();
        let client = temporary.path().join("client");
        fs::create_dir(&client).map_err(|source| Error::io(&client, "create", source))?;
        let archive = download(&client)?;
        let archive_sha256 = files::sha256(&archive)?;
        self.pin(&archive_sha256)?;
        let whole = temporary.path().join("whole");
        let unpacked = whole.join("files");
        fs::create_dir_all(&unpacked).map_err(|source| Error::io(&unpacked, "create", source))?;
        unpack(&archive, &|name| path_matches(&self.inside, name), &unpacked)?;
        let record = self.make_record(archive_sha256, &unpacked)?;
        let json = serde_json::to_vec_pretty(&record).map_err(|e| Error::input(&self.source, e.to_string()))?;
        write_whole(&whole.join("record.json"), &json)?;
        self.put_in_place(&whole, &record)
    }

    /// Renames a whole folder into its place. Where another process was faster, its files are taken if they are right.
    fn put_in_place(&self, whole: &Path, record: &Record) -> Result<Local> {
        let place = self.place();
        for _ in 0..3 {
            if fs::rename(whole, &place).is_ok() {
                return Ok(self.local(record));
            }
            if let Some(theirs) = self.record().filter(|theirs| self.sizes_fit(theirs))
                && self.hashes_fit(&theirs)?
            {
                return Ok(self.local(&theirs));
            }
            // A damaged copy: moved away first, so that nobody sees half of it while it is deleted.
            let away = tempfile::Builder::new().prefix(DAMAGED).tempdir_in(&self.folder);
            let away = away.map_err(|source| Error::io(&self.folder, "write in", source))?;
            match fs::rename(&place, away.path().join("old")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&place, "replace", error));
                }
                _ => {}
            }
        }
        Err(Error::input(place.display(), "other processes keep replacing this folder; run again"))
    }

    /// Holds the archive against the first one fetched under this version.
    fn pin(&self, sha256: &str) -> Result<()> {
        let path = self.folder.join("archive.sha256");
        let known = match path.exists() {
            true => read_text(&path, limit::RECORD).map(Some)?,
            false => None,
        };
        match known.as_deref().map(str::trim) {
            Some(known) if known == sha256 => Ok(()),
            Some(known) => Err(Error::input(
                &self.source,
                format!(
                    "the archive's SHA-256 is {sha256}, an earlier fetch of this version had {known}; if the change is \
                     trusted, delete {}",
                    self.folder.display()
                ),
            )),
            None => {
                let beside = tempfile::NamedTempFile::new_in(&self.folder);
                let mut beside = beside.map_err(|source| Error::io(&path, "create", source))?;
                let written = beside.write_all(sha256.as_bytes()).and_then(|()| beside.as_file().sync_all());
                written.map_err(|source| Error::io(&path, "write", source))?;
                match beside.persist_noclobber(&path) {
                    Ok(_) => Ok(()),
                    // Another process was faster: its hash counts.
                    Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => self.pin(sha256),
                    Err(error) => Err(Error::io(&path, "write", error.error)),
                }
            }
        }
    }

    fn make_record(&self, archive_sha256: String, unpacked: &Path) -> Result<Record> {
        let mut recorded = Vec::new();
        for (name, path) in files::walk(unpacked, true)? {
            let bytes = fs::metadata(&path).map_err(|source| Error::io(&path, "read", source))?.len();
            recorded.push(RecordedFile { sha256: files::sha256(&path)?, name, bytes });
        }
        if recorded.is_empty() {
            return Err(Error::input(&self.source, format!("the package has no file \"{}\"", self.inside)));
        }
        recorded.sort_by(|a, b| natural(&a.name, &b.name));
        Ok(Record { source: self.source.clone(), archive_sha256, files: recorded })
    }

    /// Folder of this selection.
    fn place(&self) -> PathBuf {
        self.folder.join(&files::hex(&Sha256::digest(&self.inside))[..16])
    }

    fn record(&self) -> Option<Record> {
        let record: Record =
            serde_json::from_slice(&read(&self.place().join("record.json"), limit::JSON).ok()?).ok()?;
        let sound = record.files.iter().all(|file| is_plain(&file.name)) && !record.files.is_empty();
        (record.source == self.source && sound).then_some(record)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.place().join("files").join(name)
    }

    fn sizes_fit(&self, record: &Record) -> bool {
        let size = |name: &str| fs::metadata(self.path_of(name)).map(|metadata| metadata.len()).ok();
        record.files.iter().all(|file| size(&file.name) == Some(file.bytes))
    }

    fn hashes_fit(&self, record: &Record) -> Result<bool> {
        for file in &record.files {
            if files::sha256(&self.path_of(&file.name))? != file.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The file, the folder, or the files of a glob.
    fn local(&self, record: &Record) -> Local {
        let one = self.path_of(&self.inside);
        let paths = match self.inside.contains('*') {
            true => record.files.iter().map(|file| self.path_of(&file.name)).collect(),
            false => vec![one],
        };
        let sha256 = files::combined(record.files.iter().map(|file| (file.name.as_str(), file.sha256.as_str())));
        Local { paths, sha256, bytes: record.files.iter().map(|file| file.bytes).sum() }
    }
}

/// Removes what killed fetches left in `folder` and nobody works in, once it is `age` old.
pub(super) fn remove_abandoned(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let named =
            entry.file_name().to_str().is_some_and(|name| name.starts_with(FETCHING) || name.starts_with(DAMAGED));
        if !named || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let changed = entry.metadata().and_then(|found| found.modified());
        let old = changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|since| since >= age));
        // Held for as long as the folder is being removed.
        let lock = open(&entry.path().join("lock")).ok().map(|(lock, _)| lock);
        if old && lock.as_ref().is_none_or(|lock| lock.try_lock().is_ok()) {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
