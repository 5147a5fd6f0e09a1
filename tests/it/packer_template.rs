//! The Packer template, read as text.

use crate::common::sources;

/// No provisioner may take more of the cluster directory than these, or the CAs' keys would be in an image.
#[test]
fn the_authorities_keys_are_not_uploaded() {
    let build = std::fs::read_to_string(sources("packer/build.pkr.hcl")).unwrap();
    let taken: Vec<_> =
        build.lines().filter(|l| l.contains("source ") && l.contains("var.cluster")).collect();
    let names = ["cluster.toml", "secrets.toml", "bundle.tar.gz"];
    assert_eq!(taken.len(), names.len(), "{taken:?}");
    for name in names {
        assert!(taken.iter().any(|line| line.contains(&format!("${{var.cluster}}/{name}\""))), "{name}");
    }
}
