//! Inputs that are made: special files, sizes beyond reason, tensors that do not belong, damaged containers, packages.

mod gguf;
mod journals;
mod packages;
mod quantized;
mod special;
mod streams;
mod tokenizers;
mod weights;

use crate::check::{Attack, Expected};
use crate::tiny_model::Place;
use crate::{eval, words};

/// An attack on a place that `change` spoils.
pub fn spoilt(name: &str, expected: &str, arguments: &[&str], change: impl FnOnce(&Place)) -> Attack {
    let place = Place::new();
    change(&place);
    Attack { name: name.into(), place, arguments: words(arguments), expected: Expected::parse(expected) }
}

/// As [`spoilt`], scored.
pub fn spoilt_model(name: &str, expected: &str, change: impl FnOnce(&Place)) -> Attack {
    let arguments = eval("model", "text/0.txt");
    spoilt(name, expected, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), change)
}

pub fn eval_gguf(file: &str) -> [&str; 8] {
    ["eval", file, "--text", "text/0.txt", "--length", "32", "--threads", "1"]
}

pub fn eval_words() -> [&'static str; 8] {
    eval_gguf("model")
}
