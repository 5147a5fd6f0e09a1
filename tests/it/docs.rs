//! The documentation: lengths of pages, links, and all statements that a program can check.

use crate::common::programs::{HANODE, firstboot_program};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory whose name has this ending, except build output and hidden directories.
fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

/// Every page, by its path in the project.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = Vec::new();
    files(root(), ".md", &mut found);
    let page = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a page");
        (path.strip_prefix(root()).expect("below the root").to_path_buf(), text)
    };
    found.into_iter().map(page).collect()
}

/// A page without its code blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// The inline code of a page.
fn spans(text: &str) -> Vec<String> {
    let prose = prose(text);
    let code = prose.split('`').skip(1).step_by(2);
    code.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The shell commands of a page, from code blocks and inline code, without prompts and `sudo`.
fn commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut lines = Vec::new();
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            lines.push(line.to_string());
        }
    }
    lines.extend(spans(text));
    let parts = lines
        .iter()
        .flat_map(|line| line.split(" # ").next().unwrap_or_default().split(['|', ';', '&', '\'']));
    parts
        .map(|part| {
            let part = part.trim();
            let part = part.strip_prefix("$ ").unwrap_or(part);
            let part = part.strip_prefix("sudo ").unwrap_or(part);
            let part = part.strip_prefix("dist/").unwrap_or(part);
            part.replace("cargo run -- ", "hanode ")
        })
        .collect()
}

/// The targets of a page's links within the project: path and anchor.
fn links(page: &Path, text: &str) -> Vec<(PathBuf, Option<String>)> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let own = targets.filter(|target| !target.contains("://"));
    own.map(|target| {
        let (file, anchor) = match target.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor.to_string())),
            None => (target, None),
        };
        if file.is_empty() {
            return (page.to_path_buf(), anchor);
        }
        (normal(&page.parent().expect("a directory").join(file)), anchor)
    })
    .collect()
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(out.pop(), "{} leaves the project", path.display()),
            part => out.push(part),
        }
    }
    out
}

/// The anchors that a forge makes from the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| heading.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn readme_takes_minutes_to_read() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README");
    let (lines, words) = (readme.lines().count(), readme.split_whitespace().count());
    assert!(lines <= 130, "{lines} lines");
    assert!(words <= 1500, "{words} words");
}

#[test]
fn no_line_is_longer_than_140_characters() {
    let mut faults = Vec::new();
    for (page, text) in pages() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > 140) {
            faults.push(format!("{}:{}: {} characters", page.display(), number + 1, line.chars().count()));
        }
    }
    none(&faults);
}

