//! Documents of a source as tokens of one model, be they text or token ids already.

use std::path::Path;
use std::sync::Arc;

use crate::assets::{Documents, TokenOwner, read_documents};
use crate::checkpoint::SentenceModules;
use crate::error::Result;
use crate::network::{Architecture, Model, Tokenizer};
use crate::suite::TextSource;

/// What turns text into a model's tokens, and checks ids that are claimed to be its own.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    vocabulary: usize,
    /// Longest sequence that the model was made for.
    positions: usize,
    /// What is done to sentences; `None` for a decoder.
    sentences: Option<SentenceModules>,
}

/// Documents as tokens, without the beginning-of-sequence token that [`Encoder::bos`] names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Corpus {
    /// Ids, one list for each document.
    pub documents: Vec<Vec<u32>>,
    /// Names of the documents.
    pub names: Vec<String>,
    /// Names of the genres; empty where the data has none.
    pub genres: Vec<String>,
    /// Genre of each document; empty where the data has none.
    pub genre_of: Vec<usize>,
}

impl Encoder {
    /// The tokenizer and the vocabulary of a model.
    pub fn of(model: &Model) -> Encoder {
        let (positions, sentences) = match model.architecture() {
            Architecture::Decoder(config) => (config.positions(), None),
            Architecture::Encoder { config, .. } => {
                (config.max_positions(), Some(model.checkpoint().sentence_modules().clone()))
            }
        };
        let vocabulary = model.architecture().vocab_size();
        Encoder { tokenizer: Arc::clone(model.tokenizer()), vocabulary, positions, sentences }
    }

    /// Whether the network reads sentences as wholes, as encoders do.
    pub fn reads_sentences(&self) -> bool {
        self.sentences.is_some()
    }

    /// Longest sequence that the model was made for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Tokens of the longest sentence as the model's side files say, special ones included.
    pub fn longest_sentence(&self) -> usize {
        let stated = self.sentences.as_ref().and_then(|sentences| sentences.max_length);
        stated.unwrap_or(self.positions).min(self.positions)
    }

    /// The id to put before every window, where the model was trained with one and its tokenizer adds it.
    pub fn bos(&self) -> Option<u32> {
        self.tokenizer.bos()
    }

    /// Ids of a sentence with the special tokens around it, at most `longest`, and whether it was longer and lost its end;
    /// behind the model's prompt and in the case that its side files ask for.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode_sentence(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool)> {
        match &self.sentences {
            Some(sentences) => self.tokenizer.encode_whole(&sentences.text(text), longest),
            None => self.tokenizer.encode_whole(text, longest),
        }
    }

    /// Special tokens that the model puts before and after a text.
    pub fn around(&self) -> (&[u32], &[u32]) {
        self.tokenizer.around()
    }

    /// `ids` of [`Encoder::encode_sentence`] without the special tokens around them.
    pub fn without_special<'t>(&self, ids: &'t [u32]) -> &'t [u32] {
        let (front, behind) = self.around();
        &ids[front.len()..ids.len() - behind.len()]
    }

    /// Ids of a text, without added special tokens.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// Checks that the ids of a file are this model's.
    ///
    /// # Errors
    /// Another tokenizer, or an id outside the vocabulary.
    pub fn check(&self, owner: &TokenOwner) -> Result<()> {
        owner.check(self.tokenizer.sha256(), self.vocabulary)
    }

    /// `ids` without a beginning-of-sequence token in front that is put there later, so that none is doubled.
    pub fn without_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if self.bos().is_some() && ids.first().copied() == self.bos() {
            ids.remove(0);
        }
        ids
    }

    /// The documents of a source as tokens.
    ///
    /// # Errors
    /// As [`read_documents`]; text that the tokenizer refuses; token ids of another model.
    pub fn read(&self, source: &TextSource, base: &Path) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        match read_documents(source, base)? {
            Documents::Texts(texts) => {
                for document in texts {
                    corpus.documents.push(self.without_bos(self.encode(&document.text)?));
                    corpus.names.push(document.name);
                }
            }
            Documents::Tokens(file) => {
                self.check(&file.owner)?;
                corpus.genres = file.genres;
                for document in file.documents {
                    corpus.documents.push(self.without_bos(document.ids));
                    corpus.names.push(document.name);
                    corpus.genre_of.push(document.genre);
                }
            }
        }
        Ok(corpus)
    }
}
