//! `hanode restart postgres` on the cluster of [`super::config_reload`]: a larger and a smaller value, and refusals.

use crate::common::programs::HANODE;
use crate::config_reload::cluster;
use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost};
use serde_json::Value;
use std::time::Duration;

/// Patroni reads its configuration once per loop.
const NOTICED: Duration = Duration::from_secs(60);

impl Lab {
    /// As an operator runs it, from outside the nodes.
    fn restart_postgres(&self, arguments: &[&str]) -> Result<String, String> {
        let dir = self.cluster.dir.to_str().unwrap();
        let output = self.client(&[&[HANODE, "restart", "postgres", dir][..], arguments].concat());
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        crate::support::lab::outcome(output)
    }

    /// The steps of a restart that succeeds: action and node.
    #[track_caller]
    fn restart_steps(&self) -> Vec<(String, String)> {
        let report: Value = serde_json::from_str(&self.restart_postgres(&["--json"]).unwrap()).unwrap();
        assert_eq!(report["passed"], true, "{report}");
        eprintln!("{report}");
        let steps = report["steps"].as_array().unwrap();
        let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_string();
        steps.iter().map(|step| (text(step, "action"), text(step, "node"))).collect()
    }

    /// Changes a parameter that takes a restart, and waits until every node awaits it.
    fn set_max_connections(&self, value: u32) {
        self.patroni("node1", &["edit-config", "--force", "-p", &format!("max_connections={value}")]);
        let awaits = "PostgreSQL awaits a restart, so that max_connections takes effect";
        eventually(NOTICED, || {
            let problems = self.health().problems;
            let found = problems.iter().filter(|problem| problem.to_string().contains(awaits)).count();
            (found == NODES.len()).then_some(()).ok_or(format!("{found} nodes await a restart: {problems:?}"))
        });
    }
}

#[test]
fn changed_parameters_take_effect_node_after_node() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let nothing = lab.restart_postgres(&[]).unwrap();
    assert_eq!(nothing, "no PostgreSQL awaits a restart");
    let show = |node: &str| lab.admin_sql(node, "SHOW max_connections").parse::<u32>().unwrap();
    let before = show("node1");
    let (leader, synchronous) = (lab.postgres_leader().unwrap(), lab.sync_standby().unwrap());
    let other = NODES.into_iter().find(|node| *node != leader && *node != synchronous).unwrap();

    lab.set_max_connections(before + 7);
    lab.patroni("node1", &["pause", "--wait"]);
    let refused = lab.restart_postgres(&[]).unwrap_err();
    assert!(refused.contains("nothing was restarted") && refused.contains("Patroni is paused"), "{refused}");
    lab.patroni("node1", &["resume", "--wait"]);
    eventually(NOTICED, || match lab.health().problems.iter().any(|p| p.to_string().contains("paused")) {
        true => Err("still paused".into()),
        false => Ok(()),
    });

    let load = lab.load();
    let step = |action: &str, node: &str| (action.to_string(), node.to_string());
    assert_eq!(
        lab.restart_steps(),
        [step("restart", other), step("restart", &synchronous), step("switch-over", &leader)]
    );
    assert_eq!(NODES.map(show), [before + 7; 3]);
    no_acknowledged_write_is_lost(load);

    // A standby cannot have fewer connections than its leader.
    let leader = lab.postgres_leader().unwrap();
    lab.set_max_connections(before);
    let steps = lab.restart_steps();
    let expected = ["restart", "restart", "restart-leader", "restart", "restart"];
    assert_eq!(steps.iter().map(|(action, _)| action.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(steps[2].1, leader);
    assert_eq!(lab.postgres_leader().as_ref(), Some(&leader), "no failover");
    assert_eq!(NODES.map(show), [before; 3]);
    lab.healthy_within(NOTICED);
}
