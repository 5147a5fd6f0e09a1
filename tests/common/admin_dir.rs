//! A temporary cluster directory, and `hanode` run in it as an operator runs it.

use super::command::run;
use super::programs;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct AdminDir {
    pub home: TempDir,
    /// The path of `hanode-firstboot`, for tests that build images.
    firstboot: Option<&'static Path>,
}

pub struct Finished {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl AdminDir {
    /// A fresh directory with a cluster `demo` in it.
    pub fn new() -> AdminDir {
        let admin = AdminDir::empty();
        assert_eq!(admin.hanode("init demo").code, 0);
        admin
    }

    /// A fresh directory without a cluster.
    pub fn empty() -> AdminDir {
        AdminDir { home: tempfile::tempdir().expect("a directory"), firstboot: None }
    }

    /// The same directory; `hanode` finds `hanode-firstboot`.
    pub fn with_firstboot(mut self) -> AdminDir {
        self.firstboot = Some(programs::firstboot_program());
        self
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path().join("demo").join(path)
    }

    /// `hanode` with these arguments, in the parent of the cluster directory.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(programs::HANODE);
        command.envs(self.firstboot.map(|path| ("HANODE_FIRSTBOOT", path)));
        command.args(words.split_whitespace()).current_dir(self.home.path());
        command
    }

    pub fn hanode(&self, words: &str) -> Finished {
        run(&mut self.command(words))
    }

    #[track_caller]
    pub fn succeeds(&self, words: &str) -> String {
        let finished = self.hanode(words);
        assert_eq!(finished.code, 0, "hanode {words}: {}{}", finished.out, finished.err);
        assert_eq!(finished.err, "", "hanode {words}");
        finished.out
    }

    pub fn json(&self, words: &str) -> serde_json::Value {
        serde_json::from_str(&self.hanode(words).out).expect("JSON")
    }

    /// `hanode check` reports exactly one fault, which contains `what`.
    #[track_caller]
    pub fn one_fault(&self, what: &str) {
        let report = self.json("check demo --json");
        let faults = report["faults"].as_array().expect("faults");
        assert_eq!(faults.len(), 1, "{report:#}");
        assert!(faults[0]["what"].as_str().is_some_and(|found| found.contains(what)), "{report:#}");
        assert_eq!(self.hanode("check demo").code, 1);
    }

    pub fn edit(&self, file: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(file)).expect("reading");
        assert!(text.contains(old), "{old:?} is not in {file}");
        fs::write(self.path(file), text.replace(old, new)).expect("writing");
    }

    pub fn serial(&self, name: &str) -> String {
        let shown = self.json("certs show demo --json");
        let all = shown["certificates"].as_array().expect("certificates");
        let cert = all.iter().find(|c| c["name"] == name).expect("the certificate");
        cert["serial"].as_str().expect("a serial").to_string()
    }

    pub fn generation(&self) -> u64 {
        self.json("certs show demo --json")["bundle_generation"].as_u64().expect("a generation")
    }

    /// Output of `openssl verify` with the CA's revocation list.
    pub fn verify(&self, ca: &str, cert: &Path) -> Result<String, String> {
        let file = |name: &str| self.path(&format!("pki/{ca}/{name}"));
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-crl_check", "-CAfile"]).arg(file("ca.crt"));
        let out = command.arg("-CRLfile").arg(file("ca.crl")).arg(cert).output().expect("openssl");
        let output = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        if out.status.success() { Ok(output) } else { Err(output) }
    }

    pub fn leaf(&self, ca: &str, name: &str) -> PathBuf {
        self.path(&format!("pki/{ca}/leaves/{name}.crt"))
    }

    #[track_caller]
    pub fn verify_all(&self) {
        let service = ["pgsql", "replicator", "rewind_user", "redis", "haproxy"];
        for (ca, names) in [("service", &service[..]), ("cluster", &["etcd", "patroni", "node"])] {
            for name in names {
                self.verify(ca, &self.leaf(ca, name)).unwrap_or_else(|output| panic!("{name}: {output}"));
            }
        }
        self.verify("cluster", &self.path("pki/cluster/operator.crt")).expect("the operator's");
    }
}

pub fn openssl(words: &[&str]) -> String {
    let out = Command::new("openssl").args(words).output().expect("openssl");
    assert!(out.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

pub fn text_of(cert: &Path) -> String {
    openssl(&["x509", "-noout", "-text", "-in", cert.to_str().expect("a path")])
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

pub fn walk(dir: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir).into_iter().map(|e| e.expect("an entry").into_path()).collect()
}
