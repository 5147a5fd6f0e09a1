//! Whether a bundle is sound in itself and fits a spec: asked at the desk before it is baked, and on a node
//! before it is used.

use super::read::{self, CertSummary, Standing};
use super::{Ca, LEAVES, Leaf};
use crate::bundle::Bundle;
use crate::spec::Spec;
use hanode_util::user_error::UserError;
use std::path::Path;

/// What is wrong now, and what soon will be.
#[derive(Debug, Default, Clone, PartialEq, serde::Serialize)]
pub struct Report {
    pub faults: Vec<UserError>,
    pub warnings: Vec<UserError>,
}

impl Report {
    pub fn fault(&mut self, what: impl Into<String>, place: &str, help: &str) {
        self.faults.push(UserError::new(what, place, help));
    }

    /// With the name of the cluster directory in place of `DIR`, where there is one.
    pub fn for_directory(mut self, dir: &Path) -> Report {
        for error in self.faults.iter_mut().chain(&mut self.warnings) {
            error.help = error.help.replace("DIR", &dir.display().to_string());
        }
        self
    }

    pub fn warn(&mut self, what: impl Into<String>, place: &str, help: &str) {
        self.warnings.push(UserError::new(what, place, help));
    }
}

const ISSUE: &str = "hanode certs issue DIR, then bake or lay down the new bundle";
const RENEW: &str = "hanode certs renew DIR, then bake or lay down the new bundle";
const CLOCK: &str = "set this machine's clock right";

/// Judges `bundle` for `spec` at the moment `now`.
pub fn examine(bundle: &Bundle, spec: &Spec, now: i64) -> Report {
    let mut report = Report::default();
    if bundle.stamp.cluster != spec.name {
        let what =
            format!("the bundle is of cluster {}, not {}", bundle.stamp.cluster.escape_debug(), spec.name);
        report.fault(
            what,
            crate::bundle::STAMP,
            "use the bundle of this cluster; after a rename: hanode certs issue DIR",
        );
    }
    for ca in Ca::ALL {
        authority(bundle, ca, now, &mut report);
    }
    for leaf in &LEAVES {
        if let Some((cert, key)) = leaf.paths {
            leaf_pair(bundle, spec, leaf, (cert, key), now, &mut report);
        }
    }
    report
}

fn authority(bundle: &Bundle, ca: Ca, now: i64, report: &mut Report) {
    let (place, crl_place) = (ca.certificate_path(), ca.crl_path());
    let Some(pem) = bundle.file(place) else {
        return report.fault(format!("the {} CA's certificate is missing", ca.name()), place, ISSUE);
    };
    match read::certificate(pem) {
        Err(error) => {
            report.fault(format!("the {} CA's certificate cannot be read: {error}", ca.name()), place, ISSUE)
        }
        Ok(cert) if !cert.is_ca => {
            report.fault(format!("the {} CA's certificate is not a CA's", ca.name()), place, ISSUE)
        }
        Ok(cert) => {
            let what = format!("the {} CA's certificate", ca.name());
            let help = "plan a new CA: every client must trust it before the servers use it";
            validity(&what, place, cert.standing(now), (cert.not_before, cert.not_after), help, report);
        }
    }
    let Some(list) = bundle.file(crl_place) else {
        return report.fault(format!("the {} CA's revocation list is missing", ca.name()), crl_place, ISSUE);
    };
    let what = format!("the {} CA's revocation list", ca.name());
    match read::crl(list).and_then(|crl| read::crl_signed_by(list, pem).map(|()| crl)) {
        Err(error) => report.fault(format!("{what} is not usable: {error:#}"), crl_place, ISSUE),
        Ok(crl) => {
            validity(&what, crl_place, crl.standing(now), (crl.this_update, crl.next_update), RENEW, report);
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

fn leaf_pair(bundle: &Bundle, spec: &Spec, leaf: &Leaf, paths: (&str, &str), now: i64, report: &mut Report) {
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
        report.fault(format!("{what} is not of the {} CA: {error:#}", leaf.ca.name()), place, ISSUE);
    }
    match bundle.file(key_place) {
        None => report.fault(format!("the {} key is missing", leaf.name), key_place, ISSUE),
        Some(key) => {
            if let Err(error) = read::key_matches(pem, key) {
                report.fault(format!("{what} and its key: {error:#}"), key_place, ISSUE);
            }
        }
    }
    validity(&what, place, cert.standing(now), (cert.not_before, cert.not_after), RENEW, report);
    for gap in gaps(leaf, &cert, spec) {
        report.fault(format!("{what} {gap}"), place, ISSUE);
    }
    let surplus: Vec<String> = cert.sans.difference(&leaf.names(spec)).cloned().collect();
    if !surplus.is_empty() {
        report.warn(format!("{what} still covers {}", surplus.join(", ")), place, ISSUE);
    }
}

/// What `cert` lacks to be `leaf` of `spec`.
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
        gaps.push(format!("does not name {url} for its revocation list"));
    }
    gaps
}

fn validity(
    what: &str,
    place: &str,
    standing: Standing,
    (begin, end): (i64, i64),
    help: &str,
    report: &mut Report,
) {
    match standing {
        Standing::Good => {}
        Standing::NotYet => {
            report.fault(format!("{what} is valid only from {}", read::date(begin)), place, CLOCK)
        }
        Standing::Over => report.fault(format!("{what} expired on {}", read::date(end)), place, help),
        Standing::EndsSoon => {
            report.warn(format!("{what} is due: it ends on {}", read::date(end)), place, help)
        }
    }
}
