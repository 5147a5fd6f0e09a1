//! `hanode certs`

use super::{print, print_json};
use anyhow::Result;
use clap::{Args, Subcommand};
use hanode_admin::cluster_dir::change::{self, PkiChange};
use hanode_admin::cluster_dir::{self, PKI};
use hanode_admin::pki::store::{IssuedCert, PkiStore};
use hanode_core::pki::read::{self, CertSummary, CrlSummary, Validity};
use hanode_core::pki::{self, Ca, LEAVES};
use hanode_util::table::aligned;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show, issue, renew and revoke the cluster's certificates
///
/// Every change creates a new generation of the bundle. Deploy it with the next image, or copy it to
/// /etc/hanode/bundle.tar.gz on every node and run `hanode apply` there, one node after the other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode certs show demo
  hanode certs issue demo               after changing names or addresses
  hanode certs renew demo pgsql redis
  hanode certs revoke demo haproxy      after its key has leaked")]
pub(crate) struct Certs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the CAs, certificates and revocation lists
    #[command(after_help = "Example:\n  hanode certs show demo --json | jq '.certificates[].not_after'")]
    Show {
        /// Cluster directory
        dir: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Issue the certificates and revocation lists that the spec requires, and pack the bundle
    ///
    /// Issues every certificate that is missing, revoked, due for renewal, or does not match the names and addresses in
    /// the spec. Changes nothing if none is.
    #[command(after_help = "Example:\n  hanode certs issue demo")]
    Issue {
        /// Cluster directory
        dir: PathBuf,
        /// Print the changes as JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace certificates, with new keys, before they expire
    #[command(after_help = "\
Examples:
  hanode certs renew demo               all certificates
  hanode certs renew demo pgsql redis")]
    Renew {
        /// Cluster directory
        dir: PathBuf,
        /// Certificates to renew: pgsql replicator rewind_user redis haproxy etcd patroni node operator [default: all]
        names: Vec<String>,
        /// Print the changes as JSON
        #[arg(long)]
        json: bool,
    },
    /// Issue a certificate with which a client logs in to PostgreSQL
    ///
    /// Its name is that of the role, such as dbadmin, which needs it besides its password. The files are below
    /// pki/service/clients; no image contains them. Run it again for a new certificate before the old one expires.
    #[command(after_help = "\
Example:
  hanode certs client demo dbadmin
  psql \"host=192.168.18.20 user=dbadmin dbname=postgres sslmode=verify-full sslrootcert=demo/pki/service/ca.crt
      sslcert=demo/pki/service/clients/dbadmin.crt sslkey=demo/pki/service/clients/dbadmin.key\"")]
    Client {
        /// Cluster directory
        dir: PathBuf,
        /// Name of the role
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a certificate, and replace it if it is in use
    #[command(after_help = "\
Examples:
  hanode certs revoke demo haproxy
  hanode certs revoke demo 4f:12:…      by serial, as `hanode certs show` and openssl print it")]
    Revoke {
        /// Cluster directory
        dir: PathBuf,
        /// Serial, or name of a certificate in use or of a client
        #[arg(value_name = "SERIAL|NAME")]
        which: String,
        /// Print the changes as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Certs {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.verb {
            Verb::Show { dir, json } => show(dir, *json)?,
            Verb::Issue { dir, json } => print_change(change::issue(dir)?, *json)?,
            Verb::Renew { dir, names, json } => print_change(change::renew(dir, names)?, *json)?,
            Verb::Client { dir, name, json } => client(dir, name, *json)?,
            Verb::Revoke { dir, which, json } => print_change(change::revoke(dir, which)?, *json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn client(dir: &Path, name: &str, json: bool) -> Result<()> {
    let issued = change::issue_client(dir, name)?;
    if json {
        return print_json(&issued);
    }
    print(&format!(
        "issued {} ({}) with its key {}",
        issued.certificate.display(),
        issued.serial,
        issued.key.display()
    ))
}

fn print_change(change: PkiChange, json: bool) -> Result<()> {
    for warning in &change.warnings {
        super::print_to_stderr(&format!("warning: {warning}"));
    }
    if json {
        return print_json(&change);
    }
    if !change.changed {
        return print(&format!(
            "nothing to do: bundle generation {} is up to date",
            change.bundle_generation
        ));
    }
    print(&change.done.join("\n"))
}

#[derive(Serialize)]
struct Inventory {
    schema: u32,
    bundle_generation: u64,
    certificates: Vec<Cert>,
    revocation_lists: Vec<Crl>,
    revoked: Vec<IssuedCert>,
}

#[derive(Serialize)]
struct Cert {
    name: String,
    ca: &'static str,
    validity: Validity,
    #[serde(flatten)]
    cert: CertSummary,
}

#[derive(Serialize)]
struct Crl {
    ca: &'static str,
    validity: Validity,
    #[serde(flatten)]
    crl: CrlSummary,
}

fn show(dir: &Path, json: bool) -> Result<()> {
    cluster_dir::load_spec(dir)?;
    let found = inventory(&PkiStore::at(dir.join(PKI)))?;
    if json { print_json(&found) } else { print(&table(&found)) }
}

fn inventory(store: &PkiStore) -> Result<Inventory> {
    let now = pki::now();
    let mut found = Inventory {
        schema: 1,
        bundle_generation: store.generation()?,
        certificates: Vec::new(),
        revocation_lists: Vec::new(),
        revoked: Vec::new(),
    };
    for ca in Ca::ALL {
        let mut add = |name: &str, pem: String| {
            let cert = read::certificate(pem.as_bytes())?;
            found.certificates.push(Cert {
                name: name.into(),
                ca: ca.name(),
                validity: cert.validity(now),
                cert,
            });
            anyhow::Ok(())
        };
        add("CA", store.certificate(ca)?)?;
        for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca) {
            add(leaf.name, store.leaf(leaf)?.cert)?;
        }
        if ca == Ca::Service {
            for (name, pem) in store.client_certificates()? {
                add(&name, pem)?;
            }
        }
        let crl = read::crl(store.crl(ca)?.as_bytes())?;
        found.revocation_lists.push(Crl { ca: ca.name(), validity: crl.validity(now), crl });
        found.revoked.extend(store.index(ca)?.issued.into_iter().filter(|issued| issued.revoked.is_some()));
    }
    Ok(found)
}

fn table(found: &Inventory) -> String {
    let day = |seconds| read::date(seconds)[..10].to_string();
    let row = |cells: [&str; 5]| cells.map(String::from).to_vec();
    let mut rows = vec![row(["CA", "NAME", "SERIAL", "EXPIRES", "STATUS"])];
    rows.extend(found.certificates.iter().map(|Cert { name, ca, validity, cert }| {
        row([ca, name, &cert.serial, &day(cert.not_after), validity_text(*validity)])
    }));
    rows.extend(found.revocation_lists.iter().map(|Crl { ca, validity, crl }| {
        let entries = format!("{} revoked", crl.entries.len());
        row([ca, "revocation list", &entries, &day(crl.next_update), validity_text(*validity)])
    }));
    let mut text = format!("bundle generation {}\n\n{}", found.bundle_generation, aligned(rows, &[]));
    if !found.revoked.is_empty() {
        let revoked = found.revoked.iter().map(|issued| {
            vec![issued.serial.clone(), issued.name.clone(), issued.revoked.map(day).unwrap_or_default()]
        });
        let head = ["REVOKED", "NAME", "ON"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(revoked).collect();
        text += &format!("\n\n{}", aligned(rows, &[]));
    }
    text
}

fn validity_text(validity: Validity) -> &'static str {
    match validity {
        Validity::Valid => "valid",
        Validity::NotYetValid => "not yet valid",
        Validity::RenewalDue => "renewal due",
        Validity::Expired => "expired",
    }
}
