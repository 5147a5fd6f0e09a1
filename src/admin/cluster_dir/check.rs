//! Checks that the parts of a cluster directory are valid and consistent.

use super::*;
use hanode_core::pki::coverage::{CheckReport, check_bundle};
use hanode_core::pki::read::{self, Validity};
use hanode_core::pki::{self, Ca, LEAVES};
use hanode_util::command::{capture, command};
use std::os::unix::fs::PermissionsExt;

/// All faults and warnings. Fails only if `dir` is not a cluster directory.
pub fn check(dir: &Path) -> Result<CheckReport> {
    let PayloadCheck { spec, secrets, bundle, mut report } = check_payload(dir)?;
    let store = PkiStore::at(dir.join(PKI));
    authorities(&store, spec.as_ref(), &mut report);
    operator(dir, &store, &mut report);
    if let (Some(bundle), Some(secrets)) = (&bundle, &secrets) {
        compare_bundle(dir, &store, bundle, secrets, &mut report);
    }
    Ok(report)
}

/// Like [`check()`], for a copy without `pki/`, from which a machine is baked.
pub fn check_copy(dir: &Path) -> Result<CheckReport> {
    check_payload(dir).map(|payload| payload.report)
}

/// The parts that go into images, as far as they can be read.
struct PayloadCheck {
    spec: Option<Spec>,
    secrets: Option<Secrets>,
    bundle: Option<Bundle>,
    report: CheckReport,
}

fn check_payload(dir: &Path) -> Result<PayloadCheck> {
    let mut report = CheckReport::default();
    let spec = match load_spec(dir) {
        Ok((spec, _)) => Some(spec),
        Err(error) => {
            let Some(SpecFaults { path, faults }) = error.downcast_ref() else { return Err(error) };
            for fault in &faults.0 {
                let place = format!("{}:{}", path.display(), fault.line);
                report.fault(&fault.what, &place, &fault.help);
            }
            None
        }
    };
    if let Some(spec) = &spec {
        for warning in spec::warnings(spec) {
            report.warn(&warning.what, &dir.join(SPEC).display().to_string(), &warning.help);
        }
        for (what, help) in crate::known_issues::version_issues(spec)? {
            report.warn(&what, &dir.join(SPEC).display().to_string(), &help);
        }
    }
    if let Some(backup) = spec.as_ref().and_then(|spec| spec.backup.as_ref()) {
        schedule(dir, &backup.schedule, &mut report);
    }
    modes(dir, &mut report);
    let secrets = value_or_fault(Secrets::load(&dir.join(SECRETS)), dir.join(SECRETS), &mut report);
    let bundle = value_or_fault(load_bundle(dir), dir.join(BUNDLE), &mut report).map(|(bundle, _)| bundle);
    if let (Some(spec), Some(bundle)) = (&spec, &bundle) {
        let checked = check_bundle(bundle, spec, pki::now()).for_directory(dir);
        report.faults.extend(checked.faults);
        report.warnings.extend(checked.warnings);
    }
    Ok(PayloadCheck { spec, secrets, bundle, report })
}

/// Has systemd parse the schedule, if this machine has it; a node does it before it writes the timer.
fn schedule(dir: &Path, schedule: &str, report: &mut CheckReport) {
    let mut parser = command("systemd-analyze");
    let Ok(output) = capture(parser.args(["calendar", "--", schedule])) else { return };
    if !output.status.success() {
        let reason = output.stderr.lines().next().unwrap_or_default().to_string();
        report.fault(
            format!("backup.schedule is not a calendar event of systemd: {reason}"),
            &dir.join(SPEC).display().to_string(),
            "write it like *-*-* 01:30:00 or Sat 03:00; see man systemd.time",
        );
    }
}

/// The value; an error becomes a fault in the report.
fn value_or_fault<T>(value: Result<T>, path: PathBuf, report: &mut CheckReport) -> Option<T> {
    let error = match value {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    match error.downcast_ref::<UserError>() {
        Some(error) => report.faults.push(error.clone()),
        None => {
            let dir = path.parent().unwrap_or(&path).display();
            let help =
                format!("restore it from a backup; a bundle can be packed again: `hanode certs issue {dir}`");
            report.fault(format!("{error:#}"), &path.display().to_string(), &help);
        }
    }
    None
}

/// Only the owner may read private keys. (Reading `secrets.toml` checks its mode.)
fn modes(dir: &Path, report: &mut CheckReport) {
    let store = PkiStore::at(dir.join(PKI));
    for path in store.keys().chain([dir.join(BUNDLE)]) {
        let Ok(data) = std::fs::metadata(&path) else { continue };
        let mode = data.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let place = path.display().to_string();
            let help =
                format!("chmod 600 {place}, then renew the certificates if another user may have read it");
            report.fault(
                format!("a private key is readable by other users (mode {mode:04o})"),
                &place,
                &help,
            );
        }
    }
}

