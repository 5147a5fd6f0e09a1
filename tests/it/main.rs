//! Tests that `cargo test` runs for an ordinary user, without root, network and servers. They need openssl and the basic
//! tools of Debian. All other tests are in `tests/e2e`.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;

mod bundle;
mod certificates;
mod clone_script;
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
mod spec_applications;
mod spec_parser;
mod tls_handshakes;
mod vocabulary;
