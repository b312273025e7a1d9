//! Typed access to a TOML table that collects faults instead of stopping at the first.
//!
//! A reader asks for every key it knows; each answer is `None` when the key is absent or wrong, and a wrong one leaves
//! a fault with its place. Keys that were never asked for are unknown: [`Fields::finish`] reports them with the
//! nearest known name.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::error::{Error, Fault, Result};

/// Name of the whole file in messages.
pub(super) const TOP: &str = "suite";
/// Most faults that are listed; a binary file would give thousands.
const MOST_FAULTS: usize = 50;

/// Faults found so far, by byte offset in the text.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: RefCell<Vec<(usize, String)>>,
}

impl Faults {
    /// Adds a fault at a byte offset.
    pub(super) fn add(&self, at: usize, problem: impl Into<String>) {
        self.list.borrow_mut().push((at, problem.into()));
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// All faults in the order of the text, each with `place:line`.
    pub(super) fn into_error(self, place: &str, text: &str) -> Error {
        let mut list = self.list.into_inner();
        list.sort();
        list.dedup();
        let more = list.len().saturating_sub(MOST_FAULTS);
        list.truncate(MOST_FAULTS);
        let mut faults: Vec<Fault> = list
            .into_iter()
            .map(|(at, problem)| Fault { place: format!("{place}:{}", line_of(text, at)), problem })
            .collect();
        if more > 0 {
            faults.push(Fault { place: place.into(), problem: format!("{more} more faults are not listed") });
        }
        Error::Suite(faults)
    }
}

/// Line of a byte offset, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|b| **b == b'\n').count()
}

/// Parses TOML into a table.
///
/// # Errors
/// All syntax errors, with their lines.
pub(super) fn parse<'t>(place: &str, text: &'t str) -> Result<Spanned<DeTable<'t>>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table);
    }
    let faults = Faults::default();
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        faults.add(at, format!("not valid TOML: {}", error.message().replace('\n', " ")));
    }
    Err(faults.into_error(place, text))
}

/// A value with the place it stands at.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Byte offset in the text.
    pub(super) at: usize,
}

