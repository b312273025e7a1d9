//! Reading of the keys of a `config.json`, every value checked.

use serde_json::Value;

use crate::error::{Error, Result};

/// Reading of one `config.json`.
pub(super) struct Keys<'a> {
    /// The file, for errors.
    pub place: &'a str,
    /// What it holds.
    pub json: &'a Value,
}

impl Keys<'_> {
    /// An error about this file.
    pub fn fault(&self, problem: String) -> Error {
        Error::input(self.place, problem)
    }

    /// A key that is present and not null.
    pub fn optional(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn required(&self, key: &str) -> Result<&Value> {
        self.optional(key).ok_or_else(|| self.fault(format!("\"{key}\" is missing; is this a model's config.json?")))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<String> {
        let value = self.required(key)?;
        let text = value.as_str().ok_or_else(|| self.fault(format!("\"{key}\" is {value}; expected a string")))?;
        Ok(text.to_owned())
    }

    /// True or false; `default` where the key is missing.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.optional(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.fault(format!("\"{key}\" is {value}; expected true or false")))
            }
        }
    }

    /// A whole number from 1 to `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize> {
        let value = self.required(key)?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.fault(format!("\"{key}\" is {value}; expected a whole number from 1 to {max}")))
    }

    /// As [`Keys::size`]; `default` where the key is missing.
    pub fn size_or(&self, key: &str, max: usize, default: usize) -> Result<usize> {
        if self.optional(key).is_some() { self.size(key, max) } else { Ok(default) }
    }

    /// A number above `above` and at most `max`.
    pub fn number(&self, key: &str, above: f64, max: f64) -> Result<f64> {
        self.number_in(self.json, key, above, max)
    }

    /// As [`Keys::number`], of an object inside the file.
    pub fn number_in(&self, object: &Value, key: &str, above: f64, max: f64) -> Result<f64> {
        let value = object.get(key).unwrap_or(&Value::Null);
        value
            .as_f64()
            .filter(|&n| n > above && n <= max)
            .ok_or_else(|| self.fault(format!("\"{key}\" is {value}; expected a number above {above}, at most {max}")))
    }
}
