//! `hanode bake --root /` in the tree of a booted machine: apart from the listed files, the result equals that of
//! `hanode build`. Needs root.

use crate::common::programs::{HANODE, firstboot_program};
use crate::support;
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::spec;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

/// Files in which a bake on a machine and an image may differ, and why.
const DIFFERENT: &[&str] = &[
    // Records the base and its date; a machine has no base.
    "usr/lib/hanode/image.json",
    // The root user of the machine had a password, which is now locked.
    "etc/shadow",
    // A booted machine has these directories, now empty; the image's base does not have them.
    "root/.ssh",
    "var/lib/cloud",
    "var/lib/hanode",
];

/// Mounts the target's tree as `$root`, with changes in `$2/upper`, and copies programs and cluster to `/tmp/stage`.
const TREE: &str = r#"
exec 3>&1 >&2
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
root=$2/root
mount -t proc proc $root/proc
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
cp -r "$2/stage" $root/tmp/stage
bake() { chroot $root /tmp/stage/hanode bake /tmp/stage/cluster --target "${1-debian-13}" --root /; }
"#;

/// Files that a booted machine creates, then two bakes. Standard output is that of the second bake.
const MACHINE: &str = r#"
echo vm-1 > $root/etc/hostname
echo 0123456789abcdef0123456789abcdef > $root/etc/machine-id
chroot $root ssh-keygen -A
mkdir -p $root/root/.ssh $root/var/lib/cloud/instances/i-1 $root/var/log/journal/0123 $root/var/lib/hanode
echo key > $root/root/.ssh/authorized_keys
echo 'root:word' | chroot $root chpasswd
echo history > $root/root/.bash_history
echo key > $root/etc/ssl/private/ssl-cert-snakeoil.key
echo certificate > $root/etc/ssl/certs/ssl-cert-snakeoil.pem
ln -s ssl-cert-snakeoil.pem $root/etc/ssl/certs/0123abcd.0
echo data > $root/var/lib/cloud/instances/i-1/user-data.txt
echo log > $root/var/log/journal/0123/system.journal
echo log > $root/var/log/cloud-init.log
echo id > $root/var/lib/hanode/install-id
echo net > $root/etc/systemd/network/10-cloud-init-eth0.network
chroot $root systemctl enable redis-server.service
for file in redis/redis.conf haproxy/haproxy.cfg; do [ -e $root/etc/$file ]; done
bake ubuntu-20.04 && exit 1
grep '^root:[$]' $root/etc/shadow
bake
grep '^root:!:' $root/etc/shadow
bake >&3
touch $root/var/lib/hanode/identity.json
bake && exit 1
rm $root/var/lib/hanode/identity.json
"#;

/// Verifies the order of a running node's units, then that of units with an ordering cycle.
const ORDER: &str = r#"
bake
export SYSTEMD_OFFLINE=1
chroot $root systemctl enable etcd patroni redis-server redis-sentinel haproxy keepalived
# What cloud-init's generator does.
ln -s /usr/lib/systemd/system/cloud-init.target $root/etc/systemd/system/multi-user.target.wants/
verify() { chroot $root systemd-analyze verify --man=no multi-user.target cloud-init.target hanode-plan.service hanode-ready.service hanode-join.socket; }
verify >&3 2>&3
echo ---- >&3
mkdir -p $root/etc/systemd/system/hanode-plan.service.d
printf '[Unit]\nBefore=cloud-init-local.service\n' > $root/etc/systemd/system/hanode-plan.service.d/wrong.conf
verify >&3 2>&3 || true
"#;

/// Type and permissions, owner, group, content's hash or link's target.
type Row = (char, u32, u64, u64, String);

fn hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// The image's members among `wanted`, the last of each name; and all the names.
fn image(tar: &Path, wanted: &dyn Fn(&str) -> bool) -> BTreeMap<String, Option<Row>> {
    let mut rows = BTreeMap::new();
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name =
            member.path().unwrap().to_string_lossy().trim_start_matches("./").trim_matches('/').to_string();
        let row = wanted(&name).then(|| {
            let header = member.header().clone();
            let (kind, text) = match header.entry_type() {
                tar::EntryType::Directory => ('d', String::new()),
                tar::EntryType::Symlink => ('l', member.link_name().unwrap().unwrap().display().to_string()),
                _ => {
                    let mut content = Vec::new();
                    member.read_to_end(&mut content).unwrap();
                    ('f', hash(&content))
                }
            };
            let mode = if kind == 'l' { 0o777 } else { header.mode().unwrap() & 0o7777 };
            (kind, mode, header.uid().unwrap(), header.gid().unwrap(), text)
        });
        rows.insert(name, row);
    }
    rows
}

