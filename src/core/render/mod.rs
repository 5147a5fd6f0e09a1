//! Renders the files of one node from spec, target, machine facts, plan and secrets. A pure function: `hanode render`
//! on the admin machine shows what the first boot writes.

mod context;
mod files;
mod firewall;
mod parameters;
mod passwords;
pub mod sentinel;
mod sizing;
mod templates;

use crate::machine::MachineFacts;
use crate::plan::Plan;
use crate::secrets::Secrets;
use crate::spec::Spec;
use crate::target::Target;
use anyhow::Result;
use hanode_util::file_tree::Entry;

pub use passwords::redacted;
pub use templates::Templates;

/// The input of [`render`].
pub struct RenderInput<'a> {
    pub spec: &'a Spec,
    pub target: &'a Target,
    /// Name of the node to render.
    pub node: &'a str,
    pub machine: &'a MachineFacts,
    pub plan: &'a Plan,
    pub secrets: &'a Secrets,
    pub templates: &'a Templates,
    pub crl: CrlInput<'a>,
}

/// The revocation lists. Servers load a CRL only if it has entries, since an expired CRL locks every client out.
#[derive(Debug, Clone, Copy, Default)]
pub struct CrlInput<'a> {
    /// Whether the service CA's CRL has entries.
    pub service: bool,
    /// Whether the cluster CA's CRL has entries.
    pub cluster: bool,
    /// The service CA's CRL in DER, which the nodes serve to clients.
    pub der: Option<&'a [u8]>,
}

/// The node's files, directories and links, in the order of the target's `[[file]]` tables.
///
/// Files that depend on a service's plan are omitted while the service waits or refuses.
pub fn render(input: &RenderInput) -> Result<Vec<Entry>> {
    passwords::check(input.secrets)?;
    let engine = input.templates.engine()?;
    let context = context::build(input, &engine)?;
    files::entries(input, &engine, &context)
}
