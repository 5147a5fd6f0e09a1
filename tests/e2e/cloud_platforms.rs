//! Boots every example of `cloud-init/`: an emulated machine with the platform's firmware strings, on a network with DHCP and
//! the platform's metadata service. Slow: `make test-vm`. Needs root.

use crate::common::programs::hanode;
use crate::common::sources;
use crate::support;
use crate::support::cloud::Network;
use crate::support::qemu::Machine;
use hanode_admin::cluster_dir::ClusterDir;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// For an emulated boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);
const SUBNET: &str = "10.0.0";
const HOST: u8 = 22;
/// The interface's address in Azure's metadata.
const MAC: &str = "00:0d:3a:04:75:98";
const WAITING: &str = "hanode: node2: waiting-for-peers";
const EC2: &str = "type=1,manufacturer=Amazon EC2,uuid=ec2e1916-9099-7caf-fd21-012345abcdef,serial=ec2e1916-9099-7caf-fd21-012345abcdef";

/// The image of the example cluster, with the addresses of the recorded metadata.
fn on_a_cloud(dir: &Path) -> PathBuf {
    let text = std::fs::read_to_string(sources("cloud-init/cluster.toml")).unwrap();
    let cluster = ClusterDir::init(&dir.join("prod"), &text.replace("10.0.1.", "10.0.0.")).unwrap();
    let image = dir.join("node.qcow2");
    support::build("debian-13", Some(&cluster), &image);
    image
}

/// No unit failed, no server started, cloud-init reports no error, and the node has its identity from `source`.
fn boots_without_errors(
    network: &Network,
    machine: &mut Machine,
    host: u8,
    node: &str,
    source: &str,
    datasource: &str,
) {
    let output = |command: &str| network.output(host, command, PATIENCE);
    let status = output("cloud-init status --wait --long; echo exit $?");
    println!("{status}");
    assert!(status.contains("exit 0") && status.contains("status: done"), "{status}");
    assert!(status.contains(datasource) && !status.contains("degraded"), "{status}");
    let errors = output("cat /run/cloud-init/result.json");
    let errors: Value = serde_json::from_str(&errors).unwrap();
    assert_eq!(errors["v1"]["errors"], json!([]));
    let state: Value = serde_json::from_str(&output("cat /run/hanode/state.json")).unwrap();
    assert_eq!((&state["node"], &state["identity_source"]), (&json!(node), &json!(source)), "{state:#}");
    assert_eq!(state["error"], Value::Null, "{state:#}");
    assert_eq!(output("hostname").trim(), node);
    assert_eq!(output("systemctl list-units --failed --no-legend").trim(), "");
    assert!(!output("journalctl --boot --no-pager").contains("ordering cycle"));
    comes_in_order(&output);
    let console = machine.console();
    assert!(!console.contains("FAILED"), "a unit failed:\n{console}");
}

/// hanode-plan started after cloud-init had the metadata, and no server started.
fn comes_in_order(output: &dyn Fn(&str) -> String) {
    let when = |unit: &str, what: &str| -> u64 {
        let shown = output(&format!("systemctl show --value -p {what}TimestampMonotonic {unit}"));
        shown.trim().parse().unwrap_or_else(|_| panic!("{unit} {what}: {shown}"))
    };
    let known = when("cloud-config.target", "ActiveEnter");
    let planned = when("hanode-plan.service", "InactiveExit");
    assert!(known > 0 && planned >= known, "metadata at {known}, hanode-plan at {planned}");
    let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
    for unit in target.units.values() {
        assert_eq!(when(unit, "InactiveExit"), 0, "{unit} was started");
    }
}

/// A CD with these files, in a drive that can eject it.
fn cd(dir: &Path, label: &str, files: &[(&str, &[u8])]) -> Vec<String> {
    let (from, iso) = (dir.join(label), dir.join(format!("{label}.iso")));
    std::fs::create_dir_all(&from).unwrap();
    for (name, content) in files {
        std::fs::write(from.join(name), content).unwrap();
    }
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", label, "-J", "-r", "-o"]).arg(&iso).arg(&from);
    assert!(xorriso.status().unwrap().success());
    let drive = format!("if=none,id=cd,format=raw,readonly=on,file={}", iso.display());
    ["-drive", &drive, "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cd"].map(String::from).into()
}

fn smbios(parts: &[&str]) -> Vec<String> {
    parts.iter().flat_map(|part| ["-smbios".to_string(), part.to_string()]).collect()
}

