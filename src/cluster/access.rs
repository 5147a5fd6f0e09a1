//! What is needed to query the nodes, and the clients of their servers.

use crate::client::etcd::EtcdClient;
use crate::client::etcd_peer::EtcdPeerClient;
use crate::client::patroni::PatroniClient;
use crate::client::redis::{Login, RedisClient};
use crate::client::sentinel::SentinelClient;
use crate::client::tls::Credentials;
use anyhow::Result;
use hanode_core::peer::NodeReport;
use hanode_core::secrets::Secrets;
use hanode_core::spec::{Node, Spec};
use std::net::IpAddr;
use std::time::Duration;

/// The certificate of Redis and Sentinel.
const REDIS: &str = "redis";
const HAPROXY: &str = "haproxy";

/// From the admin machine or from a node. Each `timeout` limits connecting, and each request.
#[derive(Clone)]
pub struct Access {
    pub spec: Spec,
    pub secrets: Secrets,
    /// Under the cluster CA, with the certificate of the operator or of a node.
    pub cluster: Credentials,
    /// `None` if the spec disables TLS for Redis.
    pub redis: Option<Credentials>,
    /// Path and PEM of the certificates and revocation lists in the bundle.
    pub certificates: Vec<(String, Vec<u8>)>,
    pub bundle_generation: u64,
}

impl Access {
    pub fn etcd(&self, node: &Node, timeout: Duration) -> Result<EtcdClient> {
        EtcdClient::new(&self.cluster, node.address, timeout)
    }

    pub(crate) fn etcd_peer(&self, node: &Node, timeout: Duration) -> Result<EtcdPeerClient> {
        EtcdPeerClient::new(&self.cluster, node.address, timeout)
    }

    pub fn patroni(&self, node: &Node, timeout: Duration) -> Result<PatroniClient> {
        let (port, password) = (self.spec.patroni.restapi_port, &self.secrets.patroni_rest);
        PatroniClient::new(&self.cluster, node.address, port, password, timeout)
    }

    /// Redis of a node, as an administrator.
    pub fn redis(&self, address: IpAddr, timeout: Duration) -> Result<RedisClient> {
        let login = match &self.secrets.redis_admin {
            Some(password) => Login { user: Some("hanode"), password },
            None => Login { user: None, password: &self.secrets.redis },
        };
        RedisClient::connect(self.redis.as_ref(), REDIS, address, self.spec.redis.port, &login, timeout)
    }

    /// Redis through HAProxy, as an application.
    pub fn redis_on_vip(&self, timeout: Duration) -> Result<RedisClient> {
        let (vip, port) = (self.spec.network.vip, self.spec.redis.vip_port);
        let login = Login { user: None, password: &self.secrets.redis };
        RedisClient::connect(self.redis.as_ref(), HAPROXY, vip, port, &login, timeout)
    }

    pub fn sentinel(&self, node: &Node, timeout: Duration) -> Result<SentinelClient> {
        let (redis, login) = (&self.spec.redis, Login { user: None, password: &self.secrets.sentinel });
        let port = redis.sentinel_port;
        let client = RedisClient::connect(self.redis.as_ref(), REDIS, node.address, port, &login, timeout)?;
        Ok(SentinelClient::new(client, &redis.master_name))
    }

    /// The report of a node, from its join port.
    pub fn report(&self, node: &Node, timeout: Duration) -> Result<NodeReport> {
        crate::peer::fetch_report(&self.cluster, node.address, self.spec.network.join_port, timeout)
    }
}
