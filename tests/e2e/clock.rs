//! The clock of a node that jumps a day ahead and back under write load. Containers share the clock of this machine, so
//! the nodes are emulated: `make test-vm`.

use crate::support::lab::Lab;
use crate::support::{ImageSetup, workdir_alone};

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_clock_that_jumps_loses_no_write() {
    let setup = ImageSetup::debian();
    let workdir = workdir_alone();
    let (cluster, image) = setup.cluster(workdir.path(), "node.qcow2", &[]);
    let lab = Lab::of(workdir, cluster, image);
    lab.up(&["--vm", "--timeout-scale", "8"]);
    let chaos = ["--rounds", "3", "--seed", "1", "--faults", "clock-jump", "--timeout-scale", "4"];
    let result = lab.hanode(&["lab", "chaos"], &chaos);
    let report = String::from_utf8_lossy(&result.stdout);
    eprintln!("{}{report}", String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success() && report.contains("PASS: no acknowledged write lost"), "{report}");
}
