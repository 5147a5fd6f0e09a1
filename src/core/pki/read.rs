//! Reads and verifies certificates, revocation lists and keys; issuing them is the admin crate's part.

use ::time::OffsetDateTime;
use anyhow::{Context, Result, bail, ensure};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::prelude::*;

/// The fields of a certificate that hanode uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertSummary {
    pub subject: String,
    pub(crate) issuer: String,
    /// In hexadecimal digits, as `openssl x509 -serial` prints it but in lower case.
    pub serial: String,
    #[serde(serialize_with = "as_date")]
    pub not_before: i64,
    #[serde(serialize_with = "as_date")]
    pub not_after: i64,
    /// Names in lower case, addresses in canonical form.
    pub sans: BTreeSet<String>,
    pub(crate) crl_urls: Vec<String>,
    pub(crate) is_ca: bool,
}

/// The fields of a revocation list that hanode uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlSummary {
    pub(crate) issuer: String,
    /// Serials of the revoked certificates.
    pub entries: BTreeSet<String>,
    #[serde(serialize_with = "as_date")]
    pub this_update: i64,
    #[serde(serialize_with = "as_date")]
    pub next_update: i64,
}

/// Whether a certificate or revocation list is valid at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Validity {
    #[serde(rename = "not_yet")]
    NotYetValid,
    #[serde(rename = "good")]
    Valid,
    /// Valid, and due for renewal.
    #[serde(rename = "ends_soon")]
    RenewalDue,
    #[serde(rename = "over")]
    Expired,
}

const DAY: i64 = 86400;

impl CertSummary {
    /// At `now`, in seconds since 1970. Renewal is due in the last 90 days or the last third of the lifetime,
    /// whichever is shorter.
    pub fn validity(&self, now: i64) -> Validity {
        let lifetime = self.not_after - self.not_before;
        validity(self.not_before, self.not_after - (90 * DAY).min(lifetime / 3), self.not_after, now)
    }
}

impl CrlSummary {
    /// At `now`, in seconds since 1970. Renewal is due after half the lifetime: an expired list locks every client out.
    pub fn validity(&self, now: i64) -> Validity {
        let half = self.this_update + (self.next_update - self.this_update) / 2;
        validity(self.this_update, half, self.next_update, now)
    }
}

fn validity(start: i64, renewal: i64, end: i64, now: i64) -> Validity {
    match now {
        _ if now < start => Validity::NotYetValid,
        _ if now > end => Validity::Expired,
        _ if now >= renewal => Validity::RenewalDue,
        _ => Validity::Valid,
    }
}

/// Formats seconds since 1970 as `2031-05-17T09:30:00Z`.
pub fn date(seconds: i64) -> String {
    let Ok(t) = OffsetDateTime::from_unix_timestamp(seconds) else { return "?".into() };
    let (month, day) = (u8::from(t.month()), t.day());
    format!("{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", t.year(), t.hour(), t.minute(), t.second())
}

fn as_date<S: Serializer>(seconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&date(*seconds))
}

/// Reads the first certificate of a PEM text.
pub fn certificate(pem: &[u8]) -> Result<CertSummary> {
    with_certificate(pem, |cert| {
        let names = cert.subject_alternative_name()?.map(|ext| &ext.value.general_names);
        let mut crl_urls = Vec::new();
        for extension in cert.extensions() {
            if let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() {
                crl_urls.extend(points.iter().flat_map(urls));
            }
        }
        Ok(CertSummary {
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            serial: serial(cert.raw_serial()),
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            sans: names.into_iter().flatten().filter_map(san).collect(),
            crl_urls,
            is_ca: cert.is_ca(),
        })
    })
}

/// The common name of a certificate (DER), which is that of its leaf.
pub fn common_name(certificate: &[u8]) -> Result<String> {
    let (_, cert) = parse_x509_certificate(certificate).ok().context("the certificate is malformed")?;
    let name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.map(String::from).context("the certificate has no name")
}

/// Reads the first revocation list of a PEM text.
pub fn crl(pem: &[u8]) -> Result<CrlSummary> {
    with_crl(pem, |crl| {
        let next = crl.next_update().context("the revocation list has no nextUpdate")?;
        Ok(CrlSummary {
            issuer: crl.issuer().to_string(),
            entries: crl.iter_revoked_certificates().map(|entry| serial(entry.raw_serial())).collect(),
            this_update: crl.last_update().timestamp(),
            next_update: next.timestamp(),
        })
    })
}

/// Fails unless `ca` is the issuer of `leaf` and has signed it.
pub fn signed_by(leaf: &[u8], ca: &[u8]) -> Result<()> {
    with_certificate(leaf, |leaf| {
        with_certificate(ca, |ca| {
            ensure!(leaf.issuer() == ca.subject(), "its issuer is {}, not {}", leaf.issuer(), ca.subject());
            leaf.verify_signature(Some(ca.public_key())).context("the CA did not sign it")
        })
    })
}

/// Fails unless `ca` is the issuer of `crl` and has signed it.
pub fn crl_signed_by(crl: &[u8], ca: &[u8]) -> Result<()> {
    with_crl(crl, |crl| {
        with_certificate(ca, |ca| {
            ensure!(crl.issuer() == ca.subject(), "its issuer is {}, not {}", crl.issuer(), ca.subject());
            crl.verify_signature(ca.public_key()).context("the CA did not sign it")
        })
    })
}

/// Fails unless the first private key in `key` matches the first certificate in `cert`.
pub fn key_matches(cert: &[u8], key: &[u8]) -> Result<()> {
    let cert = CertificateDer::from_pem_slice(cert).context("the file contains no certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the file contains no private key")?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = rustls::sign::CertifiedKey::from_der(vec![cert], key, &provider);
    pair.map(drop).context("the key does not match the certificate")
}

fn with_certificate<T>(pem: &[u8], read: impl FnOnce(&X509Certificate<'_>) -> Result<T>) -> Result<T> {
    let der = block(pem, "CERTIFICATE")?;
    let (_, cert) = parse_x509_certificate(&der).ok().context("the certificate is malformed")?;
    read(&cert)
}

fn with_crl<T>(pem: &[u8], read: impl FnOnce(&CertificateRevocationList<'_>) -> Result<T>) -> Result<T> {
    let der = block(pem, "X509 CRL")?;
    let (_, crl) = parse_x509_crl(&der).ok().context("the revocation list is malformed")?;
    read(&crl)
}

/// Decodes a revocation list from PEM to DER.
pub fn der(crl: &[u8]) -> Result<Vec<u8>> {
    block(crl, "X509 CRL")
}

/// The content of the first PEM block, which must have this label.
fn block(pem: &[u8], label: &str) -> Result<Vec<u8>> {
    let (_, block) = parse_x509_pem(pem).ok().context("the file is not PEM")?;
    if block.label != label {
        bail!("the file contains a {}, not a {label}", block.label.escape_debug());
    }
    Ok(block.contents)
}

pub(crate) fn serial(bytes: &[u8]) -> String {
    let text = hex::encode(bytes);
    // DER puts a zero byte before a first byte that has its high bit set.

    text.strip_prefix("00").filter(|rest| !rest.is_empty()).map_or(text.clone(), String::from)
}

fn san(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn urls(point: &CRLDistributionPoint<'_>) -> Vec<String> {
    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else { return Vec::new() };
    let url = |name: &GeneralName<'_>| match name {
        GeneralName::URI(url) => Some(url.to_string()),
        _ => None,
    };
    names.iter().filter_map(url).collect()
}
