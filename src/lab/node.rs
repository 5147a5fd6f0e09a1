//! The hidden verb `hanode lab-node supervise|boot DIR NODE`, which `Lab::start` runs detached.
//!
//! *supervise* runs as long as the node and writes its console to a file of bounded size. *boot*, its child, enters the
//! node's mounts, control group and network, and executes systemd-nspawn or QEMU there.

use super::process::Process;
use super::{Lab, cgroup, layout};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A larger console file is rotated; one old file is kept.
const CONSOLE_LIMIT: u64 = 1 << 20;

pub fn main(role: &str, dir: &Path, node: &str) -> Result<()> {
    let lab = Lab::open(dir)?;
    lab.node(node)?;
    match role {
        "supervise" => supervise(&lab, node),
        "boot" => Err(boot(&lab, node)?).with_context(|| format!("starting {node}")),
        _ => bail!("unknown role {role:?}: expected supervise or boot"),
    }
}

fn supervise(lab: &Lab, node: &str) -> Result<()> {
    let mut console = Console::open(lab.console(node))?;
    let (mut output, input) = std::io::pipe()?;
    let mut boot = cgroup::in_scope(&lab.group(node), &lab.program);
    boot.args(["lab-node", "boot"]).arg(&lab.dir).arg(node).stdin(Stdio::null());
    boot.stdout(input.try_clone()?).stderr(input);
    let mut child = boot.spawn().context("starting the node's process")?;
    // Close our write end of the pipe, so that reading ends with the child.
    drop(boot);
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            n => console.write(&buffer[..n])?,
        }
    }
    child.wait()?;
    Ok(())
}

struct Console {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Console {
    fn open(path: PathBuf) -> Result<Console> {
        let file = File::options().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Console { path, file, bytes })
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        if self.bytes > CONSOLE_LIMIT {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Console::open(self.path.clone())?;
        }
        self.file.write_all(text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Returns only if the program could not be executed.
fn boot(lab: &Lab, node: &str) -> Result<std::io::Error> {
    layout::write(&lab.node_dir(node).join("process.json"), &Process::current()?)?;
    Ok(lab.layout.machine().boot_command(lab, node)?.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut console = Console::open(dir.path().join("console.log")).unwrap();
        let line = [b'x'; 4096];
        for _ in 0..5 * CONSOLE_LIMIT / 4096 {
            console.write(&line).unwrap();
        }
        let sizes: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|s| *s <= CONSOLE_LIMIT + 4096), "{sizes:?}");
    }
}
