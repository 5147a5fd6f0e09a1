//! The admin machine's side: the [`cluster_dir`], its certificates ([`pki`]), cloud-init [`seed`]s, what a recovery takes
//! ([`recovery_time`]), and the files of `image/` that are built into the program ([`embedded`]).

#![forbid(unsafe_code)]

pub mod access;
pub mod cluster_dir;
pub mod embedded;
pub mod known_issues;
pub mod pki;
pub mod recovery_time;
pub mod seed;