fn authorities(store: &PkiStore, spec: Option<&Spec>, report: &mut CheckReport) {
    for ca in Ca::ALL {
        let place = store.ca_dir(ca).display().to_string();
        for error in [store.authority(ca).err(), store.index(ca).err()].into_iter().flatten() {
            report.fault(
                format!("the {} CA cannot sign: {error:#}", ca.name()),
                &place,
                "restore this folder from a backup: no certificate can be renewed without it",
            );
        }
    }
    let Some(spec) = spec else { return };
    let service = store.certificate(Ca::Service).ok().and_then(|pem| read::certificate(pem.as_bytes()).ok());
    if let Some(cert) = service.filter(|cert| !cert.subject.contains(&format!("CN={}", spec.pki.ca_name))) {
        report.warn(
            format!("the service CA is named {}, but pki.ca_name is \"{}\"", cert.subject, spec.pki.ca_name),
            &store.ca_dir(Ca::Service).join("ca.crt").display().to_string(),
            "set pki.ca_name to that name: a CA cannot be renamed",
        );
    }
}

/// The leaf that is not in the bundle.
fn operator(dir: &Path, store: &PkiStore, report: &mut CheckReport) {
    for leaf in LEAVES.iter().filter(|leaf| leaf.paths.is_none()) {
        let place = store.leaf_file(leaf, "crt").display().to_string();
        let certificate = store.leaf(leaf).and_then(|certified| {
            let (cert, key) = (certified.cert.as_bytes(), certified.key.as_bytes());
            read::signed_by(cert, store.certificate(leaf.ca)?.as_bytes())?;
            read::key_matches(cert, key)?;
            read::certificate(cert)
        });
        let help = &format!("hanode certs issue {}", dir.display());
        match certificate {
            Err(error) => report.fault(format!("the {} certificate: {error:#}", leaf.name), &place, help),
            Ok(cert) => match cert.validity(pki::now()) {
                Validity::Valid => {}
                Validity::RenewalDue => {
                    let what = format!(
                        "the {} certificate expires on {}: renew it",
                        leaf.name,
                        read::date(cert.not_after)
                    );
                    report.warn(what, &place, help);
                }
                _ => {
                    let (from, to) = (read::date(cert.not_before), read::date(cert.not_after));
                    report.fault(
                        format!("the {} certificate is valid only from {from} to {to}", leaf.name),
                        &place,
                        help,
                    );
                }
            },
        }
    }
}

/// Checks that the bundle matches `pki/` and `secrets.toml`.
fn compare_bundle(
    dir: &Path,
    store: &PkiStore,
    bundle: &Bundle,
    secrets: &Secrets,
    report: &mut CheckReport,
) {
    let place = dir.join(BUNDLE).display().to_string();
    let help = format!("hanode certs issue {}", dir.display());
    if bundle.secrets != *secrets {
        let help =
            format!("restore the old ones in {SECRETS}, or, before the first boot of the cluster: {help}");
        report.fault(format!("the bundle has other passwords than {SECRETS}"), &place, &help);
    }
    let (entries, generation) = match (store.bundle_entries(), store.generation()) {
        (Ok(entries), Ok(generation)) => (entries, generation),
        (entries, generation) => {
            for error in [entries.err(), generation.err()].into_iter().flatten() {
                let what = format!("{PKI}/ is incomplete: {error:#}");
                report.fault(what, &dir.join(PKI).display().to_string(), &help);
            }
            return;
        }
    };
    let BundleMetadata { cluster, generation: packed, .. } = &bundle.metadata;
    let now = Bundle::new(cluster, *packed, bundle.secrets.clone(), entries);
    if *packed < generation || now.entries != bundle.entries {
        let what = format!("the bundle (generation {packed}) does not match pki/ (generation {generation})");
        report.fault(what, &place, &help);
    }
}
