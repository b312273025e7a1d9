//! Safetensors files whose headers lie.

use super::*;

/// A file of a header and `data` zero bytes behind it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |name: &str, shape: &str, start: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let of = |tensors: &[String], data| file(&format!("{{{}}}", tensors.join(",")), data);
    let a = tensor("a", "[1]", 0, 4);
    for (what, bytes, expected) in [
        ("header length", [&u64::MAX.to_le_bytes()[..], &[b'{'; 64]].concat(), "the header ends at byte"),
        ("header past the end", [&1000u64.to_le_bytes()[..], &[b'{'; 64]].concat(), "the header ends at byte 1008"),
        ("no header", vec![1, 2, 3], "too few for a header"),
        ("no JSON", file("hello", 4), "not that of a safetensors file"),
        ("overlap", of(&[a.clone(), tensor("b", "[1]", 2, 6)], 6), "\"b\": expected its bytes to start at 4"),
        ("gap", of(&[a.clone(), tensor("b", "[1]", 8, 12)], 12), "\"b\": expected its bytes to start at 4"),
        ("backwards", of(&[tensor("a", "[1]", 4, 0)], 4), "\"a\": expected its bytes to start at 0"),
        ("shape", of(&[tensor("a", "[3]", 0, 4)], 4), "needs 12 bytes, got 4"),
        ("absurd shape", of(&[tensor("a", "[4611686018427387904,16]", 0, 4)], 4), "absurd"),
        ("absurd size", of(&[tensor("a", "[274877906944]", 0, 1 << 40)], 4), "truncated"),
        ("negative size", of(&[tensor("a", "[-1]", 0, 4)], 4), "not that of a safetensors file"),
        ("trailing bytes", of(std::slice::from_ref(&a), 9), "5 bytes follow the last tensor"),
        ("duplicate", of(&[a.clone(), tensor("a", "[1]", 4, 8)], 8), "\"a\": expected its bytes to start at 0"),
    ] {
        let folder = folder(&[("x.safetensors", &bytes)]);
        let message = refusal(&folder.path().join("x.safetensors"));
        assert!(message.contains(expected), "{what}: {message}");
    }
}
