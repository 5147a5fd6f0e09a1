//! Renders the files of one node from spec, target, machine facts, plan and secrets. A pure function: `hanode render`
//! on the admin machine shows what the first boot writes.

mod context;
mod declared;
mod files;
mod firewall;
mod limits;
mod parameters;
mod passwords;
pub mod sentinel;
mod sizing;
mod sql;
mod templates;

use crate::bundle::Bundle;
use crate::machine::MachineFacts;
use crate::pki::{Ca, read};
use crate::plan::Plan;
use crate::restore::RestoreChoice;
use crate::secrets::Secrets;
use crate::spec::{Backup, Spec};
use crate::state::Component;
use crate::target::{FileRule, Target};
use anyhow::Result;
use hanode_util::file_tree::Entry;
use hanode_util::user_error::UserError;
use tera::Tera;

pub use passwords::redacted;
pub use templates::Templates;

/// Renders the files of the nodes of one cluster on one target.
pub struct Renderer<'a> {
    spec: &'a Spec,
    target: &'a Target,
    secrets: &'a Secrets,
    crl: CrlInput,
    restore: Option<RestoreChoice>,
    engine: Tera,
}

/// A file, directory or link of a node, and the target's rule from which it is made.
#[derive(Debug, Clone)]
pub struct Rendered<'a> {
    pub entry: Entry,
    pub rule: &'a FileRule,
}

/// The revocation lists. Servers load a CRL only if it has entries, since an expired CRL locks every client out.
#[derive(Debug, Clone, Default)]
pub struct CrlInput {
    /// Whether the service CA's CRL has entries.
    pub service: bool,
    /// Whether the cluster CA's CRL has entries.
    pub cluster: bool,
    /// The service CA's CRL in DER, which the nodes serve to clients.
    pub der: Option<Vec<u8>>,
}

impl CrlInput {
    pub fn of_bundle(bundle: &Bundle) -> Result<CrlInput> {
        let pem = |ca: Ca| {
            let path = ca.crl_path();
            let missing = || {
                UserError::with_help(format!("bundle.tar.gz has no {path}"), "run `hanode certs issue DIR`")
            };
            bundle.file(path).ok_or_else(missing)
        };
        let has_entries = |ca| Ok::<_, anyhow::Error>(!read::crl(pem(ca)?)?.entries.is_empty());
        Ok(CrlInput {
            service: has_entries(Ca::Service)?,
            cluster: has_entries(Ca::Cluster)?,
            der: Some(read::der(pem(Ca::Service)?)?),
        })
    }
}

/// All that one rendering depends on.
struct RenderInput<'a> {
    spec: &'a Spec,
    target: &'a Target,
    /// Name of the node to render.
    node: &'a str,
    machine: &'a MachineFacts,
    plan: &'a Plan,
    secrets: &'a Secrets,
    crl: &'a CrlInput,
    restore: Option<&'a RestoreChoice>,
}

/// pgBackRest's settings outside the nodes.
pub fn pgbackrest_settings(templates: &Templates, backup: &Backup, secrets: &Secrets) -> Result<String> {
    passwords::check(secrets)?;
    let mut context = tera::Context::new();
    context.insert("node", &serde_json::json!({ "name": "the admin machine" }));
    context.insert("backup", &context::repository(backup, secrets)?);
    templates::fill(&templates.engine()?, "pgbackrest.conf", &context)
}

impl<'a> Renderer<'a> {
    pub fn new(
        spec: &'a Spec,
        target: &'a Target,
        templates: &Templates,
        secrets: &'a Secrets,
        crl: CrlInput,
    ) -> Result<Renderer<'a>> {
        passwords::check(secrets)?;
        Ok(Renderer { spec, target, secrets, crl, restore: None, engine: templates.engine()? })
    }

    /// For a cluster that begins with this restore.
    pub fn restoring(self, restore: Option<RestoreChoice>) -> Renderer<'a> {
        Renderer { restore, ..self }
    }

    /// With the secrets and the revocation lists of this bundle.
    pub fn of_bundle(
        spec: &'a Spec,
        target: &'a Target,
        templates: &Templates,
        bundle: &'a Bundle,
    ) -> Result<Renderer<'a>> {
        Renderer::new(spec, target, templates, &bundle.secrets, CrlInput::of_bundle(bundle)?)
    }

    /// The node's files, directories and links, in the order of the target's `[[file]]` tables.
    ///
    /// Files that depend on a service's plan are omitted while the service waits or refuses.
    pub fn render(&self, node: &str, machine: &MachineFacts, plan: &Plan) -> Result<Vec<Rendered<'a>>> {
        self.render_if(node, machine, plan, |_| true)
    }

    /// Only the files of this component that depend on the plan.
    pub fn render_planned(
        &self,
        node: &str,
        machine: &MachineFacts,
        plan: &Plan,
        component: Component,
    ) -> Result<Vec<Rendered<'a>>> {
        let planned = |rule: &FileRule| rule.plan.is_some() && rule.component == Some(component);
        self.render_if(node, machine, plan, planned)
    }

    fn render_if(
        &self,
        node: &str,
        machine: &MachineFacts,
        plan: &Plan,
        wanted: impl Fn(&FileRule) -> bool,
    ) -> Result<Vec<Rendered<'a>>> {
        let Renderer { spec, target, secrets, crl, restore, engine } = self;
        let restore = restore.as_ref();
        let input = RenderInput { spec, target, node, machine, plan, secrets, crl, restore };
        let context = context::build(&input, engine)?;
        let mut rendered = Vec::new();
        for rule in target.files.iter().filter(|rule| wanted(rule)) {
            let entry = files::entry(rule, &input, engine, &context)?;
            rendered.extend(entry.map(|entry| Rendered { entry, rule }));
        }
        Ok(rendered)
    }
}
