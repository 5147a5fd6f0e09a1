//! hanode: bake a PostgreSQL and Redis high-availability node once, boot it as any member of the cluster.
//!
//! Data flows one way. The core (`spec`, `target`, `plan`, `render`, `tree`) is pure; `boot`, `image` and
//! `lab` touch the world, each below a `root` or a directory it is given.

pub mod boot;
pub mod bundle;
pub mod client;
pub mod facts;
pub mod health;
pub mod join;
pub mod observe;
pub mod pki;
pub mod plan;
pub mod render;
#[cfg(feature = "desk")]
pub mod rto;
pub mod secrets;
pub mod spec;
pub mod target;
pub mod tree;
pub mod trouble;

#[cfg(feature = "desk")]
pub mod cli;
#[cfg(feature = "desk")]
pub mod cluster;
#[cfg(feature = "desk")]
pub mod image;
#[cfg(feature = "desk")]
pub mod interrupt;
#[cfg(feature = "desk")]
pub mod lab;
#[cfg(feature = "desk")]
pub mod scratch;
#[cfg(feature = "desk")]
pub mod seed;
