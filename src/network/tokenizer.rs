//! Text to token ids: a model's own `tokenizer.json`, or the byte-level BPE vocabulary of a GGUF file.
//!
//! A GGUF file holds tokens, merges and the *name* of the rule that cuts text into words before the merges; what the
//! names mean is in llama.cpp's `llama-vocab.cpp`. Where llama.cpp and the published `tokenizer.json` differ (Unicode
//! normalization of Qwen), the published one is followed: it is what the model was trained with.
//!
//! A `tokenizer.json` is untrusted, and the `tokenizers` library trusts it: damaged tables make it panic or allocate what a
//! file claims, and steps that replace text may make it grow without bound. Every call into the library runs inside
//! [`machine::guarded`], which bounds memory and time whatever the cause. What stays open: a pattern with lookaround that
//! exceeds the backtracking limit of `fancy-regex` stops matching without an error, inside the library.

use std::collections::HashSet;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::checkpoint::{Checkpoint, GgufVocabulary, TokenizerSource};
use crate::error::{Error, Result};
use crate::files;
use crate::machine::{self, Allowance};

/// The published tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) place: String,
    pub(super) tokenizer: tokenizers::Tokenizer,
    /// Special tokens put before and after a text.
    around: (Vec<u32>, Vec<u32>),
    sha256: Option<String>,
}

impl Tokenizer {
    /// From the `tokenizer.json` beside the model, or from a GGUF file's own vocabulary and merges.
    ///
    /// # Errors
    /// No tokenizer, a damaged one, or a kind that is not supported.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let mut sha256 = None;
        let (place, mut tokenizer) = match checkpoint.tokenizer() {
            TokenizerSource::Json(path) => {
                let text = files::read(&path, files::limit::TOKENIZER)?;
                sha256 = Some(Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect());
                let place = path.display().to_string();
                let load = || {
                    check_added(&text)?;
                    tokenizers::Tokenizer::from_bytes(&text).map_err(|e| e.to_string())
                };
                let tokenizer = guarded(&place, to_load(text.len()), load)?;
                (place, tokenizer)
            }
            TokenizerSource::Gguf(vocabulary) => {
                let place = checkpoint.path().display().to_string();
                let size = vocabulary.tokens.iter().chain(&vocabulary.merges).map(|text| text.len() + 16).sum();
                let tokenizer = guarded(&place, to_load(size), || from_vocabulary(&vocabulary))?;
                (place, tokenizer)
            }
            TokenizerSource::Missing => {
                let problem = "no tokenizer: put the model's tokenizer.json beside it";
                return Err(Error::input(checkpoint.path().display(), problem));
            }
        };
        // Dropout of merges is for training: it would cut the same text in another way each time.
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }
        // Texts are cut into windows by the tasks, never by the tokenizer.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|problem| Error::input(&place, problem.to_string()))?;
        let mut tokenizer = Tokenizer { place, tokenizer, around: Default::default(), sha256 };
        tokenizer.around = tokenizer.added_around()?;
        Ok(tokenizer)
    }

    /// Ids of a text, without added special tokens; special tokens written in the text are recognised as the
    /// published tokenizer does.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false)
    }

    /// Ids of a text with the special tokens that the model puts around it (`[CLS] ... [SEP]`), at most `longest`, and whether
    /// it was longer: it then loses its end, not the special tokens. Those that the text itself begins or ends with are not
    /// doubled.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode_whole(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool)> {
        let mut ids = self.ids(text, true)?;
        let (front, behind) = self.around();
        if !front.is_empty() && ids.get(front.len()..).is_some_and(|rest| rest.starts_with(front)) {
            ids.drain(..front.len());
        }
        let end = ids.len().saturating_sub(behind.len());
        if !behind.is_empty() && end >= front.len() + behind.len() && ids[..end].ends_with(behind) {
            ids.truncate(end);
        }
        let cut = ids.len() > longest;
        if cut {
            ids.drain(longest.saturating_sub(behind.len())..ids.len() - behind.len());
        }
        Ok((ids, cut))
    }

    /// Whether text is written in lower case first; `None` where the tokenizer is not BERT's.
    pub fn lower_cases(&self) -> Option<bool> {
        match self.tokenizer.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(normalizer)) => Some(normalizer.lowercase),
            _ => None,
        }
    }

    /// Text of ids, special tokens written out.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.tokenizer.id_to_token(id).is_none()) {
            return Err(Error::input(&self.place, format!("token id {id} is outside the vocabulary")));
        }
        let decode = || self.tokenizer.decode(ids, false).map_err(|problem| problem.to_string());
        guarded(&self.place, to_encode(16 * ids.len()), decode)
    }

    /// SHA-256 of the `tokenizer.json` as hex; `None` where the tokenizer comes from a GGUF file.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// The id to put before every text, where the model was trained with one.
    pub fn bos(&self) -> Option<u32> {
        match self.around.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Special tokens that the model puts before and after a text.
    pub fn around(&self) -> (&[u32], &[u32]) {
        (&self.around.0, &self.around.1)
    }

    /// Writes a `tokenizer.json`, so that an artefact made from a GGUF file is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.tokenizer.to_string(true).map_err(|problem| Error::input(&self.place, problem.to_string()))?;
        std::fs::write(path, json).map_err(|source| Error::io(path, "write", source))
    }

    fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encode = || self.tokenizer.encode_fast(text, add_special_tokens).map_err(|problem| problem.to_string());
        Ok(guarded(&self.place, to_encode(text.len()), encode)?.get_ids().to_vec())
    }

    /// What the tokenizer's post-processor puts before and after a text, whatever kind of post-processor it is.
    fn added_around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let (bare, whole) = (self.ids("a", false)?, self.ids("a", true)?);
        let front = whole.windows(bare.len().max(1)).position(|window| window == bare);
        Ok(front.map_or_else(Default::default, |front| (whole[..front].to_vec(), whole[front + bare.len()..].to_vec())))
    }
}

