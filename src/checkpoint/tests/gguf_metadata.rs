//! Metadata of GGUF files: what each key means, and what becomes of those that are not carried out.

use serde_json::{Value as Json, json};

use super::gguf_keys;
use super::*;

/// A metadata entry: type number and bytes of the value.
type Entry = (u32, Vec<u8>);

fn u32_of(value: u32) -> Entry {
    (4, value.to_le_bytes().to_vec())
}

fn f32_of(value: f32) -> Entry {
    (6, value.to_le_bytes().to_vec())
}

fn flag(value: bool) -> Entry {
    (7, vec![u8::from(value)])
}

fn text(value: &str) -> Entry {
    (8, [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat())
}

fn numbers(values: &[u32]) -> Entry {
    let mut bytes = [&4u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    (9, bytes)
}

fn bytes_of(count: usize) -> Entry {
    (9, [&0u32.to_le_bytes()[..], &(count as u64).to_le_bytes(), &vec![7; count]].concat())
}

/// The fixture with entries more in front of its own.
fn with(entries: &[(&str, Entry)]) -> TempDir {
    let entry = |key: &str, (kind, value): &Entry| {
        [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
    };
    let mut added: Vec<u8> = entries.iter().flat_map(|(key, value)| entry(key, value)).collect();
    // The data must stay aligned.
    let key = "general.padding";
    let filled = added.len() + 8 + key.len() + 4 + 8;
    added.extend(entry(key, &text(&" ".repeat(filled.next_multiple_of(32) - filled))));
    let mut file = GGUF[..24].to_vec();
    let count = u64::from_le_bytes(GGUF[16..24].try_into().unwrap()) + entries.len() as u64 + 1;
    file[16..24].copy_from_slice(&count.to_le_bytes());
    file.extend(added);
    file.extend(&GGUF[24..]);
    folder(&[("x.gguf", &file)])
}

fn opened(entries: &[(&str, Entry)]) -> Result<Checkpoint> {
    Checkpoint::open(&with(entries).path().join("x.gguf"))
}

fn refused(entries: &[(&str, Entry)]) -> String {
    refusal(&with(entries).path().join("x.gguf"))
}

fn scaling(entries: &[(&str, Entry)]) -> Json {
    opened(entries).unwrap().config()["rope_scaling"].clone()
}

#[test]
fn linear_scaling_is_what_llama_cpp_takes_it_for() {
    let kind = |kind| ("llama.rope.scaling.type", text(kind));
    let factor = |factor| ("llama.rope.scaling.factor", f32_of(factor));
    let former = |factor| ("llama.rope.scale_linear", f32_of(factor));
    let plain = scaling(&[]);
    assert!(plain.is_null());
    for entries in [
        &[kind("linear"), factor(4.0)][..],
        &[factor(4.0)],
        &[former(4.0)],
        &[kind("linear"), former(4.0)],
        &[factor(4.0), former(4.0)],
    ] {
        assert_eq!(scaling(entries), json!({"rope_type": "linear", "factor": 4.0}));
    }
    for entries in
        [&[kind("none")][..], &[kind("linear")], &[factor(1.0)], &[former(0.0)], &[kind("none"), factor(1.0)]]
    {
        assert_eq!(scaling(entries), plain);
    }
    assert!(refused(&[factor(4.0), former(2.0)]).contains("llama.rope.scale_linear: 2, but rope.scaling.factor is 4"));
    assert!(refused(&[kind("yarn"), factor(4.0)]).contains("llama.rope.scaling.type: \"yarn\" is not supported"));
    assert!(refused(&[kind("none"), factor(4.0)]).contains("but the factor is 4"));
    assert!(refused(&[("llama.rope.scaling.type", u32_of(1))]).contains("expected a text"));
    assert!(refused(&[("llama.rope.scaling.factor", u32_of(4))]).contains("expected a finite number"));
}

#[test]
fn every_key_that_changes_the_network_is_compared() {
    for (key, accepted) in gguf_keys::ONLY {
        let key = format!("llama.{key}");
        for value in accepted {
            assert!(opened(&[(&key, u32_of(*value as u32))]).is_ok(), "{key}");
        }
        for wrong in [f32_of(0.37), text("2"), u32_of(3), numbers(&[3, 1])] {
            let message = refused(&[(&key, wrong)]);
            assert!(message.contains(&key), "{key}: {message}");
        }
    }
    for (key, accepted) in gguf_keys::ONLY_FLAGS {
        let key = format!("llama.{key}");
        assert!(opened(&[(&key, flag(accepted))]).is_ok(), "{key}");
        assert!(refused(&[(&key, flag(!accepted))]).contains(&key));
        assert!(refused(&[(&key, f32_of(1.0))]).contains("expected a boolean"));
    }
    for key in gguf_keys::SILENT {
        assert!(opened(&[(&format!("llama.{key}"), u32_of(7))]).unwrap().warnings().is_empty(), "{key}");
    }
    for (key, wrong, expected) in [
        ("llama.rope.dimension_count", u32_of(2), "the width of a head"),
        ("llama.attention.value_length", u32_of(2), "the width of a head"),
        ("llama.vocab_size", u32_of(7), "token_embd.weight has"),
        ("llama.tensor_data_layout", text("reference"), "expected \"Meta AI original pth\""),
        ("llama.attention.scale", f32_of(0.7), "not supported"),
        ("llama.attention.layer_norm_epsilon", f32_of(0.01), "not supported"),
        ("general.type", text("adapter"), "general.type is \"adapter\""),
        ("general.quantization_version", u32_of(1), "quantization_version"),
    ] {
        let message = refused(&[(key, wrong)]);
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn a_key_that_nobody_knows_is_named() {
    let checkpoint = opened(&[("llama.xyz", u32_of(1)), ("llama.a.b", numbers(&[1, 2])), ("other.key", u32_of(1))]);
    let warnings = checkpoint.unwrap().warnings().join("\n");
    assert!(warnings.contains("not carried out: llama.a.b, llama.xyz;"), "{warnings}");
    assert!(opened(&[]).unwrap().warnings().is_empty());
}

#[test]
fn lists_that_no_reader_asks_for_take_no_memory() {
    let folder = with(&[("llama.blob", bytes_of(1 << 20)), ("general.long", text(&"x".repeat((1 << 20) + 1)))]);
    let file = fs::read(folder.path().join("x.gguf")).unwrap();
    let (metadata, _) = gguf::parse("x", &file).unwrap();
    assert_eq!(metadata["llama.blob"], gguf::Value::Long);
    assert_eq!(metadata["general.long"], gguf::Value::Long);
    assert!(
        refused(&[("llama.attention.head_count_kv_", bytes_of(5000)), ("llama.vocab_size", bytes_of(5000))])
            .contains("llama.vocab_size")
    );
    let texts = (9, [&8u32.to_le_bytes()[..], &(1u64 << 20).to_le_bytes(), &vec![0; 8 << 20]].concat());
    assert!(opened(&[("llama.texts", texts)]).is_ok());
}

#[test]
fn other_tokenizers_are_refused() {
    let bpe = ("tokenizer.ggml.model", text("gpt2"));
    for key in ["add_eos_token", "add_sep_token"] {
        let key = format!("tokenizer.ggml.{key}");
        let message = refused(&[bpe.clone(), (&key, flag(true))]);
        assert!(message.contains(&format!("{key}: true is not supported")), "{message}");
        assert!(refused(&[bpe.clone(), (&key, u32_of(1))]).contains(&format!("{key}: expected a boolean")));
        // Goes on to what else a vocabulary needs.
        assert!(refused(&[bpe.clone(), (&key, flag(false))]).contains("tokenizer.ggml.tokens"));
    }
    assert!(refused(&[("tokenizer.ggml.model", u32_of(1))]).contains("tokenizer.ggml.model: expected a text"));
    let charsmap = ("tokenizer.ggml.precompiled_charsmap", bytes_of(9));
    assert!(refused(&[bpe, charsmap]).contains("precompiled_charsmap"));
}
