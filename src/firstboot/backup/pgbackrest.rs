//! Runs pgBackRest as PostgreSQL's user; its settings are in /etc/pgbackrest/pgbackrest.conf.

use crate::node::NodeContext;
use anyhow::{Context, Result, bail};
use hanode_core::backup::{PartInfo, parse_info};
use hanode_util::command::{Captured, capture};
use hanode_util::file_tree::Ids;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub(crate) struct PgBackRest<'a> {
    node: &'a NodeContext,
    user: (u32, u32),
}

impl<'a> PgBackRest<'a> {
    pub(crate) fn new(node: &'a NodeContext) -> Result<PgBackRest<'a>> {
        let (ids, user) = (Ids::read(node.root())?, "postgres");
        Ok(PgBackRest { node, user: (ids.uid(user)?, ids.gid(user)?) })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("pgbackrest");
        command.args(arguments).uid(self.user.0).gid(self.user.1).current_dir("/").stdin(Stdio::null());
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// A command that works on this node's PostgreSQL.
    fn on_postgres(&self, stanza: &str, arguments: &[&str]) -> Result<Captured> {
        let paths = |name: &str| self.node.target().path(name);
        let options = [
            format!("--stanza={stanza}"),
            format!("--pg1-path={}", paths("postgres_data")?),
            format!("--pg1-socket-path={}", paths("postgres_run")?),
            format!("--pg1-port={}", self.node.spec().postgres.port),
            "--pg1-user=admin".to_string(),
            "--pg1-database=postgres".to_string(),
        ];
        let options: Vec<&str> =
            options.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        successful(capture(&mut self.command(&options))?)
    }

    /// Succeeds if it exists already.
    pub(super) fn create_stanza(&self, stanza: &str) -> Result<()> {
        self.on_postgres(stanza, &["stanza-create"]).map(drop)
    }

    pub(super) fn back_up(&self, stanza: &str, kind: &str) -> Result<()> {
        let arguments = [&format!("--type={kind}"), "--log-level-stderr=info", "backup"];
        let output = self.on_postgres(stanza, &arguments)?;
        output.stderr.lines().for_each(|line| tracing::info!("{}", line.trim()));
        Ok(())
    }

    pub(crate) fn info(&self) -> Result<BTreeMap<String, PartInfo>> {
        parse_info(&successful(capture(&mut self.command(&["info", "--output=json"]))?)?.stdout)
    }

    /// Stores a file under this path of the repository, encrypted like a backup.
    pub(super) fn put(&self, path: &str, content: File) -> Result<()> {
        successful(capture(self.command(&["repo-put", path]).stdin(content))?).map(drop)
    }

    /// The files directly in this directory of the repository, with their sizes; empty if it does not exist.
    pub(crate) fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let output = successful(capture(&mut self.command(&["repo-ls", "--output=json", dir]))?)?;
        let found: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&output.stdout).context("pgBackRest's list of files cannot be parsed")?;
        let files = found.into_iter().filter(|(_, value)| value["type"] == "file");
        Ok(files.map(|(name, value)| (name, value["size"].as_u64().unwrap_or_default())).collect())
    }

    /// The files below this directory of the repository, with the times of their last change.
    pub(crate) fn list_all(&self, dir: &str) -> Result<BTreeMap<String, i64>> {
        let output =
            successful(capture(&mut self.command(&["repo-ls", "--recurse", "--output=json", dir]))?)?;
        let found: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&output.stdout).context("pgBackRest's list of files cannot be parsed")?;
        let files = found.into_iter().filter(|(_, value)| value["type"] == "file");
        Ok(files.map(|(name, value)| (name, value["time"].as_i64().unwrap_or_default())).collect())
    }

    /// The decrypted content of a file in the part of this stanza.
    pub(crate) fn read_archived(&self, stanza: &str, path: &str) -> Result<Vec<u8>> {
        let stanza = format!("--stanza={stanza}");
        Ok(successful(capture(&mut self.command(&[&stanza, "repo-get", path]))?)?.stdout)
    }

    /// Writes the decrypted content of a file outside the stanzas into `to`.
    pub(crate) fn fetch(&self, path: &str, to: File) -> Result<()> {
        let mut command = self.command(&["repo-get", path]);
        // pgBackRest knows the keys of stanzas only.
        let key = &self.node.config.bundle.secrets.backup_key;
        command.env("PGBACKREST_CIPHER_PASS", key.as_ref().context("the secrets have no backup_key")?);
        let child = command.stdout(to).stderr(Stdio::piped()).spawn().context("starting pgBackRest")?;
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        successful(Captured { status: output.status, stdout: Vec::new(), stderr }).map(drop)
    }

    pub(super) fn remove(&self, path: &str) -> Result<()> {
        successful(capture(&mut self.command(&["repo-rm", path]))?).map(drop)
    }
}

fn successful(output: Captured) -> Result<Captured> {
    match output.status.success() {
        true => Ok(output),
        false => bail!("pgBackRest: {}", error_in(&output.stderr, &output.status.to_string())),
    }
}

/// The first error of pgBackRest's messages, in one line.
fn error_in(messages: &str, status: &str) -> String {
    let start = messages.find("ERROR: ").map(|at| &messages[at + "ERROR: ".len()..]);
    let lines = start.unwrap_or(messages).lines().map(str::trim).take_while(|line| !line.contains("INFO: "));
    let text = lines.filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>().join(" ");
    if text.is_empty() { status.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_one_line_with_its_hints() {
        let text =
            "WARN: x\nERROR: [056]: unable to find primary cluster\n       HINT: is PostgreSQL running?\n";
        assert_eq!(error_in(text, "1"), "[056]: unable to find primary cluster HINT: is PostgreSQL running?");
        assert_eq!(error_in("", "exit status: 1"), "exit status: 1");
    }
}
