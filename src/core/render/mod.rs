//! Render: from spec, target, machine facts, plan and secrets to the files of one node. Pure: what
//! `hanode render` shows at the desk is what the first boot writes.

mod context;
mod files;
mod firewall;
mod limits;
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

pub struct Input<'a> {
    pub spec: &'a Spec,
    pub target: &'a Target,
    /// Name of the node that is rendered.
    pub node: &'a str,
    pub machine: &'a MachineFacts,
    pub plan: &'a Plan,
    pub secrets: &'a Secrets,
    pub templates: &'a Templates,
    pub crl: Crl<'a>,
}

/// What is revoked. Servers load a CRL only once it has entries: an expired one locks everybody out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Crl<'a> {
    /// Whether the CRL of the service CA, and of the cluster CA, has entries.
    pub service: bool,
    pub cluster: bool,
    /// The service CA's CRL in DER, which the nodes serve to clients.
    pub der: Option<&'a [u8]>,
}

/// The node's files, directories and links, in the order of the target's `[[file]]` tables.
///
/// Where the plan says *wait* or *refuse* for a service, the files that depend on that plan are left out.
pub fn render(input: &Input) -> Result<Vec<Entry>> {
    passwords::check(input.secrets)?;
    let engine = input.templates.engine()?;
    let context = context::build(input, &engine)?;
    files::entries(input, &engine, &context)
}
