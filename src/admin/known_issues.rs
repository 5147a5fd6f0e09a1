//! What is known against versions that a spec pins.

use crate::embedded::{target, targets};
use anyhow::Result;
use hanode_core::spec::Spec;

/// What is known against the versions that a spec asks for, each with what to do.
pub(crate) fn version_issues(spec: &Spec) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let all = targets().iter().map(|name| Ok(target(name)?.1)).collect::<Result<Vec<_>>>()?;
    for (component, version) in &spec.versions {
        if let Some(known_issue) = all.iter().find_map(|target| target.known_issue(component, version)) {
            let fix = format!("leave versions.{component} out: each target's own version is sound");
            found.push((known_issue.what.clone(), fix));
        }
        let able: Vec<_> = all.iter().filter(|t| t.can_pin(component)).map(|t| t.name.as_str()).collect();
        if able.len() < all.len() {
            let what = format!("versions.{component} cannot be had on every target");
            found.push((what, format!("it holds for an image of {} only", able.join(" or "))));
        }
    }
    Ok(found)
}
