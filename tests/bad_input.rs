//! What goes wrong at the desk: each time a message that says what to do, exit status 1, and nothing changed.
//! Needs root, and the base that the image tests make.
#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, Ran, walk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HANODE: &str = env!("CARGO_BIN_EXE_hanode");

/// Every file with its content: what must be the same afterwards.
fn all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| (path.is_file()).then(|| (path.clone(), std::fs::read(&path).unwrap()));
    walk(dir).into_iter().filter_map(read).collect()
}

fn ran(command: &mut Command) -> Ran {
    let out = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) }
}

/// Fails with these words, and leaves everything below `dir` as it was.
#[track_caller]
fn refused(command: &mut Command, dir: &Path, words: &[&str]) {
    let before = all(dir);
    let ran = ran(command);
    assert_eq!(ran.code, 1, "{command:?}: {}{}", ran.out, ran.err);
    let told = ran.out + &ran.err;
    words.iter().for_each(|w| assert!(told.contains(w), "{w:?} is not in\n{told}"));
    assert!(all(dir) == before, "{command:?} changed something: {:?}", all(dir).keys());
}

fn hanode(desk: &Desk, words: &str) -> Command {
    let mut command = Command::new(HANODE);
    command.args(words.split_whitespace()).current_dir(desk.home.path());
    command
}

/// The same some days earlier or later, by the clock that the program sees.
fn at(days: &str, desk: &Desk, words: &str) -> Command {
    let mut command = Command::new("faketime");
    command.args(["-f", days, HANODE]).args(words.split_whitespace()).current_dir(desk.home.path());
    command
}

const BUILD: &str = "build demo --target debian-13 --out node.qcow2";

#[test]
fn certificates_out_of_their_time_and_a_wrong_clock() {
    let desk = Desk::new();
    let home = desk.home.path();
    let expired = ["expired", "hanode certs renew"];
    let early = ["is valid only from", "set this machine's clock right"];
    for verb in ["check demo", BUILD, "bake demo --target debian-13 --root ."] {
        refused(&mut at("+2000d", &desk, verb), home, &expired);
        refused(&mut at("-2d", &desk, verb), home, &early);
    }
}

#[test]
fn a_directory_that_does_not_fit_together_makes_no_image() {
    let desk = Desk::new();
    desk.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    let words = ["does not cover 192.168.18.33", "hanode certs issue", "a node booted with it would refuse"];
    refused(&mut hanode(&desk, BUILD), desk.home.path(), &words);
    desk.edit("cluster.toml", "[redis]", "[redsi]");
    refused(&mut hanode(&desk, BUILD), desk.home.path(), &["unknown key redsi", "did you mean redis?"]);
    let bundle = desk.path("bundle.tar.gz");
    std::fs::write(&bundle, &std::fs::read(&bundle).unwrap()[..1000]).unwrap();
    refused(&mut hanode(&desk, "check demo"), desk.home.path(), &["truncated", "certs issue"]);
}

#[test]
fn a_seed_is_not_made_of_what_cannot_work() {
    let desk = Desk::new();
    let home = desk.home.path();
    let seed = |words: &str| hanode(&desk, &format!("seed demo --node node1 --out node1.iso {words}"));
    for name in ["52-54-00-00-00-01", "52:54:00:00:00:1", "", "eth 0"] {
        let ran = ran(seed("").args(["--interface", name]));
        assert!(ran.code == 2 && ran.err.contains("52:54:00:00:00:01"), "{name:?}: {}", ran.err);
    }
    std::fs::write(home.join("key"), "-----BEGIN OPENSSH PRIVATE KEY-----\nhush\n").unwrap();
    refused(&mut seed("--ssh-key key"), home, &["key is a private key", "key.pub"]);
    refused(&mut seed("--interface eth0 --gateway 10.0.0.1"), home, &["10.0.0.1", "192.168.18.0/24"]);
    desk.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    refused(&mut seed("--bundle"), home, &["does not cover 192.168.18.33", "hanode certs issue"]);
    assert_eq!(ran(&mut seed("")).code, 0, "names alone take no certificates");
}

#[test]
fn a_bake_leaves_no_authority_in_the_tree() {
    let desk = Desk::new();
    let words = ["demo/pki/service/ca.key", "cluster.toml, secrets.toml and bundle.tar.gz alone"];
    refused(&mut hanode(&desk, "bake demo --target debian-13 --root ."), desk.home.path(), &words);
}

/// A file system of a size and kind, gone with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, options: &str) -> Mounted {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        assert!(mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&at).status().unwrap().success());
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.0).status();
        assert!(gone.is_ok_and(|s| s.success()) || std::thread::panicking(), "umount {}", self.0.display());
    }
}

#[test]
fn a_full_disk() {
    let desk = Desk::new();
    let small = Mounted::new(desk.home.path().join("small"), "size=2m");
    for verb in [
        "build demo --target debian-13 --out small/node.qcow2",
        "build demo --target debian-13 --out small/node.tar",
    ] {
        refused(&mut hanode(&desk, verb), desk.home.path(), &["small", "No space left"]);
    }
    std::fs::write(small.0.join("filler"), vec![0; 3 << 20]).unwrap_err();
    refused(&mut hanode(&desk, "init small/new"), desk.home.path(), &["small", "No space left"]);
    refused(&mut hanode(&desk, "seed demo --node node1 --out small/node1.iso"), desk.home.path(), &["small"]);
    refused(&mut hanode(&desk, "docs --out small/docs"), &small.0, &["small/docs", "No space left"]);
    // A cluster directory on a full disk stays what it was.
    std::fs::remove_file(small.0.join("filler")).unwrap();
    assert_eq!(ran(&mut hanode(&desk, "init small/own")).code, 0);
    std::fs::write(small.0.join("filler"), vec![0; 3 << 20]).unwrap_err();
    assert_eq!(ran(&mut hanode(&desk, "certs renew small/own")).code, 1);
    std::fs::remove_file(small.0.join("filler")).unwrap();
    assert_eq!(ran(&mut hanode(&desk, "certs issue small/own")).code, 0);
    assert_eq!(ran(&mut hanode(&desk, "check small/own")).code, 0);
}

