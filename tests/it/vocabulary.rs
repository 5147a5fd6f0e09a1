//! The vocabulary: one word for one thing in names, messages and comments. Retired words must not come back.
//!
//! The right word for each is in `docs/glossary.md`, or is the one that Patroni, etcd, systemd and cloud-init use.

use crate::common::sources;
use std::collections::BTreeSet;
use std::path::Path;

/// Not a part of any identifier in src and tests: `twin` forbids `twin`, `Twin` and `find_twin`.
const NAMES: &[&str] = &[
    "asked",
    "bear",
    "bears",
    "began",
    "begun",
    "desk",
    "doubts",
    "genesis",
    "given",
    "heard",
    "hindrance",
    "hindrances",
    "laid",
    "lays",
    "may_go",
    "mend",
    "mended",
    "mends",
    "pitfall",
    "pitfalls",
    "said",
    "standstill",
    "succession",
    "take_up",
    "taken_up",
    "takes_up",
    "told",
    "twin",
    "twins",
    "whoever",
];

/// Not an identifier in src and tests; another word or another case may be part of a good name.
const WHOLE_NAMES: &[&str] = &["Baked", "Ground", "Verdict", "not_well", "well"];

/// Not in a comment, string or help text of the program, nor in a file that goes into an image.
const TEXT: &[&str] = &[
    "all is well",
    "be it",
    "bears",
    "by the operator's word",
    "came to be",
    "comes to be",
    "desk",
    "genesis",
    "gives way",
    "heard",
    "hindrance",
    "hindrances",
    "is well",
    "kept aside",
    "laid down",
    "lay down",
    "laying down",
    "lays down",
    "mend",
    "mended",
    "mends",
    "not well",
    "nobody knows",
    "of its own accord",
    "pitfall",
    "pitfalls",
    "promised writes",
    "said",
    "set aside",
    "sets aside",
    "setting aside",
    "standstill",
    "take up",
    "taken up",
    "takes up",
    "taking up",
    "told",
    "took up",
    "twin",
    "twins",
    "whoever",
    "yes-data-on-others-is-lost",
];

/// A word and its line. `None` separates what is not one text.
type Words = Vec<Option<(usize, String)>>;

/// A source file in two parts: identifiers, and the words of its comments and strings.
#[derive(Default)]
struct Source {
    names: Vec<(usize, String)>,
    words: Words,
}

/// Enough of Rust's lexical structure to tell names from comments, strings and characters.
fn lex(text: &str) -> Source {
    let mut source = Source::default();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            // Without a separator: lines of comments are one text.
            words(&rest[..length], line, &mut source.words);
            length
        } else if rest.starts_with("/*") {
            let length = rest.find("*/").map_or(rest.len(), |end| end + 2);
            words(&rest[..length], line, &mut source.words);
            length
        } else if let Some(length) = string(rest) {
            source.words.push(None);
            words(&rest[..length].replace("\\n", "  "), line, &mut source.words);
            source.words.push(None);
            length
        } else if first.is_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            source.names.push((line, rest[..length].to_string()));
            source.words.push(None);
            length
        } else {
            character(rest).unwrap_or(first.len_utf8())
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    source
}

/// The length of a string literal at the start of `text`, with its prefix and quotes.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))?;
    let hashes = text[prefix..].find(|c| c != '#')?;
    let open = prefix + hashes;
    if !text[open..].starts_with('"') || (hashes > 0 && !text[..prefix].contains('r')) {
        return None;
    }
    let inside = open + 1;
    if text[..prefix].contains('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(inside + text[inside..].find(&close)? + close.len());
    }
    let mut escaped = false;
    for (at, c) in text[inside..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(inside + at + 1),
            _ => {}
        }
    }
    None
}

/// The length of a character literal at the start of `text`. A lifetime has no closing quote.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let end = if inside.starts_with('\\') { 2 } else { inside.chars().next()?.len_utf8() };
    let close = inside.get(end..)?.find('\'')?;
    let escape = inside.starts_with('\\') && close < 10;
    (close == 0 || escape).then_some(1 + end + close + 1)
}

