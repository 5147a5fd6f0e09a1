//! `hanode init` and `check` as an operator runs them.

use crate::common::admin_dir::{AdminDir, Finished, chmod, mode, walk};
use crate::common::command::run;
use crate::common::programs::HANODE;
use std::fs;
use std::process::Command;

#[test]
fn init_makes_a_private_directory_once() {
    let admin = AdminDir::new();
    for path in walk(&admin.path("")) {
        let name = path.to_string_lossy();
        if name.ends_with(".key") || name.ends_with("secrets.toml") || name.ends_with("bundle.tar.gz") {
            assert_eq!(mode(&path), 0o600, "{name}");
        }
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{name}");
        }
    }
    assert_eq!(fs::read_to_string(admin.path("cluster.toml")).expect("the spec"), hanode_core::spec::STARTER);
    let before = fs::read(admin.path("bundle.tar.gz")).expect("the bundle");
    let again = admin.hanode("init demo");
    assert_eq!((again.code, again.out.as_str()), (1, ""));
    assert_eq!(
        again.err,
        "error: demo: the cluster directory already exists\nhelp: edit its cluster.toml, or name another directory\n"
    );
    assert_eq!(fs::read(admin.path("bundle.tar.gz")).expect("the bundle"), before);
    assert_eq!(
        fs::read_dir(admin.home.path()).expect("a directory").count(),
        1,
        "init left something beside the directory"
    );
}

#[test]
fn init_refuses_a_directory_that_is_not_empty_and_leaves_nothing_behind() {
    let admin = AdminDir::empty();
    fs::create_dir(admin.home.path().join("demo")).expect("a directory");
    fs::write(admin.path("file"), "x").expect("a file");
    assert_eq!(admin.hanode("init demo").code, 1);
    assert_eq!(walk(&admin.path("")).len(), 2);
    let nowhere = admin.hanode("init no/where");
    assert!(nowhere.code == 1 && nowhere.err.contains("no such directory"), "{}", nowhere.err);
    fs::write(admin.home.path().join("bad.toml"), hanode_core::spec::STARTER.replace("ttl = 20", "ttl = 1"))
        .expect("a file");
    let bad = admin.hanode("init new --spec bad.toml");
    assert!(bad.code == 1 && bad.err.starts_with("error: bad.toml has 1 fault\n  line "), "{}", bad.err);
    assert!(!admin.home.path().join("new").exists());
    fs::remove_file(admin.path("file")).expect("removing");
    admin.succeeds("init demo");

    let (place, link) = (admin.home.path().join("place"), admin.home.path().join("link"));
    fs::create_dir(&place).expect("a directory");
    std::os::unix::fs::symlink("place", &link).expect("a link");
    let mut inside = Command::new(HANODE);
    let out = inside.current_dir(&place).args(["init", "."]).output().expect("running it");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && text.contains("the directory you are in"), "{text}");
    admin.succeeds("init link");
    admin.succeeds("check link");
    assert!(place.join("cluster.toml").exists());
}

#[test]
fn usage_help_and_missing_directories() {
    let admin = AdminDir::empty();
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
        assert_eq!(admin.hanode(words).code, 2, "{words}");
    }
    for verb in
        ["init", "check", "certs issue", "render", "build", "bake", "seed", "lab up", "status", "inspect"]
    {
        let help = admin.succeeds(&format!("{verb} --help"));
        assert!(help.contains("Example") && help.contains(&format!("hanode {verb} ")), "{help}");
    }
    for words in ["check none", "certs show none", "certs issue none"] {
        let ran = admin.hanode(words);
        assert_eq!(ran.code, 1, "{words}");
        assert!(ran.err.contains("not a cluster directory") && ran.err.contains("help: "), "{}", ran.err);
    }
}

#[test]
fn check_finds_no_fault_in_a_new_cluster() {
    let admin = AdminDir::new();
    admin.edit("cluster.toml", "[\"192.168.18.0/24\"]", "[\"0.0.0.0/0\"]");
    let out = admin.succeeds("check demo");
    assert!(out.ends_with("demo: 0 faults, 2 warnings\n"), "{out}");
    assert_eq!(admin.hanode("check demo --strict").code, 1);
    admin.edit("cluster.toml", "0.0.0.0/0", "10.0.0.0/8");
    let out = admin.succeeds("check demo");
    assert!(out.contains("there is no [backup]") && out.ends_with("demo: 0 faults, 1 warning\n"), "{out}");
    admin.edit(
        "cluster.toml",
        "# [backup]\n# repository = \"s3://bucket/prefix\"",
        "[backup]\nrepository = \"file:///mnt/backup\"",
    );
    assert_eq!(admin.succeeds("check demo --strict"), "demo: ok\n");
    let report = admin.json("check demo --json");
    assert_eq!(report, serde_json::json!({"schema": 1, "passed": true, "faults": [], "warnings": []}));
}

