//! `hanode-firstboot`: what systemd, Keepalived and an operator on a node call.

use crate::disk;
use crate::node_config::NodeConfig;
use crate::start::gate::{self, Gate};
use crate::start::{recover, run, self_report};
use crate::watch::{answer, apply_bundle, haproxy_watchdog, metrics, planned_failover, ready, reload};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use hanode_cluster::health::{self, Format};
use hanode_core::plan;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::Layer;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

#[derive(Parser)]
#[command(
    name = "hanode-firstboot",
    version,
    about = "Makes a machine booted from a hanode image the node that it is"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the first-boot sequence up to the start of the services (hanode-plan.service)
    Boot,
    /// Mount the data volume, where the spec names one (hanode-data.service)
    Storage,
    /// Block until a service may start, and lay down its files (ExecStartPre of its unit)
    Gate { service: Gate },
    /// Watch the node's services and keep state.json current (hanode-ready.service)
    Ready,
    /// NodeReport one connection to the join port on standard input (hanode-join@.service)
    NodeReport,
    /// NodeReport one request for this node's metrics on standard input (hanode-metrics@.service)
    Metrics,
    /// Exit 0 if HAProxy on this machine answers its health probe (Keepalived's check)
    ProbeHealth { port: u16 },
    /// Take up a new bundle or spec from /etc/hanode, disturbing the services as little as they allow
    #[command(after_help = "\
Copy bundle.tar.gz (and cluster.toml, where it changed) from the cluster directory to /etc/hanode on every node,
then run this on one node after the other. It ends when the node is well again; what it cannot do without harm it
refuses, changing nothing.")]
    Apply,
    /// Have Redis read its certificates anew (ExecReload of its unit)
    #[command(hide = true)]
    ReloadRedis,
    /// Have another Redis promoted if this one is primary and about to stop (ExecStop of its unit)
    #[command(hide = true)]
    StepDown,
    /// Show what is observed and what would be done, changing nothing
    Plan {
        /// Observations and plan as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make this node's data the cluster's, where most disks are gone and no program may decide
    #[command(after_help = "\
Where etcd's quorum is lost for good, its nodes refuse and name this verb. Choose the node whose data is to be kept
and run there:
  hanode-firstboot recover --from-this-node --yes-data-on-others-is-lost
Without the flags it says what would be lost and changes nothing.")]
    Recover {
        /// This node is the one to keep
        #[arg(long)]
        from_this_node: bool,
        /// Consent that whatever the others have more than this node is lost
        #[arg(long)]
        yes_data_on_others_is_lost: bool,
    },
    /// Show the whole cluster as seen from this node
    Status {
        #[arg(long)]
        json: bool,
        /// Print it in Prometheus' text format
        #[arg(long, conflicts_with_all = ["json", "replace"])]
        metrics: bool,
        /// Instead, say whether a node (this one, if none is named) may be taken away now, and why not
        #[arg(long, value_name = "NODE", num_args = 0..=1)]
        replace: Option<Option<String>>,
    },
}

pub fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    log();
    match dispatch(&verb) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn console<S: tracing::Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    layer.with_ansi(std::io::stderr().is_terminal())
}

/// To the journal where systemd runs this, else to standard error.
fn log() {
    let journal = std::env::var_os("INVOCATION_ID").and_then(|_| tracing_journald::layer().ok());
    let console = journal.is_none().then(console);
    let journal = journal.map(|layer| layer.with_field_prefix(None));
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::INFO)
        .with(journal)
        .with(console)
        .init();
}

fn dispatch(verb: &Verb) -> Result<ExitCode> {
    let root = Path::new("/");
    match verb {
        Verb::Boot => run::run(root)?,
        Verb::Storage => run::storage(root)?,
        Verb::Gate { service } => gate::pass(root, *service)?,
        Verb::Ready => ready::watch(root)?,
        Verb::NodeReport => answer::serve(root)?,
        Verb::Metrics => metrics::serve(root)?,
        Verb::ProbeHealth { port } => {
            return Ok(if healthy(*port) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Apply => apply_bundle::update(root)?,
        Verb::StepDown => planned_failover::step_down(root)?,
        Verb::ReloadRedis => reload::reload_redis(root)?,
        Verb::Plan { json } => show_plan(root, *json)?,
        Verb::Recover { from_this_node, yes_data_on_others_is_lost } => {
            recover::recover(root, *from_this_node, *yes_data_on_others_is_lost)?;
        }
        Verb::Status { json, metrics, replace: None } => {
            return health::print_status(
                &NodeConfig::active(root)?.access()?,
                Format::from_flags(*json, *metrics),
            );
        }
        Verb::Status { json, replace: Some(node), .. } => {
            return safe_to_remove(root, node.as_deref(), *json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn safe_to_remove(root: &Path, node: Option<&str>, json: bool) -> Result<ExitCode> {
    let access = NodeConfig::active(root)?.access()?;
    let own = disk::pin(root)?.context("this disk has no identity yet")?.node;
    let node = node.unwrap_or(&own);
    health::require_node(&access.spec, node)?;
    let (may, words) = health::removal_report(&access.spec, &health::collect(&access)?, node, json)?;
    println!("{words}");
    Ok(if may { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether HAProxy reports that this node can serve clients.
fn healthy(port: u16) -> bool {
    haproxy_watchdog::probe(port).is_ok_and(|status| status == 200)
}

fn show_plan(root: &Path, json: bool) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let node = disk::pin(root)?.context("this disk has no identity yet")?.node;
    let seen = self_report::observe(root, &config, &node)?;
    let plan = plan::plan(&config.spec, &node, &seen);
    if json {
        let both = serde_json::json!({"schema": 1, "observations": seen, "plan": plan});
        println!("{}", serde_json::to_string_pretty(&both)?);
        return Ok(());
    }
    for (service, step) in crate::state::steps(&plan) {
        println!("{service:<9} {:<7} {}", format!("{:?}", step.action).to_lowercase(), step.reason);
    }
    Ok(())
}
