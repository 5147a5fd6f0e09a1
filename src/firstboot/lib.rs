//! The agent in the image: it makes a booted machine a node of its cluster.
//!
//! Modules, each of which uses only those before it: the running machine ([`host`]), the node's configuration
//! ([`node_config`]), the state of its disk ([`disk`]), which node this machine is ([`identity`]), all of that as
//! one context ([`node`]), the start of its services ([`start`]), and the work while they run ([`watch`]).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod backup;
pub mod commands;
pub mod disk;
pub mod failpoint;
mod haproxy_view;
mod host;
pub mod identity;
mod node;
mod node_config;
mod restore;
mod selinux;
mod selinux_denials;
mod start;
mod state;
mod units;
mod watch;
