//! The components' own validators, run on a configuration before it is written.

use anyhow::{Result, bail};
use hanode_core::render::Rendered;
use hanode_core::spec::Spec;
use hanode_core::target::Target;
use hanode_util::command::{Captured, capture};
use hanode_util::file_tree::{EntryKind, below};
use hanode_util::safe_path::SafeTree;
use std::path::Path;
use std::process::Command;

const STAGING_DIR: &str = "/run/hanode/check";

/// Runs the rule's validator on a copy of the content.
pub(super) fn check(root: &Path, Rendered { entry, rule }: &Rendered) -> Result<()> {
    let (Some((program, arguments)), EntryKind::File(content)) = (rule.check.split_first(), &entry.kind)
    else {
        return Ok(());
    };
    let component = rule.component.map_or(program.as_str(), |component| component.key());
    let (tree, path) = (SafeTree::open(root)?, format!("{STAGING_DIR}/{component}"));
    tree.replace(&path, content, 0o600, None)?;
    let file = below(root, &path);
    let arguments = arguments.iter().map(|a| a.replace("{file}", &file.to_string_lossy()));
    let output = capture(Command::new(program).args(arguments))?;
    tree.remove_file(&path)?;
    if !output.status.success() {
        bail!("{component} does not accept the new {}: {}", entry.path, in_one_line(&output));
    }
    Ok(())
}

/// Has the installed PostgreSQL check the names and values of the operator's parameters. It does not check
/// names with a dot, which belong to extensions, nor the libraries to preload, whose files must exist.
pub(super) fn parameters(root: &Path, target: &Target, spec: &Spec) -> Result<()> {
    libraries(root, target, spec)?;
    let parameters = &spec.postgres.parameters;
    let (tree, staging) = (SafeTree::open(root)?, format!("{STAGING_DIR}/postgres"));
    let quoted = |value: &String| value.replace('\\', "\\\\").replace('\'', "''");
    let lines: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name} = '{}'\n", quoted(value))).collect();
    tree.replace(format!("{staging}/postgresql.conf"), lines.concat().as_bytes(), 0o600, None)?;
    let server = format!("{}/postgres", target.path("postgres_bin")?);
    // The server parses the whole file before it prints this value.
    let output =
        capture(Command::new(&server).args(["-C", "max_connections", "-D"]).arg(below(root, &staging)))?;
    tree.remove_dir_all(&staging)?;
    if !output.status.success() {
        bail!("PostgreSQL rejects [postgres.parameters]: {}", in_one_line(&output));
    }
    Ok(())
}

fn libraries(root: &Path, target: &Target, spec: &Spec) -> Result<()> {
    let dir = target.postgres_libraries()?;
    let exists = |path: &str| match path.starts_with('/') {
        true => below(root, path).exists(),
        false => below(root, &format!("{dir}/{path}")).exists(),
    };
    match spec.preloaded_libraries().into_iter().find(|library| !library.is_found(exists)) {
        Some(missing) => bail!("[postgres.parameters]: PostgreSQL has no library {missing}"),
        None => Ok(()),
    }
}

/// The output in one line, for the console and state.json.
fn in_one_line(output: &Captured) -> String {
    let text = output.text_lossy() + &output.stderr;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() { format!("no output ({})", output.status) } else { lines.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::target::FileRule;
    use hanode_util::file_tree::Entry;

    #[test]
    fn a_validator_without_output_is_reported_by_its_exit_status() {
        let root = tempfile::tempdir().unwrap();
        let entry = Entry::file("/etc/x.conf", 0o600, "x");
        let run = |script: &str| {
            let rule = format!("path = '/etc/x.conf'\ncomponent = 'redis'\ncheck = ['sh', '-c', '{script}']");
            let rule: FileRule = toml::from_str(&rule).unwrap();
            check(root.path(), &Rendered { entry: entry.clone(), rule: &rule })
                .map_err(|error| error.to_string())
        };
        assert_eq!(run("true"), Ok(()));
        let killed = run("kill -TERM $$").unwrap_err();
        assert!(killed.starts_with("redis does not accept the new /etc/x.conf:"), "{killed}");
        assert!(killed.contains("signal: 15"), "{killed}");
        assert!(run("echo line 7; exit 1").unwrap_err().ends_with("line 7"));
    }
}
