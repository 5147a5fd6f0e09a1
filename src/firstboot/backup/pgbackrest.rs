//! pgBackRest on a node: it runs as PostgreSQL's user, and works on this node's PostgreSQL.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::pgbackrest::PgBackRest;
use hanode_cluster::repository::{Repository, no_backup};
use hanode_util::command::Captured;
use hanode_util::file_tree::Ids;

pub(crate) fn open(node: &NodeContext) -> Result<PgBackRest> {
    let (ids, user) = (Ids::read(node.root())?, "postgres");
    let key = node.config.bundle.secrets.backup_key.clone().context("the secrets have no backup_key")?;
    Ok(PgBackRest::on_node((ids.uid(user)?, ids.gid(user)?), key))
}

/// The repository of this node's cluster.
pub(crate) fn repository(node: &NodeContext) -> Result<Repository<'_>> {
    let spec = node.spec();
    spec.backup.as_ref().with_context(no_backup)?;
    Ok(Repository { pgbackrest: open(node)?, spec })
}

fn on_postgres(node: &NodeContext, stanza: &str, arguments: &[&str]) -> Result<Captured> {
    let paths = |name: &str| node.target().path(name);
    let options = [
        format!("--stanza={stanza}"),
        format!("--pg1-path={}", paths("postgres_data")?),
        format!("--pg1-socket-path={}", paths("postgres_run")?),
        format!("--pg1-port={}", node.spec().postgres.port),
        "--pg1-user=admin".to_string(),
        "--pg1-database=postgres".to_string(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    open(node)?.run(&options)
}

/// Succeeds if it exists already.
pub(super) fn create_stanza(node: &NodeContext, stanza: &str) -> Result<()> {
    on_postgres(node, stanza, &["stanza-create"]).map(drop)
}

pub(super) fn back_up(node: &NodeContext, stanza: &str, kind: &str) -> Result<()> {
    let arguments = [&format!("--type={kind}"), "--log-level-stderr=info", "backup"];
    let output = on_postgres(node, stanza, &arguments)?;
    output.stderr.lines().for_each(|line| tracing::info!("{}", line.trim()));
    Ok(())
}
