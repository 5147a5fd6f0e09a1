//! The runner of external programs: finds them, captures their output, and puts the end of their standard error
//! into the error.

use crate::user_error::UserError;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Programs whose Debian package has another name.
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
    ("psql", "postgresql-client"),
    ("sfdisk", "fdisk"),
    ("ssh-keygen", "openssh-client"),
];

/// The number of lines of standard error that an error shows.
const SHOWN_LINES: usize = 15;

/// The path of a program; also searches `sbin`, which may not be in PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|at| at.is_file())
}

/// Fails if any of the programs is missing; the error lists all of them and the packages to install.
pub fn require(names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> =
        missing.iter().map(|m| PACKAGES.iter().find(|(p, _)| p == m).map_or(*m, |(_, pkg)| pkg)).collect();
    packages.sort_unstable();
    packages.dedup();
    let what = format!("missing on this machine: {}", missing.join(", "));
    bail!(UserError::with_help(what, format!("apt-get install {}", packages.join(" "))))
}

/// Fails unless this program runs as root; `action` is what needs root.
pub fn require_root(action: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let what = format!("{action} needs root to set owners and create device files");
        bail!(UserError::with_help(what, "run it with sudo"));
    }
    Ok(())
}

/// A program of this machine, with messages in English regardless of the caller's locale.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// A program of the tree `root`, run with the tree as its `/`.
pub fn in_chroot(root: &Path, program: &str) -> Command {
    let mut command = command("chroot");
    command.arg(root).arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // Makes systemctl edit links only, without calling a running manager.
    command.env("SYSTEMD_OFFLINE", "1");
    command
}

/// Like [`in_chroot`], in new namespaces with a separate /proc: all its processes and mounts end with it.
pub fn in_isolated_chroot(root: &Path, program: &str) -> Command {
    let mut unshare = command("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child"]);
    unshare.arg(format!("--mount-proc={}", root.join("proc").display()));
    unshare.arg("chroot").arg(root).arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    unshare
}

/// The exit status and the output of a program that has ended.
#[derive(Debug)]
pub struct Captured {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Captured {
    /// Standard output, which has to be UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).context("output is not UTF-8")
    }

    /// Standard output with replacement characters for what is not UTF-8.
    pub fn text_lossy(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless the exit status is 0; `program` names the program in the error.
    fn successful(self, program: &str) -> Result<Captured> {
        if self.status.success() {
            return Ok(self);
        }
        let shown = tail(&self.stderr, SHOWN_LINES);
        let shown = shown.trim();
        let between = if shown.contains('\n') { "\n" } else { " " };
        bail!("{program} failed ({}):{between}{shown}", self.status)
    }
}

/// The file name of the program, without its directory.
fn name(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name();
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Runs the program to its end, whatever its exit status; an interruption of this program does not end it.
///
/// Standard input is empty unless the command sets one.
pub fn capture(command: &mut Command) -> Result<Captured> {
    let output = command.output().with_context(|| format!("starting {}", name(command)))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Captured { status: output.status, stdout: output.stdout, stderr })
}

/// Like [`capture`], for cleanup and other short work that must be complete: a failure is an error that shows the
/// program with its arguments, so none of them may be a secret.
pub fn run_to_end(command: &mut Command) -> Result<Captured> {
    let captured = capture(command)?;
    let arguments = command.get_args().map(|argument| format!(" {}", argument.to_string_lossy()));
    captured.successful(&format!("`{}{}`", name(command), arguments.collect::<String>()))
}

/// Runs the program until it ends, or until an interruption of this program ends it.
pub fn run(command: &mut Command) -> Result<Captured> {
    run_with_progress(command, |_| {})
}

/// Like [`run`]; calls `line` with each line of standard error as soon as it is complete.
pub fn run_with_progress(command: &mut Command, mut line: impl FnMut(&str)) -> Result<Captured> {
    let name = name(command);
    // In a new process group: Ctrl-C does not reach it directly, and `terminate` ends the whole group.
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
            terminate(&mut child);
            return Err(interrupted);
        }
    }
    let status = child.wait()?;
    let stdout = stdout.join().map_err(|_| anyhow::anyhow!("{name}: reading its output failed"))??;
    Captured { status, stdout, stderr }.successful(&name)
}

/// Sends SIGTERM to the child's process group, and SIGKILL if the child has not ended after 10 seconds.
fn terminate(child: &mut Child) {
    let group = Pid::from_raw(child.id() as i32);
    let _ = killpg(group, Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

/// The last `count` lines, preceded by the earlier lines that apt and dpkg mark as errors.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let (before, last) = lines.split_at(lines.len().saturating_sub(count));
    let dpkg = |at: usize| lines[at].starts_with("dpkg: error");
    // dpkg names the package in one line, and the error in the next.
    let marked = |at: &usize| lines[*at].starts_with("E: ") || dpkg(*at) || (*at > 0 && dpkg(at - 1));
    let marked = (0..before.len()).filter(marked).take(count).map(|at| lines[at]);
    marked.chain(last.iter().copied()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_error::report;

    fn sh(script: &str) -> Command {
        let mut sh = command("sh");
        sh.args(["-c", script]);
        sh
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = report(&require(&["sh", "no-such-tool"]).unwrap_err());
        assert_eq!(error, "error: missing on this machine: no-such-tool\nhelp: apt-get install no-such-tool");
    }

    #[test]
    fn a_failure_shows_the_end_of_standard_error() {
        let error = run(&mut sh("echo no space >&2; exit 3")).unwrap_err().to_string();
        assert_eq!(error, "sh failed (exit status: 3): no space");
        let error = run_to_end(&mut sh("seq 40 >&2; exit 3")).unwrap_err().to_string();
        let last: Vec<String> = (26..=40).map(|line| line.to_string()).collect();
        assert_eq!(
            error,
            format!("`sh -c seq 40 >&2; exit 3` failed (exit status: 3):\n{}", last.join("\n"))
        );
    }

    #[test]
    fn a_program_that_cannot_start_is_named() {
        for error in [capture(&mut command("no-such-tool")), run(&mut command("no-such-tool"))] {
            assert_eq!(error.unwrap_err().to_string(), "starting no-such-tool");
        }
    }

    #[test]
    fn marked_errors_are_shown_before_the_last_lines() {
        let text = format!("I: fetching\nE: Failed to fetch x\n{}", "   - SHA256:0\n".repeat(20));
        assert!(tail(&text, 15).starts_with("E: Failed to fetch x\n   - SHA256:0\n"), "{}", tail(&text, 15));
        let text =
            format!("dpkg: error processing package x\n its script failed\n{}", "and so on\n".repeat(20));
        assert!(tail(&text, 15).contains("x\n its script failed\n"), "{}", tail(&text, 15));
        assert_eq!(tail("one\ntwo\n", 15), "one\ntwo");
    }

    #[test]
    fn output_and_errors_are_captured_separately() {
        for captured in [run(&mut sh("echo out; echo err >&2")), capture(&mut sh("echo out; echo err >&2"))] {
            let captured = captured.unwrap();
            assert_eq!((captured.text().unwrap(), captured.stderr.as_str()), ("out\n", "err\n"));
        }
        assert_eq!(capture(&mut sh("exit 3")).unwrap().status.code(), Some(3));
    }
}
