//! Errors on the admin machine that need root or further programs to test: a wrong clock, full and read-only file systems,
//! missing programs, an interrupted build. Each has a message with the remedy, exit code 1, and changes nothing.

use crate::common::admin_dir::AdminDir;
use crate::common::command::{assert_refused, names, run, signal_after};
use crate::common::programs::{HANODE, firstboot_program};
use crate::support::schedule;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const BUILD: &str = "build demo --target debian-13 --out node.qcow2";

/// `hanode` with the clock set some days forward or back.
fn at(days: &str, admin: &AdminDir, words: &str) -> Command {
    let mut command = Command::new("faketime");
    command.args(["-f", days, HANODE]).args(words.split_whitespace()).current_dir(admin.home.path());
    command
}

#[test]
fn expired_certificates_and_a_wrong_clock_are_refused() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    let home = admin.home.path();
    let expired = ["expired", "hanode certs renew"];
    let early = ["is not valid before", "correct this machine's clock"];
    for verb in ["check demo", BUILD, "bake demo --target debian-13 --root ."] {
        assert_refused(&mut at("+2000d", &admin, verb), home, &expired);
        assert_refused(&mut at("-2d", &admin, verb), home, &early);
    }
}

/// A mounted tmpfs, unmounted on drop.
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
fn a_full_disk_is_reported() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    let small = Mounted::new(admin.home.path().join("small"), "size=2m");
    for verb in [
        "build demo --target debian-13 --out small/node.qcow2",
        "build demo --target debian-13 --out small/node.tar",
    ] {
        assert_refused(&mut admin.command(verb), admin.home.path(), &["small", "No space left"]);
    }
    std::fs::write(small.0.join("filler"), vec![0; 3 << 20]).unwrap_err();
    assert_refused(&mut admin.command("init small/new"), admin.home.path(), &["small", "No space left"]);
    assert_refused(
        &mut admin.command("seed demo --node node1 --out small/node1.iso"),
        admin.home.path(),
        &["small"],
    );
    assert_refused(&mut admin.command("docs --out small/docs"), &small.0, &["small/docs", "No space left"]);
    // A cluster directory on a full disk is not changed.
    std::fs::remove_file(small.0.join("filler")).unwrap();
    assert_eq!(run(&mut admin.command("init small/own")).code, 0);
    std::fs::write(small.0.join("filler"), vec![0; 3 << 20]).unwrap_err();
    assert_eq!(run(&mut admin.command("certs renew small/own")).code, 1);
    std::fs::remove_file(small.0.join("filler")).unwrap();
    assert_eq!(run(&mut admin.command("certs issue small/own")).code, 0);
    assert_eq!(run(&mut admin.command("check small/own")).code, 0);
}

#[test]
fn a_read_only_file_system_is_reported() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    let place = Mounted::new(admin.home.path().join("place"), "size=16m");
    assert_eq!(run(&mut admin.command("init place/own")).code, 0);
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
        assert_refused(&mut admin.command(verb), admin.home.path(), &["place", "Read-only file system"]);
    }
    assert_eq!(run(&mut admin.command("check place/own")).code, 0, "a check writes nothing");
}

#[test]
fn missing_programs_and_missing_root_are_reported() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    let words = ["missing on this machine: cp, qemu-img", "help: apt-get install coreutils qemu-utils"];
    assert_refused(admin.command(BUILD).env("PATH", "/nowhere"), admin.home.path(), &words);

    // An ordinary user, with both programs and no base in the cache.
    let home = tempfile::tempdir_in("/tmp").unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::copy(HANODE, at("hanode")).unwrap();
    std::fs::copy(firstboot_program(), at("hanode-firstboot")).unwrap();
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(home.path()).status().unwrap().success());
    let user = |words: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(at("hanode"));
        command.args(words.split_whitespace()).current_dir(home.path());
        command.env("HOME", home.path()).env_remove("XDG_CACHE_HOME");
        command
    };
    assert_eq!(run(&mut user("init demo")).code, 0, "init needs no root");
    std::fs::write(at("x.tar"), "an image").unwrap();
    for verb in [BUILD, "lab up demo --image x.tar"] {
        assert_refused(&mut user(verb), home.path(), &["root"]);
    }
}

#[test]
fn an_interrupted_or_killed_build_leaves_nothing_behind() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    let home = admin.home.path();
    let mut interrupted = 0;
    for (out, step) in [("node.qcow2", 300), ("node.tar", 150)] {
        let build = format!("build demo --target debian-13 --out {out}");
        for moment in 0..5 {
            let after = Duration::from_millis(moment * step + 20);
            let code = signal_after(after, &mut admin.command(&build), Signal::SIGINT);
            let left = names(home);
            match code {
                Some(130) => assert_eq!(left, ["demo"], "after {after:?}"),
                // Interrupted before it handled signals, or already finished.
                None => assert_eq!(left, ["demo"], "after {after:?}"),
                Some(0) => std::fs::remove_file(home.join(out)).unwrap(),
                other => panic!("{other:?} after {after:?}"),
            }
            interrupted += usize::from(code == Some(130));
            signal_after(after, &mut admin.command(&build), Signal::SIGKILL);
            let _ = std::fs::remove_file(home.join(out));
        }
        assert_eq!(run(&mut admin.command(&build)).code, 0);
        assert_eq!(names(home), ["demo", out], "files of killed builds remain");
        std::fs::remove_file(home.join(out)).unwrap();
    }
    assert!(interrupted >= 3, "nearly every build finished before its interrupt");
    admin.succeeds("check demo");
}

/// In a new network namespace where no node answers, so that the program waits.
const ALONE: &str = "ip link add lan type bridge && ip address add 192.168.18.5/24 dev lan && ip link set lan up && exec \"$@\"";

#[test]
fn status_and_plan_end_at_the_first_interrupt() {
    let _turn = schedule::concurrent();
    let admin = AdminDir::new().with_firstboot();
    for words in ["status demo", "plan demo --node node2"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut alone = Command::new("unshare");
            alone.args(["-n", "sh", "-c", ALONE, "sh", HANODE]).args(words.split_whitespace());
            let start = Instant::now();
            let code = signal_after(Duration::from_secs(1), alone.current_dir(admin.home.path()), signal);
            let took = start.elapsed();
            assert!(
                code == Some(130) && took < Duration::from_millis(1500),
                "{words}: {code:?} after {took:?}"
            );
        }
    }
}
