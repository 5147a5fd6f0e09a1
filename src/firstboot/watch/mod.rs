//! Work while the services run: [`services`] watches them, [`failover_guard`], [`promotion`] and
//! [`planned_failover`] keep Redis' failovers from losing writes, [`storage`] stops the servers while their disk is unusable,
//! [`apply_bundle`] activates a new bundle, [`join_port`] and [`metrics`] answer others.

pub(crate) mod apply_bundle;
mod connection_use;
pub(crate) mod declared_sql;
mod dynamic_config;
mod failover_guard;
pub(crate) mod findings;
mod haproxy_socket;
pub(crate) mod haproxy_watchdog;
pub(crate) mod join_port;
mod keepalived_state;
pub(crate) mod metrics;
mod old_workers;
pub(crate) mod planned_failover;
mod promotion;
mod read_port;
mod reclone;
mod requests;
mod served_certs;
pub(crate) mod services;
mod stale_sessions;
pub(crate) mod storage;
mod suspend;
mod sync_standby;
