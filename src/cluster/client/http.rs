//! JSON over HTTP with mutual TLS, for etcd's gateway and Patroni's REST interface.

use super::tls::Credentials;
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Upper bound on untrusted input.
const MAX_BODY: u64 = 4 << 20;

#[derive(Clone)]
pub struct HttpClient {
    agent: ureq::Agent,
}

/// The body is a string if the response is not JSON.
pub struct JsonResponse {
    pub status: u16,
    pub body: Value,
}

impl HttpClient {
    /// Without `credentials`, plain HTTP only. `timeout` limits a whole call.
    pub fn new(credentials: Option<&Credentials>, timeout: Duration) -> Result<Self> {
        use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
        let mut tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(credentials) = credentials {
            let ca = Certificate::from_pem(&credentials.ca).context("CA certificate is not PEM")?;
            tls = tls.root_certs(RootCerts::new_with_certs(&[ca]));
            if let Some(identity) = &credentials.identity {
                let certificate =
                    Certificate::from_pem(&identity.certificate).context("certificate is not PEM")?;
                let key = PrivateKey::from_pem(&identity.key).context("key is not PEM")?;
                tls = tls.client_cert(Some(ClientCert::new_with_certs(&[certificate], key)));
            }
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(HttpClient { agent: config.into() })
    }

    pub fn get(&self, url: &str) -> Result<JsonResponse> {
        self.get_with(url, &[])
    }

    pub(crate) fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Result<JsonResponse> {
        let request = headers.iter().fold(self.agent.get(url), |r, (name, value)| r.header(*name, *value));
        read(request.call().with_context(|| format!("GET {url}"))?)
    }

    pub(crate) fn post(&self, url: &str, body: &Value) -> Result<JsonResponse> {
        read(self.agent.post(url).send_json(body).with_context(|| format!("POST {url}"))?)
    }

    /// With basic authentication, which Patroni requires for changes.
    pub fn patch(&self, url: &str, (name, password): (&str, &str), body: &Value) -> Result<JsonResponse> {
        let login = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let request = self.agent.patch(url).header("Authorization", login);
        read(request.send_json(body).with_context(|| format!("PATCH {url}"))?)
    }

    /// With basic authentication, which Patroni requires for changes.
    pub fn post_as(&self, url: &str, (name, password): (&str, &str), body: &Value) -> Result<JsonResponse> {
        let login = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let request = self.agent.post(url).header("Authorization", login);
        read(request.send_json(body).with_context(|| format!("POST {url}"))?)
    }

    /// Like `post`, but a status other than 2xx is an error that quotes the body.
    pub fn call(&self, url: &str, body: &Value) -> Result<Value> {
        let response = self.post(url, body)?;
        if !(200..300).contains(&response.status) {
            bail!("POST {url}: status {}: {}", response.status, response.body);
        }
        Ok(response.body)
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<JsonResponse> {
    let status = response.status().as_u16();
    let bytes = response.body_mut().with_config().limit(MAX_BODY).read_to_vec()?;
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Ok(JsonResponse { status, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) })
}
