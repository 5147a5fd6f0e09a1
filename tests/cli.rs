//! `hanode init` and `check` as an operator runs them.

mod common;

use common::desk::{Desk, chmod, mode, walk};
use std::fs;

#[test]
fn init_makes_a_private_directory_once() {
    let desk = Desk::new();
    for path in walk(&desk.path("")) {
        let name = path.to_string_lossy();
        if name.ends_with(".key") || name.ends_with("secrets.toml") || name.ends_with("bundle.tar.gz") {
            assert_eq!(mode(&path), 0o600, "{name}");
        }
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{name}");
        }
    }
    assert_eq!(fs::read_to_string(desk.path("cluster.toml")).expect("the spec"), hanode::spec::STARTER);
    let before = fs::read(desk.path("bundle.tar.gz")).expect("the bundle");
    let again = desk.hanode("init demo");
    assert_eq!((again.code, again.out.as_str()), (1, ""));
    assert_eq!(
        again.err,
        "hanode: there is a cluster already\n  where: demo\n  do: edit its cluster.toml, or name another directory\n"
    );
    assert_eq!(fs::read(desk.path("bundle.tar.gz")).expect("the bundle"), before);
    assert_eq!(
        fs::read_dir(desk.home.path()).expect("a directory").count(),
        1,
        "something was left beside it"
    );
}

#[test]
fn init_refuses_what_is_not_empty_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a directory");
    let desk = Desk { home };
    fs::create_dir(desk.home.path().join("demo")).expect("a directory");
    fs::write(desk.path("file"), "x").expect("a file");
    assert_eq!(desk.hanode("init demo").code, 1);
    assert_eq!(walk(&desk.path("")).len(), 2);
    let nowhere = desk.hanode("init no/where");
    assert!(nowhere.code == 1 && nowhere.err.contains("no such directory"), "{}", nowhere.err);
    fs::write(desk.home.path().join("bad.toml"), hanode::spec::STARTER.replace("ttl = 20", "ttl = 1"))
        .expect("a file");
    let bad = desk.hanode("init new --spec bad.toml");
    assert!(bad.code == 1 && bad.err.starts_with("hanode: bad.toml has 1 fault\n  line "), "{}", bad.err);
    assert!(!desk.home.path().join("new").exists());
    fs::remove_file(desk.path("file")).expect("removing");
    desk.done("init demo");

    let (place, link) = (desk.home.path().join("place"), desk.home.path().join("link"));
    fs::create_dir(&place).expect("a directory");
    std::os::unix::fs::symlink("place", &link).expect("a link");
    let mut inside = assert_cmd::Command::cargo_bin("hanode").expect("the program");
    let out = inside.current_dir(&place).args(["init", "."]).output().expect("running it");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && told.contains("the directory you are in"), "{told}");
    desk.done("init link");
    desk.done("check link");
    assert!(place.join("cluster.toml").exists());
}

#[test]
fn usage_help_and_missing_directories() {
    let desk = Desk { home: tempfile::tempdir().expect("a directory") };
    for words in [
        "",
        "nonsense",
        "init",
        "init demo --nodes 4",
        "check",
        "certs",
        "certs revoke demo",
        "build --out x",
        "build demo --target debian-13 --base --out x.tar",
        "lab up demo --timeout-scale 0",
    ] {
        assert_eq!(desk.hanode(words).code, 2, "{words}");
    }
    for verb in
        ["init", "check", "certs issue", "render", "build", "bake", "seed", "lab up", "status", "inspect"]
    {
        let help = desk.done(&format!("{verb} --help"));
        assert!(help.contains("Example") && help.contains(&format!("hanode {verb} ")), "{help}");
    }
    for words in ["check none", "certs show none", "certs issue none"] {
        let ran = desk.hanode(words);
        assert_eq!(ran.code, 1, "{words}");
        assert!(ran.err.contains("no cluster directory") && ran.err.contains("do: "), "{}", ran.err);
    }
}

#[test]
fn check_finds_a_new_cluster_well() {
    let desk = Desk::new();
    desk.edit("cluster.toml", "[\"192.168.18.0/24\"]", "[\"0.0.0.0/0\"]");
    let out = desk.done("check demo");
    assert!(out.ends_with("demo: 0 faults, 1 warning\n"), "{out}");
    assert_eq!(desk.hanode("check demo --strict").code, 1);
    desk.edit("cluster.toml", "0.0.0.0/0", "10.0.0.0/8");
    assert_eq!(desk.done("check demo --strict"), "demo: all is well\n");
    let report = desk.json("check demo --json");
    assert_eq!(report, serde_json::json!({"schema": 1, "well": true, "faults": [], "warnings": []}));
}

