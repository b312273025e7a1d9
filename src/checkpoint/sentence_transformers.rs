//! How a sentence-transformers folder makes one vector of a sentence: `modules.json` lists the steps after the network,
//! each with its configuration in a folder of its own; other side files say what is done to the text before.
//!
//! | file | key | meaning |
//! |---|---|---|
//! | `sentence_bert_config.json` | `max_seq_length` | tokens of the longest sentence, special ones included |
//! | | `do_lower_case` | the text is written in lower case before it is tokenized |
//! | `config_sentence_transformers.json` | `prompts`, `default_prompt_name` | text that is put before every sentence |
//! | `tokenizer_config.json` | `model_max_length` | as `max_seq_length`, where that is not given |
//! | | `do_lower_case` | what `tokenizer.json` must do, too |
//!
//! Source: `Transformer.py` and `SentenceTransformer.py` of sentence-transformers. It reads the first two only beside a
//! `modules.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folder::plain_file_name;
use super::python_json;
use crate::error::{Error, Result};

/// List of the steps.
const MODULES: &str = "modules.json";
/// Names that the configuration of the sentence's length has, by the network's kind.
const LENGTHS: [&str; 3] =
    ["sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"];
const PROMPTS: &str = "config_sentence_transformers.json";
const TOKENIZER: &str = "tokenizer_config.json";

/// `model_type` of the networks that make vectors of sentences.
pub const ENCODERS: [&str; 3] = ["bert", "roberta", "xlm-roberta"];

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
    /// Tokens of the longest sentence, special ones included.
    pub max_length: Option<usize>,
    /// Text is written in lower case first.
    pub lower_case: bool,
    /// Put before every sentence.
    pub prompt: String,
    /// Whether the tokenizer writes text in lower case, where the files say.
    pub tokenizer_lower_cases: Option<bool>,
    /// To be copied with the model.
    pub files: Vec<PathBuf>,
}

impl SentenceModules {
    /// A sentence as the tokenizer gets it.
    pub fn text(&self, sentence: &str) -> String {
        if self.modules.is_empty() {
            return sentence.to_owned();
        }
        let text = format!("{}{sentence}", self.prompt);
        if self.lower_case { text.trim().to_lowercase() } else { text.trim().to_owned() }
    }
}

/// Reads the side files of a folder with this `config.json`; the steps are none where there is no list, and other networks
/// than encoders have nothing of all this.
pub(super) fn read(folder: &Path, config: &Value) -> Result<SentenceModules> {
    if !config["model_type"].as_str().is_some_and(|kind| ENCODERS.contains(&kind)) {
        return Ok(SentenceModules::default());
    }
    let mut found = if folder.join(MODULES).is_file() { steps(folder)? } else { SentenceModules::default() };
    if !found.modules.is_empty() {
        found.read_length(folder)?;
        found.read_prompt(folder)?;
    }
    if let Some(json) = found.beside(folder, TOKENIZER)? {
        // Far beyond any model's positions where the tokenizer has no bound.
        let bound = json["model_max_length"].as_u64().and_then(|n| usize::try_from(n).ok());
        found.max_length = found.max_length.or(bound);
        found.tokenizer_lower_cases = json["do_lower_case"].as_bool();
    }
    Ok(found)
}

impl SentenceModules {
    /// A side file, where there is one.
    fn beside(&mut self, folder: &Path, name: &str) -> Result<Option<Value>> {
        let path = folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        self.files.push(name.into());
        python_json::read(&path).map(Some)
    }

    fn read_length(&mut self, folder: &Path) -> Result<()> {
        for name in LENGTHS {
            let Some(json) = self.beside(folder, name)? else { continue };
            let fault = |problem: String| Error::input(folder.join(name).display(), problem);
            self.max_length = match &json["max_seq_length"] {
                Value::Null => None,
                length => {
                    let positive = length.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
                    let problem = || fault(format!("\"max_seq_length\" is {length}; expected a whole number above 0"));
                    Some(positive.ok_or_else(problem)?)
                }
            };
            self.lower_case = match &json["do_lower_case"] {
                Value::Null => false,
                Value::Bool(flag) => *flag,
                other => return Err(fault(format!("\"do_lower_case\" is {other}; expected true or false"))),
            };
            return Ok(());
        }
        Ok(())
    }

