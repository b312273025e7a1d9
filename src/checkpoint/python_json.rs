//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are numbers there, and a key may appear twice.
//!
//! No value of this crate can hold such a number, so it is read as its name, a string: a reader that asks for the number is
//! told `"rms_norm_eps" is "NaN"; expected a number`, and a key that nobody reads is no fault. Python takes the last of
//! two entries of one key without a word; here the two must be equal.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files;

/// Largest file: beyond any index of a published model.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a file.
///
/// # Errors
/// No JSON, and an object with two entries of one key that differ.
pub(super) fn read(path: &Path) -> Result<Value> {
    let bytes = files::read(path, MAX_BYTES)?;
    let fault = |problem: String| Error::input(path.display(), problem);
    let parse = |bytes: &[u8]| serde_json::from_slice::<Checked>(bytes).map(|json| json.0);
    parse(&bytes)
        .or_else(|_| parse(&with_names(&bytes)))
        .map_err(|error| fault(format!("not JSON that can be read here: {error}")))
}

/// The text with every number that JSON does not know as a string.
fn with_names(bytes: &[u8]) -> Vec<u8> {
    const NAMES: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        let name = if in_string { None } else { NAMES.into_iter().find(|name| bytes[at..].starts_with(name)) };
        if let Some(name) = name {
            out.push(b'"');
            out.extend_from_slice(name);
            out.push(b'"');
            at += name.len();
            continue;
        }
        let escaped = in_string && byte == b'\\';
        in_string ^= byte == b'"';
        let taken = if escaped { 2.min(bytes.len() - at) } else { 1 };
        out.extend_from_slice(&bytes[at..at + taken]);
        at += taken;
    }
    out
}

/// A value whose objects do not contradict themselves.
struct Checked(Value);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor).map(Checked)
    }
}

struct CheckedVisitor;

impl<'de> DeserializeSeed<'de> for CheckedVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(CheckedVisitor)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(CheckedVisitor)?;
            match map.get(&key) {
                Some(first) if *first != value => {
                    let problem = format!("key \"{key:.60}\" appears twice with different values; keep one of them");
                    return Err(serde::de::Error::custom(problem));
                }
                _ => map.insert(key, value),
            };
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(text: &str) -> Result<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn numbers_that_only_python_knows_are_read_by_name() {
        let text =
            r#"{"a": [NaN, -Infinity,Infinity], "b": {"c": Infinity}, "NaN \" NaN": "Infinity \\", "d": -1.5e3}"#;
        let expected = json!({"a": ["NaN", "-Infinity", "Infinity"], "b": {"c": "Infinity"},
                              "NaN \" NaN": "Infinity \\", "d": -1500.0});
        assert_eq!(parsed(text).unwrap(), expected);
        for wrong in ["{\"a\": nan}", "{\"a\": \"NaN}", "{\"a\": 1,}", "[1", "", "NaNN", "{NaN: 1} x"] {
            assert!(parsed(wrong).unwrap_err().to_string().contains("not JSON"), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_contradicts_itself_is_refused_and_an_equal_copy_is_not() {
        assert_eq!(parsed(r#"{"a": {"b": 1}, "a": {"b": 1}}"#).unwrap(), json!({"a": {"b": 1}}));
        let message = parsed(r#"{"x": {"a": 1, "a": 2}}"#).unwrap_err().to_string();
        assert!(message.contains("key \"a\" appears twice with different values"), "{message}");
        assert!(parsed(&"[".repeat(100_000)).is_err());
    }
}
