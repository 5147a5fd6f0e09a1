//! Checks that a bundle is consistent and covers a spec: on the admin machine before a bake, and on a node before
//! the bundle is used.

use super::read::{self, CertSummary, Validity};
use super::{Ca, LEAVES, Leaf};
use crate::bundle::Bundle;
use crate::spec::{Repository, Spec};
use hanode_util::user_error::UserError;
use std::path::Path;

/// Errors and warnings of a check.
#[derive(Debug, Default, Clone, PartialEq, serde::Serialize)]
pub struct CheckReport {
    pub faults: Vec<UserError>,
    pub warnings: Vec<UserError>,
}

impl CheckReport {
    pub fn fault(&mut self, what: impl Into<String>, place: &str, help: &str) {
        self.faults.push(UserError::new(what, place, help));
    }

    /// Replaces the paths on a node by that of the bundle, and `DIR` in every help text by the cluster directory.
    pub fn for_directory(mut self, dir: &Path) -> CheckReport {
        for error in self.faults.iter_mut().chain(&mut self.warnings) {
            error.place = dir.join("bundle.tar.gz").display().to_string();
            error.help = error.help.replace("DIR", &dir.display().to_string());
        }
        self
    }

    pub fn warn(&mut self, what: impl Into<String>, place: &str, help: &str) {
        self.warnings.push(UserError::new(what, place, help));
    }
}

const ISSUE: &str = "run `hanode certs issue DIR`, then build a new image, or `hanode apply` the new bundle where only \
                     certificates changed";
const RENEW: &str = "run `hanode certs renew DIR`, then build a new image, or `hanode apply` the new bundle";
const CLOCK: &str = "correct this machine's clock";

/// Checks `bundle` against `spec` at `now`, in seconds since 1970.
pub fn check_bundle(bundle: &Bundle, spec: &Spec, now: i64) -> CheckReport {
    let mut report = CheckReport::default();
    if bundle.metadata.cluster != spec.name {
        let what = format!(
            "the bundle belongs to cluster {}, not {}",
            bundle.metadata.cluster.escape_debug(),
            spec.name
        );
        report.fault(
            what,
            crate::bundle::METADATA_PATH,
            "use the bundle of this cluster; after renaming the cluster, run `hanode certs issue DIR`",
        );
    }
    for ca in Ca::ALL {
        authority(bundle, ca, now, &mut report);
    }
    for leaf in &LEAVES {
        if let Some((cert, key)) = leaf.paths {
            leaf_pair(bundle, leaf, (cert, key), now, &mut report);
        }
    }
    differences(bundle, spec, &mut report);
    if bundle.secrets.postgres_app.is_none() {
        let what = "there is no postgres_app, the password of the applications' role";
        report.fault(what, crate::bundle::SECRETS_PATH, ISSUE);
    }
    let secrets = &bundle.secrets;
    let users = [&secrets.redis_admin, &secrets.redis_replica, &secrets.redis_sentinel];
    match users.iter().filter(|password| password.is_some()).count() {
        3 => {}
        0 => report.warn(
            "applications administer Redis: the secrets of this older cluster have no redis_admin",
            crate::bundle::SECRETS_PATH,
            "see \"A cluster of an older hanode\" in docs/applications.md",
        ),
        _ => report.fault(
            "some of redis_admin, redis_replica and redis_sentinel are missing",
            crate::bundle::SECRETS_PATH,
            ISSUE,
        ),
    }
    for role in spec.roles.iter().filter(|role| role.has_password()) {
        if let Err(error) = bundle.secrets.of_role(&role.name) {
            report.fault(format!("{error:#}"), crate::bundle::SECRETS_PATH, ISSUE);
        }
    }
    for user in &spec.redis_users {
        if let Err(error) = bundle.secrets.of_redis_user(&user.name) {
            report.fault(format!("{error:#}"), crate::bundle::SECRETS_PATH, ISSUE);
        }
    }
    backup_secrets(bundle, spec, &mut report);
    report
}

fn backup_secrets(bundle: &Bundle, spec: &Spec, report: &mut CheckReport) {
    let Some(backup) = &spec.backup else { return };
    let (secrets, place) = (&bundle.secrets, crate::bundle::SECRETS_PATH);
    if secrets.backup_key.is_none() {
        report.fault("there is no backup_key, with which backups are encrypted", place, ISSUE);
    }
    if matches!(backup.repository, Repository::S3 { .. }) {
        for (key, value) in [("s3_key", &secrets.s3_key), ("s3_secret", &secrets.s3_secret)] {
            if value.is_none() {
                let what = format!("there is no {key}, which the repository {} needs", backup.repository);
                report.fault(what, place, "add it to secrets.toml, then run `hanode certs issue DIR`");
            }
        }
    }
}

fn authority(bundle: &Bundle, ca: Ca, now: i64, report: &mut CheckReport) {
    let (place, crl_place) = (ca.certificate_path(), ca.crl_path());
    let Some(pem) = bundle.file(place) else {
        return report.fault(format!("the {} CA's certificate is missing", ca.name()), place, ISSUE);
    };
    match read::certificate(pem) {
        Err(error) => {
            report.fault(format!("the {} CA's certificate cannot be read: {error}", ca.name()), place, ISSUE)
        }
        Ok(cert) if !cert.is_ca => {
            report.fault(format!("the {} CA's certificate is not a CA certificate", ca.name()), place, ISSUE)
        }
        Ok(cert) => {
            let what = format!("the {} CA's certificate", ca.name());
            let help = "plan a new CA: every client must trust it before the servers use it";
            check_validity(&what, place, cert.validity(now), (cert.not_before, cert.not_after), help, report);
        }
    }
    let Some(list) = bundle.file(crl_place) else {
        return report.fault(format!("the {} CA's revocation list is missing", ca.name()), crl_place, ISSUE);
    };
    let what = format!("the {} CA's revocation list", ca.name());
    match read::crl(list).and_then(|crl| read::crl_signed_by(list, pem).map(|()| crl)) {
        Err(error) => report.fault(format!("{what} cannot be used: {error:#}"), crl_place, ISSUE),
        Ok(crl) => {
            check_validity(
                &what,
                crl_place,
                crl.validity(now),
                (crl.this_update, crl.next_update),
                RENEW,
                report,
            );
            for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca) {
                let Some((path, _)) = leaf.paths else { continue };
                let cert = bundle.file(path).and_then(|pem| read::certificate(pem).ok());
                if cert.is_some_and(|cert| crl.entries.contains(&cert.serial)) {
                    report.fault(format!("the {} certificate is revoked", leaf.name), path, ISSUE);
                }
            }
        }
    }
}

