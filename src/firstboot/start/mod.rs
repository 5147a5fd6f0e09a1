//! From a booted machine to a node whose services run: [`run`] is the plan unit, [`gate`] decides before
//! every start of a service, [`recover`] carries out the operator's decision. The decisions themselves are
//! made in [`hanode_core::plan`].

mod apply;
mod await_promotion;
mod duplicate_address;
mod firewall;
pub(crate) mod gate;
pub(crate) mod generation;
pub(crate) mod interrupted_init;
pub(crate) mod recover;
mod rejoin;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod self_report;
mod validators;