#[test]
fn check_tells_all_faults_of_the_spec_with_their_lines() {
    let desk = Desk::new();
    desk.edit("cluster.toml", "join_port = 7081", "join_prot = 7081");
    desk.edit("cluster.toml", "address = \"192.168.18.23\"", "address = \"192.168.19.23\"");
    desk.edit("cluster.toml", "synchronous = true", "synchronous = \"yes\"");
    let ran = desk.hanode("check demo");
    assert_eq!(ran.code, 1);
    let text = fs::read_to_string(desk.path("cluster.toml")).expect("the spec");
    for (piece, what) in [
        ("join_prot", "unknown key join_prot in [network]"),
        ("192.168.19.23", "node3 192.168.19.23 is outside the subnet 192.168.18.0/24"),
        ("synchronous = \"yes\"", "postgres.synchronous is \"yes\", not true or false"),
    ] {
        let line = text.lines().position(|l| l.contains(piece)).expect("the piece") + 1;
        let told = format!("fault: {what}\n  where: demo/cluster.toml:{line}\n  do: ");
        assert!(ran.out.contains(&told), "{told:?} is not in\n{}", ran.out);
    }
    assert!(ran.out.ends_with("demo: 3 faults, 0 warnings\n"), "{}", ran.out);
    let refused = desk.hanode("certs issue demo");
    assert_eq!(refused.code, 1);
    assert!(refused.err.starts_with("hanode: demo/cluster.toml has 3 faults\n  line "), "{}", refused.err);
    desk.edit("cluster.toml", "[redis]", "[redis");
    desk.one_fault("this is not TOML");
}

/// What `init`, `--help` and the starter's head say to do after an edit leads to a cluster that is well.
#[test]
fn the_printed_order_of_steps_works_after_an_edit() {
    let desk = Desk { home: tempfile::tempdir().expect("a directory") };
    let next = desk.done("init demo");
    let help = desk.done("--help");
    for text in [&next, &help, hanode::spec::STARTER] {
        let at = |verb: &str| text.find(verb).unwrap_or_else(|| panic!("{verb} is not in\n{text}"));
        assert!(at("hanode certs issue") < at("hanode check"), "{text}");
    }
    desk.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    let faults = desk.json("check demo --json")["faults"].to_string();
    assert!(faults.contains("hanode certs issue demo, then") && !faults.contains("DIR"), "{faults}");
    desk.done("certs issue demo");
    desk.done("check demo");
}

#[test]
fn check_names_what_does_not_fit() {
    let desk = Desk::new();
    let secrets = desk.path("secrets.toml");
    chmod(&secrets, 0o640);
    desk.one_fault("open to other users (mode 0640)");
    chmod(&secrets, 0o600);
    chmod(&desk.path("pki/cluster/ca.key"), 0o644);
    desk.one_fault("private key is open to other users (mode 0644)");
    chmod(&desk.path("pki/cluster/ca.key"), 0o600);

    let bundle = desk.path("bundle.tar.gz");
    let whole = fs::read(&bundle).expect("the bundle");
    fs::write(&bundle, &whole[..whole.len() / 2]).expect("writing");
    desk.one_fault("truncated");
    fs::write(&bundle, "nonsense").expect("writing");
    desk.one_fault("foreign");
    fs::remove_file(&bundle).expect("removing");
    desk.one_fault("bundle.tar.gz");
    assert_eq!(desk.done("certs issue demo"), "packed bundle generation 2\n", "no generation is used twice");
    desk.done("check demo");

    fs::write(&bundle, &whole).expect("writing");
    desk.one_fault("the bundle (generation 1) is not made of what pki/ holds (generation 2)");
    desk.done("certs issue demo");
    assert_eq!(desk.generation(), 3);

    fs::remove_file(desk.path("pki/cluster/operator.key")).expect("removing");
    desk.one_fault("the operator certificate");
    assert!(desk.done("certs issue demo").contains("issued operator (there was none)"));
    fs::copy(desk.path("pki/cluster/leaves/etcd.key"), desk.path("pki/cluster/leaves/node.key"))
        .expect("copying");
    assert!(desk.done("certs issue demo").contains("issued node (its key was another's)"));
    desk.done("check demo");

    let leaf = desk.path("pki/service/leaves/pgsql.key");
    fs::remove_file(&leaf).expect("removing");
    desk.one_fault("pki/ is not whole: reading demo/pki/service/leaves/pgsql.key");
    desk.done("certs issue demo");
    fs::remove_file(desk.path("pki/generation")).expect("removing");
    desk.one_fault("pki/ is not whole: reading demo/pki/generation");
    desk.done("certs issue demo");
    desk.done("check demo");

    desk.edit("cluster.toml", "name = \"hspas\" ", "name = \"other\" ");
    desk.one_fault("the bundle is of cluster hspas, not other");
    desk.done("certs issue demo");
    desk.done("check demo");
    fs::remove_file(desk.path("pki/service/ca.key")).expect("removing");
    desk.one_fault("the service CA cannot sign");
}

