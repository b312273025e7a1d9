//! Patterns with `*` inside one path component, and the order in which people count.

use std::cmp::Ordering;

/// Whether `text`, one path component, fits `pattern`, in which `*` stands for any characters.
pub(super) fn component_matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or("");
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

/// Whether a file's path (with `/`) fits `pattern`, or lies in a folder that `pattern` names without `*`.
pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let fits = patterns.len() <= parts.len() && patterns.iter().zip(&parts).all(|(p, part)| component_matches(p, part));
    fits && (patterns.len() == parts.len() || !patterns.last().is_some_and(|last| last.contains('*')))
}

/// Natural order: runs of digits compare as numbers, so that `chapter_2` comes before `chapter_10`.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (l, r) = (first_run(left), first_run(right));
        let order = match (l.starts_with(|c: char| c.is_ascii_digit()), r.starts_with(|c: char| c.is_ascii_digit())) {
            (true, true) => {
                let (l, r) = (l.trim_start_matches('0'), r.trim_start_matches('0'));
                l.len().cmp(&r.len()).then_with(|| l.cmp(r))
            }
            _ => l.cmp(r),
        };
        if order != Ordering::Equal {
            return order;
        }
        if l.is_empty() {
            return a.cmp(b);
        }
        (left, right) = (&left[l.len()..], &right[r.len()..]);
    }
}

/// The digits, or the other characters, that a text begins with.
fn first_run(text: &str) -> &str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    &text[..text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_inside_a_component() {
        for (pattern, path, expected) in [
            ("data/chapter_*.json", "data/chapter_12.json", true),
            ("data/chapter_*.json", "data/chapter_12.txt", false),
            ("data/*", "data/a/b", false),
            ("data", "data/a/b", true),
            ("data/a", "data/ab", false),
            ("*.txt", "a/b.txt", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*a", "a", false),
            ("*", "anything", true),
        ] {
            assert_eq!(path_matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn numbers_are_counted() {
        let mut names = ["c_10.txt", "c_2.txt", "c_1.txt", "c_02.txt", "b", "c_1", "c_18446744073709551616"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["b", "c_1", "c_1.txt", "c_02.txt", "c_2.txt", "c_10.txt", "c_18446744073709551616"]);
    }
}
