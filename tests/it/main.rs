//! Tests that an ordinary user runs with `cargo test`: no root, no network, no server, nothing but cargo, openssl and
//! the shell tools that every Debian has. What needs more is in `tests/e2e`.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;

mod bundle;
mod certificates;
mod command_line;
mod docs;
mod failover_lag;
mod golden;
mod haproxy_extra;
mod hostile_input;
mod metadata;
mod model;
mod packer_template;
mod refused_input;
mod spec;
mod tls_handshakes;
mod unit_settings;
mod vocabulary;
