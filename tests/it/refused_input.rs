//! What the tool refuses on the admin machine: a message that names the remedy, exit status 1, and nothing changed.

use crate::common::admin_dir::AdminDir;
use crate::common::command::{is_refused, names, run, signal_after};
use crate::common::programs::HANODE;
use hanode_image::Options;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BUILD: &str = "build demo --target debian-13 --out node.qcow2";

#[test]
fn a_directory_that_does_not_fit_together_makes_no_image() {
    let admin = AdminDir::new();
    admin.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    let words = ["does not cover 192.168.18.33", "hanode certs issue", "a node booted with it would refuse"];
    is_refused(&mut admin.command(BUILD), admin.home.path(), &words);
    admin.edit("cluster.toml", "[redis]", "[redsi]");
    is_refused(&mut admin.command(BUILD), admin.home.path(), &["unknown key redsi", "did you mean redis?"]);
    let bundle = admin.path("bundle.tar.gz");
    std::fs::write(&bundle, &std::fs::read(&bundle).unwrap()[..1000]).unwrap();
    is_refused(&mut admin.command("check demo"), admin.home.path(), &["truncated", "certs issue"]);
}

#[test]
fn a_seed_is_not_made_of_what_cannot_work() {
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
    is_refused(&mut seed("--ssh-key key"), home, &["key is a private key", "key.pub"]);
    is_refused(&mut seed("--interface eth0 --gateway 10.0.0.1"), home, &["10.0.0.1", "192.168.18.0/24"]);
    admin.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    is_refused(&mut seed("--bundle"), home, &["does not cover 192.168.18.33", "hanode certs issue"]);
    assert_eq!(run(&mut seed("")).code, 0, "names alone take no certificates");
}

#[test]
fn a_bake_leaves_no_authority_in_the_tree() {
    let admin = AdminDir::new();
    let words = ["demo/pki/service/ca.key", "cluster.toml, secrets.toml and bundle.tar.gz alone"];
    is_refused(&mut admin.command("bake demo --target debian-13 --root ."), admin.home.path(), &words);
}

#[test]
fn a_build_names_an_output_it_cannot_write_before_it_begins() {
    let error = |out: &str| {
        let options = Options {
            target: "debian-13",
            sources: &[],
            out: Path::new(out),
            fresh: false,
            compress: false,
            baked: None,
            bare: false,
            program: &[],
        };
        format!("{:#}", hanode_image::build(&options).unwrap_err())
    };
    assert!(error("node.iso").contains("ending"));
    assert!(error("/no/such/place/node.raw").contains("/no/such/place"));
    assert!(error("/proc/node.raw").contains("/proc: cannot write here"), "{}", error("/proc/node.raw"));
}

#[test]
fn a_program_that_inspect_lacks_is_named_with_its_package() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("node.qcow2");
    std::fs::write(&image, "").unwrap();
    let finished = run(Command::new(HANODE).env("PATH", dir.path()).arg("inspect").arg(&image));
    let message = finished.err;
    assert!(message.contains("qemu-img; apt-get install") && message.contains("qemu-utils"), "{message}");
}

#[test]
fn an_init_may_be_killed_at_any_moment() {
    let admin = AdminDir::new();
    let home = admin.home.path();
    for moment in 0..20 {
        let signal = if moment % 2 == 0 { Signal::SIGKILL } else { Signal::SIGINT };
        signal_after(Duration::from_millis(3 * moment), &mut admin.command("init new"), signal);
        // There or not, never half.
        if !home.join("new").exists() {
            admin.succeeds("init new");
        }
        assert_eq!(admin.hanode("check new").code, 0);
        std::fs::remove_dir_all(home.join("new")).unwrap();
    }
    admin.succeeds("init new");
    assert_eq!(names(home), ["demo", "new"]);
}
