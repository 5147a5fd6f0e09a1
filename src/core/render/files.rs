//! Turns the target's `[[file]]` tables into entries with path, owner and SELinux label.

use super::{RenderInput, templates::fill};
use crate::spec::VipMode;
use crate::target::{FileRule, FirewallKind, PlannedService, RuleKind, When};
use anyhow::{Context, Result};
use hanode_util::file_tree::{Entry, EntryKind};
use tera::Tera;

/// The entry of a rule; `None` if its condition does not hold or the plan does not let its service start.
pub(super) fn entry(
    rule: &FileRule,
    input: &RenderInput,
    engine: &Tera,
    context: &tera::Context,
) -> Result<Option<Entry>> {
    if !applies(rule, input) || !is_planned(rule, input) {
        return Ok(None);
    }
    let entry = rendered(rule, input, engine, context);
    entry.map(Some).with_context(|| format!("target {}: file {}", input.target.name, rule.path))
}

fn applies(rule: &FileRule, input: &RenderInput) -> bool {
    let (spec, firewall) = (input.spec, input.target.firewall.kind);
    match rule.when {
        None => true,
        Some(When::Vrrp) => spec.network.vip_mode == VipMode::Vrrp,
        Some(When::External) => spec.network.vip_mode == VipMode::External,
        Some(When::PostgresTls) => spec.postgres.tls,
        Some(When::RedisTls) => spec.redis.tls,
        Some(When::Backup) => spec.backup.is_some(),
        Some(When::OwnJoinPort) => spec.network.join_port != crate::peer::PORT,
        Some(When::Revoked) => input.crl.cluster,
        Some(When::Crl) => input.crl.der.is_some(),
        Some(When::Nftables) => firewall == FirewallKind::Nftables,
        Some(When::Ufw) => firewall == FirewallKind::Ufw,
        Some(When::Firewalld) => firewall == FirewallKind::Firewalld,
    }
}

/// Whether the plan lets the file's service start: otherwise its content is unknown.
fn is_planned(rule: &FileRule, input: &RenderInput) -> bool {
    let action = match rule.plan {
        None => return true,
        Some(PlannedService::Etcd) => input.plan.etcd.step.action,
        Some(PlannedService::Postgres) => input.plan.postgres.action,
        Some(PlannedService::Redis) => input.plan.redis.step.action,
    };
    action.may_start()
}

fn rendered(rule: &FileRule, input: &RenderInput, engine: &Tera, context: &tera::Context) -> Result<Entry> {
    let text = || fill(engine, rule.template()?, context);
    let kind = match rule.kind {
        RuleKind::File => EntryKind::File(text()?.into_bytes()),
        RuleKind::Dir => EntryKind::Dir,
        RuleKind::Link => EntryKind::Link(input.target.expand(rule.link()?)?),
        RuleKind::Crl => {
            // HTTP requires CR LF at the end of header lines; templates have LF.
            let mut content = text()?.replace('\n', "\r\n").into_bytes();
            content.extend_from_slice(input.crl.der.as_deref().context("there is no CRL")?);
            EntryKind::File(content)
        }
    };
    let path = input.target.expand(&rule.path)?;
    let label = input.target.selinux.as_ref().and_then(|policy| policy.context(&path));
    let mode = if matches!(kind, EntryKind::Link(_)) { 0o777 } else { rule.mode };
    Ok(Entry { path, kind, mode, owner: rule.owner.clone(), group: rule.group.clone(), label })
}
