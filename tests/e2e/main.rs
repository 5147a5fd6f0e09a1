//! Tests with real servers, images, clusters and emulated machines: `cargo test --test e2e` as root, after `make setup`.
//! Tests that take minutes are ignored; targets of the Makefile run them.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod support;

mod admin_errors;
mod application;
mod backup;
mod backup_commands;
mod bake;
mod build_centos;
mod build_ubuntu;
mod clock;
mod cloud_init;
mod cloud_platforms;
mod cluster;
mod cluster_centos;
mod cluster_ubuntu;
mod config_checks;
mod config_reload;
mod data_damage;
mod data_volume;
mod debian_12;
mod disk_space;
mod docs;
mod emulated_machine;
mod failpoints;
mod faults;
mod faults_lag;
mod firewall;
mod firmware;
mod glibc;
mod haproxy_log;
mod haproxy_log_socket;
mod held_connections;
mod image;
mod interrupted_bootstrap;
mod lab_lifecycle;
mod modes;
mod old_certificates;
mod packages;
mod packer;
mod recovery;
mod restart;
mod restore;
mod restore_failures;
mod seed_disks;
mod selinux;
mod service_users;
mod standby_absence;
mod storage;
mod strangers;
