//! Reading of the keys of a `config.json`, every value checked.
//!
//! Every key that is asked for is noted, so that the keys that nobody asks for are known at the end: the list of what is
//! read cannot differ from the code that reads it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Reading of one `config.json`, or of an object inside it.
pub(super) struct Keys<'a> {
    /// The file, for errors.
    pub place: &'a str,
    /// What it holds.
    pub json: &'a Value,
    /// Keys that were asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    /// Nothing is read yet.
    pub fn new(place: &'a str, json: &'a Value) -> Self {
        Keys { place, json, asked: RefCell::default() }
    }

    /// An error about this file.
    pub fn fault(&self, problem: String) -> Error {
        Error::input(self.place, problem)
    }

    /// A key that is present, `null` included.
    pub fn stated(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.json.get(key)
    }

    /// A key that is present and not null.
    pub fn optional(&self, key: &str) -> Option<&'a Value> {
        self.stated(key).filter(|v| !v.is_null())
    }

    /// Takes keys as read whose values change nothing.
    pub fn pass_over(&self, keys: &[&str]) {
        self.asked.borrow_mut().extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// Keys that are present, not null, and were never asked for.
    pub fn unread(&self) -> Vec<&'a str> {
        let asked = self.asked.borrow();
        let entries = self.json.as_object().into_iter().flatten();
        entries.filter(|(key, value)| !value.is_null() && !asked.contains(*key)).map(|(key, _)| key.as_str()).collect()
    }

    fn required(&self, key: &str) -> Result<&'a Value> {
        let hint = if key == "model_type" { "; is this a model's config.json?" } else { "" };
        self.optional(key).ok_or_else(|| self.fault(format!("\"{key}\" is missing{hint}")))
    }

    /// What a value of the wrong kind is refused with.
    pub fn unexpected(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.fault(format!("\"{key}\" is {value}; expected {expected}"))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<String> {
        let value = self.required(key)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.unexpected(key, value, "a string"))
    }

    /// As [`Keys::text`]; `None` where the key is missing.
    pub fn optional_text(&self, key: &str) -> Result<Option<String>> {
        self.optional(key).map(|_| self.text(key)).transpose()
    }

    /// A list of strings; empty where the key is missing.
    pub fn texts(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.optional(key) else { return Ok(Vec::new()) };
        let list: Option<Vec<String>> =
            value.as_array().and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
        list.ok_or_else(|| self.unexpected(key, value, "a list of strings"))
    }

    /// An object; `None` where the key is missing or the object is empty.
    pub fn object(&self, key: &str) -> Result<Option<&'a Value>> {
        match self.optional(key) {
            Some(value) if value.as_object().is_some_and(Map::is_empty) => Ok(None),
            Some(value) if !value.is_object() => Err(self.unexpected(key, value, "an object")),
            value => Ok(value),
        }
    }

    /// True or false; `default` where the key is missing.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    /// True or false; `None` where the key is missing.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.unexpected(key, value, "true or false"));
        self.optional(key).map(flag).transpose()
    }

    /// A whole number from 1 to `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.count(key, 1, max)
    }

    /// A whole number from `min` to `max`.
    pub fn count(&self, key: &str, min: usize, max: usize) -> Result<usize> {
        let value = self.required(key)?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| self.unexpected(key, value, &format!("a whole number from {min} to {max}")))
    }

    /// As [`Keys::size`]; `default` where the key is missing.
    pub fn size_or(&self, key: &str, max: usize, default: usize) -> Result<usize> {
        if self.optional(key).is_some() { self.size(key, max) } else { Ok(default) }
    }

    /// A number above `above` and at most `max`.
    pub fn number(&self, key: &str, above: f64, max: f64) -> Result<f64> {
        let value = self.required(key)?;
        value
            .as_f64()
            .filter(|&n| n > above && n <= max)
            .ok_or_else(|| self.unexpected(key, value, &format!("a number above {above}, at most {max}")))
    }

    /// As [`Keys::number`]; `None` where the key is missing.
    pub fn optional_number(&self, key: &str, above: f64, max: f64) -> Result<Option<f64>> {
        self.optional(key).map(|_| self.number(key, above, max)).transpose()
    }

    /// Checks a key of token ids, which is one number or a list of them; some files say -1 for none.
    pub fn token_ids(&self, key: &str) -> Result<()> {
        let Some(value) = self.optional(key) else { return Ok(()) };
        let is_id = |value: &Value| value.as_i64().is_some_and(|id| (-1..1 << 32).contains(&id));
        match is_id(value) || value.as_array().is_some_and(|ids| ids.iter().all(is_id)) {
            true => Ok(()),
            false => Err(self.unexpected(key, value, "a token's number, or a list of them")),
        }
    }
}
