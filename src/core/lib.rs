//! The pure core: what an operator wrote ([`spec`]), what a distribution is like ([`target`]), what each service does at
//! this boot ([`plan`]) and which files a node gets ([`render`]). It opens no socket and reads no clock.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod etcd;
pub mod machine;
pub mod peer;
pub mod pki;
pub mod plan;
pub mod render;
pub mod secrets;
pub mod spec;
pub mod target;
