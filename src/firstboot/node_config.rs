//! The node's configuration: spec and bundle, from the image or from /etc/hanode, which overrides it.

use anyhow::{Context, Result, bail};
use hanode_cluster::client::tls::{Credentials, TlsIdentity};
use hanode_cluster::health::Access;
use hanode_cluster::health::certificates;
use hanode_core::bundle::{self, Bundle};
use hanode_core::render::Templates;
use hanode_core::spec::{self, Spec};
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const TARGET: &str = "/usr/lib/hanode/target.toml";
pub(crate) const TEMPLATES: &str = "/usr/lib/hanode/templates";
pub(crate) const IMAGE: &str = "/usr/lib/hanode/image.json";
/// In memory: the configuration of this boot.
const ACTIVE_BUNDLE: &str = "/run/hanode/active/bundle.tar.gz";
const ACTIVE_SPEC: &str = "/run/hanode/active/cluster.toml";
/// The first one that exists counts.
const ACTIVE_BUNDLES: [&str; 3] = [ACTIVE_BUNDLE, bundle::OVERRIDE_PATH, bundle::BAKED_PATH];
const ACTIVE_SPECS: [&str; 3] = [ACTIVE_SPEC, spec::OVERRIDE_PATH, spec::BAKED_PATH];

pub(crate) struct NodeConfig {
    pub(crate) spec: Spec,
    /// The original text, with comments.
    spec_text: String,
    pub(crate) target: Target,
    pub(crate) bundle: Bundle,
    pub(crate) templates: Templates,
    /// The image's name and versions, for this node's report.
    pub(crate) image: BTreeMap<String, String>,
    /// The major version of PostgreSQL in the image, if its manifest has one.
    pub(crate) postgres_major: Option<u32>,
}

impl NodeConfig {
    /// The configuration of this boot; before the first [`NodeConfig::activate`] the pending one.
    pub(crate) fn active(root: &Path) -> Result<NodeConfig> {
        NodeConfig::read(root, &ACTIVE_BUNDLES, &ACTIVE_SPECS)
    }

    /// The files that [`NodeConfig::active`] reads now and that can change.
    pub(crate) fn active_files(root: &Path) -> Vec<&'static str> {
        [&ACTIVE_BUNDLES, &ACTIVE_SPECS].iter().filter_map(|paths| first_of(root, *paths).ok()).collect()
    }

    /// The configuration in /etc/hanode, or in the image where there is none, whether it is active or not.
    pub(crate) fn pending(root: &Path) -> Result<NodeConfig> {
        NodeConfig::read(
            root,
            &[bundle::OVERRIDE_PATH, bundle::BAKED_PATH],
            &[spec::OVERRIDE_PATH, spec::BAKED_PATH],
        )
    }

    /// Makes this configuration the one of this boot: files that are copied to /etc/hanode later, and may be
    /// incomplete, have no effect on services that start in the meantime.
    pub(crate) fn activate(&self, root: &Path) -> Result<()> {
        let tree = SafeTree::open(root)?;
        tree.replace(ACTIVE_SPEC, self.spec_text.as_bytes(), 0o600, None)?;
        Ok(tree.replace(ACTIVE_BUNDLE, &self.bundle.pack()?, 0o600, None)?)
    }

    fn read(root: &Path, bundles: &[&'static str], specs: &[&'static str]) -> Result<NodeConfig> {
        let bundle_path = first_of(root, bundles)?;
        let bytes =
            std::fs::read(below(root, bundle_path)).with_context(|| format!("reading {bundle_path}"))?;
        let (spec, spec_text) = read_spec(root, specs)?;
        NodeConfig {
            spec,
            spec_text,
            target: Target::parse(&text(root, TARGET)?).with_context(|| TARGET.to_string())?,
            bundle: Bundle::read(&bytes).with_context(|| bundle_path.to_string())?,
            templates: Templates::load(&below(root, TEMPLATES))?,
            postgres_major: manifest(root).ok().as_ref().and_then(postgres_major),
            image: image(root),
        }
        .checked()
    }

    fn checked(self) -> Result<NodeConfig> {
        if self.bundle.metadata.cluster != self.spec.name {
            bail!(UserError::with_help(
                format!(
                    "the bundle is of cluster {:?}, the spec of {:?}",
                    self.bundle.metadata.cluster, self.spec.name
                ),
                "copy both from one cluster directory",
            ));
        }
        Ok(self)
    }

    fn bundle_file(&self, path: &str) -> Result<&[u8]> {
        self.bundle.file(path).with_context(|| format!("the bundle has no {path}"))
    }

    /// This node's own credentials under the cluster CA.
    fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials {
            ca: self.bundle_file("/etc/ssl/hanode/ca.crt")?.to_vec(),
            identity: Some(TlsIdentity {
                certificate: self.bundle_file("/etc/ssl/hanode/node.crt")?.to_vec(),
                key: self.bundle_file("/etc/ssl/hanode/node.key")?.to_vec(),
            }),
        })
    }

    /// The CA of Redis and Sentinel; `None` if the spec disables their TLS.
    fn redis_credentials(&self) -> Result<Option<Credentials>> {
        if !self.spec.redis.tls {
            return Ok(None);
        }
        Ok(Some(Credentials { ca: self.bundle_file("/etc/ssl/myca/root.crt")?.to_vec(), identity: None }))
    }

    /// Spec and credentials to query the whole cluster from this node.
    pub(crate) fn access(&self) -> Result<Access> {
        Ok(Access {
            spec: self.spec.clone(),
            secrets: self.bundle.secrets.clone(),
            cluster: self.credentials()?,
            redis: self.redis_credentials()?,
            certificates: certificates(&self.bundle),
            bundle_generation: self.bundle.metadata.generation,
        })
    }

    pub(crate) fn cluster_crl(&self) -> Result<&[u8]> {
        self.bundle_file("/etc/ssl/hanode/ca.crl")
    }

    pub(crate) fn node_certificate(&self) -> Result<&[u8]> {
        self.bundle_file("/etc/ssl/hanode/node.crt")
    }
}

fn read_spec(root: &Path, paths: &[&'static str]) -> Result<(Spec, String)> {
    let path = first_of(root, paths)?;
    let text = text(root, path)?;
    let spec = spec::parse(&text).map_err(|faults| anyhow::anyhow!("{path}:\n{faults}"))?;
    Ok((spec, text))
}

/// The first of `paths` that exists.
fn first_of<'a>(root: &Path, paths: &[&'a str]) -> Result<&'a str> {
    let found = paths.iter().find(|p| below(root, p).exists());
    let missing = || {
        UserError::with_help(
            format!("none of {} exists", paths.join(", ")),
            "build the image with a cluster directory, or copy the file to /etc/hanode",
        )
    };
    Ok(found.copied().ok_or_else(missing)?)
}

fn text(root: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(below(root, path)).with_context(|| format!("reading {path}"))
}

fn manifest(root: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(&text(root, IMAGE)?).with_context(|| IMAGE.to_string())
}

/// Of a version such as `17.6-0+deb13u1`.
fn postgres_major(manifest: &serde_json::Value) -> Option<u32> {
    manifest["components"]["postgres"].as_str()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The string values of the image's manifest, or `error`: why there are none.
fn image(root: &Path) -> BTreeMap<String, String> {
    match manifest(root) {
        Ok(manifest) => {
            let fields = manifest.as_object().into_iter().flatten();
            fields.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
        }
        Err(error) => BTreeMap::from([("error".into(), format!("{error:#}"))]),
    }
}
