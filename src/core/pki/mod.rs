//! The certificates of a cluster: their names, and their paths on a node.
//!
//! Two CAs: *service* signs the servers that applications connect to, *cluster* those that only nodes and the operator
//! connect to. etcd accepts every client certificate of its CA, so applications' certificates must not be from it.

pub mod coverage;
pub mod read;

use crate::spec::Spec;
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ca {
    Service,
    Cluster,
}

impl Ca {
    pub const ALL: [Ca; 2] = [Ca::Service, Ca::Cluster];

    /// Its name, and its folder below `pki/`.
    pub fn name(self) -> &'static str {
        match self {
            Ca::Service => "service",
            Ca::Cluster => "cluster",
        }
    }

    /// The path of its certificate on a node.
    pub fn certificate_path(self) -> &'static str {
        match self {
            Ca::Service => "/etc/ssl/myca/root.crt",
            Ca::Cluster => "/etc/ssl/hanode/ca.crt",
        }
    }

    /// The path of its revocation list on a node.
    pub fn crl_path(self) -> &'static str {
        match self {
            Ca::Service => "/etc/ssl/myca/server.crl",
            Ca::Cluster => "/etc/ssl/hanode/ca.crl",
        }
    }

    /// The subject's common name.
    pub fn subject(self, spec: &Spec) -> String {
        match self {
            Ca::Service => spec.pki.ca_name.clone(),
            Ca::Cluster => format!("{} cluster CA", spec.name),
        }
    }
}

/// What a leaf certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server; some servers are also clients of their peers with it.
    Server,
    /// A client only. Its common name is the name of the leaf: PostgreSQL compares it with the role.
    Client,
}

/// One leaf certificate. All nodes share it, since they boot from one image.
#[derive(Debug)]
pub struct Leaf {
    pub name: &'static str,
    pub ca: Ca,
    pub purpose: Purpose,
    /// Paths of certificate and key on a node; the same path twice if one file has both. `None`: only on the admin
    /// machine.
    pub paths: Option<(&'static str, &'static str)>,
    /// User and group of the files.
    pub owner: &'static str,
    /// Names of the spec to cover besides the nodes and the virtual IP.
    alt_names: &'static [fn(&Spec) -> &[String]],
}

fn postgres_names(spec: &Spec) -> &[String] {
    &spec.postgres.alt_names
}

fn redis_names(spec: &Spec) -> &[String] {
    &spec.redis.alt_names
}

/// All leaf certificates of a cluster.
pub static LEAVES: [Leaf; 9] = [
    Leaf {
        name: "pgsql",
        ca: Ca::Service,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/pgsql/server.crt", "/etc/ssl/pgsql/server.key")),
        owner: "postgres",
        alt_names: &[postgres_names],
    },
    // With these, and their passwords, the nodes log in to PostgreSQL at each other.
    Leaf {
        name: "replicator",
        ca: Ca::Service,
        purpose: Purpose::Client,
        paths: Some(("/etc/ssl/pgsql/replicator.crt", "/etc/ssl/pgsql/replicator.key")),
        owner: "postgres",
        alt_names: &[],
    },
    Leaf {
        name: "rewind_user",
        ca: Ca::Service,
        purpose: Purpose::Client,
        paths: Some(("/etc/ssl/pgsql/rewind_user.crt", "/etc/ssl/pgsql/rewind_user.key")),
        owner: "postgres",
        alt_names: &[],
    },
    Leaf {
        name: "redis",
        ca: Ca::Service,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/redis/server.crt", "/etc/ssl/redis/server.key")),
        owner: "redis",
        alt_names: &[redis_names],
    },
    Leaf {
        name: "haproxy",
        ca: Ca::Service,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/haproxy/server.crt", "/etc/ssl/haproxy/server.crt")),
        owner: "haproxy",
        alt_names: &[postgres_names, redis_names],
    },
    Leaf {
        name: "etcd",
        ca: Ca::Cluster,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/hanode/etcd.crt", "/etc/ssl/hanode/etcd.key")),
        owner: "etcd",
        alt_names: &[],
    },
    Leaf {
        name: "patroni",
        ca: Ca::Cluster,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/hanode/patroni.crt", "/etc/ssl/hanode/patroni.key")),
        owner: "postgres",
        alt_names: &[],
    },
    // The join port, and the node agent as a client of the other nodes.
    Leaf {
        name: "node",
        ca: Ca::Cluster,
        purpose: Purpose::Server,
        paths: Some(("/etc/ssl/hanode/node.crt", "/etc/ssl/hanode/node.key")),
        owner: "root",
        alt_names: &[],
    },
    Leaf {
        name: "operator",
        ca: Ca::Cluster,
        purpose: Purpose::Client,
        paths: None,
        owner: "root",
        alt_names: &[],
    },
];

/// The directories of the bundle's members on a node.
pub const DIRECTORIES: [&str; 5] =
    ["/etc/ssl/haproxy", "/etc/ssl/hanode", "/etc/ssl/myca", "/etc/ssl/pgsql", "/etc/ssl/redis"];

impl Leaf {
    pub fn find(name: &str) -> Option<&'static Leaf> {
        LEAVES.iter().find(|leaf| leaf.name == name)
    }

    /// The names and addresses that it covers, in canonical form; a client has none.
    pub fn names(&self, spec: &Spec) -> BTreeSet<String> {
        if self.purpose == Purpose::Client {
            return BTreeSet::new();
        }
        let own = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let nodes =
            spec.nodes.iter().flat_map(|n| [n.name.clone(), n.hostname.clone(), n.address.to_string()]);
        let alt_names =
            self.alt_names.iter().flat_map(|names| names(spec).iter().map(|name| canonical(name)));
        own.into_iter()
            .chain(nodes.map(|name| name.to_ascii_lowercase()))
            .chain([spec.network.vip.to_string()])
            .chain(alt_names)
            .collect()
    }

    /// Where clients fetch the revocation list. Only nodes use the cluster CA's list, and they have it on disk.
    pub fn crl_url<'s>(&self, spec: &'s Spec) -> Option<&'s str> {
        (self.ca == Ca::Service).then_some(spec.pki.crl_url.as_str())
    }
}

/// An address in canonical form, a name in lower case.
fn canonical(name: &str) -> String {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// The current time in seconds since 1970, as in the dates of certificates.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
