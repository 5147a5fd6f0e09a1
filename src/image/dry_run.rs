//! Every node rendered once where the image is made: what cannot be rendered here could not be at its boot, where it
//! would keep every node from starting.

use super::overlay::ClusterPayload;
use anyhow::{Context, Result};
use hanode_core::bundle::Bundle;
use hanode_core::machine::MachineFacts;
use hanode_core::pki::{Ca, read};
use hanode_core::plan::{Action, Plan};
use hanode_core::render::{self, Crl, Input};
use hanode_core::target::Target;

/// As on a machine like any other.
pub(crate) fn rehearse(baked: &ClusterPayload, target: &Target) -> Result<()> {
    let spec = baked.spec;
    let bundle = Bundle::read(baked.bundle).context("bundle.tar.gz")?;
    let list = |ca: Ca| {
        let path = ca.crl_path();
        bundle.file(path).with_context(|| format!("bundle.tar.gz holds no {path}; run `hanode certs issue`"))
    };
    let (service, cluster) = (list(Ca::Service)?, list(Ca::Cluster)?);
    let der = read::der(service)?;
    let crl = Crl {
        service: !read::crl(service)?.entries.is_empty(),
        cluster: !read::crl(cluster)?.entries.is_empty(),
        der: Some(&der),
    };
    for node in &spec.nodes {
        render::render(&Input {
            spec,
            target,
            node: &node.name,
            machine: &MachineFacts::assumed("eth0", spec.network.subnet.prefix_len()),
            plan: &Plan::assumed(spec, Action::Bootstrap),
            secrets: &bundle.secrets,
            templates: &hanode_admin::embedded::templates(),
            crl,
        })
        .with_context(|| format!("{} could not make its files at boot", node.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_admin::cluster_dir::Cluster;
    use hanode_core::spec::Spec;

    #[test]
    fn what_would_fail_on_a_node_fails_here() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::init(&dir.path().join("demo"), hanode_core::spec::STARTER).unwrap();
        let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
        let with = |spec: &Spec, target: &Target, bundle: &[u8]| {
            let baked = ClusterPayload { spec_text: "", spec, bundle, generation: 1 };
            rehearse(&baked, target).map_err(|error| format!("{error:#}"))
        };
        let told = |spec: &Spec, target: &Target| with(spec, target, &cluster.bundle_bytes);
        assert_eq!(told(&cluster.spec, &target), Ok(()));

        let mut spec = cluster.spec.clone();
        spec.postgres.parameters.insert("max_connections".into(), "many".into());
        let said = told(&spec, &target).unwrap_err();
        assert!(said.contains("node1") && said.contains("max_connections = \"many\""), "{said}");

        let mut other = target.clone();
        other.files[0].when = Some("tuesday".into());
        let said = told(&cluster.spec, &other).unwrap_err();
        assert!(said.contains("tuesday") && said.contains(&other.files[0].path), "{said}");

        assert!(with(&cluster.spec, &target, b"no bundle").is_err());
    }
}