#[test]
fn links_lead_to_files_and_headings() {
    let pages = pages();
    let mut faults = Vec::new();
    for (page, text) in &pages {
        for (target, anchor) in links(page, text) {
            if !root().join(&target).exists() {
                faults.push(format!("{}: no file {}", page.display(), target.display()));
            } else if let Some(anchor) = anchor {
                let text = pages.get(&target).map_or("", String::as_str);
                if !anchors(text).contains(&anchor) {
                    faults.push(format!("{}: no heading {}#{anchor}", page.display(), target.display()));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn every_page_is_reachable_from_readme() {
    let pages = pages();
    let mut reached = BTreeSet::new();
    let mut open = vec![PathBuf::from("README.md")];
    while let Some(page) = open.pop() {
        if let (Some(text), true) = (pages.get(&page), reached.insert(page.clone())) {
            open.extend(links(&page, text).into_iter().map(|(target, _)| target));
        }
    }
    let lost: Vec<_> = pages.keys().filter(|p| !reached.contains(*p)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// The help text of a command, if the program has the command.
fn help(program: &Path, verbs: &[&str]) -> Option<String> {
    let output = Command::new(program).args(verbs).arg("--help").output().expect("running it");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program has the verb and the options of a command.
fn takes(program: &Path, command: &str) -> Result<(), String> {
    let words: Vec<_> = command.split_whitespace().skip(1).take_while(|word| *word != "--").collect();
    let verb = words.first().copied().unwrap_or_default();
    let verbs = if matches!(verb, "lab" | "certs" | "restart" | "backup") { 2 } else { 1 };
    let verbs: Vec<_> = words.iter().copied().take(verbs).filter(|word| !word.starts_with('-')).collect();
    let help = help(program, &verbs).ok_or_else(|| format!("no verb {verbs:?}"))?;
    let known: BTreeSet<_> = help.split(|c: char| !(c.is_alphanumeric() || c == '-')).collect();
    let options =
        words.iter().filter(|word| word.starts_with("--")).filter_map(|word| word.split('=').next());
    match options.into_iter().find(|option| !known.contains(option)) {
        Some(option) => Err(format!("no option {option}")),
        None => Ok(()),
    }
}

/// On a node, `hanode` is `hanode-firstboot`.
#[test]
fn printed_commands_exist() {
    let programs = [PathBuf::from(HANODE), firstboot_program().to_path_buf()];
    let mut faults = BTreeSet::new();
    for (page, text) in pages() {
        let commands = commands(&text);
        let own = commands.iter().filter(|command| {
            let verb = command.strip_prefix("hanode ").and_then(|rest| rest.split(' ').next());
            verb.is_some_and(|verb| verb.chars().all(|c| c.is_ascii_lowercase()))
        });
        for command in own {
            let answers = programs.each_ref().map(|program| takes(program, command));
            if let [Err(why), Err(_)] = answers {
                faults.insert(format!("{}: {command}: {why}", page.display()));
            }
        }
    }
    none(&faults.into_iter().collect::<Vec<_>>());
}

#[test]
fn printed_make_targets_and_test_modules_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .collect();
    let mut faults = BTreeSet::new();
    for (page, text) in pages() {
        for command in commands(&text) {
            let words: Vec<_> = command.split_whitespace().collect();
            let missing: Vec<_> = match words.as_slice() {
                ["make", rest @ ..] => {
                    // A comment may follow, aligned in columns.
                    let rest = rest.iter().take_while(|word| !word.starts_with('#'));
                    rest.filter(|word| !word.contains('=') && !targets.contains(**word)).collect()
                }
                ["cargo", "test", "--test", "e2e", module] => {
                    let file = root().join("tests/e2e").join(format!("{module}.rs"));
                    if file.exists() { vec![] } else { vec![module] }
                }
                _ => vec![],
            };
            for word in missing {
                faults.insert(format!("{}: {command}: no {word}", page.display()));
            }
        }
    }
    none(&faults.into_iter().collect::<Vec<_>>());
}

/// Inline code that is a path of the project. Placeholders such as NAME and `*` are left out.
#[test]
fn named_files_exist() {
    const FOLDERS: [&str; 6] = ["src/", "image/", "tests/", "docs/", "cloud-init/", "packer/"];
    let mut faults = BTreeSet::new();
    for (page, text) in pages() {
        let paths = spans(&text).into_iter().filter(|span| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/_.-".contains(c);
            FOLDERS.iter().any(|folder| span.starts_with(folder)) && span.chars().all(plain)
        });
        for path in paths.filter(|path| !root().join(path).exists()) {
            faults.insert(format!("{}: no file {path}", page.display()));
        }
    }
    none(&faults.into_iter().collect::<Vec<_>>());
}

/// The words of a message. A placeholder is `None` and matches any word.
fn words(text: &str) -> Vec<Option<&str>> {
    let word = |word| str::trim_matches(word, |c: char| !c.is_alphanumeric() && !"{}[]/".contains(c));
    let words = text.split(|c: char| c.is_whitespace() || c == '"').map(word).filter(|word| !word.is_empty());
    words.map(|word| (!word.contains('{')).then_some(word)).collect()
}

/// Whether the source contains a message; its placeholders match any word.
struct Source(Vec<String>);

impl Source {
    fn read() -> Source {
        let mut sources = Vec::new();
        files(&root().join("src"), ".rs", &mut sources);
        let mut lines = Vec::new();
        for source in sources {
            let text = fs::read_to_string(source).expect("a source");
            let mut parts = text.split("\\\n");
            let mut joined = parts.next().unwrap_or_default().to_string();
            parts.for_each(|part| joined += part.trim_start());
            lines.extend(joined.lines().map(String::from));
        }
        Source(lines)
    }

    /// The pieces that are not in the source. A piece of one or two words proves nothing.
    fn faults<'a>(&self, pieces: impl Iterator<Item = &'a str>) -> Vec<String> {
        let source: Vec<_> = self.0.iter().map(|line| words(line)).collect();
        let same = |(quoted, written): (&Option<&str>, &Option<&str>)| written.is_none() || quoted == written;
        let is_written = |piece: &[Option<&str>]| {
            source.iter().any(|line| {
                line.windows(piece.len())
                    .any(|at| at.iter().any(Option::is_some) && piece.iter().zip(at).all(same))
            })
        };
        let missing = pieces.filter(|piece| {
            let quoted = words(piece);
            quoted.len() > 2 && !is_written(&quoted)
        });
        missing.map(|piece| format!("{piece:?} is not in the source")).collect()
    }
}

/// Every message among the headings of the page on troubleshooting is in the source. `…` matches anything.
#[test]
fn quoted_messages_are_in_the_source() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let headings: Vec<_> = page.lines().filter(|line| line.starts_with("### ")).collect();
    let messages = headings.iter().flat_map(|heading| heading.split('`').skip(1).step_by(2));
    assert!(headings.len() > 15, "{headings:?}");
    none(&Source::read().faults(messages.flat_map(|message| message.split('…'))));
}

/// The reasons in a line of sample output: of `hanode plan`, of the journal, or of a list of problems.
fn reasons(line: &str) -> Option<&str> {
    const SERVICES: [&str; 3] = ["etcd", "postgres", "redis"];
    const ACTIONS: [&str; 5] = ["bootstrap", "resume", "join", "wait", "refuse"];
    const PHASES: [&str; 8] = [
        "identity",
        "waiting-for-peers",
        "planning",
        "applying",
        "starting",
        "in-service",
        "refused",
        "failed",
    ];
    let (first, rest) = line.split_once(' ')?;
    if let (true, Some((action, reason))) = (SERVICES.contains(&first), rest.trim_start().split_once("  ")) {
        return ACTIONS.contains(&action).then_some(reason);
    }
    let of_problem =
        line.strip_prefix("  - ").map(|what| what.split_once(": ").map_or(what, |(_, what)| what));
    let of_journal = line.split_once(": ").and_then(|(_, rest)| rest.split_once(": "));
    of_problem.or_else(|| of_journal.filter(|(phase, _)| PHASES.contains(phase)).map(|(_, reason)| reason))
}

#[test]
fn reasons_in_sample_output_are_in_the_source() {
    let pages = pages();
    let lines = pages.values().flat_map(|text| text.split("```").skip(1).step_by(2)).flat_map(str::lines);
    let reasons: Vec<_> = lines.filter_map(reasons).collect();
    assert!(reasons.len() > 8, "{reasons:?}");
    let pieces =
        reasons.iter().flat_map(|reason| reason.split(['…', ';'])).flat_map(|piece| piece.split(": "));
    none(&Source::read().faults(pieces));
}

#[test]
fn the_glossary_is_sorted() {
    let page = fs::read_to_string(root().join("docs/glossary.md")).expect("the page");
    let terms: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .skip(1)
        .map(str::to_lowercase)
        .collect();
    assert!(terms.len() > 30, "{terms:?}");
    assert!(terms.is_sorted(), "{:?}", terms.windows(2).find(|pair| pair[0] > pair[1]));
}
