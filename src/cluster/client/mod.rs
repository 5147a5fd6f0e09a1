//! Clients of the servers on the nodes. Every call is bounded in time and in what it reads.

pub(crate) mod deadline;
pub mod etcd;
pub(crate) mod etcd_peer;
pub mod http;
pub mod redis;
pub mod tls;
