//! A virtual machine from a disk image, emulated (no KVM needed), its serial console in a file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
#[allow(dead_code)]
pub enum Firmware {
    Bios,
    Uefi,
}

pub struct Machine {
    child: Child,
    console: PathBuf,
    start: Instant,
}

#[allow(dead_code)]
impl Machine {
    /// Boots `disk` with a seed and discards what the machine writes to them. `dir` is for its files.
    pub fn boot(firmware: Firmware, disk: &Path, seed: &Path, dir: &Path) -> Machine {
        Machine::boot_with(firmware, disk, seed, dir, &[])
    }

    /// With further arguments for QEMU.
    pub fn boot_with(firmware: Firmware, disk: &Path, seed: &Path, dir: &Path, more: &[String]) -> Machine {
        let qemu = Command::new("qemu-system-x86_64");
        // A network without other machines.
        let mut all: Vec<String> =
            ["-no-reboot", "-netdev", "hubport,id=n,hubid=0", "-device"].map(String::from).into();
        all.push(format!("virtio-net-pci,netdev=n,mac={MAC}"));
        all.extend(["-drive".into(), format!("file={},if=virtio,format=raw,readonly=on", seed.display())]);
        all.extend_from_slice(more);
        Machine::start(qemu, firmware, disk, dir, &all)
    }

    /// `qemu`: the command, possibly in a network namespace. The machine has a disk, and the devices that `more` adds.
    pub fn start(mut qemu: Command, firmware: Firmware, disk: &Path, dir: &Path, more: &[String]) -> Machine {
        let console = dir.join(format!("{firmware:?}.log"));
        // The output of an earlier machine would be read as this one's.
        let _ = std::fs::remove_file(&console);
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-m", "1024", "-smp", "2"]);
        qemu.args(["-nodefaults", "-display", "none", "-device", "virtio-rng-pci"]);
        if !more.iter().any(|word| word == "-cpu") {
            qemu.args(["-cpu", "max"]);
        }
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-drive").arg(format!("file={},if=virtio,snapshot=on", disk.display()));
        qemu.args(more);
        if let Firmware::Uefi = firmware {
            let (code, variables) = ovmf();
            let own = dir.join("variables.fd");
            std::fs::copy(variables, &own).unwrap();
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={}", code.display()));
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", own.display()));
        }
        let errors = std::fs::File::create(dir.join("qemu.log")).unwrap();
        let child = dies_with_us(&qemu)
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("qemu-system-x86_64: run `make setup`");
        Machine { child, console, start: Instant::now() }
    }

    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits for one of the texts on the console and returns it; otherwise panics with the console's last lines.
    pub fn wait_for<'a>(&mut self, texts: &[&'a str], timeout: Duration) -> &'a str {
        self.wait_for_after(0, texts, timeout)
    }

    /// The same, after this many bytes of the console.
    pub fn wait_for_after<'a>(&mut self, bytes: usize, texts: &[&'a str], timeout: Duration) -> &'a str {
        let until = Instant::now() + timeout;
        loop {
            let console = self.console();
            let console = console.get(bytes..).unwrap_or_default();
            if let Some(found) = texts.iter().find(|text| console.contains(*text)) {
                println!("{found:?} after {:.0} s", self.start.elapsed().as_secs_f64());
                return found;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the machine ended ({status}) before {texts:?}:\n{}", end_of(console));
            }
            assert!(Instant::now() < until, "no {texts:?} within {timeout:?}:\n{}", end_of(console));
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// The command, with a parent-death signal: it ends even if the test is killed.
pub fn dies_with_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const MAC: &str = "52:54:00:12:34:56";

/// Debian's OVMF: since bookworm only the 4 MB variant is certain.
fn ovmf() -> (PathBuf, PathBuf) {
    for suffix in ["_4M", ""] {
        let file = |kind: &str| PathBuf::from(format!("/usr/share/OVMF/OVMF_{kind}{suffix}.fd"));
        if file("CODE").is_file() && file("VARS").is_file() {
            return (file("CODE"), file("VARS"));
        }
    }
    panic!("no OVMF in /usr/share/OVMF: run `make setup`");
}

fn end_of(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
