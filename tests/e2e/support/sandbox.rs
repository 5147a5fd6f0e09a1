//! Runs a script in a temporary copy of a distribution's tree, in a new network namespace. Needs root.

use crate::cases::address;
use hanode_util::file_tree::{self, Entry, Ids};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const HELPERS: &str = include_str!("../../validators/helpers.sh");

/// Writes `entries` and `hanode-firstboot` over a tree, runs the script in it, and returns its output.
pub fn sandboxed(tree: &Path, program: &[u8], entries: &[Entry], script: &str) -> String {
    let _turn = super::schedule::concurrent();
    let dir = tempfile::Builder::new().prefix("hanode-validate-").tempdir().expect("a temporary directory");
    for part in ["upper", "work", "root"] {
        std::fs::create_dir(dir.path().join(part)).expect("a directory");
    }
    let upper = dir.path().join("upper");
    let ids = Ids::read(tree).expect("the tree's users");
    file_tree::write(&upper, entries, Some(&ids)).expect("writing the rendered files");
    let program = Entry::file("/usr/lib/hanode/hanode-firstboot", 0o755, program);
    file_tree::write(&upper, &[program], Some(&ids)).expect("writing the program");

    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validators/sandbox.sh"))
        .args([tree.as_os_str(), dir.path().as_os_str()])
        .args([1, 2, 3, 4, 5, 0].map(|n| address(n).to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let script = format!("exec 2>&1\n{HELPERS}\n{script}");
    stdin.write_all(script.as_bytes()).expect("the script goes in");
    drop(stdin);
    let output = child.wait_with_output().expect("the sandbox ends");
    let stdout =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stdout.contains("CHECKED"), "{}\n{stdout}", output.status);
    println!("{stdout}");
    stdout
}
