//! The service in the image: turns a copy of it into the node that it is.
//!
//! [`run`] is the plan unit, [`gate`] stands before each service, [`ready`] watches; all three read the
//! same [`given`] facts, look at the same [`disk`], and leave decisions to [`crate::plan`].

mod age;
mod answer;
mod apply;
mod checkers;
pub mod commands;
mod disk;
mod dynamic;
mod etcd_log;
pub mod failpoint;
mod firewall;
mod first_start;
mod gate;
pub mod given;
mod handover;
mod identity;
mod keyspace;
mod labels;
mod machine;
pub mod metadata;
mod metrics;
mod observe;
pub mod platform;
mod ready;
mod recover;
mod redis_log;
mod rejoin;
mod run;
mod sessions;
mod standby;
mod state;
mod step_down;
mod succession;
mod take_up;
mod twin;
mod units;
mod update;
pub mod volume;
mod wal;
