//! Something that is wrong, told so that it can be mended: what, where, what to do.

use serde::Serialize;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserError {
    pub what: String,
    #[serde(rename = "where")]
    pub(crate) place: String,
    pub fix: String,
}

impl UserError {
    pub fn new(what: impl Into<String>, place: impl Into<String>, fix: impl Into<String>) -> Self {
        UserError { what: what.into(), place: place.into(), fix: fix.into() }
    }
}

impl std::error::Error for UserError {}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (label, text) in [("where", &self.place), ("do", &self.fix)] {
            if !text.is_empty() {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}
