//! The components' own offline checkers, on a configuration before it is laid down.

use crate::target::FileRule;
use crate::tree::{Entry, Kind, below, replace};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

const STAGE: &str = "/run/hanode/check";

/// Runs the rule's checker on the content where it cannot be mistaken for the live file.
pub fn check(root: &Path, rule: &FileRule, entry: &Entry) -> Result<()> {
    let (Some((program, arguments)), Kind::File(content)) = (rule.check.split_first(), &entry.kind) else {
        return Ok(());
    };
    let stage = below(root, STAGE);
    std::fs::create_dir_all(&stage)?;
    let file = stage.join(rule.component.as_deref().unwrap_or("file"));
    replace(&file, content, 0o600, None)?;
    let arguments = arguments.iter().map(|a| a.replace("{file}", &file.to_string_lossy()));
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    std::fs::remove_file(&file)?;
    if !output.status.success() {
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // One line: this goes to the console and into state.json.
        let said: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        bail!("{program} does not accept what would become {}: {}", entry.path, said.join(" | "));
    }
    Ok(())
}
