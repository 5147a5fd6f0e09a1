//! etcd's members, as the plan and the clients know them.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    #[serde(rename = "ID")]
    pub id: String,
    /// Empty for one that was added and has not yet started.
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Empty until the member has started once: the only sure sign.
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

pub fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}
