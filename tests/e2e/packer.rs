//! The templates, checked with Packer: valid for every builder, in its format, and invalid if a file or variable is missing.

use crate::common::programs::{self, HANODE, firstboot_program};
use crate::support::lab::Lab;
use crate::support::workdir_alone;
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::spec;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packer")
}

fn packer(dir: &Path, arguments: &[&str]) -> Output {
    let mut packer = Command::new("packer");
    packer.args(arguments).current_dir(dir);
    // No update check, no files in the caller's home directory.
    packer.env("CHECKPOINT_DISABLE", "1").env("PACKER_CONFIG_DIR", dir).env("HOME", dir);
    packer.output().expect("packer runs: `make setup` installs it")
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The operator's files: a cluster directory, programs, a base, a seed, a key.
fn admin_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    ClusterDir::init(&dir.path().join("prod"), spec::STARTER).unwrap();
    for part in ["seed/meta-data", "seed/user-data", "bin/hanode", "bin/hanode-firstboot", "base.qcow2"] {
        let at = dir.path().join(part);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, "").unwrap();
    }
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join("key"));
    assert!(keygen.status().unwrap().success());
    dir
}

const COMMON: [&str; 6] =
    ["-var", "cluster=prod", "-var", "programs=bin", "-var", "ssh_private_key_file=key"];

fn validate(dir: &Path, builder: &str, more: &[&str]) -> Output {
    let only = format!("-only={builder}");
    let templates = templates();
    let mut arguments = vec!["validate", only.as_str()];
    arguments.extend(COMMON);
    arguments.extend(more);
    arguments.push(templates.to_str().unwrap());
    packer(dir, &arguments)
}

#[test]
fn every_builder_is_valid_with_every_target() {
    let dir = admin_files();
    let mut targets = 0;
    for file in std::fs::read_dir(templates()).unwrap() {
        let file = file.unwrap().path().to_str().unwrap().to_string();
        let Some(values) = file.ends_with(".pkrvars.hcl").then(|| format!("-var-file={file}")) else {
            continue;
        };
        targets += 1;
        let qemu = ["-var", "base=base.qcow2", "-var", "seed=seed", &values];
        let output = validate(dir.path(), "qemu.node", &qemu);
        assert!(output.status.success(), "{file}: {}", text_of(&output));
    }
    assert_eq!(targets, 3);
    let vars = |pairs: &'static [&str]| pairs.iter().flat_map(|pair| ["-var", pair]).collect::<Vec<_>>();
    let vsphere = vars(&[
        "vcenter_server=vcenter.example.org",
        "vcenter_username=packer",
        "vcenter_password=secret",
        "vcenter_cluster=one",
        "vcenter_datastore=ssd",
        "vcenter_template=debian-13",
    ]);
    let amazon = vars(&["region=eu-central-1", "source_ami=ami-0123"]);
    for (builder, values) in [("vsphere-clone.node", vsphere), ("amazon-ebs.node", amazon)] {
        let output = validate(dir.path(), builder, &values);
        assert!(output.status.success(), "{builder}: {}", text_of(&output));
        assert!(!text_of(&output).contains("secret"), "{}", text_of(&output));
    }
}

/// The commands of README, each on one line.
fn printed() -> Vec<String> {
    let readme = std::fs::read_to_string(templates().join("README.md")).unwrap();
    let code: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    code.join("\n").replace("\\\n", " ").lines().map(|line| line.trim().to_string()).collect()
}

#[test]
fn commands_of_the_readme_are_valid() {
    let dir = admin_files();
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("bin"), at("dist")).unwrap();
    std::fs::rename(at("seed"), at("packer-seed")).unwrap();
    std::fs::rename(at("key"), at("packer-key")).unwrap();
    std::os::unix::fs::symlink(templates(), at("packer")).unwrap();
    let commands = printed();
    assert!(commands[0].starts_with("umask 077"), "{commands:#?}");
    let builds: Vec<_> = commands.iter().filter(|c| c.starts_with("packer build ")).collect();
    assert_eq!(builds.len(), 3, "{commands:#?}");
    for build in builds {
        let mut shell = Command::new("sh");
        shell.args(["-c", &build.replacen("build", "validate", 1)]).current_dir(dir.path());
        shell.env("CHECKPOINT_DISABLE", "1").env("PACKER_CONFIG_DIR", dir.path()).env("HOME", dir.path());
        shell.env("KEY", at("packer-key")).env("PKR_VAR_vcenter_password", "secret");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{build}: {}", text_of(&output));
    }
}

