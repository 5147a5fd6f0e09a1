//! Host programs the image is made with, run so that an interruption ends them too.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Program and the Debian package it comes in, where that has another name.
const PACKAGES: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("ip", "iproute2"),
    ("systemd-nspawn", "systemd-container"),
    ("cp", "coreutils"),
    ("chroot", "coreutils"),
    ("sgdisk", "gdisk"),
    ("mkfs.vfat", "dosfstools"),
    ("mmd", "mtools"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
];

/// Where a program lies; `sbin` counts even if the caller's PATH lacks it.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|at| at.is_file())
}

/// Fails with everything that is missing at once, and with what to install.
pub fn need(names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> =
        missing.iter().map(|m| PACKAGES.iter().find(|(p, _)| p == m).map_or(*m, |(_, pkg)| pkg)).collect();
    packages.sort_unstable();
    packages.dedup();
    bail!("missing on this machine: {}; apt-get install {}", missing.join(", "), packages.join(" "))
}

pub fn need_root(to_do: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{to_do} needs root: owners and device files have to be set; run it with sudo");
    }
    Ok(())
}

/// A host program, messages in plain English whatever the operator's locale.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// A program of the tree itself, run with the tree as its `/`.
pub fn inside(root: &Path, program: &str) -> Command {
    let mut command = command("chroot");
    command.arg(root).arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // Where the tree is the running system, systemctl still only edits links: its manager need not hear of it.
    command.env("SYSTEMD_OFFLINE", "1");
    command
}

/// The same with a /proc, in namespaces of its own: whatever it starts and mounts is gone with it.
pub fn isolated(root: &Path, program: &str) -> Command {
    let mut unshare = command("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child"]);
    unshare.arg(format!("--mount-proc={}", root.join("proc").display()));
    unshare.arg("chroot").arg(root).arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    unshare
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Said {
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).context("output is not UTF-8")
    }
}

/// Runs to the end; a failure carries the last lines of what the program said.
pub fn run(command: &mut Command) -> Result<Said> {
    watch(command, |_| {})
}

/// Like [`run`]; `line` sees each line of standard error as it comes.
pub fn watch(command: &mut Command, mut line: impl FnMut(&str)) -> Result<Said> {
    let name = Path::new(command.get_program())
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    // A process group of its own: Ctrl-C reaches it through us, and all of it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let (Some(mut out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("{name}: no pipes");
    };
    let stdout = std::thread::spawn(move || {
        let mut all = Vec::new();
        out.read_to_end(&mut all).map(|_| all)
    });
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for chunk in BufReader::new(err).split(b'\n').map_while(|chunk| chunk.ok()) {
            let _ = sender.send(String::from_utf8_lossy(&chunk).into_owned());
        }
    });
    let mut stderr = String::new();
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(text) => {
                line(&text);
                stderr += &text;
                stderr.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(interrupted) = crate::interrupt::check() {
            end(&mut child);
            return Err(interrupted);
        }
    }
    let status = child.wait()?;
    let stdout = stdout.join().map_err(|_| anyhow::anyhow!("{name}: reading its output failed"))??;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", tail(&stderr, 15));
    }
    Ok(Said { stdout, stderr })
}

/// Asks a process group to end, and does not ask twice.
fn end(child: &mut Child) {
    let group = Pid::from_raw(child.id() as i32);
    let _ = killpg(group, Signal::SIGTERM);
    let patience = Instant::now() + Duration::from_secs(10);
    while Instant::now() < patience {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

/// The last lines; and of those before them what apt and dpkg call an error, which much may follow.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(count));
    let dpkg = |at: usize| lines[at].starts_with("dpkg: error");
    // dpkg says in one line of which package it speaks, and in the next what happened.
    let telling = |at: &usize| lines[*at].starts_with("E: ") || dpkg(*at) || (*at > 0 && dpkg(at - 1));
    let telling = (0..before.len()).filter(telling).take(count).map(|at| lines[at]);
    telling.chain(last.iter().copied()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let said = need(&["sh", "no-such-tool"]).unwrap_err().to_string();
        assert_eq!(said, "missing on this machine: no-such-tool; apt-get install no-such-tool");
    }

    #[test]
    fn a_failure_carries_the_last_words() {
        let failed = run(command("sh").args(["-c", "echo no space >&2; exit 3"])).unwrap_err().to_string();
        assert!(failed.contains("no space") && failed.contains("exit status: 3"), "{failed}");
    }

    #[test]
    fn an_error_is_told_though_much_follows_it() {
        let said = format!("I: fetching\nE: Failed to fetch x\n{}", "   - SHA256:0\n".repeat(20));
        assert!(tail(&said, 15).starts_with("E: Failed to fetch x\n   - SHA256:0\n"), "{}", tail(&said, 15));
        let said =
            format!("dpkg: error processing package x\n its script failed\n{}", "and so on\n".repeat(20));
        assert!(tail(&said, 15).contains("x\n its script failed\n"), "{}", tail(&said, 15));
        assert_eq!(tail("one\ntwo\n", 15), "one\ntwo");
    }

    #[test]
    fn output_and_errors_are_kept_apart() {
        let said = run(command("sh").args(["-c", "echo out; echo err >&2"])).unwrap();
        assert_eq!((said.stdout.as_slice(), said.stderr.as_str()), (b"out\n".as_slice(), "err\n"));
    }
}