/// What the library may take to load a tokenizer of `bytes`: honest ones need about 20 bytes for each of the file, and a
/// second for a few million.
fn to_load(bytes: usize) -> Allowance {
    Allowance { bytes: (512 << 20) + 64 * bytes as u64, seconds: 120 + bytes as u64 / 100_000 }
}

/// What the library may take for a text of `bytes`: it holds offsets, pieces and tokens of the whole text, some hundred
/// bytes for each of the text's, and reads a million of them a second.
fn to_encode(bytes: usize) -> Allowance {
    Allowance { bytes: (512 << 20) + 512 * bytes as u64, seconds: 120 + bytes as u64 / 5_000 }
}

/// Most added tokens: speech models add 65,536, and the library's search for them takes time by the square of their number.
const MOST_ADDED: usize = 70_000;

/// Bytes of the longest added token: the library builds an automaton with a state for each.
const LONGEST_ADDED: usize = 4096;

/// Checks number and length of added tokens; whatever else is wrong with the file is for the library to say.
fn check_added(json: &[u8]) -> std::result::Result<(), String> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        #[serde(default)]
        content: String,
    }
    let Ok(File { added_tokens }) = serde_json::from_slice::<File>(json) else { return Ok(()) };
    if added_tokens.len() > MOST_ADDED {
        return Err(format!("{} added tokens, expected at most {MOST_ADDED}", added_tokens.len()));
    }
    match added_tokens.iter().map(|token| token.content.len()).max() {
        Some(longest) if longest > LONGEST_ADDED => {
            Err(format!("an added token of {longest} bytes, expected at most {LONGEST_ADDED}"))
        }
        _ => Ok(()),
    }
}

/// A call into the library.
fn guarded<T>(place: &str, allowance: Allowance, call: impl FnOnce() -> std::result::Result<T, String>) -> Result<T> {
    let outcome = machine::guarded(place, allowance, call);
    let outcome = outcome.unwrap_or_else(|panic| Err(format!("damaged, or of a kind that is not supported ({panic})")));
    outcome.map_err(|problem| Error::input(place, format!("tokenizer: {problem}")))
}

/// Types of tokens in a GGUF file.
pub(super) const NORMAL: u32 = 1;
pub(super) const CONTROL: u32 = 3;
pub(super) const USER_DEFINED: u32 = 4;
pub(super) const UNUSED: u32 = 5;

