//! How what stands in a file is called in a message, however hostile the file.

use toml::de::DeValue;

/// A path without its indexes, as it is called in the file.
pub(super) fn spoken(path: &str) -> String {
    let keys = path.split('.').filter(|key| key.parse::<usize>().is_err());
    keys.map(printable).collect::<Vec<_>>().join(".")
}

/// Nothing of a hostile file reaches the terminal as a control sequence or as a flood.
pub(super) fn printable(text: &str) -> String {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().count() > 60 { shown + "…" } else { shown }
}

pub(super) fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", printable(text)),
        DeValue::Integer(number) => printable(&number.to_string()),
        DeValue::Float(number) => printable(&number.to_string()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

pub(super) fn name_of(c: char) -> String {
    if c.is_control() { format!("a control character ({})", c.escape_default()) } else { format!("{c}") }
}

/// The known key closest to `name`, when it is close enough to be meant.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    let ranked = known.iter().map(|key| (distance(name, key), *key));
    ranked.filter(|(distance, _)| *distance <= limit).min().map(|(_, key)| key)
}

/// How many letters must be added, dropped, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(60).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (row[j - 1] + 1).min(rows[i - 1][j] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
