//! Whether the parts of a cluster directory are sound and fit each other.

use super::*;
use hanode_core::pki::coverage::{CheckReport, check_bundle};
use hanode_core::pki::read::{self, Validity};
use hanode_core::pki::{self, Ca, LEAVES};
use std::os::unix::fs::PermissionsExt;

/// Everything that is wrong or will be. Fails only where `dir` is no cluster directory at all.
pub fn check(dir: &Path) -> Result<CheckReport> {
    let ClusterPayload { spec, secrets, bundle, mut report } = baked(dir)?;
    let store = Store::at(dir.join(PKI));
    authorities(&store, spec.as_ref(), &mut report);
    operator(dir, &store, &mut report);
    if let (Some(bundle), Some(secrets)) = (&bundle, &secrets) {
        staleness(dir, &store, bundle, secrets, &mut report);
    }
    Ok(report)
}

/// The same of what a node is given. The copy that a machine is baked from holds no CA.
pub fn check_copy(dir: &Path) -> Result<CheckReport> {
    baked(dir).map(|found| found.report)
}

/// What gets baked, as far as it can be read.
struct ClusterPayload {
    spec: Option<Spec>,
    secrets: Option<Secrets>,
    bundle: Option<Bundle>,
    report: CheckReport,
}

fn baked(dir: &Path) -> Result<ClusterPayload> {
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
    modes(dir, &mut report);
    let secrets = found(Secrets::load(&dir.join(SECRETS)), dir.join(SECRETS), &mut report);
    let bundle = found(load_bundle(dir), dir.join(BUNDLE), &mut report).map(|(bundle, _)| bundle);
    if let (Some(spec), Some(bundle)) = (&spec, &bundle) {
        let judged = check_bundle(bundle, spec, pki::now()).for_directory(dir);
        report.faults.extend(judged.faults);
        report.warnings.extend(judged.warnings);
    }
    Ok(ClusterPayload { spec, secrets, bundle, report })
}

/// The value, or a fault that says why there is none.
fn found<T>(value: Result<T>, path: PathBuf, report: &mut CheckReport) -> Option<T> {
    let error = match value {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    match error.downcast_ref::<UserError>() {
        Some(trouble) => report.faults.push(trouble.clone()),
        None => {
            let help = "restore it from a backup; the bundle alone is made anew by hanode certs issue";
            report.fault(format!("{error:#}"), &path.display().to_string(), help);
        }
    }
    None
}

/// Keys and secrets are their owner's alone. (`secrets.toml` is judged as it is read.)
fn modes(dir: &Path, report: &mut CheckReport) {
    let store = Store::at(dir.join(PKI));
    for path in store.keys().chain([dir.join(BUNDLE)]) {
        let Ok(data) = std::fs::metadata(&path) else { continue };
        let mode = data.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let place = path.display().to_string();
            let help = format!("chmod 600 {place}, and renew what whoever could log in may have read");
            report.fault(format!("a private key is open to other users (mode {mode:04o})"), &place, &help);
        }
    }
}

fn authorities(store: &Store, spec: Option<&Spec>, report: &mut CheckReport) {
    for ca in Ca::ALL {
        let place = store.ca_dir(ca).display().to_string();
        for error in [store.authority(ca).err(), store.index(ca).err()].into_iter().flatten() {
            report.fault(
                format!("the {} CA cannot sign: {error:#}", ca.name()),
                &place,
                "restore this folder from a backup; no certificate can be renewed without it",
            );
        }
    }
    let Some(spec) = spec else { return };
    let named = store.certificate(Ca::Service).ok().and_then(|pem| read::certificate(pem.as_bytes()).ok());
    if let Some(cert) = named.filter(|cert| !cert.subject.contains(&format!("CN={}", spec.pki.ca_name))) {
        report.warn(
            format!("the service CA calls itself {}, pki.ca_name is \"{}\"", cert.subject, spec.pki.ca_name),
            &store.ca_dir(Ca::Service).join("ca.crt").display().to_string(),
            "set pki.ca_name to it: a CA's name is fixed when it is made",
        );
    }
}

/// The one leaf that no bundle holds.
fn operator(dir: &Path, store: &Store, report: &mut CheckReport) {
    for leaf in LEAVES.iter().filter(|leaf| leaf.paths.is_none()) {
        let place = store.leaf_file(leaf, "crt").display().to_string();
        let sound = store.leaf(leaf).and_then(|pair| {
            let (cert, key) = (pair.cert.as_bytes(), pair.key.as_bytes());
            read::signed_by(cert, store.certificate(leaf.ca)?.as_bytes())?;
            read::key_matches(cert, key)?;
            read::certificate(cert)
        });
        let help = &format!("hanode certs issue {}", dir.display());
        match sound {
            Err(error) => report.fault(format!("the {} certificate: {error:#}", leaf.name), &place, help),
            Ok(cert) => match cert.validity(pki::now()) {
                Validity::Valid => {}
                Validity::RenewalDue => {
                    let what = format!(
                        "the {} certificate is due: it ends on {}",
                        leaf.name,
                        read::date(cert.not_after)
                    );
                    report.warn(what, &place, help);
                }
                _ => {
                    let (from, to) = (read::date(cert.not_before), read::date(cert.not_after));
                    report.fault(
                        format!("the {} certificate is valid from {from} to {to}", leaf.name),
                        &place,
                        help,
                    );
                }
            },
        }
    }
}

/// Whether the bundle holds what `pki/` and `secrets.toml` hold now.
fn staleness(dir: &Path, store: &Store, bundle: &Bundle, secrets: &Secrets, report: &mut CheckReport) {
    let place = dir.join(BUNDLE).display().to_string();
    let help = format!("hanode certs issue {}", dir.display());
    if bundle.secrets != *secrets {
        let help = format!("put the old ones back into {SECRETS}; for a cluster that never ran: {help}");
        report.fault(format!("the bundle has other passwords than {SECRETS}"), &place, &help);
    }
    let (members, generation) = match (store.members(), store.generation()) {
        (Ok(members), Ok(generation)) => (members, generation),
        (members, generation) => {
            for error in [members.err(), generation.err()].into_iter().flatten() {
                let what = format!("{PKI}/ is not whole: {error:#}");
                report.fault(what, &dir.join(PKI).display().to_string(), &help);
            }
            return;
        }
    };
    let BundleMetadata { cluster, generation: packed, .. } = &bundle.metadata;
    let now = Bundle::new(cluster, *packed, bundle.secrets.clone(), members);
    if *packed < generation || now.entries != bundle.entries {
        let what = format!(
            "the bundle (generation {packed}) is not made of what pki/ holds (generation {generation})"
        );
        report.fault(what, &place, &help);
    }
}
