//! The agent in the image: it makes a booted machine a node of its cluster.
//!
//! Modules: the node's configuration ([`node_config`]), which node this machine is ([`identity`]), the state
//! of its disk ([`disk`]), the start of its services ([`start`]), and the work while they run ([`watch`]).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod commands;
pub mod disk;
pub mod failpoint;
pub mod identity;
mod node_config;
mod selinux;
mod start;
mod state;
mod units;
mod watch;
