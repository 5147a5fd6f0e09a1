//! Text of other machines for a terminal: control characters appear as their escapes, so that a hostile name cannot
//! clear the screen, set the title, reverse the text or add a line.

/// One line: line breaks are escaped, too.
pub fn line(text: &str) -> String {
    escaped(text, |c| hides(c) || matches!(c, '\n' | '\t'), |c| c.escape_default().to_string())
}

/// Text of several lines: line breaks and tabs stay.
pub fn lines(text: &str) -> String {
    escaped(text, hides, |c| c.escape_default().to_string())
}

/// A JSON document. Its values stay the same, because such characters occur in strings only.
pub fn json(text: &str) -> String {
    let escape = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
    escaped(text, hides, escape)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_escaped(c) {
            true => out += &escape(c),
            false => out.push(c),
        }
    }
    out
}

/// Control characters except line breaks and tabs, line separators, and marks that reverse the direction of text.
fn hides(c: char) -> bool {
    let direction = ['\u{61c}', '\u{200e}', '\u{200f}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || ['\u{2028}', '\u{2029}', '\u{feff}'].contains(&c)
        || direction
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}]0;OWNED\u{7}\u{9b}31m\r\nb\tc\u{202e}d";

    #[test]
    fn escapes_are_shown_and_line_breaks_only_where_they_are_expected() {
        assert_eq!(line(HOSTILE), "a\\u{1b}]0;OWNED\\u{7}\\u{9b}31m\\r\\nb\\tc\\u{202e}d");
        assert_eq!(lines(HOSTILE), "a\\u{1b}]0;OWNED\\u{7}\\u{9b}31m\\r\nb\tc\\u{202e}d");
        assert_eq!(line("plain – ä \"q\" \\ 漢"), "plain – ä \"q\" \\ 漢");
    }

    #[test]
    fn json_keeps_its_value() {
        let written = format!("{{\"a\": \"{}\"}}", "\u{9b}31m\u{202e}");
        assert_eq!(json(&written), "{\"a\": \"\\u009b31m\\u202e\"}");
    }
}
