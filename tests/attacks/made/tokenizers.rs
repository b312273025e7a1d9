//! Tokenizers that are too large to lie in the repository.

use std::fs;

use serde_json::{Value, json};

use super::spoilt_model;
use crate::check::assert_all;
use crate::merge;
use crate::tiny_model::Place;

#[test]
fn tokenizers_without_measure() {
    let change = |change: Value| {
        move |place: &Place| {
            fs::write(place.path("change.json"), change.to_string()).unwrap();
            merge(&place.path("model/tokenizer.json"), &place.path("change.json"));
        }
    };
    let grow = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "e".repeat(50) });
    let added = |id: usize| {
        json!({ "id": 5000 + id, "content": format!("tok{id}"), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let nested =
        (0..10_000).fold(json!({ "type": "NFC" }), |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }));
    assert_all([
        spoilt_model(
            "a normalizer that grows by 50^8",
            "2\ntokenizer",
            change(json!({ "normalizer": { "type": "Sequence", "normalizers": vec![grow; 8] } })),
        ),
        spoilt_model(
            "100,000 added tokens",
            "0 2",
            change(json!({ "added_tokens": (0..100_000).map(added).collect::<Vec<_>>() })),
        ),
        spoilt_model(
            "a token of a megabyte",
            "0 2",
            change(json!({ "added_tokens": [{ "id": 5000, "content": "a".repeat(1 << 20),
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }] })),
        ),
        spoilt_model("normalizers nested 10,000 deep", "2", move |place| {
            // Written by hand: a nested value of this depth cannot be dropped by recursion either.
            let text = nested_text(10_000);
            std::mem::forget(nested);
            let file = place.path("model/tokenizer.json");
            let sound = fs::read_to_string(&file).unwrap();
            fs::write(&file, sound.replace("\"normalizer\":null", &format!("\"normalizer\":{text}"))).unwrap();
        }),
    ]);
}

fn nested_text(depth: usize) -> String {
    let open = r#"{"type":"Sequence","normalizers":["#;
    format!("{}{}{}", open.repeat(depth), r#"{"type":"NFC"}"#, "]}".repeat(depth))
}
