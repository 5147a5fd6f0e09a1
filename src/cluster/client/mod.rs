//! Clients of the servers on the nodes. Every call is bounded in time and in what it reads.

pub mod deadline;
pub mod etcd;
pub mod etcd_peer;
pub mod http;
pub mod redis;
pub mod tls;