/// The changes to the base: `None` for a removed file.
fn changes(upper: &Path) -> BTreeMap<String, Option<Row>> {
    let mut rows = BTreeMap::new();
    for entry in walkdir::WalkDir::new(upper).min_depth(1) {
        let entry = entry.unwrap();
        let name = entry.path().strip_prefix(upper).unwrap().to_string_lossy().into_owned();
        let meta = entry.path().symlink_metadata().unwrap();
        let (kind, text) = match meta.file_type() {
            kind if kind.is_char_device() => {
                rows.insert(name, None);
                continue;
            }
            kind if kind.is_dir() => ('d', String::new()),
            kind if kind.is_symlink() => {
                ('l', std::fs::read_link(entry.path()).unwrap().display().to_string())
            }
            _ => ('f', hash(&std::fs::read(entry.path()).unwrap())),
        };
        rows.insert(name, Some((kind, meta.mode() & 0o7777, meta.uid().into(), meta.gid().into(), text)));
    }
    rows
}

/// Runs the script in the target's tree, with the files of the cluster directory that Packer uploads: no CA keys.
fn in_tree(dir: &Path, cluster: &Path, script: &str) -> Output {
    let stage = dir.join("stage");
    for part in ["upper", "work", "root", "stage/cluster"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    for part in ["cluster.toml", "secrets.toml", "bundle.tar.gz"] {
        std::fs::copy(cluster.join(part), stage.join("cluster").join(part)).unwrap();
    }
    std::fs::copy(HANODE, stage.join("hanode")).unwrap();
    std::fs::copy(firstboot_program(), stage.join("hanode-firstboot")).unwrap();
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--uts", "sh", "-euc", &format!("{TREE}{script}"), "machine"]);
    let output = shell.arg(support::debian()).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn units_have_no_ordering_cycle() {
    let dir = support::workdir();
    let cluster = ClusterDir::init(&dir.path().join("demo"), spec::STARTER).unwrap();
    let output = in_tree(dir.path(), &cluster.dir, ORDER);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let (right, wrong) = stdout.split_once("----").unwrap();
    assert!(!right.contains("cycle") && !right.contains("hanode"), "{right}");
    assert!(wrong.contains("Found ordering cycle"), "{wrong}");
}

#[test]
fn a_bake_on_a_machine_equals_a_build() {
    let dir = support::workdir();
    let (cluster, tar) = support::cluster_with_image(dir.path(), "node.tar");
    let output = in_tree(dir.path(), &cluster.dir, MACHINE);
    let errors = String::from_utf8_lossy(&output.stderr);
    let second = String::from_utf8_lossy(&output.stdout);
    assert!(second.contains("0 files changed"), "the second bake: {second}");
    assert!(errors.contains("target ubuntu-20.04 is for") || errors.contains("no target"), "{errors}");
    assert!(errors.contains("is the disk of a node"), "{errors}");

    let changes = changes(&dir.path().join("upper"));
    let image = image(&tar, &|name| changes.contains_key(name));
    let mut wrong = Vec::new();
    for (name, row) in &changes {
        let known = DIFFERENT.iter().any(|known| name == known);
        // An archive does not name a directory that a file's path implies.
        let below = || {
            image.range(format!("{name}/")..).next().is_some_and(|(n, _)| n.starts_with(&format!("{name}/")))
        };
        match (row, image.get(name)) {
            (Some(row), Some(Some(built))) if row == built => {}
            (None, None) => {}
            (Some((kind, mode, 0, 0, _)), None) if (*kind, *mode) == ('d', 0o755) && below() => {}
            _ if known => {}
            (row, built) => wrong.push(format!("{name}: the machine has {row:?}, the image {built:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // In reverse: the machine has all files that a build writes.
    let record = std::fs::read(dir.path().join("upper/usr/lib/hanode/image.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let rows = record["entries"].as_array().unwrap();
    assert!(rows.len() > 30, "{}", rows.len());
    for row in rows {
        let path = row["path"].as_str().unwrap().trim_start_matches('/');
        let at_all = changes.contains_key(path) || support::debian().join(path).symlink_metadata().is_ok();
        assert!(at_all, "{path} is not in the machine");
    }
}
