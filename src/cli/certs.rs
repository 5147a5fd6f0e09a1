//! `hanode certs`

use super::{Verdict, say, say_json};
use anyhow::Result;
use clap::{Args, Subcommand};
use hanode_admin::cluster_dir::change::{self, Outcome};
use hanode_admin::cluster_dir::{self, PKI};
use hanode_admin::pki::store::{Issued, Store};
use hanode_core::pki::read::{self, CertSummary, CrlSummary, Standing};
use hanode_core::pki::{self, Ca, LEAVES};
use hanode_util::table::aligned;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show, issue, renew and revoke the cluster's certificates
///
/// Every change makes a new generation of the bundle, which reaches the nodes with the next image, or laid
/// down as /etc/hanode/bundle.tar.gz on every node, by `hanode apply` there, on one node after the other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode certs show demo
  hanode certs issue demo               after a change of names or addresses
  hanode certs renew demo pgsql redis
  hanode certs revoke demo haproxy      its key is known to others")]
pub(crate) struct Certs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the CAs, certificates and revocation lists
    #[command(after_help = "Example:\n  hanode certs show demo --json | jq '.certificates[].not_after'")]
    Show {
        /// The cluster directory
        dir: PathBuf,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring certificates, revocation lists and bundle in line with the spec
    ///
    /// Issues what is missing, does not fit the spec's names and addresses any more, was revoked, or is due.
    /// Does nothing when nothing is to be done.
    #[command(after_help = "Example:\n  hanode certs issue demo")]
    Issue {
        /// The cluster directory
        dir: PathBuf,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make new certificates, with new keys, before the old ones end
    #[command(after_help = "\
Examples:
  hanode certs renew demo               all of them
  hanode certs renew demo pgsql redis")]
    Renew {
        /// The cluster directory
        dir: PathBuf,
        /// Only these: pgsql redis haproxy etcd patroni node operator
        names: Vec<String>,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a certificate on its CA's revocation list; one in use is replaced
    #[command(after_help = "\
Examples:
  hanode certs revoke demo haproxy
  hanode certs revoke demo 4f:12:…      by serial, as hanode certs show and openssl print it")]
    Revoke {
        /// The cluster directory
        dir: PathBuf,
        /// A serial, or the name of a certificate in use
        #[arg(value_name = "SERIAL|NAME")]
        which: String,
        /// Print what was done as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Certs {
    pub(crate) fn run(&self) -> Result<Verdict> {
        match &self.verb {
            Verb::Show { dir, json } => show(dir, *json)?,
            Verb::Issue { dir, json } => tell(change::issue(dir)?, *json)?,
            Verb::Renew { dir, names, json } => tell(change::renew(dir, names)?, *json)?,
            Verb::Revoke { dir, which, json } => tell(change::revoke(dir, which)?, *json)?,
        }
        Ok(Verdict::Well)
    }
}

fn tell(outcome: Outcome, json: bool) -> Result<()> {
    for warning in &outcome.warnings {
        super::complain(&format!("warning: {warning}"));
    }
    if json {
        return say_json(&outcome);
    }
    if !outcome.changed {
        return say(&format!("nothing to do: bundle generation {} fits", outcome.generation));
    }
    say(&outcome.done.join("\n"))
}

#[derive(Serialize)]
struct Shown {
    schema: u32,
    generation: u64,
    certificates: Vec<Cert>,
    revocation_lists: Vec<List>,
    revoked: Vec<Issued>,
}

#[derive(Serialize)]
struct Cert {
    name: String,
    ca: &'static str,
    standing: Standing,
    #[serde(flatten)]
    cert: CertSummary,
}

#[derive(Serialize)]
struct List {
    ca: &'static str,
    standing: Standing,
    #[serde(flatten)]
    crl: CrlSummary,
}

fn show(dir: &Path, json: bool) -> Result<()> {
    cluster_dir::load_spec(dir)?;
    let shown = gather(&Store::at(dir.join(PKI)))?;
    if json { say_json(&shown) } else { say(&in_words(&shown)) }
}

fn gather(store: &Store) -> Result<Shown> {
    let now = pki::now();
    let mut shown = Shown {
        schema: 1,
        generation: store.generation()?,
        certificates: Vec::new(),
        revocation_lists: Vec::new(),
        revoked: Vec::new(),
    };
    for ca in Ca::ALL {
        let mut add = |name: &str, pem: String| {
            let cert = read::certificate(pem.as_bytes())?;
            shown.certificates.push(Cert {
                name: name.into(),
                ca: ca.name(),
                standing: cert.standing(now),
                cert,
            });
            anyhow::Ok(())
        };
        add("CA", store.certificate(ca)?)?;
        for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca) {
            add(leaf.name, store.leaf(leaf)?.cert)?;
        }
        let crl = read::crl(store.crl(ca)?.as_bytes())?;
        shown.revocation_lists.push(List { ca: ca.name(), standing: crl.standing(now), crl });
        shown.revoked.extend(store.index(ca)?.issued.into_iter().filter(|issued| issued.revoked.is_some()));
    }
    Ok(shown)
}

fn in_words(shown: &Shown) -> String {
    let day = |seconds| read::date(seconds)[..10].to_string();
    let row = |cells: [&str; 5]| cells.map(String::from).to_vec();
    let mut rows = vec![row(["CA", "NAME", "SERIAL", "ENDS", "STANDING"])];
    rows.extend(shown.certificates.iter().map(|Cert { name, ca, standing, cert }| {
        row([ca, name, &cert.serial, &day(cert.not_after), in_word(*standing)])
    }));
    rows.extend(shown.revocation_lists.iter().map(|List { ca, standing, crl }| {
        let entries = format!("{} revoked", crl.entries.len());
        row([ca, "revocation list", &entries, &day(crl.next_update), in_word(*standing)])
    }));
    let mut text = format!("bundle generation {}\n\n{}", shown.generation, aligned(rows, &[]));
    if !shown.revoked.is_empty() {
        let revoked = shown.revoked.iter().map(|issued| {
            vec![issued.serial.clone(), issued.name.clone(), issued.revoked.map(day).unwrap_or_default()]
        });
        let head = ["REVOKED", "NAME", "ON"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(revoked).collect();
        text += &format!("\n\n{}", aligned(rows, &[]));
    }
    text
}

fn in_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Good => "good",
        Standing::NotYet => "not yet valid",
        Standing::EndsSoon => "due",
        Standing::Over => "expired",
    }
}
