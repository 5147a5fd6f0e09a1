//! Runs a program to its end or interrupts it, and lists the files it leaves.

use super::admin_dir::{Finished, walk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn run(command: &mut Command) -> Finished {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Finished { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The command fails, its output contains these words, and no file below `dir` changes.
#[track_caller]
pub fn assert_refused(command: &mut Command, dir: &Path, words: &[&str]) {
    let before = contents(dir);
    let finished = run(command);
    let output = finished.out + &finished.err;
    assert_eq!(finished.code, 1, "{command:?}: {output}");
    words.iter().for_each(|word| assert!(output.contains(word), "{word:?} is not in\n{output}"));
    let after = contents(dir);
    assert!(after == before, "{command:?} changed something: {:?}", after.keys());
}

/// Every file below a directory with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walk(dir).into_iter().filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(&path).expect("a readable file"))).collect()
}

/// Names in a directory, hidden ones too.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Sends a signal to the program after this time. Returns its exit code, or `None` if a signal ended it.
pub fn signal_after(after: Duration, command: &mut Command, signal: Signal) -> Option<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(after);
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
    child.wait().expect("it ends").code()
}
