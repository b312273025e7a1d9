//! Text to token ids.

use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// The published tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// From the `tokenizer.json` beside the model, or from a GGUF file's own vocabulary and merges.
    ///
    /// # Errors
    /// No tokenizer, a damaged one, or a kind that is not supported.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let _ = checkpoint;
        todo!("network")
    }

    /// Ids of a text, without added special tokens; special tokens written in the text are recognised as the
    /// published tokenizer does.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let _ = text;
        todo!("network")
    }

    /// Text of ids.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let _ = ids;
        todo!("network")
    }

    /// The id to put before every text, where the model was trained with one.
    pub fn bos(&self) -> Option<u32> {
        todo!("network")
    }

    /// Writes a `tokenizer.json`, so that an artefact made from a GGUF file is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<()> {
        let _ = path;
        todo!("network")
    }
}
