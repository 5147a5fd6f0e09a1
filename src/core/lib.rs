//! The pure core: the operator's description of a cluster ([`spec`]), the description of a distribution ([`target`]),
//! the action of each service at a boot ([`plan`]) and the files of a node ([`render`]). It opens no socket.

#![forbid(unsafe_code)]

pub mod backup;
pub mod bundle;
pub mod etcd;
pub mod freshness;
pub mod gate;
pub mod machine;
pub mod peer;
pub mod pki;
pub mod plan;
pub mod redis_parameters;
pub mod redis_users;
pub mod render;
pub mod restore;
pub mod secrets;
pub mod selinux;
pub mod sentinel;
pub mod spec;
pub mod standby;
pub mod state;
pub mod target;
