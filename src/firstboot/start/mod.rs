//! From a booted machine to a node whose services run: [`run`] is the plan unit, [`gate`] decides before
//! every start of a service, [`recover`] carries out the operator's decision. The decisions themselves are
//! made in [`hanode_core::plan`] and [`hanode_core::gate`]; [`effects`] carries them out.

mod apply;
mod duplicate_address;
pub(crate) mod effects;
mod firewall;
pub(crate) mod gate;
pub(crate) mod generation;
pub(crate) mod init_facts;
mod membership;
pub(crate) mod recover;
mod redis_peers;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod self_report;
pub(crate) mod source_address;
mod validators;
