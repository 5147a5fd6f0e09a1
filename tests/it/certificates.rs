//! `hanode certs` as an operator runs it; openssl verifies the certificates.

use crate::common::admin_dir::{AdminDir, openssl, text_of};
use std::fs;
use std::time::Duration;

#[test]
fn openssl_verifies_every_certificate() {
    let admin = AdminDir::new();
    admin.verify_all();
    let ca = text_of(&admin.path("pki/service/ca.crt"));
    for piece in
        ["CN = Self-Signed CA", "prime256v1", "CA:TRUE", "Digital Signature, Certificate Sign, CRL Sign"]
    {
        assert!(ca.contains(piece), "{piece} is not in\n{ca}");
    }
    let nodes: Vec<String> = (1..=3).map(|n| format!("DNS:node{n}")).collect();
    let addresses = ["20", "21", "22", "23"].map(|n| format!("IP Address:192.168.18.{n}"));
    let own = ["DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1"].map(String::from);
    let everywhere: Vec<String> = nodes.into_iter().chain(addresses).chain(own).collect();
    for (ca, name, further) in [
        ("service", "pgsql", vec!["DNS:pgsql.demo.lab", "DNS:*.demo.lab"]),
        ("service", "redis", vec!["DNS:redis.demo.lab", "DNS:*.demo.lab"]),
        ("service", "haproxy", vec!["DNS:pgsql.demo.lab", "DNS:redis.demo.lab", "DNS:*.demo.lab"]),
        ("cluster", "etcd", vec![]),
        ("cluster", "patroni", vec![]),
        ("cluster", "node", vec![]),
    ] {
        let text = text_of(&admin.leaf(ca, name));
        let line = text.lines().find(|l| l.contains("DNS:localhost")).expect("alternative names");
        let names: Vec<&str> = line.trim().split(", ").collect();
        let wanted = everywhere.iter().map(String::as_str).chain(further.iter().copied());
        assert_eq!(names.len(), everywhere.len() + further.len(), "{name}: {line}");
        wanted.for_each(|san| assert!(names.contains(&san), "{name} lacks {san}: {line}"));
        assert!(text.contains("TLS Web Server Authentication, TLS Web Client Authentication"), "{text}");
        assert_eq!(text.contains("URI:http://192.168.18.20:7080/server.crl"), ca == "service", "{text}");
    }
    let operator = text_of(&admin.path("pki/cluster/operator.crt"));
    assert!(!operator.contains("Server Authentication") && !operator.contains("DNS:"), "{operator}");
    for role in ["replicator", "rewind_user"] {
        let text = text_of(&admin.leaf("service", role));
        assert!(text.contains(&format!("CN = {role}")) || text.contains(&format!("CN={role}")), "{text}");
        assert!(!text.contains("Server Authentication") && !text.contains("DNS:"), "{text}");
    }
    let service = admin.leaf("service", "pgsql");
    assert!(admin.verify("cluster", &service).is_err(), "the two CAs trust each other's leaves");
}

