//! Members and URLs of etcd, for the plan and the clients.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A member in etcd's member list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    #[serde(rename = "ID")]
    pub id: String,
    /// Empty for a member that was added and has not started yet.
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Empty until the member has started once; the name does not show that reliably.
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

pub fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}
