//! The command line of `hanode-firstboot`, for systemd, Keepalived and operators; on a node's PATH it is
//! `hanode`.

use crate::backup;
use crate::node::NodeContext;
use crate::node_config::NodeConfig;
use crate::start::gate;
use crate::start::{recover, reload, run, self_report, source_address};
use crate::state;
use crate::watch::{apply_bundle, haproxy_watchdog, join_port, metrics, planned_failover, services};
use anyhow::Result;
use clap::{Parser, Subcommand};
use hanode_cluster::health::{self, StatusFormat};
use hanode_cluster::repository;
use hanode_core::gate::Service;
use hanode_core::plan;
use hanode_util::{terminal, user_error};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::Layer;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// The hanode agent on a node: joins this machine to its cluster
#[derive(Parser)]
#[command(
    name = "hanode",
    version,
    after_help = "\
This is hanode on a node of a cluster. On the admin machine, `hanode` has other commands."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the first-boot sequence until the services are started (hanode-plan.service)
    #[command(hide = true)]
    Boot,
    /// Mount the data volume, if the spec names one (hanode-data.service)
    #[command(hide = true)]
    MountData,
    /// Wait until a service may start, and write its files (ExecStartPre of its unit)
    #[command(hide = true)]
    Gate { service: Gate },
    /// Watch the node's services and keep state.json current (hanode-ready.service)
    #[command(hide = true)]
    Watch,
    /// Send this node's report to each client of the join port, the socket on standard input (hanode-join.service)
    #[command(hide = true)]
    ServeReports,
    /// Make the backups that are due on this node (hanode-backup.service)
    #[command(hide = true)]
    MakeBackup,
    /// Show and verify the backups in the repository
    Backup {
        #[command(subcommand)]
        verb: BackupVerb,
    },
    /// Record that a backup is due (hanode-backup-due.service)
    #[command(hide = true)]
    BackupDue,
    /// Answer an HTTP request for this node's metrics on standard input (hanode-metrics@.service)
    #[command(hide = true)]
    ServeMetrics,
    /// Exit 0 if HAProxy on this machine answers its health probe (Keepalived's check)
    #[command(hide = true)]
    ProbeHealth { port: u16 },
    /// Activate a new bundle or spec from /etc/hanode, with as few restarts as possible
    #[command(after_help = "\
Copy bundle.tar.gz (and cluster.toml, if it changed) from the cluster directory to /etc/hanode on every node,
then run this on one node after the other. It ends when the node is healthy again. It refuses a change that would
do harm, and then changes nothing.")]
    Apply,
    /// Have Redis use its current certificates and settings (ExecReload of its unit)
    #[command(hide = true)]
    ReloadRedis,
    /// Have connections to the other nodes come from this node's address (hanode-source-address.service)
    #[command(hide = true)]
    CorrectSourceAddress,
    /// Promote another Redis if this one is primary and about to stop (ExecStop of its unit)
    #[command(hide = true)]
    FailoverRedis,
    /// Show what is observed and what would be done, changing nothing
    Plan {
        /// Print observations and plan as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make this node's data the cluster's after most disks are lost
    #[command(after_help = "\
When etcd's quorum is lost for good, its nodes refuse to start and name this command. Choose the node whose data you
keep and run there:
  hanode recover --from-this-node --accept-data-loss
Without these options it prints what would be lost and changes nothing.")]
    Recover {
        /// Keep the data of this node
        #[arg(long)]
        from_this_node: bool,
        /// Accept that all data is lost that other nodes have and this one lacks
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Show the whole cluster as seen from this node
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print Prometheus' text format
        #[arg(long, conflicts_with_all = ["json", "can_remove"])]
        metrics: bool,
        /// Exit 0 if NODE (default: this one) can be removed without data loss or downtime, otherwise exit 1
        /// and list what prevents it
        #[arg(long, value_name = "NODE", num_args = 0..=1)]
        can_remove: Option<Option<String>>,
    },
}

