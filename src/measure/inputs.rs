//! What a run starts from: everything fetched and on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::assets::{Local, Source};
use crate::error::{Error, Result};
use crate::machine::{self, MachineRecord};
use crate::network::{Architecture, Model};
use crate::suite::{Recipe, Suite};
use crate::tasks::check_lengths;

/// A suite with its model and data on this machine.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The suite, with the variants that shall run.
    pub suite: Suite,
    /// Folder that relative sources start from.
    pub base: PathBuf,
    /// The model's file or folder.
    pub model: PathBuf,
    /// SHA-256 over its files.
    pub model_sha256: String,
    /// Imported artefacts by variant: where they are, or why they could not be fetched.
    pub imports: BTreeMap<String, std::result::Result<PathBuf, String>>,
    /// Slowdowns that are planted in slots of a variant, as shares of its time; empty but in a selftest.
    pub planted: BTreeMap<String, f64>,
    /// This machine.
    pub machine: MachineRecord,
}

impl Inputs {
    /// Fetches the model, the texts and the imported artefacts of `suite`, and opens the model and the imports as every
    /// worker will, so that what cannot be read ends the run before any work. Relative sources start from `base`. An
    /// import that cannot be fetched costs its own variant only.
    ///
    /// # Errors
    /// A model or text that cannot be fetched; a model or import that is damaged, not supported, or does not fit the suite.
    pub fn fetch(suite: Suite, base: &Path) -> Result<Inputs> {
        let source = parse(&suite.model)?;
        let (opened, model) = Model::fetch(&source, base)?;
        check_kind(&suite, &opened)?;
        let texts = suite.tasks.iter().map(|t| &t.text).chain(suite.calibration.iter().map(|c| &c.text));
        for text in texts {
            fetch(&text.source, base)?;
        }
        check_lengths(&suite, opened.architecture(), opened.checkpoint().path())?;
        let mut imports = BTreeMap::new();
        for variant in &suite.variants {
            if let Recipe::Import { source, .. } = &variant.recipe
                && source != "model"
            {
                let path = fetch(source, base).and_then(|local| one_path(source, &local));
                if let Ok(path) = &path {
                    opened.check_form(path)?;
                }
                imports.insert(variant.name.clone(), path.map_err(|e| e.to_string()));
            }
        }
        Ok(Inputs {
            model: one_path(&suite.model, &model)?,
            model_sha256: model.sha256,
            base: base.to_path_buf(),
            imports,
            planted: BTreeMap::new(),
            machine: machine::describe(),
            suite,
        })
    }
}

/// A decoder's suite cannot run an encoder, nor the other way round.
fn check_kind(suite: &Suite, model: &Model) -> Result<()> {
    let problem = match (model.architecture(), suite.workload.encodes()) {
        (Architecture::Encoder { .. }, false) => {
            "is an encoder; give the suite's [workload] `length` instead of `prompt` and `generate`, and tasks of kind \
             \"similarity\""
        }
        (Architecture::Decoder(_), true) => {
            "is a decoder; give the suite's [workload] `prompt` and `generate` instead of `length`"
        }
        _ => return Ok(()),
    };
    Err(Error::input(model.checkpoint().path().display(), problem))
}

fn parse(source: &str) -> Result<Source> {
    Source::parse(source).map_err(|problem| Error::input(source, problem))
}

fn fetch(source: &str, base: &Path) -> Result<Local> {
    parse(source)?.fetch(base)
}

/// A model is one file or one folder.
fn one_path(source: &str, local: &Local) -> Result<PathBuf> {
    match local.paths.as_slice() {
        [path] => Ok(path.clone()),
        paths => Err(Error::input(
            source,
            format!("expected one model file or folder, got {} paths; name one of them", paths.len()),
        )),
    }
}
