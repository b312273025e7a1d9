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
}
