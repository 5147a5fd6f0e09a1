//! Functions of the admin machine: the [`cluster_dir`], its certificates ([`pki`]), cloud-init [`seed`]s, expected
//! recovery times ([`recovery_time`]), restarts node after node ([`restart`]), [`backup`]s, and the files of `image/` embedded
//! in the program ([`embedded`]).

#![forbid(unsafe_code)]

pub mod access;
pub mod backup;
pub mod cluster_dir;
pub mod embedded;
mod known_issues;
pub mod pki;
pub mod recovery_time;
pub mod restart;
pub mod seed;
