//! `hanode docs`

use super::{Cli, print};
use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use hanode_core::spec;
use hanode_util::file_tree;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the manual pages, shell completions and the JSON schema of cluster.toml
///
/// `make install` installs them where man and the shells find them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode docs --out /tmp/docs
  man /tmp/docs/man1/hanode-build.1
  source /tmp/docs/bash-completion/completions/hanode")]
pub(crate) struct Docs {
    /// Directory to write into; created if missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl Docs {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let files = files()?;
        for (path, content) in &files {
            write(&self.out.join(path), content)?;
        }
        print(&format!("wrote {} files to {}", files.len(), self.out.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file is in a directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    file_tree::replace(path, content, 0o644, None)
}

/// Paths relative to /usr/share.
fn files() -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut files = Vec::new();
    manual(&program, &mut files)?;
    for (shell, path) in [
        (Shell::Bash, "bash-completion/completions/hanode"),
        (Shell::Zsh, "zsh/site-functions/_hanode"),
        (Shell::Fish, "fish/vendor_completions.d/hanode.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program, "hanode", &mut script);
        files.push((path.into(), script));
    }
    files.push(("hanode/cluster.schema.json".into(), spec::schema_text().into_bytes()));
    Ok(files)
}

/// Adds one page per verb: hanode-lab-up(1) for `hanode lab up`.
fn manual(command: &Command, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text)?.replace(".SH EXTRA\n", ".SH EXAMPLES\n");
    files.push((Path::new("man1").join(page.get_filename()), text.into_bytes()));
    let mut verbs = command.get_subcommands().filter(|v| !v.is_hide_set());
    verbs.try_for_each(|verb| manual(verb, files))
}
