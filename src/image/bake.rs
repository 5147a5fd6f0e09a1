//! The bake into a tree that somebody else made: a mounted image, or `/` inside a virtual machine.

use super::overlay::{self, Baked, Ground};
use super::survey::{self, Facts};
use super::{assets, base, tool};
use crate::tree::{self, Ids};
use anyhow::Result;
use std::path::Path;
use std::time::SystemTime;

/// Bakes into the tree at `root`; returns the paths that changed. The target's packages must be in it.
pub fn bake(root: &Path, target: &str, baked: Option<&Baked>, program: &[u8]) -> Result<Vec<String>> {
    tool::need_root("baking into a tree")?;
    let (text, target) = assets::target(target)?;
    survey::check_os(root, &target)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let facts = Facts::of_base(root, &target, String::new(), now)?;
    let ground = Ground { target_text: text, target: &target, facts: &facts, program };
    let entries = overlay::entries(&ground, baked)?;
    let changed = tree::write(root, &entries, Some(&Ids::read(root)?))?;
    base::units(&target, root)?;
    Ok(changed)
}
