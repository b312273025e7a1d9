//! Texts, tokens and choice items.

use std::sync::LazyLock;

use quantbench::assets::{read_choices, read_documents};
use quantbench::suite::TextSource;
use serde_json::json;

use crate::edits::Input;
use crate::scratch;
use crate::tensors::{Pieces, Tensor};

fn source(name: &str, input: &mut Input) -> TextSource {
    let documents = match input.byte() {
        0..128 => None,
        _ => Some((usize::from(input.byte() % 4), usize::from(input.byte() % 8))),
    };
    TextSource { source: format!("path:{name}"), documents, field: None }
}

/// One text or JSON file.
pub fn documents(data: &[u8]) {
    let mut input = Input::new(data);
    let is_json = input.byte() % 2 == 1;
    let name = if is_json { "x.json" } else { "x.txt" };
    let mut source = source(name, &mut input);
    source.field = is_json.then(|| ["text", "a.b", ""][input.below(3)].to_owned());
    scratch::file(name, input.rest());
    let _ = read_documents(&source, scratch::folder());
}

/// Choice items as lines of JSON.
pub fn choices(data: &[u8]) {
    scratch::file("x.jsonl", data);
    let source = TextSource { source: "path:x.jsonl".into(), documents: None, field: None };
    let _ = read_choices(&source, scratch::folder());
}

/// A data file of small arrays: `numbers` in the type that is asked for.
fn arrays(metadata: serde_json::Value, tensors: &[(&str, &str, &[u64], &[u32])]) -> Pieces {
    let tensors = tensors.iter().map(|(name, dtype, shape, numbers)| {
        let bytes = match *dtype {
            "U8" => 1,
            "U16" => 2,
            _ => 4,
        };
        let data = numbers.iter().flat_map(|number| number.to_le_bytes()[..bytes].to_vec()).collect();
        Tensor { name: (*name).into(), dtype: (*dtype).into(), shape: shape.to_vec(), data }
    });
    Pieces { document: json!({ "config": null, "metadata": metadata }), tensors: tensors.collect() }
}

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn edited(base: &Pieces, data: &[u8]) -> Pieces {
    static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        ["kind", "tokens", "choice", "genres", "names", "tokenizer", "ids", "starts", "items", "answers", "documents"]
            .map(str::to_owned)
            .to_vec()
    });
    let mut pieces = base.clone();
    pieces.edit(&mut Input::new(data), &WORDS);
    pieces
}

/// A token file with edits, or any bytes.
pub fn tokens(data: &[u8]) {
    static BASE: LazyLock<Pieces> = LazyLock::new(|| {
        let metadata = json!({ "kind": "tokens", "genres": ["a", "b"], "names": ["x", "y", "z"], "tokenizer": HASH });
        arrays(
            metadata,
            &[
                ("ids", "U16", &[9], &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
                ("starts", "U32", &[4], &[0, 3, 5, 9]),
                ("genres", "U8", &[3], &[0, 1, 1]),
            ],
        )
    });
    let mut input = Input::new(data);
    let source = source("x.safetensors", &mut input);
    let file = match input.byte() % 8 {
        0 => input.rest().to_vec(),
        _ => edited(&BASE, input.rest()).safetensors(|_| true),
    };
    scratch::file("x.safetensors", &file);
    let _ = read_documents(&source, scratch::folder());
}

/// Choice items as tokens with edits, or any bytes.
pub fn choice_tokens(data: &[u8]) {
    static BASE: LazyLock<Pieces> = LazyLock::new(|| {
        let metadata = json!({ "kind": "choice", "genres": ["a", "b"], "tokenizer": HASH });
        arrays(
            metadata,
            &[
                ("ids", "U16", &[12], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
                ("items", "U32", &[2, 4], &[0, 2, 4, 6, 6, 8, 10, 12]),
                ("answers", "U8", &[2], &[0, 1]),
                ("genres", "U8", &[2], &[0, 1]),
                ("documents", "U32", &[2], &[0, 1]),
            ],
        )
    });
    let file = match data.first() {
        Some(255) => data[1..].to_vec(),
        _ => edited(&BASE, data).safetensors(|_| true),
    };
    scratch::file("x.safetensors", &file);
    let source = TextSource { source: "path:x.safetensors".into(), documents: None, field: None };
    let _ = read_choices(&source, scratch::folder());
}
