//! Common code of all crates: running programs, writing files and trees, scratch space, errors with a remedy.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod command;
pub mod file_tree;
pub mod interrupt;
pub mod safe_path;
pub mod scratch;
pub mod table;
pub mod terminal;
pub mod user_error;
