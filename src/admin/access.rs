//! Access to the nodes from the admin machine.

use crate::cluster_dir::ClusterDir;
use anyhow::{Context, Result};
use hanode_cluster::client::tls::{Credentials, TlsIdentity};
use hanode_cluster::health::{self, Access};
use std::path::Path;

/// Access with the `operator` certificate of the cluster directory.
pub fn access(dir: &Path) -> Result<Access> {
    let cluster = ClusterDir::load(dir)?;
    let (certificate, key) = cluster.operator()?;
    let member = |path: &str| {
        cluster.bundle.file(path).map(<[u8]>::to_vec).with_context(|| format!("no {path} in the bundle"))
    };
    let identity = TlsIdentity { certificate: certificate.into_bytes(), key: key.into_bytes() };
    let redis = match cluster.spec.redis.tls {
        true => Some(Credentials { ca: member("/etc/ssl/myca/root.crt")?, identity: None }),
        false => None,
    };
    Ok(Access {
        cluster: Credentials { ca: member("/etc/ssl/hanode/ca.crt")?, identity: Some(identity) },
        redis,
        certificates: health::certificates(&cluster.bundle),
        bundle_generation: cluster.bundle.metadata.generation,
        secrets: cluster.secrets,
        spec: cluster.spec,
    })
}
