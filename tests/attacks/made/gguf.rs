//! GGUF files whose counts, sizes, types and names are absurd.

use std::fs::{self, File};

use super::{eval_gguf, spoilt};
use crate::check::{Attack, assert_all};

/// A GGUF file of raw parts.
fn gguf(version: u32, tensors: u64, metadata: &[(&[u8], u32, &[u8])], rest: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(tensors.to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, kind, value) in metadata {
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(*key);
        file.extend(kind.to_le_bytes());
        file.extend(*value);
    }
    file.extend(rest);
    file
}

#[test]
fn gguf_files() {
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let huge = u64::MAX.to_le_bytes();
    let nested = array(9, 1).repeat(100_000);
    let architecture = [&5u64.to_le_bytes()[..], b"llama"].concat();
    let tensor = |name: &[u8], shape: &[u64], kind: u32, offset: u64| {
        let mut bytes = [&(name.len() as u64).to_le_bytes()[..], name, &(shape.len() as u32).to_le_bytes()].concat();
        shape.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.resize(bytes.len() + 4096, 0);
        bytes
    };
    let whole = [(&b"general.architecture"[..], 8, &architecture[..])];
    let name = b"token_embd.weight";
    let files: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another magic", "", b"GGML\x03\0\0\0".to_vec()),
        ("version 0", "version", gguf(0, 0, &[], b"")),
        ("version 99", "version", gguf(99, 0, &[], b"")),
        ("2^64 tensors", "", gguf(3, u64::MAX, &[], b"")),
        ("a key of 2^64 bytes", "", [&b"GGUF\x03\0\0\0"[..], &[0; 8], &1u64.to_le_bytes(), &huge].concat()),
        ("a text of 2^64 bytes", "", gguf(3, 0, &[(b"a", 8, &huge)], b"")),
        ("an array of 2^64 numbers", "", gguf(3, 0, &[(b"a", 9, &array(4, u64::MAX))], b"")),
        ("an array of 2^61 numbers", "", gguf(3, 0, &[(b"a", 9, &array(12, 1 << 61))], b"")),
        ("arrays in arrays", "", gguf(3, 0, &[(b"a", 9, &nested)], b"")),
        ("an unknown type of value", "", gguf(3, 0, &[(b"a", 77, &huge)], b"")),
        ("a key twice", "", gguf(3, 0, &[(b"a", 7, b"\x01"), (b"a", 7, b"\x01")], b"")),
        ("a key of escape sequences", "", gguf(3, 0, &[(b"\x1b[31ma", 7, b"\x01"), (b"\x1b[31ma", 7, b"\x01")], b"")),
        ("a key that is no text", "", gguf(3, 0, &[(b"\xff\xfe", 7, b"\x01")], b"")),
        ("no architecture", "", gguf(3, 0, &[], &[0; 64])),
        ("alignment 0", "", gguf(3, 0, &[whole[0], (b"general.alignment", 4, &[0; 4])], &[0; 64])),
        ("alignment 3", "", gguf(3, 0, &[whole[0], (b"general.alignment", 4, &[3, 0, 0, 0])], &[0; 64])),
        ("a shape of 2^128", "", gguf(3, 1, &whole, &tensor(name, &[1 << 63, 1 << 63], 0, 0))),
        ("no dimension", "", gguf(3, 1, &whole, &tensor(name, &[], 0, 0))),
        ("99 dimensions", "", gguf(3, 1, &whole, &tensor(name, &[1; 99], 0, 0))),
        ("an unknown type of tensor", "", gguf(3, 1, &whole, &tensor(name, &[32], 999, 0))),
        ("an offset beyond the end", "", gguf(3, 1, &whole, &tensor(name, &[32], 0, 1 << 40))),
        ("a block cut", "", gguf(3, 1, &whole, &tensor(name, &[33], 8, 0))),
        ("a name of escape sequences", "", gguf(3, 1, &whole, &tensor(b"\x1b]0;a\x07", &[32], 0, 0))),
        ("a name of right-to-left marks", "", gguf(3, 1, &whole, &tensor("\u{202e}a\u{200b}".as_bytes(), &[32], 0, 0))),
    ];
    let mut attacks: Vec<Attack> = files
        .into_iter()
        .map(|(name, phrase, bytes)| {
            let expected = format!("2\nx.gguf\n{phrase}");
            spoilt(name, &expected, &eval_gguf("x.gguf"), |place| fs::write(place.path("x.gguf"), bytes).unwrap())
        })
        .collect();
    // A gigabyte of numbers under a key that nobody reads: a byte each, not sixteen.
    attacks.push(spoilt("an array of 10^9 bytes", "2", &eval_gguf("x.gguf"), |place| {
        fs::write(place.path("x.gguf"), gguf(3, 0, &[(b"a", 9, &array(0, 1_000_000_000))], b"")).unwrap();
        File::options().write(true).open(place.path("x.gguf")).unwrap().set_len(1_000_000_100).unwrap();
    }));
    assert_all(attacks);
}
