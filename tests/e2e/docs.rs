//! Manual pages, completions and the spec's schema, checked by the programs that read them (`make setup` installs those).

use assert_cmd::cargo::cargo_bin;
use hanode_core::spec::{self, STARTER};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let out = run(Command::new(cargo_bin("hanode")).arg("docs").arg("--out").arg(dir.path()));
    assert!(out.contains(" files"), "{out}");
    dir
}

/// Standard output of a command that must succeed without warnings.
#[track_caller]
fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run `make setup`"));
    let warnings = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && warnings.is_empty(), "{command:?}: {warnings}");
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn every_command_has_a_manual_page_that_groff_accepts() {
    let dir = made();
    let pages: Vec<_> = std::fs::read_dir(dir.path().join("man1"))
        .expect("pages")
        .map(|e| e.expect("a page").path())
        .collect();
    for page in &pages {
        run(Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]).arg(page));
    }
    let page = |name: &str| dir.path().join("man1").join(name);
    for name in ["hanode.1", "hanode-build.1", "hanode-lab-up.1", "hanode-certs-revoke.1"] {
        assert!(pages.contains(&page(name)), "{pages:?}");
    }
    assert!(!page("hanode-lab-node.1").exists(), "internal commands have no manual page");
    let shown = run(Command::new("groff").args(["-man", "-Tascii", "-P-cbou"]).arg(page("hanode-build.1")));
    for piece in ["hanode build", "--target <TARGET>", "EXAMPLES", "--out node.qcow2"] {
        assert!(shown.contains(piece), "{piece:?} is not in\n{shown}");
    }
}

#[test]
fn shells_accept_their_completions() {
    let dir = made();
    let file = |path: &str| dir.path().join(path);
    let bash = file("bash-completion/completions/hanode");
    run(Command::new("zsh").arg("-n").arg(file("zsh/site-functions/_hanode")));
    run(Command::new("fish").arg("-n").arg(file("fish/vendor_completions.d/hanode.fish")));
    let complete = |words: &str| {
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _hanode hanode \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            bash.display()
        );
        run(Command::new("bash").arg("-c").arg(script))
    };
    assert_eq!(complete("hanode b"), "build bake backup\n");
    assert_eq!(complete("hanode lab re"), "reprovision\n");
    assert!(complete("hanode build --").contains("--compress"), "{}", complete("hanode build --"));
}

/// The first error of a JSON schema validator for each document, or an empty string.
fn validate(documents: &[Value]) -> Vec<String> {
    const SCRIPT: &str = "
import json, sys, jsonschema
schema, documents = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
json.dump([next((e.message for e in validator.iter_errors(d)), '') for d in documents], sys.stdout)";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 with jsonschema: run `make setup`");
    let schema: Value = serde_json::from_str(&spec::schema_text()).expect("JSON");
    let input = serde_json::to_vec(&(schema, documents)).expect("JSON");
    python.stdin.take().expect("a pipe").write_all(&input).expect("writing to it");
    let out = python.wait_with_output().expect("its answer");
    assert!(out.status.success());
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn document(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).expect("TOML")).expect("JSON")
}

/// The parser and the schema agree on everything that a schema can express.
#[test]
fn the_schema_accepts_and_rejects_the_same_specs_as_the_parser() {
    let with = |old: &str, new: &str| {
        assert!(STARTER.contains(old), "{old}");
        STARTER.replacen(old, new, 1)
    };
    let all_shown: String = STARTER
        .lines()
        .map(|line| {
            let is_toml =
                |rest: &&str| (rest.contains(" = ") && !rest.starts_with(' ')) || rest.starts_with('[');
            match line.strip_prefix("# ").filter(is_toml) {
                Some(key) => format!("{key}\n"),
                None => format!("{line}\n"),
            }
        })
        .collect();
    let good = [
        STARTER.to_string(),
        // As the logical slot needs it.
        all_shown.replacen("wal_level = \"replica\"", "wal_level = \"logical\"", 1),
        with("192.168.18.0/24", "192.168.0.0/16"),
        with("vip_mode = \"vrrp\"", "vip_mode = \"external\""),
        with(
            "[postgres.parameters]",
            "[postgres.parameters]\nwork_mem = 4096\njit = false\nseq_page_cost = 1.5",
        ),
    ];
    let bad = [
        with("join_port", "join_prot"),
        with("vip_mode = \"vrrp\"", "vip_mode = \"vrp\""),
        with("ttl = 20", "ttl = 19"),
        with("port = 5433", "port = 65536"),
        with("router_id = 51", "router_id = \"51\""),
        with("tls = true", "tls = 1"),
        with("vip = \"192.168.18.20\"", ""),
        with("vip = \"192.168.18.20\"", "vip = \"192.168.18\""),
        with("subnet = \"192.168.18.0/24\"", "subnet = \"192.168.18.0\""),
        with("name = \"node2\"", "nmae = \"node2\""),
        with("ca_name = \"Self-Signed CA\"", "ca_name = 'a \"quoted\" name'"),
        with("schema = 1", "schema = 2"),
        with("[haproxy.extra]", "[haproxy.extra]\nfrontend = [\"x\"]"),
        "schema = 1\n".to_string(),
    ];
    let documents: Vec<_> = good.iter().chain(&bad).map(|text| document(text)).collect();
    let errors = validate(&documents);
    for (text, errors) in good.iter().chain(&bad).zip(&errors) {
        let read = spec::parse(text);
        assert_eq!(read.is_ok(), errors.is_empty(), "schema: {errors:?}, reader: {read:?}\n{text}");
    }
    assert!(good.iter().all(|text| spec::parse(text).is_ok()), "the table");
}