fn leaf_pair(bundle: &Bundle, leaf: &Leaf, paths: (&str, &str), now: i64, report: &mut CheckReport) {
    let (place, key_place) = paths;
    let what = format!("the {} certificate", leaf.name);
    let Some(pem) = bundle.file(place) else {
        return report.fault(format!("{what} is missing"), place, ISSUE);
    };
    let cert = match read::certificate(pem) {
        Ok(cert) => cert,
        Err(error) => return report.fault(format!("{what} cannot be read: {error}"), place, ISSUE),
    };
    if let Some(ca) = bundle.file(leaf.ca.certificate_path())
        && let Err(error) = read::signed_by(pem, ca)
    {
        report.fault(format!("{what} was not issued by the {} CA: {error:#}", leaf.ca.name()), place, ISSUE);
    }
    match bundle.file(key_place) {
        None => report.fault(format!("the {} key is missing", leaf.name), key_place, ISSUE),
        Some(key) => {
            if let Err(error) = read::key_matches(pem, key) {
                report.fault(format!("{what} and its key: {error:#}"), key_place, ISSUE);
            }
        }
    }
    check_validity(&what, place, cert.validity(now), (cert.not_before, cert.not_after), RENEW, report);
}

/// Certificates that lack what the spec requires or cover more; those with the same difference share one message.
fn differences(bundle: &Bundle, spec: &Spec, report: &mut CheckReport) {
    let certificates: Vec<(&Leaf, CertSummary)> = LEAVES
        .iter()
        .filter_map(|leaf| Some((leaf, read::certificate(bundle.file(leaf.paths?.0)?).ok()?)))
        .collect();
    for (place, what) in grouped(&certificates, |leaf, cert| gaps(leaf, cert, spec)) {
        report.fault(what, place, ISSUE);
    }
    let surplus = |leaf: &Leaf, cert: &CertSummary| {
        let names: Vec<String> = cert.sans.difference(&leaf.names(spec)).cloned().collect();
        match names.is_empty() {
            true => vec![],
            false => vec![format!("still covers {}, which the spec no longer has", names.join(", "))],
        }
    };
    for (place, what) in grouped(&certificates, surplus) {
        report.warn(what, place, ISSUE);
    }
}

/// One message for all certificates with the same finding, and the path of the first one.
fn grouped(
    certificates: &[(&'static Leaf, CertSummary)],
    findings: impl Fn(&Leaf, &CertSummary) -> Vec<String>,
) -> Vec<(&'static str, String)> {
    let mut groups: Vec<(String, Vec<&'static Leaf>)> = Vec::new();
    for (leaf, cert) in certificates {
        for finding in findings(leaf, cert) {
            match groups.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, leaves)) => leaves.push(leaf),
                None => groups.push((finding, vec![leaf])),
            }
        }
    }
    let message = |(finding, leaves): (String, Vec<&'static Leaf>)| {
        let names: Vec<&str> = leaves.iter().map(|leaf| leaf.name).collect();
        let place = leaves.first().and_then(|leaf| leaf.paths).map_or("", |(cert, _)| cert);
        match names.as_slice() {
            [name] => (place, format!("the {name} certificate {finding}")),
            _ => (place, format!("{} certificates {}: {}", names.len(), plural(&finding), names.join(", "))),
        }
    };
    groups.into_iter().map(message).collect()
}

fn plural(finding: &str) -> String {
    finding
        .replacen("does not", "do not", 1)
        .replacen("still covers", "still cover", 1)
        .replacen("as its", "as their", 1)
}

/// The names and URLs that `leaf` of `spec` needs and `cert` lacks.
pub fn gaps(leaf: &Leaf, cert: &CertSummary, spec: &Spec) -> Vec<String> {
    let mut gaps = Vec::new();
    let wanted = leaf.names(spec);
    let missing: Vec<&str> = wanted.difference(&cert.sans).map(String::as_str).collect();
    if !missing.is_empty() {
        gaps.push(format!("does not cover {}", missing.join(", ")));
    }
    if let Some(url) = leaf.crl_url(spec)
        && !cert.crl_urls.iter().any(|u| u == url)
    {
        gaps.push(format!("does not name {url} as its CRL distribution point"));
    }
    gaps
}

fn check_validity(
    what: &str,
    place: &str,
    validity: Validity,
    (start, end): (i64, i64),
    help: &str,
    report: &mut CheckReport,
) {
    match validity {
        Validity::Valid => {}
        Validity::NotYetValid => {
            report.fault(format!("{what} is not valid before {}", read::date(start)), place, CLOCK)
        }
        Validity::Expired => report.fault(format!("{what} expired on {}", read::date(end)), place, help),
        Validity::RenewalDue => {
            report.warn(format!("{what} expires on {}: renew it", read::date(end)), place, help)
        }
    }
}
