//! Edits of a valid JSON document, as the bytes of an input ask for them.

use serde_json::{Map, Number, Value};

/// The bytes of an input, taken from the front; nothing but zeros when they have run out.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    /// A place among `count`; 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        let number = match count {
            0..=256 => usize::from(self.byte()),
            _ => usize::from(self.byte()) | usize::from(self.byte()) << 8,
        };
        number % count.max(1)
    }

    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |sum, at| sum | u64::from(self.byte()) << (8 * at))
    }

    /// At most `length` bytes.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A text of at most 255 bytes: its length, then its bytes.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.byte());
        String::from_utf8_lossy(self.take(length)).into_owned()
    }
}

/// Counts at which arithmetic and allocations go wrong.
pub const NUMBERS: [i64; 24] = [
    0,
    1,
    2,
    3,
    5,
    7,
    8,
    16,
    31,
    32,
    33,
    64,
    127,
    128,
    255,
    256,
    1000,
    65536,
    1 << 31,
    (1 << 32) + 1,
    1 << 62,
    i64::MAX,
    -1,
    i64::MIN,
];

/// A value of any kind; `words` are texts that the format knows.
pub fn value(input: &mut Input, words: &[String]) -> Value {
    match input.byte() % 12 {
        0 => Value::Null,
        1 => Value::Bool(input.byte() % 2 == 0),
        2..=4 => NUMBERS[input.below(NUMBERS.len())].into(),
        5 => input.number().into(),
        6 => [0.0, -0.0, 0.5, 1e-300, 1e308, -1e308, 3.4e39, 0.1][input.below(8)].into(),
        7 => Number::from_f64(f64::from_bits(input.number())).map_or(Value::Null, Value::Number),
        8 => Value::Array((0..input.byte() % 4).map(|_| value(input, words)).collect()),
        9 => Value::Object((0..input.byte() % 4).map(|_| (word(input, words), value(input, words))).collect()),
        10 => input.text().into(),
        _ => word(input, words).into(),
    }
}

/// One of the words that the format knows.
pub fn word(input: &mut Input, words: &[String]) -> String {
    match words.is_empty() {
        true => input.text(),
        false => words[input.below(words.len())].clone(),
    }
}

/// One edit anywhere in a document.
pub fn edit(document: &mut Value, input: &mut Input, words: &[String]) {
    let count = count(document);
    let kind = input.byte() % 8;
    let copy = match kind {
        0 => nth(document, &mut input.below(count)).cloned(),
        _ => None,
    };
    let Some(node) = nth(document, &mut input.below(count)) else { return };
    match (kind, node) {
        (0, node) => *node = copy.unwrap_or_default(),
        (1 | 2, Value::Object(map)) => drop(map.insert(word(input, words), value(input, words))),
        (1, Value::Array(list)) => list.push(value(input, words)),
        (2, Value::Array(list)) => {
            let at = input.below(list.len());
            if let Some(twin) = list.get(at).cloned() {
                list.insert(at, twin);
            }
        }
        (3 | 4, Value::Object(map)) => remove(map, input),
        (3 | 4, Value::Array(list)) if !list.is_empty() => drop(list.remove(input.below(list.len()))),
        (5, Value::Object(map)) => rename(map, input, words),
        (5, Value::String(text)) => splice(text, input, words),
        (6, Value::Number(number)) => {
            let changed = number.as_i64().and_then(|n| n.checked_add(i64::from(input.byte() as i8)));
            *number = changed.unwrap_or_default().into();
        }
        (_, node) => *node = value(input, words),
    }
}

fn remove(map: &mut Map<String, Value>, input: &mut Input) {
    if let Some(key) = map.keys().nth(input.below(map.len())).cloned() {
        map.remove(&key);
    }
}

fn rename(map: &mut Map<String, Value>, input: &mut Input, words: &[String]) {
    if let Some(key) = map.keys().nth(input.below(map.len())).cloned()
        && let Some(value) = map.remove(&key)
    {
        map.insert(word(input, words), value);
    }
}

/// Puts a word or any text inside a text.
fn splice(text: &mut String, input: &mut Input, words: &[String]) {
    let piece = if input.byte() % 2 == 0 { word(input, words) } else { input.text() };
    let mut at = input.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.insert_str(at, &piece);
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value number `number` in order of the document.
fn nth<'v>(value: &'v mut Value, number: &mut usize) -> Option<&'v mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| nth(value, number)),
        Value::Object(map) => map.values_mut().find_map(|value| nth(value, number)),
        _ => None,
    }
}

/// All keys and short texts of documents, to be put elsewhere.
pub fn words<'v>(documents: impl Iterator<Item = &'v Value>) -> Vec<String> {
    fn gather(value: &Value, words: &mut Vec<String>) {
        match value {
            Value::String(text) if text.len() < 60 => words.push(text.clone()),
            Value::Array(list) => list.iter().for_each(|value| gather(value, words)),
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                words.push(key.clone());
                gather(value, words);
            }),
            _ => {}
        }
    }
    let mut all = Vec::new();
    documents.for_each(|document| gather(document, &mut all));
    all.sort();
    all.dedup();
    all
}
