//! Fail points: a node halts at a named step, so that a test can cut its power there.
//!
//! Compiled in only with the feature `failpoints`, never in a release.

/// The steps, named by what has just been done. A power cut after any of them must cost nothing but time.
pub const POINTS: [&str; 21] = [
    "install-id-written",
    "identity-pinned",
    "generation-counted",
    "static-files-written",
    "restore-recorded",
    "bootstrap-recorded",
    "bootstrap-started",
    "units-enabled",
    "etcd-member-removed",
    "etcd-data-cleared",
    "etcd-member-added",
    "etcd-files-written",
    "marked-served",
    "init-marked",
    "generation-published",
    "restore-chosen",
    "restore-prepared",
    "snapshot-fetched",
    "snapshot-recorded",
    "redis-files-written",
    "sentinel-files-written",
];

/// Halts if `/etc/hanode/failpoint` names this step, and writes the step to `/run/hanode/failpoint`.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(root: &std::path::Path, point: &str) {
    use hanode_util::file_tree::below;
    assert!(POINTS.contains(&point), "{point} is not in POINTS");
    let wanted = std::fs::read_to_string(below(root, "/etc/hanode/failpoint")).unwrap_or_default();
    if wanted.trim() != point {
        return;
    }
    tracing::warn!("fail point {point}: halted");
    let tree = hanode_util::safe_path::SafeTree::open(root);
    let _ = tree.and_then(|tree| tree.replace("/run/hanode/failpoint", point.as_bytes(), 0o644, None));
    loop {
        std::thread::park();
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn hit(_root: &std::path::Path, _point: &str) {}