#[test]
fn the_bundle_holds_what_nodes_need_and_no_more() {
    let admin = AdminDir::new();
    let bytes = fs::read(admin.path("bundle.tar.gz")).expect("the bundle");
    let bundle = hanode_core::bundle::Bundle::read(&bytes).expect("a bundle");
    let listed: Vec<String> = bundle
        .entries
        .iter()
        .map(|e| format!("{} {:o} {}:{}", e.path.replace("/etc/ssl/", ""), e.mode, e.owner, e.group))
        .collect();
    let expected = [
        "hanode 755 root:root",
        "hanode/bundle.json 644 root:root",
        "hanode/ca.crl 644 root:root",
        "hanode/ca.crt 644 root:root",
        "hanode/etcd.crt 644 etcd:etcd",
        "hanode/etcd.key 600 etcd:etcd",
        "hanode/node.crt 644 root:root",
        "hanode/node.key 600 root:root",
        "hanode/patroni.crt 644 postgres:postgres",
        "hanode/patroni.key 600 postgres:postgres",
        "hanode/secrets.toml 600 root:root",
        "haproxy 755 root:root",
        "haproxy/server.crt 600 haproxy:haproxy",
        "myca 755 root:root",
        "myca/root.crt 644 root:root",
        "myca/server.crl 644 root:root",
        "pgsql 755 root:root",
        "pgsql/replicator.crt 644 postgres:postgres",
        "pgsql/replicator.key 600 postgres:postgres",
        "pgsql/rewind_user.crt 644 postgres:postgres",
        "pgsql/rewind_user.key 600 postgres:postgres",
        "pgsql/server.crt 644 postgres:postgres",
        "pgsql/server.key 600 postgres:postgres",
        "redis 755 root:root",
        "redis/server.crt 644 redis:redis",
        "redis/server.key 600 redis:redis",
    ];
    assert_eq!(listed, expected);
    let held = |needle: &[u8]| {
        bundle
            .entries
            .iter()
            .any(|e| bundle.file(&e.path).is_some_and(|c| c.windows(needle.len()).any(|w| w == needle)))
    };
    let body = |key: &str| {
        fs::read_to_string(admin.path(key)).expect("a key").lines().nth(1).expect("a line").to_string()
    };
    assert!(held(body("pki/cluster/leaves/node.key").as_bytes()), "the search finds nothing");
    for key in ["pki/service/ca.key", "pki/cluster/ca.key", "pki/cluster/operator.key"] {
        assert!(!held(body(key).as_bytes()), "{key} is in the bundle");
    }
    let both = bundle.file("/etc/ssl/haproxy/server.crt").expect("HAProxy's file");
    hanode_core::pki::read::key_matches(both, both).expect("certificate and key in one file");
}

#[test]
fn certificates_are_issued_renewed_and_revoked() {
    let admin = AdminDir::new();
    assert_eq!(admin.succeeds("certs issue demo"), "nothing to do: bundle generation 1 is up to date\n");

    // Two more nodes, which the existing certificates do not cover.
    let more = |n| format!("[[node]]\nname = \"node{n}\"\naddress = \"192.168.18.2{n}\"\n\n");
    admin.edit("cluster.toml", "[postgres]\n", &format!("{}{}[postgres]\n", more(4), more(5)));
    let ran = admin.hanode("check demo");
    assert!(
        ran.code == 1
            && ran
                .out
                .contains("certificates do not cover 192.168.18.24, 192.168.18.25, node4, node5: pgsql, "),
        "{}",
        ran.out
    );
    let done = admin.succeeds("certs issue demo");
    assert!(
        done.contains("issued pgsql (does not cover 192.168.18.24") && done.ends_with("generation 2\n"),
        "{done}"
    );
    admin.succeeds("check demo");
    admin.verify_all();

    // A new URL of the revocation list changes the service CA's leaves only.
    admin.edit("cluster.toml", "# crl_url =", "crl_url =");
    let before = admin.serial("etcd");
    admin.succeeds("certs issue demo");
    assert!(text_of(&admin.leaf("service", "redis")).contains("URI:http://crl.example.org/server.crl"));
    assert_eq!(admin.serial("etcd"), before);
    assert_eq!(admin.generation(), 3);

    // Renewed: another serial and key; the old certificate stays valid until it is revoked.
    let old = admin.home.path().join("old.crt");
    fs::copy(admin.leaf("service", "haproxy"), &old).expect("a copy");
    let (serial, others) = (admin.serial("haproxy"), admin.serial("pgsql"));
    let done = admin.succeeds("certs renew demo haproxy");
    assert!(done.starts_with("renewed haproxy\n") && done.ends_with("generation 4\n"), "{done}");
    assert_ne!(admin.serial("haproxy"), serial);
    assert_eq!(admin.serial("pgsql"), others);
    admin.verify("service", &old).expect("not revoked yet");

    // Revoked by serial, as openssl prints it.
    let printed = openssl(&["x509", "-noout", "-serial", "-in", old.to_str().expect("a path")]);
    let printed = printed.trim().trim_start_matches("serial=");
    let done = admin.succeeds(&format!("certs revoke demo {printed}"));
    assert!(done.starts_with(&format!("revoked {serial} (haproxy)\n")), "{done}");
    assert!(!done.contains("issued"), "a certificate in use was replaced: {done}");
    assert!(admin.verify("service", &old).expect_err("revoked").contains("certificate revoked"));
    admin.verify_all();
    admin.succeeds("check demo");
    let again = admin.hanode(&format!("certs revoke demo {serial}"));
    assert!(again.code == 1 && again.err.contains("already revoked"), "{}", again.err);

    // Revoked by name: the certificate in use is replaced.
    fs::copy(admin.leaf("cluster", "node"), &old).expect("a copy");
    let done = admin.succeeds("certs revoke demo node");
    assert!(done.contains("issued node (revoked)"), "{done}");
    assert!(admin.verify("cluster", &old).expect_err("revoked").contains("certificate revoked"));
    admin.verify_all();
    admin.succeeds("check demo");
    assert_eq!(admin.generation(), 6);
    assert!(admin.succeeds("certs show demo").contains("REVOKED"));
    let unknown = admin.hanode("certs revoke demo 00ff");
    assert!(
        unknown.code == 1 && unknown.err.contains("pgsql, replicator, rewind_user, redis, haproxy"),
        "{}",
        unknown.err
    );
    assert_eq!(admin.generation(), 6);
    assert_eq!(admin.succeeds("certs issue demo"), "nothing to do: bundle generation 6 is up to date\n");
}

