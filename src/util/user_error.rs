//! An error with a remedy: what is wrong, where, and what to do about it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Its Display is one line, to fit into a chain of causes; [`report`] adds the help in a separate line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserError {
    pub what: String,
    /// A file, a node or a device; may be empty.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do; may be empty.
    pub help: String,
}

impl UserError {
    pub fn new(what: impl Into<String>, place: impl Into<String>, help: impl Into<String>) -> Self {
        UserError { what: what.into(), place: place.into(), help: help.into() }
    }

    /// An error whose text includes the place.
    pub fn with_help(what: impl Into<String>, help: impl Into<String>) -> Self {
        UserError::new(what, "", help)
    }
}

impl std::error::Error for UserError {}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)
    }
}

/// The error of a file that the user named and that cannot be read.
pub fn unreadable(path: &Path, error: io::Error) -> UserError {
    let place = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound => UserError::new("no such file", place, ""),
        ErrorKind::PermissionDenied => {
            UserError::new("permission denied", place, "run this as the user who owns the file, or as root")
        }
        ErrorKind::IsADirectory => UserError::new("is a directory, not a file", place, ""),
        _ => UserError::new(error.to_string(), place, ""),
    }
}

/// The whole error for a person: `error: what: why`, then `help: what to do` for each remedy.
pub fn report(error: &anyhow::Error) -> String {
    let helps = remedies(error).map(|help| format!("\nhelp: {help}"));
    format!("error: {error:#}{}", helps.collect::<String>())
}

/// The remedies in an error's causes and in its outermost context, in the order of the chain.
pub fn remedies(error: &anyhow::Error) -> impl Iterator<Item = &str> {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<UserError>());
    // A context is no cause of its own: only the error as a whole knows its type.
    let context =
        error.downcast_ref::<UserError>().filter(|_| error.chain().all(|cause| !cause.is::<UserError>()));
    context.into_iter().chain(causes).map(|error| error.help.as_str()).filter(|help| !help.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_report_has_the_causes_in_one_line_and_the_help_below() {
        let error = UserError::new("mode is 0644", "demo/secrets.toml", "chmod 600 demo/secrets.toml");
        let error = Err::<(), _>(error).context("reading the secrets").unwrap_err();
        let text =
            "error: reading the secrets: demo/secrets.toml: mode is 0644\nhelp: chmod 600 demo/secrets.toml";
        assert_eq!(report(&error), text);
        assert_eq!(report(&anyhow::anyhow!("no space")), "error: no space");
        let cause = std::io::Error::other("no such file");
        let error = Err::<(), _>(cause).context(UserError::with_help("no network", "ip link")).unwrap_err();
        assert_eq!(report(&error), "error: no network: no such file\nhelp: ip link");
    }
}
