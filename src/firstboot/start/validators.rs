//! The components' own offline checkers, on a configuration before it is laid down.

use anyhow::{Result, bail};
use hanode_core::target::{FileRule, Target};
use hanode_util::command::{Captured, capture};
use hanode_util::file_tree::{Entry, Kind, below};
use hanode_util::safe_path::SafeTree;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const STAGE: &str = "/run/hanode/check";

/// Runs the rule's checker on the content where it cannot be mistaken for the live file.
pub(super) fn check(root: &Path, rule: &FileRule, entry: &Entry) -> Result<()> {
    let (Some((program, arguments)), Kind::File(content)) = (rule.check.split_first(), &entry.kind) else {
        return Ok(());
    };
    let component = rule.component.as_deref().unwrap_or(program);
    let (tree, path) = (SafeTree::open(root)?, format!("{STAGE}/{component}"));
    tree.replace(&path, content, 0o600, None)?;
    let file = below(root, &path);
    let arguments = arguments.iter().map(|a| a.replace("{file}", &file.to_string_lossy()));
    let output = capture(Command::new(program).args(arguments))?;
    tree.remove_file(&path)?;
    if !output.status.success() {
        bail!("{component} does not accept what would become {}: {}", entry.path, in_one_line(&output));
    }
    Ok(())
}

/// The operator's own parameters, names and values, as the installed PostgreSQL understands them. A name with a dot
/// is an extension's, and taken as it is.
pub(super) fn parameters(root: &Path, target: &Target, parameters: &BTreeMap<String, String>) -> Result<()> {
    let (tree, stage) = (SafeTree::open(root)?, format!("{STAGE}/postgres"));
    let quoted = |value: &String| value.replace('\\', "\\\\").replace('\'', "''");
    let lines: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name} = '{}'\n", quoted(value))).collect();
    tree.replace(format!("{stage}/postgresql.conf"), lines.concat().as_bytes(), 0o600, None)?;
    let server = format!("{}/postgres", target.path("postgres_bin")?);
    // It reads all of the file before it tells this one's value.
    let output =
        capture(Command::new(&server).args(["-C", "max_connections", "-D"]).arg(below(root, &stage)))?;
    tree.remove_dir_all(&stage)?;
    if !output.status.success() {
        bail!("PostgreSQL does not accept what [postgres.parameters] says: {}", in_one_line(&output));
    }
    Ok(())
}

/// As it goes to the console and into state.json.
fn in_one_line(output: &Captured) -> String {
    let said = output.text_lossy() + &output.stderr;
    let said: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    if said.is_empty() { format!("it says nothing ({})", output.status) } else { said.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_that_ends_without_a_word_is_told_by_its_end() {
        let root = tempfile::tempdir().unwrap();
        let entry = Entry::file("/etc/x.conf", 0o600, "x");
        let said = |script: &str| {
            let rule = format!("path = '/etc/x.conf'\ncomponent = 'x'\ncheck = ['sh', '-c', '{script}']");
            let rule: FileRule = toml::from_str(&rule).unwrap();
            check(root.path(), &rule, &entry).map_err(|error| error.to_string())
        };
        assert_eq!(said("true"), Ok(()));
        let silent = said("kill -TERM $$").unwrap_err();
        assert!(silent.starts_with("x does not accept what would become /etc/x.conf:"), "{silent}");
        assert!(silent.contains("signal: 15"), "{silent}");
        assert!(said("echo line 7; exit 1").unwrap_err().ends_with("line 7"));
    }
}
