//! Turns the target's `[[file]]` tables into entries with path, owner and SELinux label.

use super::{RenderInput, templates::fill};
use crate::plan::Action;
use crate::spec::VipMode;
use crate::target::{FileRule, RuleKind, Target};
use anyhow::{Context, Result, bail};
use hanode_util::file_tree::{Entry, EntryKind};
use tera::Tera;

pub(super) fn entries(input: &RenderInput, engine: &Tera, context: &tera::Context) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for rule in &input.target.files {
        let rendered = (|| {
            if !applies(rule, input)? || !is_planned(rule, input)? {
                return Ok(None);
            }
            entry(rule, input, engine, context).map(Some)
        })();
        entries
            .extend(rendered.with_context(|| format!("target {}: file {}", input.target.name, rule.path))?);
    }
    Ok(entries)
}

fn applies(rule: &FileRule, input: &RenderInput) -> Result<bool> {
    let spec = input.spec;
    Ok(match rule.when.as_deref() {
        None => true,
        Some("vrrp") => spec.network.vip_mode == VipMode::Vrrp,
        Some("external") => spec.network.vip_mode == VipMode::External,
        Some("postgres_tls") => spec.postgres.tls,
        Some("redis_tls") => spec.redis.tls,
        Some("own_join_port") => spec.network.join_port != crate::peer::PORT,
        Some("crl") => input.crl.der.is_some(),
        Some(firewall @ ("nftables" | "ufw" | "firewalld")) => input.target.firewall.kind == firewall,
        Some(other) => bail!("unknown `when = {other:?}`"),
    })
}

/// Whether the plan lets the file's service start: otherwise its content is unknown.
fn is_planned(rule: &FileRule, input: &RenderInput) -> Result<bool> {
    let action = match rule.plan.as_deref() {
        None => return Ok(true),
        Some("etcd") => input.plan.etcd.step.action,
        Some("postgres") => input.plan.postgres.action,
        Some("redis") => input.plan.redis.step.action,
        Some(other) => bail!("unknown `plan = {other:?}`"),
    };
    Ok(!matches!(action, Action::Wait | Action::Refuse))
}

fn entry(rule: &FileRule, input: &RenderInput, engine: &Tera, context: &tera::Context) -> Result<Entry> {
    let text = || {
        let name = rule.template.as_deref().context("the file has no `template`")?;
        fill(engine, name, context)
    };
    let kind = match rule.kind {
        RuleKind::File => EntryKind::File(text()?.into_bytes()),
        RuleKind::Dir => EntryKind::Dir,
        RuleKind::Link => {
            let to = rule.to.as_deref().context("the link has no `to`")?;
            EntryKind::Link(expand(to, input.target)?)
        }
        RuleKind::Crl => {
            // HTTP requires CR LF at the end of header lines; templates have LF.
            let mut content = text()?.replace('\n', "\r\n").into_bytes();
            content.extend_from_slice(input.crl.der.context("there is no CRL")?);
            EntryKind::File(content)
        }
    };
    let path = expand(&rule.path, input.target)?;
    let mode = u32::from_str_radix(&rule.mode, 8).with_context(|| format!("mode {:?}", rule.mode))?;
    let label = input.target.selinux.as_ref().and_then(|policy| policy.context(&path));
    let mode = if matches!(kind, EntryKind::Link(_)) { 0o777 } else { mode };
    Ok(Entry { path, kind, mode, owner: rule.owner.clone(), group: rule.group.clone(), label })
}

/// Replaces each `{paths.NAME}`; fails on an unknown name.
fn expand(pattern: &str, target: &Target) -> Result<String> {
    let mut path = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("{paths.") {
        let (name, tail) = after.split_once('}').with_context(|| format!("{pattern}: no closing brace"))?;
        let value = target.paths.get(name).with_context(|| format!("{pattern}: [paths] has no {name:?}"))?;
        path.push_str(before);
        path.push_str(value);
        rest = tail;
    }
    path.push_str(rest);
    anyhow::ensure!(path.starts_with('/'), "{path:?} is not an absolute path");
    Ok(path)
}
