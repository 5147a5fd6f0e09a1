//! Every example of `cloud-init/`, booted: an emulated machine whose firmware says what that platform's does, on a
//! network of the test's own with DHCP and the platform's metadata service. Slow: `make test-vm`. Needs root.
#![allow(clippy::unwrap_used)]

#[path = "common/cloud.rs"]
mod cloud;
mod common;
#[path = "common/qemu.rs"]
mod qemu;

use cloud::Network;
use hanode::cluster::Cluster;
use qemu::Machine;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// For a boot, emulated, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(900);
const SUBNET: &str = "10.0.0";
const HOST: u8 = 22;
/// Azure's metadata names the interface by it.
const MAC: &str = "00:0d:3a:04:75:98";
const WAITING: &str = "hanode: node2: waiting-for-peers";
const EC2: &str = "type=1,manufacturer=Amazon EC2,uuid=ec2e1916-9099-7caf-fd21-012345abcdef,serial=ec2e1916-9099-7caf-fd21-012345abcdef";

fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The example's cluster on a cloud, with addresses as the recorded metadata has them; and its image.
fn on_a_cloud(dir: &Path, target: &str) -> PathBuf {
    let text = std::fs::read_to_string(sources("cloud-init/cluster.toml")).unwrap();
    let cluster = Cluster::init(&dir.join("prod"), &text.replace("10.0.1.", "10.0.0.")).unwrap();
    let image = dir.join("node.qcow2");
    common::build(target, Some(&cluster), &image);
    image
}

/// No unit failed, no server ran, cloud-init is content, and the node knows itself by `source`.
fn is_well(network: &Network, machine: &mut Machine, host: u8, node: &str, source: &str, datasource: &str) {
    let said = |command: &str| network.said(host, command, PATIENCE);
    let status = said("cloud-init status --wait --long; echo exit $?");
    println!("{status}");
    assert!(status.contains("exit 0") && status.contains("status: done"), "{status}");
    assert!(status.contains(datasource) && !status.contains("degraded"), "{status}");
    let errors = said("cat /run/cloud-init/result.json");
    let errors: Value = serde_json::from_str(&errors).unwrap();
    assert_eq!(errors["v1"]["errors"], json!([]));
    let state: Value = serde_json::from_str(&said("cat /run/hanode/state.json")).unwrap();
    assert_eq!((&state["node"], &state["identity_source"]), (&json!(node), &json!(source)), "{state:#}");
    assert_eq!(state["error"], Value::Null, "{state:#}");
    assert_eq!(said("hostname").trim(), node);
    assert_eq!(said("systemctl list-units --failed --no-legend").trim(), "");
    assert!(!said("journalctl --boot --no-pager").contains("ordering cycle"));
    comes_in_order(&said);
    let console = machine.console();
    assert!(!console.contains("FAILED"), "a unit failed:\n{console}");
}

/// hanode-plan began after cloud-init had the metadata, and it has let no server start.
fn comes_in_order(said: &dyn Fn(&str) -> String) {
    let when = |unit: &str, what: &str| -> u64 {
        let shown = said(&format!("systemctl show --value -p {what}TimestampMonotonic {unit}"));
        shown.trim().parse().unwrap_or_else(|_| panic!("{unit} {what}: {shown}"))
    };
    let known = when("cloud-config.target", "ActiveEnter");
    let planned = when("hanode-plan.service", "InactiveExit");
    assert!(known > 0 && planned >= known, "metadata at {known}, hanode-plan at {planned}");
    let (_, target) = hanode::image::target("debian-13").unwrap();
    for unit in target.units.values() {
        assert_eq!(when(unit, "InactiveExit"), 0, "{unit} was started");
    }
}

/// A disk for the machine's CD drive with these files.
fn cd(dir: &Path, label: &str, files: &[(&str, &[u8])]) -> Vec<String> {
    let (from, iso) = (dir.join(label), dir.join(format!("{label}.iso")));
    std::fs::create_dir_all(&from).unwrap();
    for (name, content) in files {
        std::fs::write(from.join(name), content).unwrap();
    }
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", label, "-J", "-r", "-o"]).arg(&iso).arg(&from);
    assert!(xorriso.status().unwrap().success());
    ["-drive".into(), format!("file={},if=virtio,format=raw,readonly=on", iso.display())].into()
}

fn smbios(parts: &[&str]) -> Vec<String> {
    parts.iter().flat_map(|part| ["-smbios".to_string(), part.to_string()]).collect()
}

/// What the platform's own template of a machine comes with, and how its metadata differs from the recorded one.
fn platform(name: &str, dir: &Path) -> (Vec<String>, Value, &'static str) {
    let mac = format!("network/interfaces/macs/{MAC}/");
    match name {
        "openstack" => {
            let link = json!({"id": "l", "type": "phy", "ethernet_mac_address": MAC, "mtu": 1500});
            let network = json!({"id": "n", "link": "l", "type": "ipv4_dhcp", "network_id": "n"});
            let told = format!("\"links\": [{link}], \"networks\": [{network}]");
            let control = json!({"replace": {"\"links\": [], \"networks\": []": told}});
            (smbios(&["type=1,product=OpenStack Nova"]), control, "DataSourceOpenStack")
        }
        "ec2" => {
            let add = json!({
                format!("{mac}device-number"): "0", format!("{mac}local-ipv4s"): "10.0.0.22",
                format!("{mac}subnet-ipv4-cidr-block"): "10.0.0.0/24", format!("{mac}mac"): MAC,
            });
            (smbios(&[EC2]), json!({"add": add}), "DataSourceEc2")
        }
        "gce" => {
            let google = "type=1,manufacturer=Google,product=Google Compute Engine,serial=GoogleCloud-1";
            (smbios(&[google]), json!({}), "DataSourceGCE")
        }
        "azure" => {
            let chassis = "type=3,asset=7783-7084-3265-9085-8269-3286-77";
            let system = "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,uuid=ec2e1916-9099-7caf-fd21-012345abcdef";
            let mut python = Command::new("python3");
            python.args(["-B", "-c", "import endpoints; print(endpoints.OVF)"]);
            let ovf = python.current_dir(sources("tests/metadata")).output().unwrap().stdout;
            let cd = cd(dir, "rd_rdfe", &[("ovf-env.xml", &ovf)]);
            ([smbios(&[system, chassis]), cd].concat(), json!({}), "DataSourceAzure")
        }
        other => panic!("{other}"),
    }
}

fn boots(dir: &Path, image: &Path, name: &str) {
    let mut network = Network::new(SUBNET, dir);
    let (firmware, control, datasource) = platform(name, dir);
    let user_data = network.user_data(name);
    network.dhcp(HOST);
    network.metadata(name, &user_data, &control);
    let mut machine = network.boot(image, MAC, &firmware);
    machine.wait_for(&[WAITING], PATIENCE);
    is_well(&network, &mut machine, HOST, "node2", "metadata", datasource);
    // Each asks for what the operator gave it, and the example's key is what let the test in.
    assert!(!network.asked().is_empty());
}

/// One machine at a time: two would only make each other slow.
fn boots_as(platform: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    boots(dir.path(), &on_a_cloud(dir.path(), "debian-13"), platform);
}

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn an_openstack_machine_is_the_node_of_its_property() {
    boots_as("openstack");
}

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn an_ec2_machine_is_the_node_of_its_tag() {
    boots_as("ec2");
}

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_gce_machine_is_the_node_of_its_attribute() {
    boots_as("gce");
}

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn an_azure_machine_is_the_node_of_its_tag() {
    boots_as("azure");
}