/// The tokenizer that a GGUF vocabulary describes.
fn from_vocabulary(vocabulary: &GgufVocabulary) -> std::result::Result<tokenizers::Tokenizer, String> {
    if vocabulary.model != "gpt2" {
        return Err(format!(
            "vocabulary of kind \"{}\" is not supported; supported: gpt2 (byte-level BPE); use the model's safetensors \
             folder with its tokenizer.json",
            vocabulary.model
        ));
    }
    let rule = WordRule::named(&vocabulary.pre)?;
    let ids: Vocab = vocabulary.tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id)).collect();
    let model = BPE::builder().vocab_and_merges(ids, merges(vocabulary)?);
    let model = model.ignore_merges(rule.ignore_merges).build().map_err(|problem| problem.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    if rule.normalize {
        tokenizer.with_normalizer(Some(NFC));
    }
    tokenizer.with_pre_tokenizer(Some(rule.pre_tokenizer()?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let added = vocabulary.tokens.iter().zip(&vocabulary.token_types).filter_map(|(token, &kind)| {
        let special = kind == CONTROL;
        (special || kind == USER_DEFINED).then(|| AddedToken::from(token.clone(), special).normalized(false))
    });
    tokenizer.add_tokens(&added.collect::<Vec<_>>());
    if vocabulary.add_bos {
        tokenizer.with_post_processor(Some(bos_in_front(vocabulary)?));
    }
    Ok(tokenizer)
}

/// Merges as pairs. A merge is written `left right`; where a token itself holds a space, the cut is the one whose two
/// sides and their union are tokens.
fn merges(vocabulary: &GgufVocabulary) -> std::result::Result<Vec<(String, String)>, String> {
    let mut tokens = HashSet::with_capacity(vocabulary.tokens.len());
    if let Some(twin) = vocabulary.tokens.iter().find(|token| !tokens.insert(token.as_str())) {
        return Err(format!("token {twin:?} appears twice in the vocabulary"));
    }
    let pair = |merge: &String| {
        let cuts = merge.match_indices(' ').map(|(at, _)| (&merge[..at], &merge[at + 1..]));
        let mut cuts = cuts.filter(|(left, right)| {
            tokens.contains(left) && tokens.contains(right) && tokens.contains(format!("{left}{right}").as_str())
        });
        let (left, right) = cuts.next().ok_or_else(|| format!("merge {merge:?} is not made of two tokens"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    vocabulary.merges.iter().map(pair).collect()
}

/// A post-processor that puts BOS before a text when special tokens are asked for.
fn bos_in_front(vocabulary: &GgufVocabulary) -> std::result::Result<TemplateProcessing, String> {
    let id = vocabulary.bos.ok_or("add_bos_token is set, but there is no bos_token_id")?;
    let token = vocabulary.tokens.get(id as usize).ok_or_else(|| format!("bos_token_id {id} is no token"))?.clone();
    TemplateProcessing::builder()
        .try_single(vec![token.clone(), "$A".into()])
        .and_then(|builder| builder.try_pair(vec![token.clone(), "$A".into(), token.clone(), "$B:1".into()]))
        .map_err(|problem| problem.to_string())?
        .special_tokens(vec![(token, id)])
        .build()
        .map_err(|problem| problem.to_string())
}

/// How text is cut into words.
pub(super) struct WordRule {
    cut: Cut,
    /// Unicode NFC before everything else.
    pub(super) normalize: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
}

enum Cut {
    /// GPT-2's own regular expression.
    Gpt2,
    /// Every digit alone, then GPT-2's regular expression.
    DigitsThenGpt2,
    /// Another regular expression.
    Pattern(&'static str),
}

/// Llama 3: contractions in any case, up to three digits together, line ends after punctuation.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3 with digits alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl WordRule {
    /// A name of every rule.
    pub(super) const NAMES: [&str; 4] = ["gpt-2", "smollm", "llama-bpe", "qwen2"];

    /// The rule that `tokenizer.ggml.pre` names.
    pub(super) fn named(pre: &str) -> std::result::Result<Self, String> {
        let rule = |cut| WordRule { cut, normalize: false, ignore_merges: false };
        match pre {
            "gpt-2" => Ok(rule(Cut::Gpt2)),
            "smollm" => Ok(rule(Cut::DigitsThenGpt2)),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(WordRule { ignore_merges: true, ..rule(Cut::Pattern(LLAMA3)) }),
            "qwen2" | "deepseek-r1-qwen" => Ok(WordRule { normalize: true, ..rule(Cut::Pattern(QWEN2)) }),
            _ => Err(format!(
                "pre-tokenizer \"{pre}\" is not supported; supported: {}; (\"default\" means that the converter did \
                 not know it: convert the model again)",
                Self::NAMES.join(", ")
            )),
        }
    }

    pub(super) fn pre_tokenizer(&self) -> std::result::Result<Sequence, String> {
        let steps: [PreTokenizerWrapper; 2] = match self.cut {
            Cut::Gpt2 => return Ok(Sequence::new(vec![ByteLevel::new(false, true, true).into()])),
            Cut::DigitsThenGpt2 => [Digits::new(true).into(), ByteLevel::new(false, true, true).into()],
            Cut::Pattern(pattern) => {
                let pattern = SplitPattern::Regex(pattern.to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
                let split = split.map_err(|problem| problem.to_string())?;
                [split.into(), ByteLevel::new(false, true, false).into()]
            }
        };
        Ok(Sequence::new(steps.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 256 byte characters as GPT-2 writes them, two merged tokens, a control token and one with a space.
    fn vocabulary(pre: &str) -> GgufVocabulary {
        let mut tokens: Vec<String> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
        tokens.sort();
        tokens.extend(["12", "he", "Ġhe", "<|end|>", "<two words>", "\u{10A}\u{10A}"].map(String::from));
        let mut token_types = vec![1; tokens.len()];
        token_types[256 + 3] = CONTROL;
        token_types[256 + 4] = USER_DEFINED;
        let merges = ["1 2", "h e", "Ġ he", "\u{10A} \u{10A}"].map(String::from).to_vec();
        GgufVocabulary { model: "gpt2".into(), pre: pre.into(), tokens, token_types, merges, ..Default::default() }
    }

    fn tokenizer(vocabulary: &GgufVocabulary) -> Tokenizer {
        let tokenizer = from_vocabulary(vocabulary).unwrap();
        let mut tokenizer = Tokenizer { place: "test".into(), tokenizer, around: Default::default(), sha256: None };
        tokenizer.around = tokenizer.added_around().unwrap();
        tokenizer
    }

    fn words(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        ids.iter().map(|&id| tokenizer.tokenizer.id_to_token(id).unwrap()).collect()
    }

    #[test]
    fn words_are_cut_by_the_rule_that_is_named() {
        let of = |pre: &str, text: &str| words(&tokenizer(&vocabulary(pre)), text).join("|");
        assert_eq!(of("gpt-2", "he he12"), "he|Ġhe|12");
        assert_eq!(of("smollm", "he he12"), "he|Ġhe|1|2");
        assert_eq!(of("qwen2", "he he12"), "he|Ġhe|1|2");
        assert_eq!(of("llama-bpe", "he he12"), "he|Ġhe|12");
        // Digits are cut off first, so that both line ends before a digit stay together.
        assert_eq!(of("smollm", "\n\n1"), "\u{10A}\u{10A}|1");
        assert_eq!(of("gpt-2", "\n\n1"), "\u{10A}|\u{10A}|1");
        // Only Qwen composes characters first: two bytes for é instead of e and an accent's two bytes.
        assert_eq!(of("qwen2", "e\u{301}").matches('|').count(), 1);
        assert_eq!(of("llama-bpe", "e\u{301}").matches('|').count(), 2);
    }

    #[test]
    fn the_number_of_added_tokens_is_bounded() {
        let json = |count: usize| format!("{{\"added_tokens\": [{}{{}}], \"model\": {{}}}}", "{},".repeat(count - 1));
        assert_eq!(check_added(json(MOST_ADDED).as_bytes()), Ok(()));
        let problem = check_added(json(MOST_ADDED + 1).as_bytes()).unwrap_err();
        assert!(problem.contains("70001 added tokens"), "{problem}");
        assert_eq!(check_added(b"not JSON"), Ok(()));
        let long = format!("{{\"added_tokens\": [{{\"content\": \"{}\"}}]}}", "a".repeat(LONGEST_ADDED + 1));
        assert!(check_added(long.as_bytes()).unwrap_err().contains("an added token of 4097 bytes"));
    }

    #[test]
    fn added_tokens_are_found_in_text_and_ids_come_back_as_text() {
        let tokenizer = tokenizer(&vocabulary("smollm"));
        assert_eq!(words(&tokenizer, "he<|end|> he<two words>"), ["he", "<|end|>", "Ġhe", "<two words>"]);
        for text in ["he <|end|> 12 caf\u{e9} \u{1F600}\n\t <two words>", "", " "] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        }
        assert!(tokenizer.decode(&[9999]).unwrap_err().to_string().contains("token id 9999"));
    }

    #[test]
    fn bos_is_known_only_where_the_model_adds_it_and_survives_saving() {
        let mut vocabulary = vocabulary("llama-bpe");
        vocabulary.bos = Some(256 + 3);
        assert_eq!(tokenizer(&vocabulary).bos(), None);
        vocabulary.add_bos = true;
        let with_bos = tokenizer(&vocabulary);
        assert_eq!(with_bos.bos(), Some(256 + 3));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        with_bos.save(&path).unwrap();
        let again = tokenizers::Tokenizer::from_file(&path).unwrap();
        let again = Tokenizer { place: "saved".into(), tokenizer: again, around: Default::default(), sha256: None };
        assert_eq!(again.added_around().unwrap(), (vec![256 + 3], vec![]));
        let text = "he he<|end|>12\n\n1";
        assert_eq!(again.encode(text).unwrap(), with_bos.encode(text).unwrap());
    }

    #[test]
    fn a_vocabulary_comes_back_as_it_was_with_the_name_of_its_rule() {
        for pre in WordRule::NAMES {
            let mut vocabulary = vocabulary(pre);
            vocabulary.bos = Some(256 + 3);
            vocabulary.add_bos = true;
            let written = tokenizer(&vocabulary).gguf_vocabulary(vocabulary.tokens.len(), None, Some(7)).unwrap();
            assert_eq!(written, GgufVocabulary { eos: Some(7), ..vocabulary.clone() });
            let padded = tokenizer(&vocabulary).gguf_vocabulary(vocabulary.tokens.len() + 1, None, None).unwrap();
            assert_eq!(padded.token_types.last(), Some(&UNUSED));
            assert_eq!(words(&tokenizer(&padded), "he<|end|> he12"), words(&tokenizer(&vocabulary), "he<|end|> he12"));
        }
    }

    #[test]
    fn tokenizers_without_a_name_in_a_gguf_file_are_refused() {
        let refusal = |change: &dyn Fn(&mut tokenizers::Tokenizer)| {
            let mut tokenizer = tokenizer(&vocabulary("llama-bpe"));
            change(&mut tokenizer.tokenizer);
            tokenizer.gguf_vocabulary(300, None, None).unwrap_err().to_string()
        };
        let other = WordRule::named("smollm").unwrap().pre_tokenizer().unwrap();
        let text = refusal(&|t| {
            t.with_pre_tokenizer(Some(other.clone()));
        });
        assert!(text.contains("has no name that is known here"), "{text}");
        let text = refusal(&|t| {
            t.with_normalizer(Some(NFC));
        });
        assert!(text.contains("has no name that is known here"), "{text}");
        let text = refusal(&|t| {
            t.add_tokens(&[AddedToken::from("<mask>", true).lstrip(true)]);
        });
        assert!(text.contains("\"<mask>\" takes in the spaces"), "{text}");
        let few = tokenizer(&vocabulary("qwen2")).gguf_vocabulary(100, None, None).unwrap_err().to_string();
        assert!(few.contains("has no row among the embedding's 100"), "{few}");
    }

    #[test]
    fn vocabularies_that_cannot_be_followed_exactly_are_refused() {
        let refusal = |change: &dyn Fn(&mut GgufVocabulary)| {
            let mut vocabulary = vocabulary("smollm");
            change(&mut vocabulary);
            from_vocabulary(&vocabulary).unwrap_err()
        };
        assert!(refusal(&|v| v.model = "llama".into()).contains("\"llama\" is not supported"));
        assert!(refusal(&|v| v.pre = "default".into()).contains("convert the model again"));
        assert!(refusal(&|v| v.merges.push("h x".into())).contains("not made of two tokens"));
        assert!(refusal(&|v| v.tokens.push("he".into())).contains("appears twice"));
        assert!(refusal(&|v| v.add_bos = true).contains("no bos_token_id"));
    }
}
