//! From a machine that could be any node to one whose services run: [`run`] is the plan unit, [`gate`] stands before each
//! service and decides at every start of it, [`recover`] is the operator's word. All leave decisions to [`hanode_core::plan`].

pub(crate) mod apply;
mod await_promotion;
mod firewall;
pub(crate) mod first_start;
pub(crate) mod gate;
pub(crate) mod recover;
mod rejoin;
pub(crate) mod run;
pub(crate) mod self_report;
mod validators;
