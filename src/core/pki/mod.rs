//! The certificates: which there are, what they are issued for, and where on a node they lie.
//!
//! Two CAs. *service* signs what applications talk to; *cluster* signs what only the nodes and the
//! operator talk to, because etcd lets in every certificate of its CA.
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

    /// Its folder below `pki/`, and what it is called.
    pub fn name(self) -> &'static str {
        match self {
            Ca::Service => "service",
            Ca::Cluster => "cluster",
        }
    }

    /// Its certificate on a node.
    pub fn certificate_path(self) -> &'static str {
        match self {
            Ca::Service => "/etc/ssl/myca/root.crt",
            Ca::Cluster => "/etc/ssl/hanode/ca.crt",
        }
    }

    /// Its revocation list on a node.
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

/// One certificate; all nodes share it, because one image makes them all.
#[derive(Debug)]
pub struct Leaf {
    pub name: &'static str,
    pub ca: Ca,
    /// Certificate and key on a node; the same path twice for both in one file. `None`: stays at the desk.
    pub paths: Option<(&'static str, &'static str)>,
    /// User and group that the files belong to.
    pub owner: &'static str,
    /// Which of the spec's further names it carries.
    further: &'static [fn(&Spec) -> &[String]],
}

fn postgres_names(spec: &Spec) -> &[String] {
    &spec.postgres.alt_names
}

fn redis_names(spec: &Spec) -> &[String] {
    &spec.redis.alt_names
}

pub static LEAVES: [Leaf; 7] = [
    Leaf {
        name: "pgsql",
        ca: Ca::Service,
        paths: Some(("/etc/ssl/pgsql/server.crt", "/etc/ssl/pgsql/server.key")),
        owner: "postgres",
        further: &[postgres_names],
    },
    Leaf {
        name: "redis",
        ca: Ca::Service,
        paths: Some(("/etc/ssl/redis/server.crt", "/etc/ssl/redis/server.key")),
        owner: "redis",
        further: &[redis_names],
    },
    Leaf {
        name: "haproxy",
        ca: Ca::Service,
        paths: Some(("/etc/ssl/haproxy/server.crt", "/etc/ssl/haproxy/server.crt")),
        owner: "haproxy",
        further: &[postgres_names, redis_names],
    },
    Leaf {
        name: "etcd",
        ca: Ca::Cluster,
        paths: Some(("/etc/ssl/hanode/etcd.crt", "/etc/ssl/hanode/etcd.key")),
        owner: "etcd",
        further: &[],
    },
    Leaf {
        name: "patroni",
        ca: Ca::Cluster,
        paths: Some(("/etc/ssl/hanode/patroni.crt", "/etc/ssl/hanode/patroni.key")),
        owner: "postgres",
        further: &[],
    },
    // The join port, and the service's own calls to the others.
    Leaf {
        name: "node",
        ca: Ca::Cluster,
        paths: Some(("/etc/ssl/hanode/node.crt", "/etc/ssl/hanode/node.key")),
        owner: "root",
        further: &[],
    },
    Leaf { name: "operator", ca: Ca::Cluster, paths: None, owner: "root", further: &[] },
];

pub const DIRECTORIES: [&str; 5] =
    ["/etc/ssl/haproxy", "/etc/ssl/hanode", "/etc/ssl/myca", "/etc/ssl/pgsql", "/etc/ssl/redis"];

impl Leaf {
    pub fn find(name: &str) -> Option<&'static Leaf> {
        LEAVES.iter().find(|leaf| leaf.name == name)
    }

    /// Whether it proves a server: the operator's has no names and can only be a client.
    pub fn serves(&self) -> bool {
        self.paths.is_some()
    }

    /// The names and addresses it is valid for, written as certificates compare them.
    pub fn names(&self, spec: &Spec) -> BTreeSet<String> {
        if !self.serves() {
            return BTreeSet::new();
        }
        let own = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let nodes =
            spec.nodes.iter().flat_map(|n| [n.name.clone(), n.hostname.clone(), n.address.to_string()]);
        let further = self.further.iter().flat_map(|names| names(spec).iter().map(|name| normal(name)));
        own.into_iter()
            .chain(nodes.map(|name| name.to_ascii_lowercase()))
            .chain([spec.network.vip.to_string()])
            .chain(further)
            .collect()
    }

    /// Where clients ask whether it was revoked; nothing outside the nodes asks that of the cluster CA.
    pub fn crl_url<'s>(&self, spec: &'s Spec) -> Option<&'s str> {
        (self.ca == Ca::Service).then_some(spec.pki.crl_url.as_str())
    }
}

/// An address in its one usual form, a name in small letters.
fn normal(name: &str) -> String {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// Seconds since 1970; what certificates are dated in.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