#[test]
fn changed_passwords_cause_a_warning() {
    let admin = AdminDir::new();
    admin.edit("secrets.toml", "redis = \"", "redis = \"x");
    admin.one_fault("the bundle has other passwords than secrets.toml");
    let ran = admin.hanode("certs issue demo");
    assert_eq!((ran.code, ran.out.as_str()), (0, "packed bundle generation 2\n"));
    let warning = "warning: secrets.toml has other passwords than bundle generation 1";
    assert!(ran.err.starts_with(warning), "{}", ran.err);
    admin.succeeds("check demo");
    admin.succeeds("certs renew demo");
}

/// By its path in the directory, not by that of the copy in which changes are prepared.
#[test]
fn a_missing_ca_key_is_named() {
    let admin = AdminDir::new();
    fs::remove_file(admin.path("pki/service/ca.key")).expect("removing");
    for words in ["certs issue demo", "certs renew demo"] {
        let ran = admin.hanode(words);
        assert!(ran.code == 1 && ran.err.contains("demo/pki/service/ca.key"), "{}", ran.err);
        assert!(!ran.err.contains("hanode-new"), "{}", ran.err);
    }
}

#[test]
fn an_operators_own_ca_is_used() {
    let admin = AdminDir::new();
    for (kind, option, sec1) in
        [("EC", "ec_paramgen_curve:P-256", "ec"), ("RSA", "rsa_keygen_bits:2048", "rsa")]
    {
        let (key, cert) = (admin.path("pki/service/ca.key"), admin.path("pki/service/ca.crt"));
        let (key, cert) = (key.to_str().expect("a path"), cert.to_str().expect("a path"));
        openssl(&["genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", key]);
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            key,
            "-out",
            cert,
            "-days",
            "400",
            "-subj",
            &format!("/CN=Our {kind} CA"),
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        assert_eq!(admin.hanode("check demo").code, 1);
        let done = admin.succeeds("certs issue demo");
        assert!(done.contains("issued pgsql (its CA changed)"), "{done}");
        assert!(done.contains("new service revocation list (its CA changed)"), "{done}");
        admin.verify_all();
        let out = admin.succeeds("check demo");
        assert!(out.contains(&format!("the service CA is named CN=Our {kind} CA")), "{out}");
        admin.succeeds("certs revoke demo redis");
        admin.verify_all();

        // The older key format is refused with the command that converts it.
        openssl(&[sec1, "-in", key, "-out", key, if sec1 == "rsa" { "-traditional" } else { "-text" }]);
        let ran = admin.hanode("certs renew demo");
        assert!(ran.code == 1 && ran.err.contains("openssl pkcs8 -topk8"), "{}", ran.err);
    }
}

