//! The one door to a model: every command opens it here before any work, so that all refuse the same files for the same
//! reasons. Opening maps files and reads no weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::assets::{self, Local, Source};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::network::{Architecture, Pooling, Tokenizer};

/// A network with its weights and its tokenizer, as published: opened and checked.
#[derive(Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    architecture: Architecture,
    tokenizer: Arc<Tokenizer>,
    warnings: Vec<String>,
}

impl Model {
    /// Opens a model's file or folder.
    ///
    /// # Errors
    /// Whatever [`Checkpoint::open`], [`Architecture::of`] and [`Tokenizer::from_checkpoint`] refuse; what follows an
    /// encoder, where that is not supported.
    pub fn open(path: &Path) -> Result<Model> {
        let checkpoint = Checkpoint::open(path)?;
        let architecture = Architecture::of(&checkpoint)?;
        if matches!(&architecture, Architecture::Encoder { config, .. } if !config.classifies) {
            Pooling::of(&checkpoint)?;
        }
        let tokenizer = Arc::new(Tokenizer::from_checkpoint(&checkpoint)?);
        if let (Architecture::Encoder { .. }, Some(stated), Some(own)) =
            (&architecture, checkpoint.sentence_modules().tokenizer_lower_cases, tokenizer.lower_cases())
            && stated != own
        {
            let problem = format!(
                "tokenizer_config.json says do_lower_case {stated}, the normalizer of tokenizer.json says lowercase {own}; \
                 mend the one that is wrong"
            );
            return Err(Error::input(checkpoint.path().display(), problem));
        }
        let warnings = Architecture::warnings(&checkpoint)?;
        Ok(Model { checkpoint, architecture, tokenizer, warnings })
    }

    /// The model of a source, fetched if it is not here, with the hash and size of its files. Of a `path:` these are the
    /// files that make up the model, so that notes beside them do not make it another one; of other sources all files, as
    /// they were published. Relative paths start from `base`.
    ///
    /// # Errors
    /// As [`Source::fetch`] and [`Model::open`]; several files.
    pub fn fetch(source: &Source, base: &Path) -> Result<(Model, Local)> {
        let Source::Path(path) = source else {
            let local = source.fetch(base)?;
            return Ok((Model::open(single(&local.paths)?)?, local));
        };
        let found = assets::find(&base.join(path))?;
        let path = single(&found)?;
        let model = Model::open(path)?;
        let files = model.checkpoint.files();
        let local = assets::content_of(path, &files)?;
        Ok((model, local))
    }

    /// Checks a file that is scored and timed as another form of this model, whose tokenizer it shares.
    ///
    /// # Errors
    /// What [`Checkpoint::open`] and [`Architecture::of`] refuse; a network of another kind or vocabulary.
    pub fn check_form(&self, path: &Path) -> Result<()> {
        let other = Architecture::of(&Checkpoint::open(path)?)?;
        let kind = |architecture: &Architecture| match architecture {
            Architecture::Decoder(config) => format!("a decoder of {} tokens", config.vocab_size),
            Architecture::Encoder { config, .. } => format!("an encoder of {} tokens", config.vocab_size),
        };
        let (expected, got) = (kind(&self.architecture), kind(&other));
        if expected == got {
            return Ok(());
        }
        let problem = format!("is {got}, the suite's model is {expected}; they are not forms of one model");
        Err(Error::input(path.display(), problem))
    }

    /// Configuration and weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The network.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// What the user should know of it, such as keys of its configuration that nobody knows.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Text to tokens.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }
}

/// A model is one file or one folder.
fn single(paths: &[PathBuf]) -> Result<&Path> {
    match paths {
        [path] => Ok(path),
        paths => {
            let place = paths.first().map_or_else(String::new, |path| path.display().to_string());
            let problem = format!("expected one model file or folder, got {} paths; name one of them", paths.len());
            Err(Error::input(place, problem))
        }
    }
}
