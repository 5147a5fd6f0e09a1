//! Writes rendered files to the disk: validated first, then written atomically, then labelled.

use super::validators;
use crate::node::NodeContext;
use crate::node_config::NodeConfig;
use crate::selinux;
use anyhow::{Context, Result};
use hanode_core::plan::Plan;
use hanode_core::render::{Rendered, Renderer, sentinel};
use hanode_core::state::Component;
use hanode_util::file_tree::{Entry, EntryKind, Ids, write};

impl NodeContext {
    fn renderer(&self) -> Result<Renderer<'_>> {
        let NodeConfig { spec, target, templates, bundle, .. } = &self.config;
        let renderer = Renderer::of_bundle(spec, target, templates, bundle)?;
        Ok(renderer.restoring(self.disk.read_state()?.restore_choice))
    }

    pub(crate) fn render(&self, plan: &Plan) -> Result<Vec<Rendered<'_>>> {
        self.renderer()?.render(self.name(), self.machine()?, plan)
    }

    /// Writes the static configuration, which does not depend on the plan: the bundle's files first, since
    /// other files refer to them. Returns the paths that changed.
    pub(crate) fn apply(&self) -> Result<Vec<String>> {
        validators::parameters(self.root(), &self.config.target, &self.config.spec)?;
        let ids = Ids::read(self.root())?;
        let mut changed = write(self.root(), &self.config.bundle.entries, Some(&ids))?;
        // Files with a validator are written last: it reads the files to which they refer.
        let (validated, plain): (Vec<Rendered>, Vec<Rendered>) =
            self.render(&Plan::waiting(self.spec()))?.into_iter().partition(|r| !r.rule.check.is_empty());
        let plain = entries(plain);
        changed.extend(write(self.root(), &plain, Some(&ids))?);
        validated.iter().try_for_each(|rendered| validators::check(self.root(), rendered))?;
        let validated = entries(validated);
        changed.extend(write(self.root(), &validated, Some(&ids))?);
        // Label all files, not only the changed ones: an earlier run may have been interrupted after it wrote
        // them.
        let all = [&self.config.bundle.entries, &plain, &validated].into_iter().flatten();
        selinux::restore(self.root(), &all.map(|entry| entry.path.clone()).collect::<Vec<_>>())?;
        Ok(changed)
    }

    /// Writes the static files of one component again.
    pub(crate) fn apply_component(&self, component: Component) -> Result<()> {
        let rendered = self.render(&Plan::waiting(self.spec()))?;
        let own = rendered.into_iter().filter(|rendered| rendered.rule.component == Some(component));
        let changed = write(self.root(), &entries(own.collect()), Some(&Ids::read(self.root())?))?;
        selinux::restore(self.root(), &changed)
    }

    /// Runs the components' validators on the files that [`Self::apply`] would write, and changes nothing.
    /// The files of an earlier run must exist.
    pub(crate) fn check(&self) -> Result<()> {
        validators::parameters(self.root(), &self.config.target, &self.config.spec)?;
        let rendered = self.render(&Plan::waiting(self.spec()))?;
        rendered.iter().try_for_each(|rendered| validators::check(self.root(), rendered))
    }

    /// Writes the files of one component that depend on the plan.
    pub(crate) fn apply_planned(&self, plan: &Plan, component: Component) -> Result<()> {
        let renderer = self.renderer()?;
        let mut entries = entries(renderer.render_planned(self.name(), self.machine()?, plan, component)?);
        if component == Component::Sentinel {
            entries.iter_mut().try_for_each(|e| self.keep_sentinel_state(e))?;
        }
        let changed = write(self.root(), &entries, Some(&Ids::read(self.root())?))?;
        selinux::restore(self.root(), &changed)
    }

    /// Sentinel saves its id, epochs and peers in its own configuration file; the new file keeps them.
    fn keep_sentinel_state(&self, entry: &mut Entry) -> Result<()> {
        let EntryKind::File(fresh) = &mut entry.kind else { return Ok(()) };
        let Ok(old) = self.tree()?.read(&entry.path) else { return Ok(()) };
        let Ok(old) = String::from_utf8(old) else { return Ok(()) };
        let text = std::str::from_utf8(fresh).context("a rendered file is not UTF-8")?;
        *fresh = sentinel::merge(text, &old).into_bytes();
        Ok(())
    }
}

fn entries(rendered: Vec<Rendered>) -> Vec<Entry> {
    rendered.into_iter().map(|rendered| rendered.entry).collect()
}
