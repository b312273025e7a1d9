//! What quantizers learn from: windows of a decoder's text, sentences of an encoder's.

use std::path::Path;

use super::corpus::{Corpus, Encoder};
use super::sentences::sentences;
use crate::assets::{Documents, read_documents};
use crate::error::{Error, Result};
use crate::suite::Calibration;
use crate::variant::CalibrationTokens;

impl Encoder {
    /// Draws calibration data: windows of `length` tokens for a decoder; for an encoder sentences as it embeds them, special
    /// tokens around them, cut where they are longer. Beside them what they were drawn from, an encoder's sentences being
    /// documents of their own; between the two so many windows of a decoder that are `held_out` from learning.
    ///
    /// # Errors
    /// Those of reading the text; too little of it.
    pub fn calibrate(
        &self,
        calibration: &Calibration,
        held_out: usize,
        base: &Path,
    ) -> Result<(CalibrationTokens, CalibrationTokens, Corpus)> {
        let Calibration { text, windows, length, seed, .. } = calibration;
        if !self.reads_sentences() {
            let corpus = self.read(text, base)?;
            let (documents, windows) = (&corpus.documents, (*windows, held_out));
            let (learned, held_out) =
                CalibrationTokens::draw_with_held_out(documents, self.bos(), windows, *length, *seed)?;
            return Ok((learned, held_out, corpus));
        }
        let Documents::Texts(texts) = read_documents(text, base)? else {
            let problem =
                "expected text, got a token file; an encoder calibrates on sentences, which are cut from text";
            return Err(Error::input(&text.source, problem));
        };
        let longest = self.longest_sentence().min(*length);
        let mut corpus = Corpus::default();
        let mut whole = Vec::new();
        for document in &texts {
            for sentence in sentences(&document.text) {
                let (tokens, _) = self.encode_sentence(sentence, longest)?;
                corpus.documents.push(self.without_special(&tokens).to_vec());
                corpus.names.push(document.name.clone());
                whole.push(tokens);
            }
        }
        Ok((CalibrationTokens::pick(whole, *windows, *seed)?, CalibrationTokens::default(), corpus))
    }
}
