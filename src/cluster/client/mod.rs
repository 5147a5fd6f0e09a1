//! Clients of the servers on the nodes. Every call has a time limit and an upper bound on the bytes that it reads.

pub(crate) mod deadline;
pub mod etcd;
pub(crate) mod etcd_peer;
pub mod haproxy;
pub mod http;
pub mod patroni;
pub mod pgbackrest;
pub mod redis;
pub mod replication;
pub mod sentinel;
pub mod tls;
