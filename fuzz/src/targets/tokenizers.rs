//! `tokenizer.json`: edits of small tokenizers of every kind, or any bytes.

use std::sync::LazyLock;

use quantbench::checkpoint::Checkpoint;
use quantbench::network::Tokenizer;
use serde_json::{Value, json};

use crate::edits::{self, Input};
use crate::scratch;

/// What every tokenizer is asked to cut.
const TEXT: &str =
    "The quick <s> brown\tfox's 12345 jumps\r\n over \u{e9}e\u{301} \u{4e2d}\u{6587} \u{1f600}\0 the lazy dog.  ";

fn bases() -> Vec<Value> {
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let template = json!({ "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [9], "tokens": ["<s>"] } } });
    let whole = |model: Value, normalizer: Value, pre: Value, post: Value, decoder: Value| {
        json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(9, "<s>")],
                "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model })
    };
    let vocabulary = json!({ "T": 0, "h": 1, "e": 2, "the": 3, "##e": 4, "th": 5, "\u{120}": 6, "a": 7, "[UNK]": 8,
                             "<s>": 9, "o": 10, "[CLS]": 11, "[SEP]": 12, "\u{2581}": 13, "\u{120}t": 14 });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let bpe = json!({ "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": vocabulary, "merges": ["t h", "th e", "\u{120} t"] });
    let bpe = match bpe {
        Value::Object(mut model) => {
            model["vocab"]["t"] = 15.into();
            Value::Object(model)
        }
        other => other,
    };
    let unigram = json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true,
                          "vocab": [["<unk>", 0.0], ["\u{2581}", -2.0], ["t", -3.0], ["h", -3.5], ["th", -2.5], ["e", -1.0]] });
    let word_piece = json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                             "max_input_chars_per_word": 100, "vocab": vocabulary });
    let word_level = json!({ "type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary });
    let split = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "(?i:'s|'t)|\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+" }, "behavior": "Isolated", "invert": false },
        { "type": "Digits", "individual_digits": true }, { "type": "Punctuation", "behavior": "Isolated" },
        { "type": "CharDelimiterSplit", "delimiter": "o" }, { "type": "UnicodeScripts" },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] });
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true });
    let bert = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true });
    let normalizers = json!({ "type": "Sequence", "normalizers": [
        { "type": "NFKC" }, { "type": "Lowercase" }, { "type": "StripAccents" }, { "type": "Strip", "strip_left": true, "strip_right": true },
        { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }, { "type": "Prepend", "prepend": "\u{2581}" },
        { "type": "Replace", "pattern": { "Regex": "e+" }, "content": "ee" }, { "type": "ByteLevel" }] });
    let precompiled = json!({ "type": "Precompiled", "precompiled_charsmap": "AAQAAAAAAAAAAAAAAAAAAAAAAAAAAA==" });
    let decoders = json!({ "type": "Sequence", "decoders": [{ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
        { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        { "type": "WordPiece", "prefix": "##", "cleanup": true }, { "type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": true }] });
    let bert_post = json!({ "type": "BertProcessing", "sep": ["[SEP]", 12], "cls": ["[CLS]", 11] });
    let roberta_post = json!({ "type": "RobertaProcessing", "sep": ["[SEP]", 12], "cls": ["[CLS]", 11], "trim_offsets": true, "add_prefix_space": false });
    vec![
        whole(bpe.clone(), Value::Null, byte_level.clone(), template.clone(), byte_level.clone()),
        whole(bpe, json!({ "type": "NFC" }), split, byte_level, Value::Null),
        whole(unigram.clone(), normalizers, metaspace.clone(), template, decoders),
        whole(unigram, precompiled, metaspace.clone(), Value::Null, metaspace),
        whole(
            word_piece,
            bert,
            json!({ "type": "BertPreTokenizer" }),
            bert_post,
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        ),
        whole(word_level, Value::Null, json!({ "type": "Whitespace" }), roberta_post, Value::Null),
    ]
}

/// Loads a tokenizer, then cuts texts with it and joins the ids again.
pub fn tokenizer(data: &[u8]) {
    static BASES: LazyLock<(Vec<Value>, Vec<String>)> = LazyLock::new(|| {
        scratch::file("config.json", include_bytes!("../../../tests/fixtures/tiny_models/llama/config.json"));
        scratch::file(
            "model.safetensors",
            include_bytes!("../../../tests/fixtures/tiny_models/llama/model.safetensors"),
        );
        let bases = bases();
        let words = edits::words(bases.iter());
        (bases, words)
    });
    static CHECKPOINT: LazyLock<Checkpoint> =
        LazyLock::new(|| Checkpoint::open(scratch::folder()).expect("a fixture with a tokenizer beside it"));
    let (bases, words) = &*BASES;
    let mut text = String::new();
    match data.first() {
        Some(first) if *first < 32 => {
            let mut input = Input::new(data);
            let mut document = bases[input.below(bases.len())].clone();
            for _ in 0..input.byte() % 5 {
                edits::edit(&mut document, &mut input, words);
            }
            text.push_str(&String::from_utf8_lossy(input.rest()));
            scratch::file("tokenizer.json", document.to_string().as_bytes());
        }
        _ => drop(scratch::file("tokenizer.json", data)),
    }
    let Ok(tokenizer) = Tokenizer::from_checkpoint(&CHECKPOINT) else { return };
    for text in [TEXT, &text] {
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids);
        }
        let _ = tokenizer.encode_whole(text, 8);
    }
}
