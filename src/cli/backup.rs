//! `hanode backup`

use super::{exit_code, print, print_json};
use anyhow::Result;
use clap::{Args, Subcommand};
use hanode_admin::access::access;
use hanode_admin::backup::{self, AdminRepository, request};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_cluster::repository;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Show, make and verify backups
///
/// `list` and `verify` read the repository with this machine's own pgBackRest, so they also work without any node; it must
/// know the nodes' version of PostgreSQL. On a node, `sudo hanode backup` does the same. To restore, boot machines with
/// the metadata key hanode_restore.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode backup list demo
  hanode backup now demo
  hanode backup verify demo && echo intact")]
pub(crate) struct BackupVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the backups of PostgreSQL and the snapshots of Redis
    #[command(after_help = "\
Examples:
  hanode backup list demo
  hanode backup list demo --mount /srv/backup
  hanode backup list demo --json | jq '.parts[].postgres[-1].finished'")]
    List {
        #[command(flatten)]
        place: RepositoryArgs,
    },
    /// Make a backup of both servers now, and wait until it is complete
    ///
    /// The node that makes the backups of the schedule makes it. If one is being made already, waits for that one.
    /// Interrupting this command does not stop the backup.
    #[command(after_help = "\
Example:
  hanode backup now demo

Exits 1 if the backup fails.")]
    Now {
        /// Cluster directory
        dir: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all backups, WAL and snapshots, and check them against their checksums
    ///
    /// Fetches everything once, which can take hours and cost money in an object storage.
    #[command(after_help = "\
Examples:
  hanode backup verify demo
  hanode backup verify demo --part hspas-20261130T123012Z

Exits 1 if anything is damaged or missing.")]
    Verify {
        #[command(flatten)]
        place: RepositoryArgs,
        /// Part of the repository [default: the newest one of the cluster]
        #[arg(long, value_name = "PART")]
        part: Option<String>,
    },
}

#[derive(Debug, Args)]
struct RepositoryArgs {
    /// Cluster directory
    dir: PathBuf,
    /// Where this machine has the file system of a file:// repository [default: as on the nodes]
    #[arg(long, value_name = "PATH")]
    mount: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl BackupVerb {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.verb {
            Verb::List { place } => {
                let cluster = ClusterDir::load(&place.dir)?;
                let listing = repository::list(&place.open(&cluster)?.repository)?;
                if place.json {
                    print_json(&listing)?
                } else {
                    print(&listing.text())?
                }
                Ok(ExitCode::SUCCESS)
            }
            Verb::Now { dir, json } => {
                let made = request::back_up(&access(dir)?)?;
                if *json {
                    print_json(&made)?
                } else {
                    print(&made.text())?
                }
                Ok(ExitCode::SUCCESS)
            }
            Verb::Verify { place, part } => {
                let cluster = ClusterDir::load(&place.dir)?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
                let found = repository::verify(&place.open(&cluster)?.repository, part.as_deref(), now)?;
                if place.json {
                    print_json(&found)?
                } else {
                    print(&found.text())?
                }
                Ok(exit_code(found.intact))
            }
        }
    }
}

impl RepositoryArgs {
    fn open<'a>(&self, cluster: &'a ClusterDir) -> Result<AdminRepository<'a>> {
        backup::repository(cluster, self.mount.as_deref())
    }
}
