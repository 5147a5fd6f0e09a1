//! hanode: bake a PostgreSQL and Redis high-availability node once, boot it as any member of the cluster.
//!
//! Data flows one way, from the first of these groups to the last. The core reads no file, no clock and no network;
//! whatever touches a tree takes its `root`. The program of the image holds all but the desk.

// The core: what an operator wrote, what a distribution is like, what is to be done, and what files come of it.
pub mod facts;
pub mod plan;
pub mod render;
pub mod secrets;
pub mod spec;
pub mod target;

// Keys and passwords on their way to a node, and files on their way into a tree.
pub mod bundle;
pub mod pki;
pub mod tree;
pub mod trouble;

// Asking nodes, from one of them as from the desk.
pub mod client;
pub mod health;
pub mod join;
pub mod observe;

// The service in the image.
pub mod boot;

// The desk: the operator's directory, images of it, and the lab that runs them.
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
pub mod rto;
#[cfg(feature = "desk")]
pub mod scratch;
#[cfg(feature = "desk")]
pub mod seed;
