//! Text from outside, made fit to be printed: names, messages and files of others may hold what a terminal obeys, what
//! turns the order of characters around and what nobody can see.
//!
//! Characters are judged by their Unicode properties, as the `regex` crate's tables have them, so that a new formatting
//! character is caught without a change here. Everything that the program prints passes through this module.

use std::borrow::Cow;
use std::io::Write;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// Longest text that is shown at all: a reason with all its numbers takes half of it.
const LONGEST_TEXT: usize = 1200;

/// Longest text in quotes inside a message: longer ones come from an input and are cut in the middle.
const LONGEST_QUOTE: usize = 200;

/// Longest name that tables and charts show.
const LONGEST_NAME: usize = 40;

/// Control, formatting (bidirectional, zero-width, tags), private, unassigned; line and paragraph separators; what is
/// ignored where it is not supported (variation selectors, fillers, joiners); the blank braille pattern.
const INVISIBLE: &str = r"[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u{2800}]";

/// A pattern that is known to be right; `None` never happens, and then nothing is replaced.
fn compiled(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

fn invisible() -> Option<&'static Regex> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(INVISIBLE));
    PATTERN.as_ref()
}

/// Whether a text holds characters that have no visible form of their own.
pub fn has_invisible(text: &str) -> bool {
    invisible().is_some_and(|pattern| pattern.is_match(text))
}

fn replaced<'t>(text: &'t str, by: &str) -> Cow<'t, str> {
    invisible().map_or(Cow::Borrowed(text), |pattern| pattern.replace_all(text, by))
}

/// `text` on one line: what is not visible becomes a space, runs of spaces one space; what is longer than any honest
/// text is cut in the middle.
pub fn one_line(text: &str) -> String {
    shorten(&replaced(text, " ").split_whitespace().collect::<Vec<_>>().join(" "), LONGEST_TEXT)
}

/// A message on one line, as [`one_line`]; texts of an input that it quotes are cut in the middle.
pub fn message(text: &str) -> String {
    static QUOTED: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(r#""(?:[^"\\]|\\.)*"|`[^`]*`"#));
    let line = replaced(text, " ");
    let Some(quoted) = QUOTED.as_ref() else { return one_line(&line) };
    one_line(&quoted.replace_all(&line, |found: &regex::Captures<'_>| shorten(&found[0], LONGEST_QUOTE)))
}

/// A text of several lines, such as a table: line ends and spaces stay, everything else as [`one_line`].
pub fn lines(text: &str) -> String {
    text.split('\n').map(|line| replaced(line, " ")).collect::<Vec<_>>().join("\n")
}

/// JSON with what is not visible written as escapes: the same data, fit for a terminal.
pub fn json(text: &str) -> String {
    let escaped = |line: &str| -> String {
        let mut out = String::with_capacity(line.len());
        for c in line.chars() {
            if c.is_ascii() && !c.is_control() || !has_invisible(c.encode_utf8(&mut [0; 4])) {
                out.push(c);
            } else {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
        }
        out
    };
    let clean = |line| if has_invisible(line) { Cow::Owned(escaped(line)) } else { Cow::Borrowed(line) };
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

/// A name on one line, cut in the middle where it is too long.
pub fn name(text: &str) -> String {
    shorten(&one_line(text), LONGEST_NAME)
}

/// What a reader sees of a name: its compatibility form without accents and without what is not visible. Names of one
/// look are not told apart in a report.
pub fn look(name: &str) -> String {
    static MARKS: LazyLock<Option<Regex>> = LazyLock::new(|| compiled(r"\p{Mn}"));
    let apart: String = replaced(name, "").nfkd().collect();
    MARKS.as_ref().map_or(apart.clone(), |marks| marks.replace_all(&apart, "").into_owned())
}

/// Text as a cell of a CSV file. Spreadsheets run a cell that starts with `=`, `+`, `-`, `@` or their wide forms as a
/// formula; an apostrophe in front makes it text. Tabs and line ends, which some of them skip, are gone by then.
pub fn csv_cell(text: &str) -> String {
    let text = one_line(text);
    if text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']) { format!("'{text}") } else { text }
}

/// `text` cut in the middle to at most `most` characters (at least 3).
pub fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_string();
    }
    let head = most / 2;
    let tail = most - head - 1;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// Writes [`lines`] to standard error. One that is closed or full is no reason to end a measurement.
pub fn to_stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", lines(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_becomes_one_plain_line() {
        assert_eq!(one_line("a\nb\r\n\tc\u{1b}[31m\u{202e}x\u{0}"), "a b c [31m x");
        assert_eq!(one_line(&"long ".repeat(1000)).chars().count(), LONGEST_TEXT);
        assert_eq!(name(&"n".repeat(100)).chars().count(), LONGEST_NAME);
        assert_eq!(shorten("abcdefghij", 5), "ab…ij");
        assert_eq!(name("int4-gptq"), "int4-gptq");
    }

    /// One of each kind: C0, C1, bidirectional, zero-width, joiner, tag, variation selectors, private, unassigned,
    /// noncharacter, separators, fillers, blank braille.
    const HIDDEN: [char; 20] = [
        '\u{7}',
        '\u{9b}',
        '\u{ad}',
        '\u{61c}',
        '\u{34f}',
        '\u{180e}',
        '\u{200b}',
        '\u{200d}',
        '\u{2028}',
        '\u{202e}',
        '\u{2066}',
        '\u{2800}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffff}',
        '\u{e000}',
        '\u{e0041}',
        '\u{e0100}',
        '\u{378}',
    ];

    #[test]
    fn what_is_not_visible_is_found_by_its_category() {
        for c in HIDDEN {
            assert!(has_invisible(&format!("a{c}b")), "{c:?}");
            assert_eq!(one_line(&format!("a{c}b")), "a b", "{c:?}");
            assert_eq!(lines(&format!("a  {c}b\n c")), "a   b\n c", "{c:?}");
            let value = format!("a{c}\"b");
            let json = json(&serde_json::to_string_pretty(&[&value]).unwrap());
            assert!(!has_invisible(&json.replace('\n', "")), "{json}");
            assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [value]);
        }
        for plain in ["int4-gptq", "größer", "模型", "модель", "a b", "±1 %", "x²", "…", "🦀"] {
            assert!(!has_invisible(plain), "{plain}");
        }
    }

    #[test]
    fn quoted_texts_of_an_input_are_cut() {
        let long = "x".repeat(5000);
        let cut = message(&format!("source {:?}: {:?}: no such file; use `{long}`", long, format!("a\"{long}")));
        assert!(cut.chars().count() < 3 * LONGEST_QUOTE + 100 && cut.contains(": no such file; use `x"), "{cut}");
        assert_eq!(message("`bits` is \"a\"; expected 2 to 8"), "`bits` is \"a\"; expected 2 to 8");
    }

    #[test]
    fn names_of_one_look_are_equal() {
        for (a, b) in
            [("fp16", "fp\u{200b}16"), ("é", "e\u{301}"), ("int４", "int4"), ("ﬁne", "fine"), ("a", "a\u{338}")]
        {
            assert_eq!(look(a), look(b));
        }
        assert_ne!(look("int4"), look("INT4"));
        assert_ne!(look("модель"), look("модели"));
    }

    #[test]
    fn a_cell_is_no_formula() {
        for start in ["=", "+", "-", "@", "\t=", "\r\n@", " =", "\u{200b}=", "＝"] {
            assert!(csv_cell(&format!("{start}1")).starts_with('\''), "{start:?}");
        }
        assert_eq!(csv_cell("int8-ptq"), "int8-ptq");
    }
}