#[test]
fn a_read_only_file_system() {
    let desk = Desk::new();
    let place = Mounted::new(desk.home.path().join("place"), "size=16m");
    assert_eq!(ran(&mut hanode(&desk, "init place/own")).code, 0);
    let remount = ["-o", "remount,ro"];
    assert!(Command::new("mount").args(remount).arg(&place.0).status().unwrap().success());
    for verb in [
        "init place/new",
        "certs renew place/own",
        "build demo --target debian-13 --out place/node.qcow2",
        "seed demo --node node1 --out place/node1.iso",
        "render demo --target debian-13 --node node1 --out place/tree",
        "docs --out place/docs",
    ] {
        refused(&mut hanode(&desk, verb), desk.home.path(), &["place", "Read-only file system"]);
    }
    assert_eq!(ran(&mut hanode(&desk, "check place/own")).code, 0, "looking needs no writing");
}

#[test]
fn a_missing_tool_and_no_root() {
    let desk = Desk::new();
    let words = ["missing on this machine: cp, qemu-img; apt-get install coreutils qemu-utils"];
    refused(hanode(&desk, BUILD).env("PATH", "/nowhere"), desk.home.path(), &words);

    // An ordinary user, with programs he can reach and no base in his cache.
    let home = tempfile::tempdir_in("/tmp").unwrap();
    let at = |name: &str| home.path().join(name);
    for name in ["hanode", "hanode-firstboot"] {
        std::fs::copy(Path::new(HANODE).with_file_name(name), at(name)).unwrap();
    }
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(home.path()).status().unwrap().success());
    let user = |words: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(at("hanode"));
        command.args(words.split_whitespace()).current_dir(home.path());
        command.env("HOME", home.path()).env_remove("XDG_CACHE_HOME");
        command
    };
    assert_eq!(ran(&mut user("init demo")).code, 0, "a cluster directory takes no root");
    std::fs::write(at("x.tar"), "an image").unwrap();
    for verb in [BUILD, "lab up demo --image x.tar"] {
        refused(&mut user(verb), home.path(), &["root"]);
    }
}

/// Names in a directory, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Struck by a signal after so long; its exit code, if it had the time to have one.
fn struck(desk: &Desk, words: &str, signal: Signal, after: Duration) -> Option<i32> {
    signalled(&mut hanode(desk, words), signal, after)
}

fn signalled(command: &mut Command, signal: Signal, after: Duration) -> Option<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
    child.wait().unwrap().code()
}

#[test]
fn a_build_may_be_interrupted_or_killed_at_any_moment() {
    let desk = Desk::new();
    let home = desk.home.path();
    let mut interrupted = 0;
    for (out, step) in [("node.qcow2", 300), ("node.tar", 150)] {
        let build = format!("build demo --target debian-13 --out {out}");
        for moment in 0..5 {
            let after = Duration::from_millis(moment * step + 20);
            let code = struck(&desk, &build, Signal::SIGINT, after);
            let left = names(home);
            match code {
                Some(130) => assert_eq!(left, ["demo"], "after {after:?}"),
                // Struck before it listened for signals, or done already.
                None => assert_eq!(left, ["demo"], "after {after:?}"),
                Some(0) => std::fs::remove_file(home.join(out)).unwrap(),
                other => panic!("{other:?} after {after:?}"),
            }
            interrupted += usize::from(code == Some(130));
            struck(&desk, &build, Signal::SIGKILL, after);
            let _ = std::fs::remove_file(home.join(out));
        }
        assert_eq!(ran(&mut hanode(&desk, &build)).code, 0);
        assert_eq!(names(home), ["demo", out], "what the killed ones left is still there");
        std::fs::remove_file(home.join(out)).unwrap();
    }
    assert!(interrupted >= 3, "nearly every build was over before it was struck");
    desk.done("check demo");
}

/// On a network of its own where nobody answers, so that it waits.
const ALONE: &str = "ip link add lan type bridge && ip address add 192.168.18.5/24 dev lan && ip link set lan up && exec \"$@\"";

#[test]
fn who_only_looks_ends_at_the_first_interrupt() {
    let desk = Desk::new();
    for words in ["status demo", "plan demo --node node2"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut alone = Command::new("unshare");
            alone.args(["-n", "sh", "-c", ALONE, "sh", HANODE]).args(words.split_whitespace());
            let begun = Instant::now();
            let code = signalled(alone.current_dir(desk.home.path()), signal, Duration::from_secs(1));
            let took = begun.elapsed();
            assert!(
                code == Some(130) && took < Duration::from_millis(1500),
                "{words}: {code:?} after {took:?}"
            );
        }
    }
}

#[test]
fn an_init_may_be_killed_at_any_moment() {
    let desk = Desk::new();
    let home = desk.home.path();
    for moment in 0..20 {
        let signal = if moment % 2 == 0 { Signal::SIGKILL } else { Signal::SIGINT };
        struck(&desk, "init new", signal, Duration::from_millis(3 * moment));
        // There or not, never half.
        if !home.join("new").exists() {
            desk.done("init new");
        }
        assert_eq!(desk.hanode("check new").code, 0);
        std::fs::remove_dir_all(home.join("new")).unwrap();
    }
    desk.done("init new");
    assert_eq!(names(home), ["demo", "new"]);
}
