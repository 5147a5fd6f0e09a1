//! Another release of a supported distribution, defined by one file (`tests/targets`), with its own cloud-init and systemd,
//! in the lab. Building its base takes minutes: `make test-vm`.

use crate::support::lab::{Lab, NODES};
use crate::support::{self, Workdir, workdir_alone};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::spec;
use serde_json::Value;
use std::time::Duration;

/// `program`: `hanode-firstboot` for the release's glibc.
fn lab(workdir: Workdir, release: &str, program: &[u8]) -> Lab {
    let cluster = ClusterDir::init(&workdir.path().join("demo"), spec::STARTER).unwrap();
    let image = workdir.path().join("node.tar");
    let target = format!("{}/tests/targets/{release}.toml", env!("CARGO_MANIFEST_DIR"));
    support::build_with(program, &target, Some(&cluster), &image);
    Lab::of(workdir, cluster, image)
}

/// cloud-init has this version and finished without errors; no unit failed or is in an ordering cycle.
fn booted_without_errors(lab: &Lab, node: &str, version: &str) {
    let output = |command: &str| lab.output(node, &["sh", "-c", command]);
    assert!(output("cloud-init --version 2>&1").contains(version));
    let status = output("cloud-init status --wait --long; echo exit $?");
    println!("{node}: {}", status.replace('\n', "; "));
    assert!(status.contains("status: done") && status.contains("exit 0"), "{node}: {status}");
    assert!(!status.contains("degraded"), "{node}: {status}");
    let result: Value = serde_json::from_str(&output("cat /run/cloud-init/result.json")).unwrap();
    assert_eq!(result["v1"]["errors"].as_array().unwrap().len(), 0, "{node}: {result}");
    assert!(!output("journalctl --boot --no-pager").contains("ordering cycle"), "{node}");
    assert_eq!(output("systemctl list-units --failed --no-legend --plain"), "", "{node}");
    assert_eq!(output("hostname"), node);
}

/// Microseconds since the kernel started; 0: never.
fn when(lab: &Lab, node: &str, unit: &str, what: &str) -> u64 {
    let property = format!("{what}TimestampMonotonic");
    lab.output(node, &["systemctl", "show", "--value", "-p", &property, unit]).parse().unwrap()
}

/// The order of start: metadata, the plan, then all servers if `serving`, otherwise none.
fn started_in_order(lab: &Lab, node: &str, serving: bool) {
    let known = when(lab, node, "cloud-config.target", "ActiveEnter");
    let planning = when(lab, node, "hanode-plan.service", "InactiveExit");
    assert!(known > 0 && planning >= known, "{node}: metadata at {known}, hanode-plan at {planning}");
    let planned = when(lab, node, "hanode-plan.service", "ActiveEnter");
    assert_eq!(planned > 0, serving, "{node}");
    let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
    for unit in target.units.values() {
        let started = when(lab, node, unit, "InactiveExit");
        assert_eq!(started > 0, serving, "{node}: {unit}");
        assert!(started >= planned, "{node}: {unit} at {started}, planned at {planned}");
    }
}

/// Restarts the machine as a new instance of the platform; cloud-init sets a host name that no node has.
fn restarts_as_another_instance(lab: &Lab, node: &str) {
    let driver = lab.driver();
    driver.shutdown(node).unwrap();
    let cloud_config = "hostname: db3\nfqdn: db3.example.org\n";
    driver
        .on_disk(node, |root| {
            let at = root.join("etc/cloud/cloud.cfg.d");
            std::fs::create_dir_all(&at)?;
            Ok(std::fs::write(at.join("90-cloud_config.cfg"), cloud_config)?)
        })
        .unwrap();
    let at = lab.cluster.dir.join(format!(".lab/nodes/{node}/node-disk.json"));
    let mut disk: Value = serde_json::from_slice(&std::fs::read(&at).unwrap()).unwrap();
    disk["instance_id"] = "i-another".into();
    std::fs::write(&at, disk.to_string()).unwrap();
    lab.up(&[]);
    let instance_id = lab.output(node, &["cloud-init", "query", "v1.instance_id"]);
    assert_eq!(instance_id, "i-another");
    assert_eq!(lab.output(node, &["cat", "/etc/hostname"]), "db3", "cloud-init manages the name");
}

#[test]
#[ignore = "makes a base of another release, minutes: make test-vm"]
fn debian_12_by_its_file_alone_is_a_cluster() {
    let lab = lab(workdir_alone(), "debian-12", &support::program());
    lab.up(&[]);
    for node in NODES {
        booted_without_errors(&lab, node, "22.4");
        started_in_order(&lab, node, true);
        assert_eq!(lab.state(node)["identity_source"], "metadata");
    }
    restarts_as_another_instance(&lab, "node3");
    booted_without_errors(&lab, "node3", "22.4");
    started_in_order(&lab, "node3", true);
    assert_eq!(lab.state("node3")["identity_source"], "pinned");
    lab.healthy_within(Duration::from_secs(120));
}
