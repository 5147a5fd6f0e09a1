//! Fail points: a node stops at a named step for good, so that a test can cut its power right there.
//!
//! Compiled in only with the feature `failpoints`; no image of a release has it.

/// Every step after which a power cut must cost nothing but time.
pub const POINTS: [&str; 15] = [
    "install-id",
    "pinned",
    "booted",
    "applied",
    "bootstrap-recorded",
    "began",
    "enabled",
    "etcd-removed",
    "etcd-cleared",
    "etcd-added",
    "etcd-files",
    "served",
    "remembered",
    "redis-files",
    "sentinel-files",
];

/// Names the step in `/etc/hanode/failpoint`; a node that came there says so in `/run/hanode/failpoint`.
#[cfg(feature = "failpoints")]
pub(crate) fn passed(root: &std::path::Path, point: &str) {
    use hanode_util::file_tree::below;
    assert!(POINTS.contains(&point), "{point} is not listed");
    let wanted = std::fs::read_to_string(below(root, "/etc/hanode/failpoint")).unwrap_or_default();
    if wanted.trim() != point {
        return;
    }
    tracing::warn!("fail point {point}: stopping here");
    let tree = hanode_util::safe_path::SafeTree::open(root);
    let _ = tree.and_then(|tree| tree.replace("/run/hanode/failpoint", point.as_bytes(), 0o644, None));
    loop {
        std::thread::park();
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn passed(_root: &std::path::Path, _point: &str) {}
