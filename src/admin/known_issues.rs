//! Known issues of the versions that a spec pins.

use crate::embedded::{target, targets};
use anyhow::Result;
use hanode_core::spec::Spec;

/// Known issues of the pinned versions, each with a help text.
pub(crate) fn version_issues(spec: &Spec) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let all = targets().iter().map(|name| Ok(target(name)?.1)).collect::<Result<Vec<_>>>()?;
    for (component, version) in &spec.versions {
        if let Some(known_issue) = all.iter().find_map(|target| target.known_issue(component, version)) {
            let help =
                format!("remove versions.{component}: the default version of each target has no such issue");
            found.push((known_issue.what.clone(), help));
        }
        let supported: Vec<_> =
            all.iter().filter(|t| t.can_pin(component)).map(|t| t.name.as_str()).collect();
        if supported.len() < all.len() {
            let what = format!("versions.{component} is not supported on every target");
            found.push((what, format!("build for {}, or remove it", supported.join(" or "))));
        }
    }
    Ok(found)
}