/// As every example writes it: no directory before the name.
#[test]
fn an_output_is_named_without_a_directory() {
    let desk = Desk::new();
    desk.done("seed demo --node node1 --out node1.smbios");
    let told = fs::read_to_string(desk.home.path().join("node1.smbios")).expect("the string");
    assert_eq!(told, "ds=nocloud;i=hspas-node1;h=node1;hanode_node=node1\n");
    desk.done("seed demo --node node1 --out node1.iso");
    desk.done("render demo --target debian-13 --node node1 --out out");
    assert!(desk.home.path().join("out.manifest.json").is_file());
}

/// Every `hanode seed` that the pages print is run, and lets its user in.
#[test]
fn printed_seeds_are_made_and_carry_a_key() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL6seqcPITKiYIqHsNODfdWhvkhlwMkN8kq5F1HBItzF me";
    let desk = Desk::new();
    let home = desk.home.path();
    fs::rename(desk.path(""), home.join("prod")).expect("renaming");
    fs::create_dir(home.join(".ssh")).expect("a directory");
    fs::write(home.join(".ssh/id_ed25519.pub"), KEY).expect("a key");
    let bin = assert_cmd::cargo::cargo_bin("hanode");
    let path = format!("{}:{}", bin.parent().expect("a directory").display(), env!("PATH"));
    let pages = ["README.md", "docs/deploy.md", "cloud-init/README.md"].map(|page| {
        fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a page")
    });
    let text = pages.join("\n").replace("\\\n", " ");
    let seeds: Vec<_> = text.lines().map(str::trim).filter(|l| l.starts_with("hanode seed prod")).collect();
    assert_eq!(seeds.len(), 3, "{seeds:?}");
    for seed in seeds {
        let command = seed.replace(".iso", "/");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-euc", &command]).current_dir(home).env("HOME", home).env("PATH", &path).env("i", "1");
        assert!(shell.status().expect("a shell").success(), "{command}");
        let user = fs::read_to_string(home.join("node1/user-data")).expect("user-data");
        assert!(user.contains(KEY) && home.join("node1/network-config").exists(), "{command}: {user}");
    }
}

#[test]
fn a_render_replaces_a_render_and_nothing_else() {
    let desk = Desk::new();
    let home = desk.home.path();
    let render =
        |more: &str| desk.hanode(&format!("render demo --target debian-13 --node node1 --out {more}"));
    let before = walk(home);
    for out in ["..", "/", "demo", "."] {
        let ran = render(out);
        assert!(ran.code == 1 && ran.err.contains("--out"), "{out}: {}", ran.err);
    }
    assert_eq!(walk(home), before, "something was written before it was refused");

    assert_eq!(render("out").code, 0);
    let keepalived = home.join("out/etc/keepalived/keepalived.conf");
    let vrrp =
        toml::from_str::<toml::Table>(&fs::read_to_string(desk.path("secrets.toml")).expect("secrets"))
            .expect("TOML")["vrrp"]
            .to_string();
    let vrrp = vrrp.trim_matches('"');
    assert!(fs::read_to_string(&keepalived).expect("a file").contains(vrrp));
    assert_eq!(render("out --redact").code, 0);
    assert!(!fs::read_to_string(&keepalived).expect("a file").contains(vrrp));
    desk.edit("cluster.toml", "vip_mode = \"vrrp\"", "vip_mode = \"external\"");
    assert_eq!(render("out --redact").code, 0);
    assert!(!keepalived.exists(), "a file of the former render is still there");

    fs::write(home.join("out/etc/mine"), "x").expect("a file");
    let ran = render("out");
    assert!(ran.code == 1 && ran.err.contains("out/etc/mine") && ran.err.contains("--out"), "{}", ran.err);
    assert!(home.join("out/etc/mine").exists());
}