/// A table being read.
pub(super) struct Fields<'a> {
    what: String,
    table: &'a DeTable<'a>,
    at: usize,
    faults: &'a Faults,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Reads `table`; `what` names it in messages: `[workload]`, `variant "int4"`.
    pub(super) fn new(what: impl Into<String>, table: &'a DeTable<'a>, at: usize, faults: &'a Faults) -> Self {
        Fields { what: what.into(), table, at, faults, known: RefCell::default() }
    }

    /// Renames the table in messages, once its name is known.
    pub(super) fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Where the table starts.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether the key is given, rightly or not.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Reports a fault of the table as a whole.
    pub(super) fn fault(&self, problem: impl AsRef<str>) {
        self.fault_at(self.at, problem);
    }

    /// Reports a fault at a place inside the table.
    pub(super) fn fault_at(&self, at: usize, problem: impl AsRef<str>) {
        self.faults.add(at, format!("{}: {}", self.what, problem.as_ref()));
    }

    /// Reports a missing key; `remedy` shows how to write it.
    pub(super) fn missing(&self, key: &str, remedy: &str) {
        self.fault(format!("`{key}` is missing; add {remedy}"));
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<At<&'a str>> {
        let (value, at) = self.get(key)?;
        match value {
            DeValue::String(text) => Some(At { value: text.as_ref(), at }),
            other => self.wrong(key, at, "a text in quotes", other),
        }
    }

    /// A whole number within `range`.
    pub(super) fn whole(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let (value, at) = self.get(key)?;
        self.whole_in(key, value, at, range)
    }

    /// A whole number as `usize`; `range` must fit.
    pub(super) fn count(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<usize> {
        self.whole(key, range).and_then(|n| usize::try_from(n.value).ok())
    }

    /// A number above 0 and at most `most`.
    pub(super) fn positive(&self, key: &'static str, most: f64) -> Option<f64> {
        let (value, at) = self.get(key)?;
        let number = match value {
            DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|i| i as f64),
            other => return self.wrong(key, at, "a number", other),
        };
        match number {
            Some(n) if n > 0.0 && n <= most => Some(n),
            _ => self.wrong(key, at, &format!("a number above 0 and at most {most}"), value),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let (value, at) = self.get(key)?;
        match value {
            DeValue::Boolean(flag) => Some(*flag),
            other => self.wrong(key, at, "true or false", other),
        }
    }

    /// One of the named values.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = suggestion(text.value, &names);
        let expected = list_names(&names);
        self.fault_at(text.at, format!("`{key}` is {:?}; expected {expected}{hint}", text.value));
        None
    }

    /// A list of whole numbers within `range`, at least one, none twice.
    pub(super) fn counts(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<Vec<At<usize>>> {
        let (array, at) = self.array(key)?;
        if array.is_empty() {
            self.fault_at(at, format!("`{key}` is empty; name at least one number, such as [1]"));
            return None;
        }
        let mut numbers: Vec<At<usize>> = Vec::new();
        for item in array {
            let number = self.whole_in(key, item.get_ref(), item.span().start, range.clone())?;
            let value = usize::try_from(number.value).ok()?;
            if numbers.iter().any(|n| n.value == value) {
                self.fault_at(number.at, format!("`{key}` names {value} twice; remove one"));
            } else {
                numbers.push(At { value, at: number.at });
            }
        }
        Some(numbers)
    }

    /// A list of texts, at least one.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<At<&'a str>>> {
        let (array, at) = self.array(key)?;
        if array.is_empty() {
            self.fault_at(at, format!("`{key}` is empty; name at least one"));
            return None;
        }
        let text = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::String(text) => Some(At { value: text.as_ref(), at: item.span().start }),
            other => self.wrong(key, item.span().start, "a list of texts in quotes", other),
        };
        array.iter().map(text).collect()
    }

    /// A list.
    pub(super) fn array(&self, key: &'static str) -> Option<(&'a DeArray<'a>, usize)> {
        let (value, at) = self.get(key)?;
        match value {
            DeValue::Array(array) => Some((array, at)),
            other => self.wrong(key, at, "a list in brackets", other),
        }
    }

    /// A table; messages name it by its path: `[data] calibration`, `variant "int4" weights`.
    pub(super) fn table(&self, key: &'static str) -> Option<Fields<'a>> {
        let (value, at) = self.get(key)?;
        let what = if self.what == TOP { format!("[{key}]") } else { format!("{} {key}", self.what) };
        match value {
            DeValue::Table(table) => Some(Fields::new(what, table, at, self.faults)),
            other => self.wrong(key, at, "a table", other),
        }
    }

    /// A list of tables, numbered from 1 in messages: `[[task]] 2`, `variant "int4" overrides 1`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Fields<'a>> {
        let Some((array, _)) = self.array(key) else { return Vec::new() };
        let what = if self.what == TOP { format!("[[{key}]]") } else { format!("{} {key}", self.what) };
        let mut tables = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(table) => {
                    tables.push(Fields::new(format!("{what} {}", i + 1), table, at, self.faults));
                }
                other => _ = self.wrong::<()>(key, at, "a list of tables", other),
            }
        }
        tables
    }

    /// Whether the key holds a text (and not a table, say).
    pub(super) fn is_text(&self, key: &'static str) -> bool {
        matches!(self.get(key), Some((DeValue::String(_), _)))
    }

    /// Whether the key holds a list.
    pub(super) fn is_array(&self, key: &'static str) -> bool {
        matches!(self.get(key), Some((DeValue::Array(_), _)))
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let hint = suggestion(name, &known);
                let list = list_names(&known);
                self.fault_at(
                    key.span().start,
                    format!("unknown key `{}`; known keys are {list}{hint}", printable(name)),
                );
            }
        }
    }

    fn get(&self, key: &'static str) -> Option<(&'a DeValue<'a>, usize)> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        self.table.get(key).map(|value| (value.get_ref(), value.span().start))
    }

    fn whole_in(&self, key: &str, value: &DeValue<'_>, at: usize, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let number = match value {
            DeValue::Integer(i) => u64::from_str_radix(i.as_str(), i.radix()).ok(),
            _ => None,
        };
        match number {
            Some(value) if range.contains(&value) => Some(At { value, at }),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong(key, at, &expected, value)
            }
        }
    }

    fn wrong<T>(&self, key: &str, at: usize, expected: &str, got: &DeValue<'_>) -> Option<T> {
        self.fault_at(at, format!("`{key}` is {}; expected {expected}", in_words(got)));
        None
    }
}

/// A value as a fault message names it.
fn in_words(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the text {:?}", shortened(s)),
        DeValue::Integer(i) => format!("{i}"),
        DeValue::Float(f) => shortened(f.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// At most 60 characters of a text.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 { text.into() } else { text.chars().take(57).chain("...".chars()).collect() }
}

/// A name without control characters, for messages.
fn printable(name: &str) -> String {
    shortened(name).escape_debug().to_string()
}

/// `a, b or c`.
pub(super) fn list_names(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|n| format!("`{n}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

/// `; did you mean "..."?` for the nearest name within two edits (one for short names), else nothing.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    if name.len() > 100 {
        return String::new();
    }
    let limit = if name.chars().count() <= 3 { 1 } else { 2 };
    let nearest = known.iter().map(|k| (edits(name, k), k)).min();
    match nearest {
        Some((distance, known)) if distance <= limit => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance over characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("rtn", "rtn"), 0);
        assert_eq!(suggestion("grup_size", &["bits", "group_size"]), "; did you mean `group_size`?");
        assert_eq!(suggestion("zebra", &["bits", "group_size"]), "");
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 2), 2);
        assert_eq!(line_of("a\nb\nc", 99), 3);
    }
}
