//! The Packer template, read as text.

use crate::common::sources;

/// With any other file of the cluster directory, the CAs' keys could get into an image.
#[test]
fn provisioners_upload_no_ca_key() {
    let build = std::fs::read_to_string(sources("packer/build.pkr.hcl")).unwrap();
    let uploaded: Vec<_> =
        build.lines().filter(|l| l.contains("source ") && l.contains("var.cluster")).collect();
    let names = ["cluster.toml", "secrets.toml", "bundle.tar.gz"];
    assert_eq!(uploaded.len(), names.len(), "{uploaded:?}");
    for name in names {
        assert!(uploaded.iter().any(|line| line.contains(&format!("${{var.cluster}}/{name}\""))), "{name}");
    }
}
