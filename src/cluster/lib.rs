//! Access to a running cluster, from a node or from the admin machine: [`access`] and the [`client`]s of the servers,
//! the [`peer`] protocol, [`request`]s to a node, [`discovery`] (input of the plan) and [`health`]; the [`backup_records`], and
//! what the [`repository`] of the backups has for a restore.

#![forbid(unsafe_code)]

pub mod access;
pub mod backup_records;
pub mod client;
pub mod discovery;
pub mod health;
pub mod peer;
pub mod repository;
pub mod request;
