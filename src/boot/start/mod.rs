//! From a machine that could be any node to one whose services run: [`run`] is the plan unit, [`gate`] stands before each
//! service and decides at every start of it, [`recover`] is the operator's word. All leave decisions to [`crate::plan`].

pub mod apply;
mod checkers;
mod firewall;
pub mod first_start;
pub mod gate;
pub mod observe;
pub mod recover;
mod rejoin;
pub mod run;
mod succession;