#[test]
fn check_reports_all_faults_of_the_spec_with_their_lines() {
    let admin = AdminDir::new();
    admin.edit("cluster.toml", "join_port = 7081", "join_prot = 7081");
    admin.edit("cluster.toml", "address = \"192.168.18.23\"", "address = \"192.168.19.23\"");
    admin.edit("cluster.toml", "synchronous = true", "synchronous = \"yes\"");
    let ran = admin.hanode("check demo");
    assert_eq!(ran.code, 1);
    let text = fs::read_to_string(admin.path("cluster.toml")).expect("the spec");
    for (piece, what) in [
        ("join_prot", "unknown key join_prot in [network]"),
        ("192.168.19.23", "node3 192.168.19.23 is outside the subnet 192.168.18.0/24"),
        ("synchronous = \"yes\"", "postgres.synchronous is \"yes\", not true or false"),
    ] {
        let line = text.lines().position(|l| l.contains(piece)).expect("the piece") + 1;
        let expected = format!("error: demo/cluster.toml:{line}: {what}\nhelp: ");
        assert!(ran.out.contains(&expected), "{expected:?} is not in\n{}", ran.out);
    }
    assert!(ran.out.ends_with("demo: 3 faults, 0 warnings\n"), "{}", ran.out);
    let refused = admin.hanode("certs issue demo");
    assert_eq!(refused.code, 1);
    assert!(refused.err.starts_with("error: demo/cluster.toml has 3 faults\n  line "), "{}", refused.err);
    admin.edit("cluster.toml", "[redis]", "[redis");
    admin.one_fault("this is not TOML");
}

/// The steps that `init`, `--help` and the starter's header name after an edit lead to a cluster without faults.
#[test]
fn the_printed_order_of_steps_works_after_an_edit() {
    let admin = AdminDir::empty();
    let next = admin.succeeds("init demo");
    let help = admin.succeeds("--help");
    for text in [&next, &help, hanode_core::spec::STARTER] {
        let at = |verb: &str| text.find(verb).unwrap_or_else(|| panic!("{verb} is not in\n{text}"));
        assert!(at("hanode certs issue") < at("hanode check"), "{text}");
    }
    admin.edit("cluster.toml", "192.168.18.23", "192.168.18.33");
    let faults = admin.json("check demo --json")["faults"].to_string();
    assert!(faults.contains("`hanode certs issue demo`, then") && !faults.contains("DIR"), "{faults}");
    admin.succeeds("certs issue demo");
    admin.succeeds("check demo");
}

#[test]
fn check_names_every_mismatch() {
    let admin = AdminDir::new();
    let secrets = admin.path("secrets.toml");
    chmod(&secrets, 0o640);
    admin.one_fault("other users may read the secrets (mode 0640)");
    chmod(&secrets, 0o600);
    chmod(&admin.path("pki/cluster/ca.key"), 0o644);
    admin.one_fault("private key is readable by other users (mode 0644)");
    chmod(&admin.path("pki/cluster/ca.key"), 0o600);

    let bundle = admin.path("bundle.tar.gz");
    let whole = fs::read(&bundle).expect("the bundle");
    fs::write(&bundle, &whole[..whole.len() / 2]).expect("writing");
    admin.one_fault("truncated");
    fs::write(&bundle, "nonsense").expect("writing");
    admin.one_fault("not a hanode bundle");
    fs::remove_file(&bundle).expect("removing");
    admin.one_fault("no such file");
    assert_eq!(
        admin.succeeds("certs issue demo"),
        "packed bundle generation 2\n",
        "no generation is used twice"
    );
    admin.succeeds("check demo");

    fs::write(&bundle, &whole).expect("writing");
    admin.one_fault("the bundle (generation 1) does not match pki/ (generation 2)");
    admin.succeeds("certs issue demo");
    assert_eq!(admin.generation(), 3);

    fs::remove_file(admin.path("pki/cluster/operator.key")).expect("removing");
    admin.one_fault("the operator certificate");
    assert!(admin.succeeds("certs issue demo").contains("issued operator (missing)"));
    fs::copy(admin.path("pki/cluster/leaves/etcd.key"), admin.path("pki/cluster/leaves/node.key"))
        .expect("copying");
    assert!(admin.succeeds("certs issue demo").contains("issued node (its key does not match)"));
    admin.succeeds("check demo");

    let leaf = admin.path("pki/service/leaves/pgsql.key");
    fs::remove_file(&leaf).expect("removing");
    admin.one_fault("pki/ is incomplete: demo/pki/service/leaves/pgsql.key");
    admin.succeeds("certs issue demo");
    fs::remove_file(admin.path("pki/generation")).expect("removing");
    admin.one_fault("pki/ is incomplete: demo/pki/generation");
    admin.succeeds("certs issue demo");
    admin.succeeds("check demo");

    admin.edit("cluster.toml", "name = \"hspas\" ", "name = \"other\" ");
    admin.one_fault("the bundle belongs to cluster hspas, not other");
    admin.succeeds("certs issue demo");
    admin.succeeds("check demo");
    fs::remove_file(admin.path("pki/service/ca.key")).expect("removing");
    admin.one_fault("the service CA cannot sign");
}