#[test]
fn a_bundle_of_another_cluster_is_a_fault() {
    let (admin, other) = (AdminDir::new(), AdminDir::new());
    fs::copy(other.path("bundle.tar.gz"), admin.path("bundle.tar.gz")).expect("copying");
    let report = admin.json("check demo --json");
    assert_eq!(report["passed"], false, "{report:#}");
    assert_eq!(admin.hanode("certs issue demo").code, 0);
    admin.succeeds("check demo");
}

/// A client's certificate is outside the bundle, and is revoked like any other.
#[test]
fn a_client_of_postgresql_gets_a_certificate_of_its_own() {
    let admin = AdminDir::new();
    let printed = admin.succeeds("certs client demo dbadmin");
    assert!(printed.contains("demo/pki/service/clients/dbadmin.crt"), "{printed}");
    assert_eq!(admin.generation(), 1, "the bundle is unchanged");
    let cert = admin.path("pki/service/clients/dbadmin.crt");
    admin.verify("service", &cert).expect("the service CA's");
    let text = text_of(&cert);
    assert!(!text.contains("Server Authentication") && !text.contains("DNS:"), "{text}");
    let key = fs::metadata(admin.path("pki/service/clients/dbadmin.key")).expect("a key");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    assert!(admin.succeeds("certs show demo").contains("dbadmin"));
    let bundle = fs::read(admin.path("bundle.tar.gz")).expect("the bundle");
    let bundle = hanode_core::bundle::Bundle::read(&bundle).expect("a bundle");
    assert!(bundle.entries.iter().all(|e| !e.path.contains("dbadmin")));

    admin.succeeds("certs revoke demo dbadmin");
    assert!(admin.verify("service", &cert).expect_err("revoked").contains("revoked"));
    for (name, why) in
        [("replicator", "reserved"), ("pgsql", "reserved"), ("admin", "reserved"), ("../x", "letters")]
    {
        let ran = admin.hanode(&format!("certs client demo {name}"));
        assert!(ran.code == 1 && ran.err.contains(why), "{name:?}: {}", ran.err);
    }
}

/// A change that is killed at any moment leaves a directory that the next change completes.
#[test]
fn a_killed_change_is_completed_by_the_next() {
    let admin = AdminDir::new();
    let mut generation = 1;
    for round in 0..24 {
        let mut child = admin
            .command("certs renew demo")
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starting it");
        std::thread::sleep(Duration::from_millis(3 * round));
        child.kill().expect("killing it");
        child.wait().expect("its end");
        let report = admin.json("check demo --json");
        for fault in report["faults"].as_array().expect("faults") {
            let what = fault["what"].as_str().expect("a text");
            assert!(what.contains("does not match pki/"), "after {round} rounds: {report:#}");
        }
        admin.succeeds("certs issue demo");
        admin.succeeds("check demo");
        assert!(admin.generation() >= generation);
        generation = admin.generation();
        admin.verify_all();
    }
    let left: Vec<_> = fs::read_dir(admin.path(""))
        .expect("the directory")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_concurrent_change_is_refused() {
    let admin = AdminDir::new();
    let held = fs::File::open(admin.path("")).expect("the directory");
    held.lock().expect("locking");
    let ran = admin.hanode("certs renew demo");
    assert!(ran.code == 1 && ran.err.contains("another hanode"), "{}", ran.err);
    drop(held);
    admin.succeeds("certs renew demo");
}
