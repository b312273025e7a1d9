//! How a sentence-transformers folder makes one vector of a sentence: `modules.json` lists the steps after the network,
//! each with its configuration in a folder of its own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folder::plain_file_name;
use super::python_json;
use crate::error::{Error, Result};

/// List of the steps.
const MODULES: &str = "modules.json";

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct SentenceModule {
    /// `Transformer`, `Pooling`, `Normalize`, ...: the class without its package.
    pub kind: String,
    /// Its `config.json`; `null` where it has none (the network's own is [`super::Checkpoint::config`]).
    pub config: Value,
}

/// The steps, and the files that say so, relative to the folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SentenceModules {
    /// In order.
    pub modules: Vec<SentenceModule>,
    /// To be copied with the model.
    pub files: Vec<PathBuf>,
}

/// Reads the steps of a folder; none where there is no list.
pub(super) fn read(folder: &Path) -> Result<SentenceModules> {
    let list = folder.join(MODULES);
    if !list.is_file() {
        return Ok(SentenceModules::default());
    }
    let fault = |problem: &str| Error::input(list.display(), problem);
    let json = python_json::read(&list)?;
    let entries = json.as_array().ok_or_else(|| fault("expected a list of modules"))?;
    let mut steps = SentenceModules { modules: Vec::new(), files: vec![MODULES.into()] };
    for entry in entries {
        let text =
            |key: &str| entry[key].as_str().ok_or_else(|| fault("expected \"type\" and \"path\" in every module"));
        let (class, path) = (text("type")?, text("path")?);
        let kind = class.rsplit('.').next().unwrap_or(class).to_owned();
        let mut config = Value::Null;
        if !path.is_empty() {
            if !plain_file_name(path) {
                return Err(fault("expected the name of a folder in this folder as \"path\""));
            }
            let file = Path::new(path).join("config.json");
            if folder.join(&file).is_file() {
                config = python_json::read(&folder.join(&file))?;
                steps.files.push(file);
            }
        }
        steps.modules.push(SentenceModule { kind, config });
    }
    Ok(steps)
}