    fn read_prompt(&mut self, folder: &Path) -> Result<()> {
        let Some(json) = self.beside(folder, PROMPTS)? else { return Ok(()) };
        let fault = |problem: String| Error::input(folder.join(PROMPTS).display(), problem);
        let name = match &json["default_prompt_name"] {
            Value::Null => return Ok(()),
            Value::String(name) => name,
            other => return Err(fault(format!("\"default_prompt_name\" is {other}; expected a name or null"))),
        };
        let prompt = json["prompts"][name.as_str()].as_str();
        let problem = || fault(format!("\"default_prompt_name\" is {name:?}, which \"prompts\" does not hold"));
        self.prompt = prompt.ok_or_else(problem)?.to_owned();
        Ok(())
    }
}

/// The steps that the list names.
fn steps(folder: &Path) -> Result<SentenceModules> {
    let list = folder.join(MODULES);
    let fault = |problem: &str| Error::input(list.display(), problem);
    let json = python_json::read(&list)?;
    let entries = json.as_array().ok_or_else(|| fault("expected a list of modules"))?;
    let mut steps = SentenceModules { files: vec![MODULES.into()], ..SentenceModules::default() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the side files of an encoder say.
    fn read_with(files: &[(&str, Value)]) -> Result<SentenceModules> {
        let folder = tempfile::tempdir().unwrap();
        for (name, json) in files {
            std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        }
        read(folder.path(), &json!({"model_type": "bert"}))
    }

    fn modules() -> (&'static str, Value) {
        (MODULES, json!([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
    }

    #[test]
    fn side_files_say_what_is_done_to_a_sentence() {
        let length = ("sentence_bert_config.json", json!({"max_seq_length": 16, "do_lower_case": true}));
        let prompts = (PROMPTS, json!({"prompts": {"query": "Query: ", "none": ""}, "default_prompt_name": "query"}));
        let tokenizer = (TOKENIZER, json!({"model_max_length": 512}));
        let all = read_with(&[modules(), length.clone(), prompts.clone(), tokenizer.clone()]).unwrap();
        assert_eq!((all.max_length, all.text("A Fox").as_str()), (Some(16), "query: a fox"));
        assert_eq!(all.files.len(), 4);
        let plain = read_with(&[modules(), tokenizer.clone()]).unwrap();
        assert_eq!((plain.max_length, plain.text("A Fox").as_str()), (Some(512), "A Fox"));
        // Without a list of steps the others are not sentence-transformers' to read.
        let alone = read_with(&[length, prompts, tokenizer]).unwrap();
        assert_eq!((alone.max_length, alone.lower_case, alone.prompt.as_str()), (Some(512), false, ""));
        let unbounded = read_with(&[(TOKENIZER, json!({"model_max_length": 1e30}))]).unwrap();
        assert_eq!(unbounded.max_length, None);
    }

    #[test]
    fn side_files_that_say_nothing_sensible_are_refused() {
        for (file, expected) in [
            (("sentence_bert_config.json", json!({"max_seq_length": 0})), "\"max_seq_length\" is 0"),
            (("sentence_bert_config.json", json!({"max_seq_length": "all"})), "expected a whole number"),
            (("sentence_bert_config.json", json!({"do_lower_case": 1})), "expected true or false"),
            ((PROMPTS, json!({"prompts": {}, "default_prompt_name": "query"})), "does not hold"),
            ((PROMPTS, json!({"default_prompt_name": 3})), "expected a name or null"),
        ] {
            let message = read_with(&[modules(), file]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
