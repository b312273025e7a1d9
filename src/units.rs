//! Numbers as people read them.

/// Bytes with a binary unit: `98.4 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration with the unit that suits its size: `840 us`, `12.3 ms`, `4.56 s`, `3 min 20 s`.
pub fn seconds(s: f64) -> String {
    if !s.is_finite() {
        "unknown".into()
    } else if s > 0.0 && s < 1e-6 {
        format!("{:.0} ns", s * 1e9)
    } else if s < 1e-3 {
        format!("{:.0} us", s * 1e6)
    } else if s < 1.0 {
        format!("{:.3} ms", s * 1e3)
    } else if s < 60.0 {
        format!("{s:.2} s")
    } else {
        let whole = s.round() as u64;
        if whole < 3600 {
            format!("{} min {} s", whole / 60, whole % 60)
        } else {
            format!("{} h {} min", whole / 3600, whole % 3600 / 60)
        }
    }
}

/// A size as people write it: `80 MiB`, `1.5GiB`, `100 MB`, `4096 B`; binary and decimal units apart. `None` for
/// anything else, a missing unit included.
pub fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 10] = [
        ("B", 1.0),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ];
    let (number, unit) = number_and_unit(text)?;
    let factor = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let bytes = (number * factor).round();
    // f64 holds every whole number up to 2^53 bytes (8 PiB).
    (bytes <= 9_007_199_254_740_992.0).then_some(bytes as u64)
}

/// A duration in seconds as people write it: `90s`, `10m`, `1.5 h`, `250 ms`. `None` for anything else, a missing unit
/// and more than a year included.
pub fn parse_seconds(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0)];
    let (number, unit) = number_and_unit(text)?;
    let seconds = number * UNITS.iter().find(|(name, _)| *name == unit)?.1;
    (seconds <= 366.0 * 86_400.0).then_some(seconds)
}

/// Splits `1.5 GiB` into a number (not negative, finite) and the rest.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(98_362_432), "93.8 MiB");
        assert_eq!(seconds(0.000_84), "840 us");
        assert_eq!(seconds(0.0123), "12.300 ms");
        assert_eq!(seconds(200.2), "3 min 20 s");
        assert_eq!(seconds(7300.0), "2 h 1 min");
    }

    #[test]
    fn sizes_and_times_are_read_back() {
        assert_eq!(parse_bytes("80 MiB"), Some(80 << 20));
        assert_eq!(parse_bytes(" 1.5GiB "), Some(3 << 29));
        assert_eq!(parse_bytes("100 MB"), Some(100_000_000));
        for wrong in ["", "80", "MiB", "80 mib", "-1 MiB", "1e3 MiB", "1..2 B", "inf B", "9999999 TiB", "8 MiB x"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
        assert_eq!(parse_seconds("10m"), Some(600.0));
        assert_eq!(parse_seconds("1.5 h"), Some(5400.0));
        assert_eq!(parse_seconds("250ms"), Some(0.25));
        for wrong in ["", "10", "10 y", "-5s", "99999999h"] {
            assert_eq!(parse_seconds(wrong), None, "{wrong}");
        }
    }
}
