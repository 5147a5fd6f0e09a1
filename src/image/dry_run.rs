//! Renders every node when the image is built, so that an error that would keep the nodes from starting is found here.

use super::overlay::ClusterPayload;
use anyhow::{Context, Result};
use hanode_core::bundle::Bundle;
use hanode_core::machine::MachineFacts;
use hanode_core::plan::{Action, Plan};
use hanode_core::render::Renderer;
use hanode_core::target::Target;

/// Fails if the files of any node cannot be rendered, for a machine with assumed properties.
pub(crate) fn render_all_nodes(payload: &ClusterPayload, target: &Target) -> Result<()> {
    let spec = payload.spec;
    let bundle = Bundle::read(payload.bundle).context("bundle.tar.gz")?;
    let machine = MachineFacts::example("eth0", spec.network.subnet.prefix_len());
    let plan = Plan::uniform(spec, Action::Bootstrap);
    let renderer = Renderer::of_bundle(spec, target, &hanode_admin::embedded::templates(), &bundle)?;
    for node in &spec.nodes {
        let rendered = renderer.render(&node.name, &machine, &plan);
        rendered.with_context(|| format!("rendering the files of {}", node.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_admin::cluster_dir::ClusterDir;
    use hanode_core::spec::Spec;

    #[test]
    fn an_error_in_rendering_is_found_at_build_time() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterDir::init(&dir.path().join("demo"), hanode_core::spec::STARTER).unwrap();
        let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
        let render_with = |spec: &Spec, target: &Target, bundle: &[u8]| {
            let payload = ClusterPayload { spec_text: "", spec, bundle, bundle_generation: 1 };
            render_all_nodes(&payload, target).map_err(|error| format!("{error:#}"))
        };
        let render = |spec: &Spec, target: &Target| render_with(spec, target, &cluster.bundle_bytes);
        assert_eq!(render(&cluster.spec, &target), Ok(()));

        let mut spec = cluster.spec.clone();
        spec.postgres.parameters.insert("max_connections".into(), "many".into());
        let error = render(&spec, &target).unwrap_err();
        assert!(error.contains("node1") && error.contains("max_connections = \"many\""), "{error}");

        let (text, _) = hanode_admin::embedded::target("debian-13").unwrap();
        let other = Target::parse(&text.replace("template = \"hosts\"", "template = \"no-such\"")).unwrap();
        let error = render(&cluster.spec, &other).unwrap_err();
        assert!(error.contains("no-such") && error.contains("file /etc/hosts"), "{error}");

        assert!(render_with(&cluster.spec, &target, b"not a bundle").is_err());
    }
}
