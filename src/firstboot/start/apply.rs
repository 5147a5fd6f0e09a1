//! Writes rendered files to the disk: validated first, then written atomically, then labelled.

use super::validators;
use crate::node::NodeContext;
use crate::selinux;
use anyhow::{Context, Result};
use hanode_core::pki::read;
use hanode_core::plan::Plan;
use hanode_core::render::{self, CrlInput, RenderInput, sentinel};
use hanode_core::state::Component;
use hanode_util::file_tree::{Entry, EntryKind, Ids, write};

impl NodeContext {
    pub(crate) fn render(&self, plan: &Plan) -> Result<Vec<Entry>> {
        let config = &self.config;
        let (service, cluster) = (read::crl(config.service_crl()?)?, read::crl(config.cluster_crl()?)?);
        let der = read::der(config.service_crl()?)?;
        render::render(&RenderInput {
            spec: &config.spec,
            target: &config.target,
            node: self.name(),
            machine: self.machine()?,
            plan,
            secrets: &config.bundle.secrets,
            templates: &config.templates,
            crl: CrlInput {
                service: !service.entries.is_empty(),
                cluster: !cluster.entries.is_empty(),
                der: Some(&der),
            },
        })
    }

    /// Writes the static configuration, which does not depend on the plan: the bundle's files first, since
    /// other files refer to them. Returns the paths that changed.
    pub(crate) fn apply(&self) -> Result<Vec<String>> {
        validators::parameters(self.root(), &self.config.target, &self.config.spec)?;
        let ids = Ids::read(self.root())?;
        let mut changed = write(self.root(), &self.config.bundle.entries, Some(&ids))?;
        let target = &self.config.target;
        let has_validator = |e: &Entry| target.rule_at(&e.path).is_some_and(|rule| !rule.check.is_empty());
        // Files with a validator are written last: it reads the files to which they refer.
        let (validated, plain): (Vec<Entry>, Vec<Entry>) =
            self.render(&Plan::waiting(&self.config.spec))?.into_iter().partition(has_validator);
        changed.extend(write(self.root(), &plain, Some(&ids))?);
        for entry in &validated {
            if let Some(rule) = target.rule_at(&entry.path) {
                validators::check(self.root(), rule, entry)?;
            }
        }
        changed.extend(write(self.root(), &validated, Some(&ids))?);
        // Label all files, not only the changed ones: an earlier run may have been interrupted after it wrote
        // them.
        let all = [&self.config.bundle.entries, &plain, &validated].into_iter().flatten();
        selinux::restore(self.root(), &all.map(|entry| entry.path.clone()).collect::<Vec<_>>())?;
        Ok(changed)
    }

    /// Runs the components' validators on the files that [`Self::apply`] would write, and changes nothing.
    /// The files of an earlier run must exist.
    pub(crate) fn check(&self) -> Result<()> {
        validators::parameters(self.root(), &self.config.target, &self.config.spec)?;
        let rules = |entry: &Entry| self.config.target.rule_at(&entry.path);
        let rendered = self.render(&Plan::waiting(&self.config.spec))?;
        rendered
            .iter()
            .try_for_each(|e| rules(e).map_or(Ok(()), |rule| validators::check(self.root(), rule, e)))
    }

    /// Writes the files of one component that depend on the plan.
    pub(crate) fn apply_planned(&self, plan: &Plan, component: Component) -> Result<()> {
        let planned = |e: &Entry| {
            let rule = self.config.target.rule_at(&e.path);
            rule.is_some_and(|r| r.plan.is_some() && r.component == Some(component))
        };
        let mut entries: Vec<Entry> = self.render(plan)?.into_iter().filter(planned).collect();
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
