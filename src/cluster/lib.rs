//! Access to a running cluster, from a node or from the admin machine: [`access`] and the [`client`]s of the servers,
//! the [`peer`] protocol, [`request`]s to a node, [`discovery`] (input of the plan) and [`health`].

#![forbid(unsafe_code)]

pub mod access;
pub mod client;
pub mod discovery;
pub mod health;
pub mod peer;
pub mod request;
