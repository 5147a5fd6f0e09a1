//! Watches the node's services, says when all are well, and keeps `state.json` current for good.

use super::state::{self, Phase, Trouble, UnitState};
use super::{disk, given::Given, run::node_units, units::Systemd};
use crate::health::local;
use anyhow::{Context, Result};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const UNTIL_READY: Duration = Duration::from_millis(500);
const FROM_THEN_ON: Duration = Duration::from_secs(5);

/// Never returns but by an error: systemd stops it.
pub fn watch(root: &Path) -> Result<()> {
    let given = Given::load(root)?;
    let node = disk::pin(root)?.context("hanode-plan.service has not pinned an identity")?.node;
    let units = node_units(&given)?;
    let systemd = Systemd::connect()?;
    let access = given.access()?;
    loop {
        let units = systemd.states(&units)?;
        let mut problems = down(&units);
        problems.extend(local::problems(&access, &node));
        report(root, units, problems)?;
        sleep(if state::load(root).phase == Phase::InService { FROM_THEN_ON } else { UNTIL_READY });
    }
}

fn down(units: &[UnitState]) -> Vec<String> {
    let bad = units.iter().filter(|u| u.state != "active");
    bad.map(|u| format!("{} is {}", u.name, u.state)).collect()
}

fn report(root: &Path, units: Vec<UnitState>, problems: Vec<String>) -> Result<()> {
    let mut state = state::load(root);
    state.units = units;
    for (gate, step) in state::gates(root) {
        let service = if gate == "patroni" { "postgres".to_string() } else { gate };
        state.plan.insert(service, step);
    }
    let well = problems.is_empty();
    state.error = (!well && (state.phase == Phase::InService || state.error.is_some())).then(|| Trouble {
        what: problems.join("; "),
        place: "the node's services".into(),
        fix: "see `hanode status` and the journal of the units named".into(),
    });
    state.waiting_for = problems;
    if well {
        return state.enter(root, Phase::InService, "every service is healthy");
    }
    let phase = if state.phase == Phase::InService { Phase::Starting } else { state.phase };
    let sentence = state.waiting_for.join("; ");
    state.enter(root, phase, &sentence)
}