#[test]
fn missing_files_and_unknown_values_are_invalid() {
    let dir = admin_files();
    let qemu = ["-var", "base=base.qcow2", "-var", "seed=seed"];
    let unknown = validate(dir.path(), "qemu.node", &[&qemu[..], &["-var", "target=debian-9"]].concat());
    assert!(!unknown.status.success() && text_of(&unknown).contains("centos-8"), "{}", text_of(&unknown));
    std::fs::remove_file(dir.path().join("prod/bundle.tar.gz")).unwrap();
    let missing = validate(dir.path(), "qemu.node", &qemu);
    assert!(
        !missing.status.success() && text_of(&missing).contains("bundle.tar.gz"),
        "{}",
        text_of(&missing)
    );
    let nowhere = validate(dir.path(), "amazon-ebs.node", &[]);
    assert!(!nowhere.status.success() && text_of(&nowhere).contains("source_ami"), "{}", text_of(&nowhere));
}

#[test]
fn templates_are_in_packers_own_format() {
    let dir = tempfile::tempdir().unwrap();
    for folder in [templates(), templates().join("plugins")] {
        let output = packer(dir.path(), &["fmt", "-check", "-diff", folder.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text_of(&output));
    }
    std::fs::write(dir.path().join("x.pkr.hcl"), "locals {\n a=1\n}\n").unwrap();
    assert!(!packer(dir.path(), &["fmt", "-check", "."]).status.success());
}

/// Runs `hanode` in the parent of the cluster directory.
fn hanode(dir: &Path, arguments: &[&str]) {
    let output = programs::hanode().args(arguments).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "hanode {arguments:?}: {}", text_of(&output));
}

/// Both programs in one directory, as the template uploads them.
fn programs_in(dir: &Path) -> PathBuf {
    let programs = dir.join("programs");
    std::fs::create_dir(&programs).unwrap();
    std::fs::copy(HANODE, programs.join("hanode")).unwrap();
    std::fs::copy(firstboot_program(), programs.join("hanode-firstboot")).unwrap();
    programs
}

#[test]
#[ignore = "an emulated machine, minutes: make test-vm"]
fn three_machines_of_an_image_made_by_packer_are_a_cluster() {
    let workdir = workdir_alone();
    let dir = workdir.path();
    hanode(dir, &["init", "prod"]);
    hanode(dir, &["build", "--target", "debian-13", "--base", "--out", "base.qcow2"]);
    let keygen = ["-q", "-t", "ed25519", "-N", "", "-f", "key"];
    assert!(Command::new("ssh-keygen").args(keygen).current_dir(dir).status().unwrap().success());
    hanode(dir, &["seed", "prod", "--node", "node1", "--ssh-key", "key.pub", "--out", "seed/"]);

    let programs = programs_in(dir);
    let (programs, templates) = (format!("programs={}", programs.display()), templates());
    let values = format!("-var-file={}", templates.join("debian-13.pkrvars.hcl").display());
    let mut build = vec!["build", "-color=false", "-only=qemu.node", values.as_str()];
    let variables = [
        "cluster=prod",
        &programs,
        "ssh_private_key_file=key",
        "base=base.qcow2",
        "seed=seed",
        "accelerator=tcg",
    ];
    build.extend(variables.iter().flat_map(|pair| ["-var", pair]));
    build.push(templates.to_str().unwrap());
    let output = packer(dir, &build);
    let log = text_of(&output);
    assert!(output.status.success(), "{log}");
    let secrets = std::fs::read_to_string(dir.join("prod/secrets.toml")).unwrap();
    for secret in secrets.lines().filter_map(|line| line.split('"').nth(1)) {
        assert!(!log.contains(secret), "a password is in Packer's log");
    }
    let mut check = Command::new("sha256sum");
    check.args(["-c", "hanode-node.qcow2.sha256"]).current_dir(dir.join("node-image"));
    let manifest = std::fs::read_to_string(dir.join("hanode-node-manifest.json")).unwrap();
    assert!(manifest.contains("hanode-node.qcow2") && manifest.contains("debian-13"), "{manifest}");
    assert!(check.status().unwrap().success(), "the checksum is not the image's");

    let (cluster, image) =
        (ClusterDir::load(&dir.join("prod")).unwrap(), dir.join("node-image/hanode-node.qcow2"));
    Lab::of(workdir, cluster, image).up(&["--timeout-scale", "5"]);
}
