//! `hanode plan`

use super::{exit_code, print, print_json};
use anyhow::{Context, Result};
use clap::Args;
use hanode_admin::access::access;
use hanode_admin::backup;
use hanode_admin::cluster_dir::ClusterDir;
use hanode_cluster::discovery::discover;
use hanode_cluster::health::{self, Access};
use hanode_cluster::repository;
use hanode_core::peer::{DiskStage, NodeReport};
use hanode_core::plan::{self, Action, EtcdError, Observations, Plan, Step};
use hanode_core::restore::RestoreRequest;
use hanode_core::spec::Node;
use hanode_util::table::aligned;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const ETCD_TIMEOUT: Duration = Duration::from_millis(1500);
/// An install-id that no disk has.
const NEW_DISK: &str = "a new disk";

/// Show what a node would do if it booted on a new disk now, or what a restore would fetch
///
/// With --node, queries the other nodes and decides as the node's first boot would. With --restore, reads the repository
/// of the backups with this machine's pgBackRest, and exits 1 if it does not cover the moment. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode plan demo --node node2
  hanode plan demo --node node2 --json | jq .plan
  hanode plan demo --restore 2026-11-30T14:05:00+01:00
  hanode plan demo --restore latest --mount /srv/backup")]
pub(crate) struct PlanVerb {
    /// Cluster directory
    pub dir: PathBuf,
    /// Node name, as in the spec
    #[arg(long, value_name = "NODE", required_unless_present = "restore")]
    pub node: Option<String>,
    /// Value of the metadata key hanode_restore: [PART/]MOMENT
    #[arg(long, value_name = "MOMENT", conflicts_with = "node")]
    pub restore: Option<RestoreRequest>,
    /// Where this machine has the file system of a file:// repository [default: as on the nodes]
    #[arg(long, value_name = "PATH", requires = "restore")]
    pub mount: Option<PathBuf>,
    /// Print the observations and plans as JSON
    #[arg(long)]
    pub json: bool,
}

impl PlanVerb {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match (&self.node, &self.restore) {
            (Some(node), _) => self.plan_node(node),
            (None, request) => self.preview(request.as_ref().context("--node or --restore is required")?),
        }
    }

    fn preview(&self, request: &RestoreRequest) -> Result<ExitCode> {
        let cluster = ClusterDir::load(&self.dir)?;
        let opened = backup::repository(&cluster, self.mount.as_deref())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        let found = repository::preview(&opened.repository, request, now)?;
        if self.json {
            print_json(&found)?
        } else {
            print(&found.text())?
        }
        Ok(ExitCode::SUCCESS)
    }

    fn plan_node(&self, node: &str) -> Result<ExitCode> {
        let access = access(&self.dir)?;
        health::require_node(&access.spec, node)?;
        let servers: Vec<_> = access.spec.peers(node).collect();
        let own = NodeReport::blank(&access.spec, node, access.bundle_generation, NEW_DISK);
        let mut seen = discover(&access, own, &servers);
        let in_quorum = servers.iter().filter(|n| has_quorum(&access, n)).count();
        if in_quorum < access.spec.majority() {
            // The quorum that answers includes the node that would be gone.
            seen.etcd = Err(EtcdError::NotQueried);
        }
        self.show(&access, node, seen)
    }

    fn show(&self, access: &Access, node: &str, seen: Observations) -> Result<ExitCode> {
        let own = access.spec.node(node).with_context(|| format!("the spec has no node {node}"))?;
        let first = plan::plan(&access.spec, own, &seen);
        let then = (first.etcd.step.action == Action::Join)
            .then(|| plan::plan(&access.spec, own, &joined(seen.clone())));
        let refused = first.etcd.step.action == Action::Refuse;
        if self.json {
            print_json(&serde_json::json!({"schema": 1, "observations": seen, "plan": first, "then": then}))?;
        } else {
            let mut rows = lines(&first);
            if let Some(then) = &then {
                rows.truncate(1);
                rows.extend(lines(then).into_iter().skip(1));
            }
            print(&format!("{node} on a new disk would now:\n{}", aligned(rows, &[])))?;
        }
        Ok(exit_code(!refused))
    }
}

/// Whether the node's etcd is part of a quorum: it lists its members only then.
fn has_quorum(access: &Access, node: &Node) -> bool {
    access.etcd(node, ETCD_TIMEOUT).is_ok_and(|etcd| etcd.members().is_ok())
}

fn lines(plan: &Plan) -> Vec<Vec<String>> {
    let line = |service: &str, step: &Step| {
        vec![service.to_string(), format!("{:?}", step.action).to_lowercase(), step.reason.to_string()]
    };
    vec![line("etcd", &plan.etcd.step), line("postgres", &plan.postgres), line("redis", &plan.redis.step)]
}

/// The same observations after the node has joined etcd, which the other services wait for.
fn joined(mut seen: Observations) -> Observations {
    seen.own.data.etcd = true;
    seen.own.disk = DiskStage::Served;
    seen.own.generation = seen.newer_generation().unwrap_or(seen.own.generation);
    if let Ok(etcd) = &seen.etcd {
        let listed = etcd.members.iter().find(|m| m.name == seen.own.node);
        seen.own.etcd_member = listed.map(|m| m.id.clone());
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::etcd::Member;
    use hanode_core::plan::{EtcdView, Initialize, Peer, Sentinel, peer_url};

    #[test]
    fn a_replaced_node_joins_with_all_its_services() {
        let spec = hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let member = |n: &hanode_core::spec::Node| Member {
            id: n.name.clone(),
            name: n.name.clone(),
            peer_urls: vec![peer_url(n)],
            client_urls: vec!["url".into()],
        };
        let says = |n: &hanode_core::spec::Node| Sentinel {
            node: n.name.clone(),
            primary: spec.nodes[1].address,
            epoch: 0,
        };
        let seen = Observations {
            schema: 1,
            own: NodeReport::blank(&spec, "node3", 1, NEW_DISK),
            peers: spec
                .peers("node3")
                .map(|n| Peer { name: n.name.clone(), report: Err("x".into()) })
                .collect(),
            etcd: Ok(EtcdView {
                members: spec.nodes.iter().map(member).collect(),
                initialize: Initialize::Done("77".into()),
                generation: Some(4),
                restore: None,
            }),
            removed: vec![],
            sentinels: spec.peers("node3").map(says).collect(),
        };
        assert_eq!(plan::plan(&spec, &spec.nodes[2], &seen).etcd.step.action, Action::Join);
        let then = plan::plan(&spec, &spec.nodes[2], &joined(seen));
        assert_eq!((then.postgres.action, then.redis.step.action), (Action::Join, Action::Join));
    }
}
