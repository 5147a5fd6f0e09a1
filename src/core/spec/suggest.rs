//! Names and values of a file in messages, safe to print even if the file is hostile; the nearest known key.

use toml::de::DeValue;

/// A path without indexes, as the key is written in the file.
pub(super) fn key_name(path: &str) -> String {
    let keys = path.split('.').filter(|key| key.parse::<usize>().is_err());
    keys.map(printable).collect::<Vec<_>>().join(".")
}

/// Escapes control characters and limits the length, so that a hostile file cannot control the terminal.
pub(super) fn printable(text: &str) -> String {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().count() > 60 { shown + "…" } else { shown }
}

/// A value for a message: `"text"`, `12`, `a list`.
pub(super) fn describe(value: &DeValue<'_>) -> String {
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

/// A character for a message; a control character by its escape.
pub(super) fn describe_char(c: char) -> String {
    if c.is_control() { format!("a control character ({})", c.escape_default()) } else { format!("{c}") }
}

/// The known key closest to `name`, if it is close enough for a suggestion.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    let ranked = known.iter().map(|key| (distance(name, key), *key));
    ranked.filter(|(distance, _)| *distance <= limit).min().map(|(_, key)| key)
}

/// The Damerau-Levenshtein distance (optimal string alignment).
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
