//! `hanode docs`

use super::{Cli, Verdict, say};
use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use hanode_core::spec;
use hanode_util::file_tree;
use std::path::{Path, PathBuf};

/// Write the manual pages, shell completions and the schema of cluster.toml
///
/// They are made from the program itself. `make install` puts them where man and the shells look.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode docs --out /tmp/docs
  man /tmp/docs/man1/hanode-build.1
  source /tmp/docs/bash-completion/completions/hanode")]
pub(crate) struct Docs {
    /// The directory to write into; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl Docs {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let files = files()?;
        for (path, content) in &files {
            write(&self.out.join(path), content)?;
        }
        say(&format!("{}: {} files", self.out.display(), files.len()))?;
        Ok(Verdict::Well)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file is in a directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    file_tree::replace(path, content, 0o644, None)
}

/// Laid out as below /usr/share, the schema beside.
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

/// One page for each verb: hanode-lab-up(1) is `hanode lab up`.
fn manual(command: &Command, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text)?.replace(".SH EXTRA\n", ".SH EXAMPLES\n");
    files.push((Path::new("man1").join(page.get_filename()), text.into_bytes()));
    let mut verbs = command.get_subcommands().filter(|v| !v.is_hide_set());
    verbs.try_for_each(|verb| manual(verb, files))
}
