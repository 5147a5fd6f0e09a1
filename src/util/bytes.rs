//! Sizes for people.

/// With three significant digits: `512 B`, `4.10 MiB`, `22.4 GiB`.
pub fn text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 1023, 1024, 4_300_000, 23_500_000, 1 << 30, 200 << 30, (1 << 40) - 1];
        let texts = ["0 B", "1023 B", "1.00 KiB", "4.10 MiB", "22.4 MiB", "1.00 GiB", "200 GiB", "1.00 TiB"];
        assert_eq!(sizes.map(text), texts);
    }
}