fn words(text: &str, first_line: usize, out: &mut Words) {
    for (number, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        out.extend(words.map(|word| Some((first_line + number, word.to_lowercase()))));
    }
}

/// `take_up` of `TakeUp` and `take_up`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// The files below folders of the project that have text in them, by their paths in it.
fn files(folders: &[&str]) -> Vec<(String, String)> {
    let all = folders.iter().flat_map(|folder| walkdir::WalkDir::new(sources(folder)).sort_by_file_name());
    let all = all.map(|entry| entry.expect("a readable folder")).filter(|entry| entry.file_type().is_file());
    let root = sources("");
    all.filter_map(|entry| {
        // A key ring is not text.
        let text = String::from_utf8(std::fs::read(entry.path()).expect("a readable file")).ok()?;
        let path = entry.path().strip_prefix(&root).expect("below the project");
        Some((path.to_string_lossy().into_owned(), text))
    })
    .collect()
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn retired_name(name: &str) -> Option<&'static str> {
    let padded = format!("_{}_", snake_case(name));
    let part = NAMES.iter().find(|word| padded.contains(&format!("_{word}_")));
    part.or_else(|| WHOLE_NAMES.iter().find(|word| **word == name)).copied()
}

/// Every retired phrase, with the line where it starts.
fn retired_text(text: &Words) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for phrase in TEXT {
        let mut wanted = Words::new();
        words(&phrase.to_lowercase(), 0, &mut wanted);
        for window in text.windows(wanted.len()) {
            let same = |at: usize| match (&window[at], &wanted[at]) {
                (Some((_, word)), Some((_, wanted))) => word == wanted,
                _ => false,
            };
            if (0..wanted.len()).all(same) {
                found.extend(window[0].as_ref().map(|(line, _)| (*line, *phrase)));
            }
        }
    }
    found
}

#[track_caller]
fn none(faults: BTreeSet<(String, usize, &str)>) {
    let lines: Vec<_> = faults.iter().map(|(path, line, word)| format!("{path}:{line}: {word}")).collect();
    assert!(lines.is_empty(), "{} retired words:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn no_name_has_a_retired_word() {
    let mut faults = BTreeSet::new();
    for (path, text) in files(&["src", "tests"]).into_iter().filter(|(path, _)| is_rust(path)) {
        for (line, name) in lex(&text).names {
            faults.extend(retired_name(&name).map(|word| (path.clone(), line, word)));
        }
    }
    none(faults);
}

#[test]
fn no_message_or_comment_has_a_retired_word() {
    let mut faults = BTreeSet::new();
    for (path, text) in files(&["src", "image", "cloud-init", "packer"]) {
        let text = if is_rust(&path) {
            lex(&text).words
        } else {
            let mut all = Words::new();
            words(&text, 1, &mut all);
            all
        };
        faults.extend(retired_text(&text).into_iter().map(|(line, word)| (path.clone(), line, word)));
    }
    none(faults);
}

#[test]
fn names_and_text_are_separated() {
    let source = lex(concat!(
        "// one\n/* two */ fn three<'four>(five: &'four str) -> char { r#\"six\" seven\"#; b\"ei\\\"ght\"; '\"' }\n",
        "let nine = '\\''; // ten\n// eleven\n"
    ));
    let names: Vec<_> = source.names.iter().map(|(line, name)| format!("{line} {name}")).collect();
    let expected = "2 fn,2 three,2 four,2 five,2 four,2 str,2 char,3 let,3 nine";
    assert_eq!(names.join(","), expected);
    let words: Vec<_> = source.words.iter().flatten().map(|(_, word)| word.as_str()).collect();
    assert_eq!(words.join(" "), "one two r six seven b ei ght ten eleven");
    assert_eq!(retired_name("TakeUp"), Some("take_up"));
    assert_eq!(retired_name("PostgresTwins"), Some("twins"));
    assert_eq!(retired_name("forgiven"), None);
    let text = lex("/// It is kept\n/// aside.\n\"kept\"; \"aside\"").words;
    assert_eq!(retired_text(&text), [(1, "kept aside")]);
}
