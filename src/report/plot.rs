//! The Pareto chart in characters, for a terminal: better is up and to the right, each variant a letter.

use std::fmt::Write;

/// Columns and rows of the plot's area.
const COLUMNS: usize = 56;
const ROWS: usize = 11;

/// Columns of the whole plot.
pub(super) const WIDTH: usize = COLUMNS + 8;

/// A variant: name, speedup, accuracy difference (positive is better).
pub(super) type Place = (String, f64, f64);

/// The plot, or nothing where fewer than two variants have both numbers. A variant far below the others lies on the lower
/// edge.
pub(super) fn plot(places: &[Place], metric: &str) -> String {
    if places.len() < 2 {
        return String::new();
    }
    let range = |of: fn(&Place) -> f64| {
        let values = places.iter().map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (xs, (mut worst, best)) = (range(|p| p.1), range(|p| p.2));
    let mut sorted: Vec<f64> = places.iter().map(|p| p.2).collect();
    sorted.sort_by(f64::total_cmp);
    // One broken variant must not press all others into one row.
    let quarter = sorted[sorted.len() / 4];
    worst = worst.max(best - 4.0 * (best - quarter).max(f64::MIN_POSITIVE));
    let cell = |value: f64, (low, high): (f64, f64), cells: usize| {
        let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        (share * (cells - 1) as f64).round() as usize
    };
    let mut area = vec![vec![' '; COLUMNS]; ROWS];
    for ((_, x, y), letter) in places.iter().zip(letters()) {
        let (row, column) = (ROWS - 1 - cell(*y, (worst, best), ROWS), cell(*x, xs, COLUMNS));
        // Of two variants on one spot the second moves right, or left at the edge.
        let right = (column..COLUMNS).find(|c| area[row][*c] == ' ');
        if let Some(free) = right.or_else(|| (0..column).rev().find(|c| area[row][*c] == ' ')) {
            area[row][free] = letter;
        }
    }
    let mut out = String::new();
    for (at, row) in area.iter().enumerate() {
        let edge = if at == 0 { "better ┤" } else { "       │" };
        let _ = writeln!(out, "{edge}{}", row.iter().collect::<String>().trim_end());
    }
    let _ = writeln!(out, "       └{}", "─".repeat(COLUMNS));
    let ends = (format!("{:.2}x", xs.0), format!("{:.2}x {metric}", xs.1));
    let gap = COLUMNS.saturating_sub(ends.0.len() + ends.1.len());
    let _ = writeln!(out, "        {}{}{}", ends.0, " ".repeat(gap), ends.1);
    out
}

/// Letters in the order of the variants.
pub(super) fn letters() -> impl Iterator<Item = char> {
    ('a'..='z').chain('A'..='Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_up_and_to_the_right() {
        let place = |name: &str, x, y| (name.to_string(), x, y);
        let text = plot(&[place("slow", 1.0, -1.0), place("good", 2.0, 0.0), place("twin", 2.0, 0.0)], "decode");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[0].ends_with("cb"), "{text}");
        assert!(lines[ROWS - 1].starts_with("       │a"), "{text}");
        assert!(lines[ROWS + 1].trim_start().starts_with("1.00x") && text.trim_end().ends_with("2.00x decode"));
        assert_eq!(plot(&[place("alone", 1.0, 0.0)], "decode"), "");
    }
}
