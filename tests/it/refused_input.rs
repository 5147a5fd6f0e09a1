//! Input that `hanode` refuses: a message that names the remedy, exit code 1, and no change.

use crate::common::admin_dir::AdminDir;
use crate::common::command::{assert_refused, names, run, signal_after};
use crate::common::programs::HANODE;
use hanode_image::BuildOptions;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BUILD: &str = "build demo --target debian-13 --out node.qcow2";

#[test]
fn no_image_is_built_of_an_inconsistent_cluster_directory() {
    let admin = AdminDir::new();
    admin.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    let words = ["do not cover 192.168.18.33", "hanode certs issue", "a node would refuse to start with it"];
    assert_refused(&mut admin.command(BUILD), admin.home.path(), &words);
    admin.edit("cluster.toml", "[redis]", "[redsi]");
    assert_refused(
        &mut admin.command(BUILD),
        admin.home.path(),
        &["unknown key redsi", "did you mean redis?"],
    );
    let bundle = admin.path("bundle.tar.gz");
    std::fs::write(&bundle, &std::fs::read(&bundle).unwrap()[..1000]).unwrap();
    assert_refused(&mut admin.command("check demo"), admin.home.path(), &["truncated", "certs issue"]);
}

#[test]
fn a_seed_that_cannot_work_is_refused() {
    let admin = AdminDir::new();
    let home = admin.home.path();
    let seed = |words: &str| admin.command(&format!("seed demo --node node1 --out seed/ {words}"));
    for name in ["52-54-00-00-00-01", "52:54:00:00:00:1", "", "eth 0"] {
        let finished = run(seed("").args(["--interface", name]));
        assert!(
            finished.code == 2 && finished.err.contains("52:54:00:00:00:01"),
            "{name:?}: {}",
            finished.err
        );
    }
    std::fs::write(home.join("key"), "-----BEGIN OPENSSH PRIVATE KEY-----\nhush\n").unwrap();
    assert_refused(&mut seed("--ssh-key key"), home, &["key is a private key", "key.pub"]);
    assert_refused(&mut seed("--interface eth0 --gateway 10.0.0.1"), home, &["10.0.0.1", "192.168.18.0/24"]);
    admin.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    assert_refused(&mut seed("--bundle"), home, &["do not cover 192.168.18.33", "hanode certs issue"]);
    assert_eq!(run(&mut seed("")).code, 0, "a seed without the bundle needs no certificates");
}

#[test]
fn a_wrong_path_or_name_is_reported_with_a_remedy() {
    let admin = AdminDir::new();
    std::fs::write(admin.home.path().join("file"), "").unwrap();
    for (words, message) in [
        ("init new --spec none.toml", "none.toml: no such file"),
        ("init file", "file: is a file, not a directory\nhelp: name a new directory"),
        ("check demo/cluster.toml", "demo/cluster.toml is a file\nhelp: name the directory: demo"),
        ("seed demo --node node1 --ssh-key none.pub --out seed/", "none.pub: no such file"),
        (
            "seed demo --node node9 --out seed/",
            "the spec has no node \"node9\"\nhelp: use one of node1, node2, node3",
        ),
        ("render demo --target ./none.toml --node node1 --out out", "./none.toml: no such file"),
        ("inspect nothing", "nothing: no such file"),
    ] {
        let finished = admin.hanode(words);
        assert_eq!((finished.code, finished.err.trim_end()), (1, &*format!("error: {message}")), "{words}");
    }
}

#[test]
fn a_bake_refuses_a_tree_with_ca_keys() {
    let admin = AdminDir::new();
    let words = ["demo/pki/service/ca.key", "only cluster.toml, secrets.toml and bundle.tar.gz"];
    assert_refused(&mut admin.command("bake demo --target debian-13 --root ."), admin.home.path(), &words);
}

#[test]
fn a_build_checks_its_output_path_first() {
    let error = |out: &str| {
        let options = BuildOptions {
            target: "debian-13",
            sources: &[],
            out: Path::new(out),
            fresh: false,
            compress: false,
            payload: None,
            base_only: false,
            program: &[],
        };
        format!("{:#}", hanode_image::build(&options).unwrap_err())
    };
    assert!(error("node.iso").contains("ending"));
    assert!(error("/no/such/place/node.raw").contains("/no/such/place"));
    assert!(error("/proc/node.raw").contains("/proc: cannot write here"), "{}", error("/proc/node.raw"));
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("node.qcow2");
    std::fs::write(&image, "").unwrap();
    let finished = run(Command::new(HANODE).env("PATH", dir.path()).arg("inspect").arg(&image));
    let message = finished.err;
    assert!(
        message.contains("missing on this machine: qemu-img")
            && message.contains("help: apt-get install qemu-utils"),
        "{message}"
    );
}

#[test]
fn a_killed_init_leaves_all_or_nothing() {
    let admin = AdminDir::new();
    let home = admin.home.path();
    for moment in 0..20 {
        let signal = if moment % 2 == 0 { Signal::SIGKILL } else { Signal::SIGINT };
        signal_after(Duration::from_millis(3 * moment), &mut admin.command("init new"), signal);
        // The directory is complete or absent.
        if !home.join("new").exists() {
            admin.succeeds("init new");
        }
        assert_eq!(admin.hanode("check new").code, 0);
        std::fs::remove_dir_all(home.join("new")).unwrap();
    }
    admin.succeeds("init new");
    assert_eq!(names(home), ["demo", "new"]);
}
