//! A power cut after every step of the service in the image: the next boot ends in service.
//!
//! Needs root, the tools of the lab, and the programs built with the feature: `make test-failpoints`.

#![cfg(feature = "failpoints")]

use hanode::boot::failpoint::POINTS;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Only the first boots of a whole new cluster come there.
const GENESIS: [&str; 2] = ["genesis-recorded", "began"];
const HIT: Duration = Duration::from_secs(180);

struct Lab {
    dir: PathBuf,
    image: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.hanode(&["lab", "down"], &[]);
    }
}

impl Lab {
    fn new(at: &Path) -> Lab {
        let lab = Lab { dir: at.join("cluster"), image: at.join("image.tar") };
        lab.well(&["init"], &[]);
        lab.well(&["build"], &["--target", "debian-13", "--out", lab.image.to_str().unwrap()]);
        lab
    }

    fn hanode(&self, verb: &[&str], rest: &[&str]) -> Output {
        Command::new(HANODE).args(verb).arg(&self.dir).args(rest).output().unwrap()
    }

    fn well(&self, verb: &[&str], rest: &[&str]) {
        let output = self.hanode(verb, rest);
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn up(&self, nodes: &[&str]) {
        let image = self.image.to_str().unwrap();
        let named = nodes.iter().flat_map(|n| ["--node", *n]);
        let rest: Vec<&str> = ["--image", image, "--timeout-scale", "3"].into_iter().chain(named).collect();
        self.well(&["lab", "up"], &rest);
    }

    /// Boots `node` on an empty disk, cuts its power after the step, and leaves it off.
    fn cut(&self, node: &str, point: &str) {
        let lab = hanode::lab::Lab::open(&self.dir).unwrap().run_by(HANODE);
        lab.power_off(node).unwrap();
        lab.discard_disk(node).unwrap();
        let wish = |disk: &Path| disk.join("etc/hanode/failpoint");
        let make = |disk: &Path| {
            std::fs::create_dir_all(disk.join("etc/hanode"))?;
            Ok(std::fs::write(wish(disk), point)?)
        };
        lab.on_disk(node, make).unwrap();
        lab.start(node).unwrap();
        let began = Instant::now();
        while !lab
            .exec_output(node, &["test", "-e", "/run/hanode/failpoint"])
            .is_ok_and(|o| o.status.success())
        {
            assert!(began.elapsed() < HIT, "{node} does not come to {point}:\n{}", lab.logs(node).unwrap());
            std::thread::sleep(Duration::from_millis(300));
        }
        lab.power_off(node).unwrap();
        lab.on_disk(node, |disk| Ok(std::fs::remove_file(wish(disk))?)).unwrap();
    }
}

#[test]
#[ignore = "boots clusters for a quarter of an hour"]
fn a_power_cut_after_any_step_ends_in_service() {
    let scratch = tempfile::tempdir().unwrap();
    let lab = Lab::new(scratch.path());
    for point in GENESIS {
        lab.hanode(&["lab", "down"], &[]);
        lab.up(&["node2", "node3"]);
        lab.cut("node1", point);
        lab.up(&[]);
        eprintln!("genesis: {point}: in service");
    }
    for point in POINTS.iter().filter(|p| !GENESIS.contains(p)) {
        lab.cut("node2", point);
        lab.up(&[]);
        eprintln!("rejoin: {point}: in service");
    }
}
