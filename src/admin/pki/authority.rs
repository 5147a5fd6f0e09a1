//! A CA with its key: creates itself, issues leaves and revocation lists.

use anyhow::{Context, Result, ensure};
use hanode_core::pki::{self, Ca, Leaf, Purpose, read};
use hanode_core::spec::Spec;
use hanode_util::user_error::UserError;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// How far a node's clock may be behind the admin machine's.
const BACKDATE: Duration = Duration::minutes(10);

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct CertifiedKey {
    pub cert: String,
    pub(crate) key: String,
}

/// An entry of a revocation list.
pub(crate) struct RevokedCert {
    pub(crate) serial: Vec<u8>,
    pub(crate) when: i64,
}

pub(crate) struct Authority {
    pub(crate) cert: String,
    issuer: Issuer<'static, KeyPair>,
    key_id: Vec<u8>,
    not_after: OffsetDateTime,
}

impl Authority {
    /// A new CA, self-signed.
    pub(crate) fn create(ca: Ca, spec: &Spec) -> Result<CertifiedKey> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&spec.name, &ca.subject(spec));
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = lifetime(spec.pki.ca_days, None);
        let cert = params.self_signed(&key)?;
        Ok(CertifiedKey { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// Loads a CA that [`Authority::create`] made, or one that the operator installed in its place.
    pub(crate) fn load(ca: &CertifiedKey) -> Result<Authority> {
        ensure!(
            ca.key.contains("BEGIN PRIVATE KEY"),
            UserError::with_help(
                "the CA's key is not unencrypted PKCS#8",
                "openssl pkcs8 -topk8 -nocrypt -in OLD -out ca.key"
            )
        );
        let key = KeyPair::from_pem(&ca.key).context("the CA's key is not supported")?;
        read::key_matches(ca.cert.as_bytes(), ca.key.as_bytes())?;
        let der =
            CertificateDer::from_pem_slice(ca.cert.as_bytes()).context("the CA's file has no certificate")?;
        let (_, cert) = X509Certificate::from_der(&der).ok().context("the CA's certificate is malformed")?;
        ensure!(
            cert.is_ca(),
            "the certificate is not a CA certificate (basicConstraints CA:TRUE is missing)"
        );
        let key_id = cert.extensions().iter().find_map(|ext| match ext.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let key_id = key_id.context("the CA's certificate has no subject key identifier")?;
        let not_after = cert.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key).context("the CA's certificate is not supported")?;
        let usages = issuer.key_usages();
        for (usage, name) in
            [(KeyUsagePurpose::KeyCertSign, "keyCertSign"), (KeyUsagePurpose::CrlSign, "cRLSign")]
        {
            ensure!(
                usages.is_empty() || usages.contains(&usage),
                "the CA's certificate does not allow {name}"
            );
        }
        Ok(Authority { cert: ca.cert.clone(), issuer, key_id, not_after })
    }

    /// A new certificate and key for `leaf`.
    pub(crate) fn issue(&self, leaf: &Leaf, spec: &Spec) -> Result<CertifiedKey> {
        let names = leaf.names(spec).iter().map(|name| san(name)).collect::<Result<_>>()?;
        self.certify(leaf.name, leaf.purpose, names, leaf.crl_url(spec), spec)
    }

    /// A new certificate and key for a client of the servers that this CA signs.
    pub(crate) fn issue_client(&self, name: &str, spec: &Spec) -> Result<CertifiedKey> {
        self.certify(name, Purpose::Client, Vec::new(), Some(&spec.pki.crl_url), spec)
    }

    /// The serial is new, so that revoking an older certificate does not affect this one.
    fn certify(
        &self,
        name: &str,
        purpose: Purpose,
        alt_names: Vec<SanType>,
        crl_url: Option<&str>,
        spec: &Spec,
    ) -> Result<CertifiedKey> {
        let end = self.not_after.unix_timestamp();
        ensure!(end > pki::now(), "the CA expired on {}", read::date(end));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&spec.name, name);
        params.serial_number = Some(SerialNumber::from_slice(&new_serial()));
        params.subject_alt_names = alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if purpose == Purpose::Server {
            params.extended_key_usages.insert(0, ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        if let Some(url) = crl_url {
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url.to_string()] }];
        }
        (params.not_before, params.not_after) = lifetime(spec.pki.leaf_days, Some(self.not_after));
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(CertifiedKey { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// A revocation list (PEM), valid for `days`.
    pub(crate) fn crl(&self, number: u64, revoked: &[RevokedCert], days: u32) -> Result<String> {
        let entry = |r: &RevokedCert| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&r.serial),
                revocation_time: OffsetDateTime::from_unix_timestamp(r.when)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let (this_update, next_update) = lifetime(days, None);
        let params = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_>>()?,
            // rcgen does not take it from the issuer, and openssl finds the list of a CA by it.
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_id.clone()),
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

fn subject(cluster: &str, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::CommonName, name);
    subject
}

fn san(name: &str) -> Result<SanType> {
    Ok(match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

/// Starts shortly before now and ends after `days`, at `end` at the latest.
fn lifetime(days: u32, end: Option<OffsetDateTime>) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::from_unix_timestamp(pki::now()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let requested = now + Duration::days(days.into());
    (now - BACKDATE, end.map_or(requested, |end| end.min(requested)))
}

/// 126 random bits; the first two bits make it positive, without a leading zero byte.
fn new_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}