/// As in every example, the output is a bare file name.
#[test]
fn an_output_is_named_without_a_directory() {
    let admin = AdminDir::new();
    admin.succeeds("seed demo --node node1 --out node1.smbios");
    let text = fs::read_to_string(admin.home.path().join("node1.smbios")).expect("the string");
    assert_eq!(text, "ds=nocloud;i=hspas-node1;h=node1;hanode_node=node1\n");
    admin.succeeds("render demo --target debian-13 --node node1 --out out");
    assert!(admin.home.path().join("out.manifest.json").is_file());
}

/// Runs every `hanode seed` command of the documentation: each seed contains the user's SSH key.
#[test]
fn documented_seed_commands_include_the_ssh_key() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL6seqcPITKiYIqHsNODfdWhvkhlwMkN8kq5F1HBItzF me";
    let admin = AdminDir::new();
    let home = admin.home.path();
    fs::rename(admin.path(""), home.join("prod")).expect("renaming");
    fs::create_dir(home.join(".ssh")).expect("a directory");
    fs::write(home.join(".ssh/id_ed25519.pub"), KEY).expect("a key");
    let bin = std::path::Path::new(HANODE);
    let path = format!("{}:{}", bin.parent().expect("a directory").display(), env!("PATH"));
    let pages = ["README.md", "docs/deploy.md", "cloud-init/README.md"].map(|page| {
        fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a page")
    });
    let text = pages.join("\n").replace("\\\n", " ");
    let seeds: Vec<_> = text.lines().map(str::trim).filter(|l| l.starts_with("hanode seed prod")).collect();
    assert_eq!(seeds.len(), 3, "{seeds:?}");
    for seed in seeds {
        let command = seed.replace(".iso", "/");
        let mut shell = Command::new("sh");
        shell.args(["-euc", &command]).current_dir(home).env("HOME", home).env("PATH", &path).env("i", "1");
        assert!(shell.status().expect("a shell").success(), "{command}");
        let user = fs::read_to_string(home.join("node1/user-data")).expect("user-data");
        assert!(user.contains(KEY) && home.join("node1/network-config").exists(), "{command}: {user}");
    }
}

#[test]
fn a_render_replaces_a_render_and_nothing_else() {
    let admin = AdminDir::new();
    let home = admin.home.path();
    let render =
        |more: &str| admin.hanode(&format!("render demo --target debian-13 --node node1 --out {more}"));
    let before = walk(home);
    let refused = |ran: Finished| assert!(ran.code == 1 && ran.err.contains("--out"), "{}", ran.err);
    ["/", "demo", "."].into_iter().for_each(|out| refused(render(out)));
    let mut above = admin.command("render . --target debian-13 --node node1 --out ..");
    refused(run(above.current_dir(home.join("demo"))));
    assert_eq!(walk(home), before, "something was written before it was refused");

    assert_eq!(render("out").code, 0);
    let keepalived = home.join("out/etc/keepalived/keepalived.conf");
    let vrrp =
        toml::from_str::<toml::Table>(&fs::read_to_string(admin.path("secrets.toml")).expect("secrets"))
            .expect("TOML")["vrrp"]
            .to_string();
    let vrrp = vrrp.trim_matches('"');
    assert!(fs::read_to_string(&keepalived).expect("a file").contains(vrrp));
    assert_eq!(render("out --redact").code, 0);
    assert!(!fs::read_to_string(&keepalived).expect("a file").contains(vrrp));
    admin.edit("cluster.toml", "vip_mode = \"vrrp\"", "vip_mode = \"external\"");
    assert_eq!(render("out --redact").code, 0);
    assert!(!keepalived.exists(), "a file of the previous render remains");

    fs::write(home.join("out/etc/mine"), "x").expect("a file");
    let ran = render("out");
    assert!(ran.code == 1 && ran.err.contains("out/etc/mine") && ran.err.contains("--out"), "{}", ran.err);
    assert!(home.join("out/etc/mine").exists());
}