/// The platform's hardware, the differences of its metadata from the recorded one, and cloud-init's datasource.
fn platform(name: &str, dir: &Path) -> (Vec<String>, Value, &'static str) {
    let mac = format!("network/interfaces/macs/{MAC}/");
    match name {
        "openstack" => {
            let link = json!({"id": "l", "type": "phy", "ethernet_mac_address": MAC, "mtu": 1500});
            let network = json!({"id": "n", "link": "l", "type": "ipv4_dhcp", "network_id": "n"});
            let links = format!("\"links\": [{link}], \"networks\": [{network}]");
            let control = json!({"replace": {"\"links\": [], \"networks\": []": links}});
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

fn with_directory(test: impl FnOnce(&Path)) {
    test(support::workdir_alone().path());
}

/// Boots with a metadata service: the user-data has the test's SSH key, the tag the node name.
fn boots_as(name: &str) {
    with_directory(|dir| {
        let image = on_a_cloud(dir);
        let mut network = Network::new(SUBNET, dir);
        let (hardware, control, datasource) = platform(name, dir);
        let user_data = network.user_data(name);
        if name == "azure" {
            // Azure sets the login user; cloud-init finds the primary interface by its routes.
            network.user = "admin";
            let routes =
                ["0.0.0.0/0", "168.63.129.16/32", "169.254.169.254/32"].map(|to| format!("{to},10.0.0.1"));
            network.dhcp(MAC, HOST, &[&format!("--dhcp-option=121,{}", routes.join(","))]);
        } else {
            network.dhcp(MAC, HOST, &[]);
        }
        network.metadata(name, &user_data, &control);
        let mut machine = network.boot(&image, MAC, &hardware);
        machine.wait_for(&[WAITING], PATIENCE);
        boots_without_errors(&network, &mut machine, HOST, "node2", "metadata", datasource);
    });
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

/// The starter's cluster, on a network without other machines.
fn at_home(dir: &Path, baked: bool) -> (ClusterDir, PathBuf, Network) {
    let cluster = ClusterDir::init(&dir.join("prod"), hanode_core::spec::STARTER).unwrap();
    let image = dir.join("node.raw");
    support::build("debian-13", baked.then_some(&cluster), &image);
    (cluster, image, Network::new("192.168.18", dir))
}

const NODE1: &str = "hanode: node1: waiting-for-peers";

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_nocloud_machine_is_the_node_of_the_example() {
    with_directory(|dir| {
        let (_, image, network) = at_home(dir, true);
        let example = |name: &str| std::fs::read(sources("cloud-init/nocloud").join(name)).unwrap();
        let user_data = std::fs::read(network.user_data("nocloud")).unwrap();
        let (meta_data, network_config) = (example("meta-data"), example("network-config"));
        let files: [(&str, &[u8]); 3] =
            [("meta-data", &meta_data), ("network-config", &network_config), ("user-data", &user_data)];
        let mut machine = network.boot(&image, "52:54:00:00:00:01", &cd(dir, "CIDATA", &files));
        machine.wait_for(&[NODE1], PATIENCE);
        boots_without_errors(&network, &mut machine, 21, "node1", "metadata", "DataSourceNoCloud");
    });
}

/// `late/`, with its real content as `hanode seed --bundle` writes it: an image without keys.
#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn an_image_without_a_cluster_gets_it_at_launch() {
    with_directory(|dir| {
        let (cluster, image, network) = at_home(dir, false);
        network.user_data("nocloud");
        let seed = dir.join("node1.iso");
        let mut hanode = hanode();
        hanode.arg("seed").arg(&cluster.dir).args(["--node", "node1", "--bundle", "--ssh-key"]);
        hanode.arg(dir.join("key.pub")).args(["--interface", MAC, "--gateway", "192.168.18.1", "--out"]);
        assert!(hanode.arg(&seed).status().unwrap().success());
        let drive = format!("file={},if=virtio,format=raw,readonly=on", seed.display());
        let mut machine = network.boot(&image, MAC, &["-drive".into(), drive]);
        machine.wait_for(&[NODE1], PATIENCE);
        boots_without_errors(&network, &mut machine, 21, "node1", "metadata", "DataSourceNoCloud");
    });
}

/// Replaces open-vm-tools' program, which works only on VMware: QEMU has no guestinfo.
const RPCTOOL: &str = r#"#!/bin/sh
case $1 in
"info-get "*) cat "/opt/${1#info-get }" 2>/dev/null || { echo 'No value found' >&2; exit 1; } ;;
esac
"#;

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_vmware_machine_is_the_node_of_its_guestinfo() {
    with_directory(|dir| {
        let (_, image, network) = at_home(dir, true);
        let user_data = std::fs::read_to_string(network.user_data("vmware")).unwrap();
        let meta_data = std::fs::read_to_string(sources("cloud-init/vmware/meta-data")).unwrap();
        // The daemon of open-vm-tools fails without VMware, so it is masked.
        let mut commands = "rm /usr/bin/vmware-rpctool\n\
            symlink /etc/systemd/system/open-vm-tools.service /dev/null\n"
            .to_string();
        for (at, mode, text) in [
            ("/usr/bin/vmware-rpctool", "0100755", RPCTOOL),
            ("/opt/guestinfo.metadata", "0100644", &meta_data),
            ("/opt/guestinfo.userdata", "0100644", &user_data),
        ] {
            let file = dir.join(Path::new(at).file_name().unwrap());
            std::fs::write(&file, text).unwrap();
            commands += &format!("write {} {at}\nset_inode_field {at} mode {mode}\n", file.display());
        }
        let script = dir.join("commands");
        std::fs::write(&script, commands).unwrap();
        let disk = format!("{}?offset=18874368", image.display());
        let written = Command::new("debugfs").args(["-w", "-f"]).arg(script).arg(disk).output().unwrap();
        assert!(written.status.success(), "{written:?}");
        // systemd detects the hypervisor by the processor first.
        let system = "type=1,manufacturer=VMware,, Inc.,product=VMware Virtual Platform";
        let processor = ["-cpu", "max,-hypervisor"].map(String::from);
        let hardware = [smbios(&[system]), processor.into()].concat();
        let mut machine = network.boot(&image, "00:50:56:00:00:01", &hardware);
        machine.wait_for(&[NODE1], PATIENCE);
        boots_without_errors(&network, &mut machine, 21, "node1", "metadata", "DataSourceVMware");
    });
}

/// The node waits for a service that is busy, then slow. At later boots its metadata does not change the identity.
#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_busy_slow_or_missing_metadata_service_is_tolerated() {
    with_directory(|dir| {
        let image = on_a_cloud(dir);
        let mut network = Network::new(SUBNET, dir);
        let (hardware, slow, _) = platform("ec2", dir);
        let user_data = network.user_data("ec2");
        network.dhcp(MAC, HOST, &[]);
        let with = |more: Value| {
            let mut control = slow.clone();
            control.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            control
        };
        network.metadata("ec2", &user_data, &with(json!({"status": 503})));
        let mut machine = network.boot(&image, MAC, &hardware);
        machine.wait_for(&["Linux version"], PATIENCE);
        until(|| !network.requests().is_empty());
        std::thread::sleep(Duration::from_secs(20));
        network.control(&with(json!({"delay": 1})));
        machine.wait_for(&[WAITING], PATIENCE);
        let output = |command: &str| network.output(HOST, command, PATIENCE);
        let source = || {
            let state: Value = serde_json::from_str(&output("cat /run/hanode/state.json")).unwrap();
            assert_eq!(state["node"], json!("node2"), "{state:#}");
            state["identity_source"].as_str().unwrap().to_string()
        };
        assert_eq!(source(), "metadata");
        comes_in_order(&output);

        let reboots = |control: Value, machine: &mut Machine| {
            network.control(&control);
            let before = machine.console().len();
            output("systemctl reboot --no-block");
            machine.wait_for_after(before, &[WAITING], PATIENCE);
            assert_eq!(source(), "pinned");
            comes_in_order(&output);
        };
        // The platform reports another instance.
        let other = with(json!({"replace": {"i-0123456789abcdef0": "i-0fedcba9876543210"}}));
        reboots(other, &mut machine);
        assert_eq!(output("cloud-init query v1.instance_id").trim(), "i-0fedcba9876543210");
        assert!(!machine.console().contains("FAILED"), "{}", machine.console());
        // Finally the service stays busy: cloud-init retries without end, and the node does not wait for it.
        reboots(with(json!({"status": 503})), &mut machine);
        let failed = output("systemctl list-units --failed --no-legend --plain");
        assert!(failed.lines().all(|unit| unit.starts_with("cloud-init")), "{failed}");
        output("timeout 300 cloud-init status --wait >/dev/null; test $? -ne 124");
    });
}

/// No metadata service: cloud-init and hanode run into their timeouts, and the machine's address decides.
#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn without_a_metadata_service_the_address_decides() {
    with_directory(|dir| {
        let image = on_a_cloud(dir);
        let mut network = Network::new(SUBNET, dir);
        network.dhcp(MAC, HOST, &[]);
        let mut machine = network.boot(&image, MAC, &smbios(&[EC2]));
        machine.wait_for(&[WAITING], PATIENCE);
        let console = machine.console();
        for unit in hanode_admin::embedded::target("debian-13").unwrap().1.units.values() {
            let started = console.lines().any(|l| l.contains("Start") && l.contains(unit.as_str()));
            assert!(!started, "{unit} was started:\n{console}");
        }
    });
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(300));
    }
}