#[derive(Subcommand)]
enum BackupVerb {
    /// List the backups of PostgreSQL and the snapshots of Redis
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all backups, WAL and snapshots; exit 1 if anything is damaged or missing
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Part of the repository [default: the newest one of the cluster]
        #[arg(long, value_name = "PART")]
        part: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Gate {
    Etcd,
    Patroni,
    Redis,
    Sentinel,
}

impl From<Gate> for Service {
    fn from(gate: Gate) -> Service {
        match gate {
            Gate::Etcd => Service::Etcd,
            Gate::Patroni => Service::Patroni,
            Gate::Redis => Service::Redis,
            Gate::Sentinel => Service::Sentinel,
        }
    }
}

pub fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    let to_journal = start_log();
    match dispatch(&verb) {
        Ok(code) => code,
        Err(error) => {
            match (to_journal, state::help(&error)) {
                (false, _) => eprintln!("{}", terminal::lines(&user_error::report(&error))),
                (true, Some(help)) => tracing::error!("{error:#}; {help}"),
                (true, None) => tracing::error!("{error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn console<S: tracing::Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    layer.with_ansi(std::io::stderr().is_terminal())
}

/// Logs to the journal if systemd runs this, otherwise to standard error. Returns whether it is the journal.
fn start_log() -> bool {
    let journal = std::env::var_os("INVOCATION_ID").and_then(|_| tracing_journald::layer().ok());
    let to_journal = journal.is_some();
    let console = (!to_journal).then(console);
    let journal = journal.map(|layer| layer.with_field_prefix(None));
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::INFO)
        .with(journal)
        .with(console)
        .init();
    to_journal
}

fn dispatch(verb: &Verb) -> Result<ExitCode> {
    let root = Path::new("/");
    let node = || NodeContext::open(root);
    match verb {
        Verb::Boot => run::run(root)?,
        Verb::MountData => run::mount_data(root)?,
        Verb::Gate { service } => gate::pass(&node()?, (*service).into())?,
        Verb::Watch => services::watch(node()?)?,
        Verb::ServeReports => join_port::serve(root)?,
        Verb::MakeBackup => backup::run::run(&node()?)?,
        Verb::Backup { verb } => return show_backups(&node()?, verb),
        Verb::BackupDue => backup::record_due(&node()?)?,
        Verb::ServeMetrics => metrics::serve(root)?,
        Verb::ProbeHealth { port } => {
            return Ok(exit_code(haproxy_is_healthy(*port)));
        }
        Verb::Apply => apply_bundle::apply(&node()?)?,
        Verb::CorrectSourceAddress => source_address::correct(&node()?)?,
        Verb::FailoverRedis => planned_failover::fail_over(&node()?)?,
        Verb::ReloadRedis => reload::reload_redis(&node()?)?,
        Verb::Plan { json } => show_plan(&node()?, *json)?,
        Verb::Recover { from_this_node, accept_data_loss } => {
            recover::recover(&node()?, *from_this_node, *accept_data_loss)?;
        }
        Verb::Status { json, metrics, can_remove: None } => {
            return health::print_status(
                &NodeConfig::active(root)?.access()?,
                StatusFormat::from_flags(*json, *metrics),
            );
        }
        Verb::Status { json, can_remove: Some(node), .. } => {
            return show_removal(&NodeContext::open(root)?, node.as_deref(), *json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show_removal(own: &NodeContext, node: Option<&str>, json: bool) -> Result<ExitCode> {
    let (access, node) = (own.access(), node.unwrap_or(own.name()));
    health::require_node(&access.spec, node)?;
    let (safe, report) = health::removal_report(&access.spec, &health::collect(access)?, node, json)?;
    println!("{report}");
    Ok(exit_code(safe))
}

/// Whether HAProxy reports that this node can serve clients.
fn haproxy_is_healthy(port: u16) -> bool {
    haproxy_watchdog::probe(port).is_ok_and(|status| status == 200)
}

fn show_backups(node: &NodeContext, verb: &BackupVerb) -> Result<ExitCode> {
    let repository = backup::pgbackrest::repository(node)?;
    let (json, text, intact) = match verb {
        BackupVerb::List { json } => {
            let listing = repository::list(&repository)?;
            (json.then(|| serde_json::to_string_pretty(&listing)), listing.text(), true)
        }
        BackupVerb::Verify { json, part } => {
            let found = repository::verify(&repository, part.as_deref(), backup::now())?;
            (json.then(|| serde_json::to_string_pretty(&found)), found.text(), found.intact)
        }
    };
    match json {
        Some(json) => println!("{}", terminal::json(&json?)),
        None => println!("{}", terminal::lines(&text)),
    }
    Ok(exit_code(intact))
}

fn show_plan(node: &NodeContext, json: bool) -> Result<()> {
    let seen = self_report::observe(node)?;
    let plan = plan::plan(node.spec(), node.own(), &seen);
    if json {
        let document = serde_json::json!({"schema": 1, "observations": seen, "plan": plan});
        println!("{}", terminal::json(&serde_json::to_string_pretty(&document)?));
        return Ok(());
    }
    for (service, step) in state::plan_steps(&plan) {
        let action = format!("{:?}", step.action).to_lowercase();
        println!("{}", terminal::line(&format!("{service:<9} {action:<7} {}", step.reason)));
    }
    Ok(())
}
