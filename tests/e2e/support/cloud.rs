//! A network namespace with a cloud platform's DHCP, DNS and metadata service, and a machine in it.

use super::qemu::{Firmware, Machine, dies_with_us};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The network. Its gateway is this machine's end of the link.
pub struct Network {
    name: String,
    subnet: String,
    dir: PathBuf,
    /// The login user on the machine.
    pub user: &'static str,
    children: Vec<Child>,
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const PREFIX: &str = "hanode-cloud-";

/// Removes networks of killed tests; their processes ended with them.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            run(Command::new("ip").args(["netns", "delete", &name]));
        }
    }
}

impl Network {
    /// `subnet`: the first three numbers of its addresses. `dir` is for its files.
    pub fn new(subnet: &str, dir: &Path) -> Network {
        sweep();
        let name = format!("{PREFIX}{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let network =
            Network { name, subnet: subnet.into(), dir: dir.into(), user: "debian", children: Vec::new() };
        let gateway = format!("{subnet}.1/24");
        let words = [
            &["link", "set", "lo", "up"][..],
            &["tuntap", "add", "dev", "tap", "mode", "tap"],
            &["address", "add", &gateway, "dev", "tap"],
            // Addresses of the metadata services: of most clouds, and Azure's second one.
            &["address", "add", "169.254.169.254/32", "dev", "lo"],
            &["address", "add", "168.63.129.16/32", "dev", "lo"],
            &["link", "set", "tap", "up"],
        ];
        words.iter().for_each(|words| drop(run(Command::new("ip").args(["-n", &network.name]).args(*words))));
        network
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn keep(&mut self, command: Command, log: &str) {
        let log = std::fs::File::create(self.dir.join(log)).unwrap();
        let errors = log.try_clone().unwrap();
        let mut command = dies_with_us(&command);
        self.children.push(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().unwrap());
    }

    /// The only machine gets this address by DHCP for any client identifier: cloud-init's DHCP client comes first.
    pub fn dhcp(&mut self, mac: &str, host: u8, more: &[&str]) {
        let mut dnsmasq = self.inside("dnsmasq");
        let subnet = &self.subnet;
        dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-"]);
        dnsmasq.args([
            "--no-resolv",
            "--no-hosts",
            "--interface=tap",
            "--bind-interfaces",
            "--dhcp-authoritative",
        ]);
        dnsmasq.arg(format!("--dhcp-leasefile={}", self.dir.join("leases").display()));
        dnsmasq
            .arg(format!("--dhcp-range={subnet}.0,static"))
            .arg(format!("--dhcp-host={mac},id:*,{subnet}.{host},1h"));
        dnsmasq.arg(format!("--dhcp-option=option:router,{subnet}.1"));
        dnsmasq.arg("--address=/metadata.google.internal/169.254.169.254").args(more);
        self.keep(dnsmasq, "dnsmasq.log");
    }

    /// Starts the metadata service of a platform with this user-data.
    pub fn metadata(&mut self, platform: &str, user_data: &Path, control: &Value) {
        self.control(control);
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata/serve.py");
        let mut python = self.inside("python3");
        python.arg("-B").arg(server).arg(platform).arg(user_data).arg(self.dir.join("control"));
        self.keep(python, "metadata.log");
    }

    /// Sets how the metadata service answers from now on: see serve.py.
    pub fn control(&self, control: &Value) {
        hanode_util::file_tree::replace(
            &self.dir.join("control"),
            control.to_string().as_bytes(),
            0o644,
            None,
        )
        .unwrap();
    }

    /// The requests that the metadata service received.
    pub fn requests(&self) -> String {
        std::fs::read_to_string(self.dir.join("metadata.log")).unwrap()
    }

    pub fn boot(&self, disk: &Path, mac: &str, more: &[String]) -> Machine {
        let mut all = vec!["-netdev".to_string(), "tap,id=n,ifname=tap,script=no,downscript=no".into()];
        all.extend(["-device".into(), format!("virtio-net-pci,netdev=n,mac={mac}")]);
        all.extend_from_slice(more);
        Machine::start(self.inside("qemu-system-x86_64"), Firmware::Bios, disk, &self.dir, &all)
    }

    fn ssh(&self, host: u8, command: &str) -> Output {
        let mut ssh = self.inside("ssh");
        ssh.args([
            "-q",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "ConnectTimeout=10",
        ]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-i"]).arg(self.dir.join("key"));
        ssh.arg(format!("{}@{}.{host}", self.user, self.subnet)).arg(format!("sudo sh -c '{command}'"));
        ssh.stdin(Stdio::null()).output().unwrap()
    }

    /// Output of a command on the machine, by SSH with the key in its user-data. It must not contain a single quote.
    pub fn output(&self, host: u8, command: &str, timeout: Duration) -> String {
        let start = Instant::now();
        loop {
            let output = self.ssh(host, command);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let message = format!("{}{}{}", output.status, text(&output.stdout), text(&output.stderr));
            assert!(start.elapsed() < timeout, "{command}: {message}");
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// A platform's example of user-data, with the test's SSH key instead of the example's.
    pub fn user_data(&self, platform: &str) -> PathBuf {
        let key = self.dir.join("key");
        if !key.exists() {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
                .arg(&key));
        }
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let example =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud-init").join(platform).join("user-data");
        let text = std::fs::read_to_string(example).unwrap();
        let line = text.lines().find(|line| line.contains("EXAMPLEKEY")).expect("an example of a key");
        let at = self.dir.join("user-data");
        std::fs::write(&at, text.replace(line.trim().trim_start_matches("- "), public.trim())).unwrap();
        at
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for log in ["dnsmasq.log", "metadata.log"] {
                eprintln!("--- {log}\n{}", std::fs::read_to_string(self.dir.join(log)).unwrap_or_default());
            }
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
