//! What goes on while a node is in service: [`ready`] watches it, [`handover`] and [`step_down`] have Redis' failovers lose
//! nothing, [`update`] takes up what an operator lays down, [`answer`] and [`metrics`] tell others.

pub mod answer;
mod dynamic;
mod handover;
pub mod metrics;
pub mod mute_haproxy;
pub mod ready;
mod sessions;
mod standby;
mod standstill;
pub mod step_down;
pub mod take_up;
pub mod update;
