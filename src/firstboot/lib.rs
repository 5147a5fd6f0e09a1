//! The service in the image: turns a copy of it into the node that it is.
//!
//! By rooms: who this machine is ([`identity`]), what lies on its disk ([`disk`]), how its services start ([`start`]), and
//! what happens while they run ([`watch`]). All read the same [`config`] facts.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod commands;
pub mod disk;
pub mod failpoint;
pub mod identity;
pub mod node_config;
mod selinux;
mod start;
mod state;
mod units;
mod watch;
