//! Runs pgBackRest, which reads and writes the repository of the backups.
//!
//! On a node its settings are in /etc/pgbackrest/pgbackrest.conf; on the admin machine they are in the environment, so that no
//! file has the keys.

use anyhow::{Context, Result, bail};
use hanode_core::backup::{PartInfo, RdbCheck, damage, parse_info};
use hanode_util::command::{Captured, capture, command};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

/// What pgBackRest is started with.
pub struct PgBackRest {
    user: Option<(u32, u32)>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    /// The key of the repository.
    key: String,
}

impl PgBackRest {
    /// With the settings of this node, as this user and group.
    pub fn on_node(user: (u32, u32), key: String) -> PgBackRest {
        PgBackRest { user: Some(user), options: Vec::new(), environment: Vec::new(), key }
    }

    /// With the settings that begin with `repo1-` or are listed here, from the text of a node's pgbackrest.conf.
    pub fn with_settings(conf: &str, key: String) -> PgBackRest {
        let settings = conf.lines().filter_map(|line| line.split_once('='));
        let of_repository = settings.filter(|(name, _)| name.starts_with("repo1-") || *name == "io-timeout");
        let environment = of_repository.map(|(name, value)| (variable(name), value.to_string())).collect();
        let options = ["--no-config", "--log-level-file=off", "--log-level-console=off"];
        PgBackRest { user: None, options: options.map(String::from).to_vec(), environment, key }
    }

    /// Replaces a setting.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| *known != variable(name));
        self.environment.push((variable(name), value.into()));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command("pgbackrest");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.args(&self.options).args(arguments).current_dir("/").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command that must succeed.
    pub fn run(&self, arguments: &[&str]) -> Result<Captured> {
        successful(capture(&mut self.command(arguments))?)
    }

    pub fn info(&self) -> Result<BTreeMap<String, PartInfo>> {
        parse_info(&self.run(&["info", "--output=json"])?.stdout)
    }

    /// Stores a file under this path of the repository, encrypted like a backup.
    pub fn put(&self, path: &str, content: File) -> Result<()> {
        successful(capture(self.command(&["repo-put", path]).stdin(content))?).map(drop)
    }

    /// The files directly in this directory of the repository, with their sizes; empty if it does not exist.
    pub fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let output = self.run(&["repo-ls", "--output=json", dir])?;
        let found: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&output.stdout).context("pgBackRest's list of files cannot be parsed")?;
        let files = found.into_iter().filter(|(_, value)| value["type"] == "file");
        Ok(files.map(|(name, value)| (name, value["size"].as_u64().unwrap_or_default())).collect())
    }

    /// The files below this directory of the repository, with the times of their last change.
    pub fn list_all(&self, dir: &str) -> Result<BTreeMap<String, i64>> {
        let output = self.run(&["repo-ls", "--recurse", "--output=json", dir])?;
        let found: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&output.stdout).context("pgBackRest's list of files cannot be parsed")?;
        let files = found.into_iter().filter(|(_, value)| value["type"] == "file");
        Ok(files.map(|(name, value)| (name, value["time"].as_i64().unwrap_or_default())).collect())
    }

    /// The decrypted content of a file in the part of this stanza.
    pub fn read_archived(&self, stanza: &str, path: &str) -> Result<Vec<u8>> {
        let stanza = format!("--stanza={stanza}");
        Ok(self.run(&[&stanza, "repo-get", path])?.stdout)
    }

    /// Writes the decrypted content of a file outside the stanzas into `to`.
    pub fn fetch(&self, path: &str, to: File) -> Result<()> {
        let child =
            self.get(path).stdout(to).stderr(Stdio::piped()).spawn().context("starting pgBackRest")?;
        let output = child.wait_with_output()?;
        ended(output.status, &output.stderr)
    }

    /// Reads all backups and WAL of a stanza; returns what is damaged or missing.
    pub fn verify(&self, stanza: &str) -> Result<Vec<String>> {
        let stanza = format!("--stanza={stanza}");
        let options = [&stanza, "--output=text", "--verbose", "--log-level-stderr=info", "verify"];
        let output = capture(&mut self.command(&options))?;
        let result = output.text_lossy();
        if result.is_empty() {
            successful(output)?;
            bail!("pgBackRest: verify has no result");
        }
        Ok(damage(&result, &output.stderr))
    }

    /// Reads a snapshot of Redis to its end, keeping nothing of it; fails if it is damaged. Returns its size.
    pub fn check_snapshot(&self, path: &str) -> Result<u64> {
        let mut get = self.get(path);
        let mut child =
            get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting pgBackRest")?;
        let mut check = RdbCheck::default();
        let copied = std::io::copy(child.stdout.as_mut().context("no output")?, &mut check);
        let mut errors = Vec::new();
        child.stderr.as_mut().context("no output")?.read_to_end(&mut errors)?;
        ended(child.wait()?, &errors)?;
        copied?;
        check.finish()?;
        Ok(check.bytes())
    }

    /// pgBackRest knows the keys of stanzas only.
    fn get(&self, path: &str) -> Command {
        let mut command = self.command(&["repo-get", path]);
        command.env(variable("cipher-pass"), &self.key);
        command
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        self.run(&["repo-rm", path]).map(drop)
    }
}

/// The variable of the environment with which a setting is given.
fn variable(setting: &str) -> String {
    format!("PGBACKREST_{}", setting.to_ascii_uppercase().replace('-', "_"))
}

fn ended(status: ExitStatus, stderr: &[u8]) -> Result<()> {
    let stderr = String::from_utf8_lossy(stderr).into_owned();
    successful(Captured { status, stdout: Vec::new(), stderr }).map(drop)
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
