//! What goes on while a node is in service: [`ready`] watches it, [`handover`] and [`step_down`] have Redis' failovers lose
//! nothing, [`update`] takes up what an operator lays down, [`answer`] and [`metrics`] tell others.

pub(crate) mod answer;
pub(crate) mod apply_bundle;
mod dynamic_config;
mod failover_guard;
pub(crate) mod haproxy_watchdog;
pub(crate) mod metrics;
pub(crate) mod planned_failover;
pub(crate) mod ready;
pub(crate) mod reload;
mod stale_sessions;
mod suspend;
mod sync_standby;
