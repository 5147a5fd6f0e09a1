//! `hanode status`

use super::Verdict;
use crate::client::tls::{Credentials, Leaf};
use crate::cluster::Cluster;
use crate::health::{self, Access, Form};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

/// Show the whole cluster in one table; succeeds only when all is well
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode status demo
  hanode status demo --replace node2 && echo 'node2 may go'
  hanode status demo --json | jq -r '.problems[]'
  F=/var/lib/prometheus/node-exporter/hanode.prom; hanode status demo --metrics > $F.new; mv $F.new $F")]
pub struct Status {
    /// The cluster directory
    pub dir: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Print it in Prometheus' text format
    #[arg(long, conflicts_with_all = ["json", "replace"])]
    pub metrics: bool,
    /// Instead, say whether this node may be taken away now without harm, and why not
    #[arg(long, value_name = "NODE")]
    pub replace: Option<String>,
}

impl Status {
    pub fn run(&self) -> Result<Verdict> {
        let access = access(&self.dir)?;
        self.replace.iter().try_for_each(|node| health::known(&access.spec, node))?;
        let status = health::collect(&access)?;
        match &self.replace {
            Some(node) => show_replace(&access, &status, node, self.json),
            None => show(&status, Form::of(self.json, self.metrics)),
        }
    }
}

pub fn show(status: &health::Status, form: Form) -> Result<Verdict> {
    super::say(form.text(status)?.trim_end())?;
    Ok(if status.healthy { Verdict::Well } else { Verdict::NotWell })
}

pub fn show_replace(access: &Access, status: &health::Status, node: &str, json: bool) -> Result<Verdict> {
    let (may, words) = health::replaceable(&access.spec, status, node, json)?;
    super::say(&words)?;
    Ok(if may { Verdict::Well } else { Verdict::NotWell })
}

/// The operator's way to ask the nodes: the `operator` leaf of the cluster directory.
pub fn access(dir: &Path) -> Result<Access> {
    let cluster = Cluster::load(dir)?;
    let (certificate, key) = cluster.operator()?;
    let member = |path: &str| {
        cluster.bundle.file(path).map(<[u8]>::to_vec).with_context(|| format!("no {path} in the bundle"))
    };
    let leaf = Leaf { certificate: certificate.into_bytes(), key: key.into_bytes() };
    let redis = match cluster.spec.redis.tls {
        true => Some(Credentials { ca: member("/etc/ssl/myca/root.crt")?, leaf: None }),
        false => None,
    };
    Ok(Access {
        cluster: Credentials { ca: member("/etc/ssl/hanode/ca.crt")?, leaf: Some(leaf) },
        redis,
        certificates: health::certificates(&cluster.bundle),
        generation: cluster.bundle.stamp.generation,
        secrets: cluster.secrets,
        spec: cluster.spec,
    })
}
