//! Text from outside, made fit for one line: no control characters, no line breaks, no bidirectional overrides.

/// Longest text that is shown at all: a reason with all its numbers takes half of it.
const LONGEST_TEXT: usize = 1200;

/// Longest name that tables and charts show.
const LONGEST_NAME: usize = 40;

/// `text` on one line: control and invisible formatting characters become spaces, runs of spaces one space; what is
/// longer than any honest text is cut in the middle.
pub(super) fn one_line(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c });
    let visible: String = visible.collect();
    shorten(&visible.split_whitespace().collect::<Vec<_>>().join(" "), LONGEST_TEXT)
}

/// A name on one line, cut in the middle where it is too long.
pub(super) fn name(text: &str) -> String {
    shorten(&one_line(text), LONGEST_NAME)
}

/// `text` cut in the middle to at most `most` characters (at least 3).
pub(super) fn shorten(text: &str, most: usize) -> String {
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

/// Zero-width characters, bidirectional overrides, separators, and what XML 1.0 does not allow.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffe}'
        | '\u{ffff}')
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
}
