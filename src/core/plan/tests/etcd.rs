//! etcd: the effect of a log, a quorum, a bootstrap and a duplicate.

use super::*;

#[test]
fn an_unreachable_node_is_not_a_blank_node() {
    let mut seen = blank();
    seen.peers[1].report = Err("timed out".into());
    let step = etcd(&seen);
    assert_eq!(step.step.action, Action::Wait);
    assert_eq!(step.step.reason.to_string(), "no etcd quorum answers, and no answer from node3 (timed out)");
    assert_eq!(step.record, None);
    seen.peers[0].report = Err(FOREIGN_CERTIFICATE.into());
    assert_eq!(
        etcd(&seen).step.reason.to_string(),
        "no etcd quorum answers, and node2 answers with a certificate of another cluster, \
         no answer from node3 (timed out)"
    );
}

#[test]
fn all_nodes_record_the_bootstrap_before_any_starts_it() {
    let mut seen = blank();
    assert_eq!(etcd(&seen).record, Some(id()), "all are blank and agree: record it");
    seen.own.bootstrap_id = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "the peers have not recorded it");
    peer(&mut seen, 0).bootstrap_id = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    peer(&mut seen, 1).bootstrap_id = Some(id());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.initial_state.as_str()), (Action::Bootstrap, "new"));
    assert_eq!(step.token, format!("hspas-{}", id()));
    assert_eq!(step.initial_cluster[0], "node1=https://192.168.18.21:2380");
}

#[test]
fn a_peer_that_already_bootstraps_does_not_stop_the_bootstrap() {
    let mut seen = blank();
    seen.own.bootstrap_id = Some(id());
    for i in 0..2 {
        let ahead = peer(&mut seen, i);
        (ahead.bootstrap_id, ahead.bootstrapping) = (Some(id()), true);
        (ahead.disk, ahead.data.etcd) = (DiskStage::Data, true);
    }
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap);
}

#[test]
fn a_node_waits_for_a_peer_in_another_bootstrap() {
    let mut seen = blank();
    let other = peer(&mut seen, 0);
    (other.bootstrap_id, other.bootstrapping) = (Some("other".into()), true);
    peer(&mut seen, 1).bootstrap_id = Some("other".into());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None));
}

#[test]
fn a_disk_that_served_prevents_a_bootstrap() {
    let mut seen = blank();
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (DiskStage::Served, true));
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None), "their quorum will answer");
    peer(&mut seen, 0).data.etcd = false;
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse, "one log of three will never be a quorum");
    assert!(step.reason.to_string().contains("recover --from-this-node"), "{}", step.reason);
    seen = blank();
    seen.own.disk = DiskStage::Served;
    assert_eq!(etcd(&seen).step.action, Action::Refuse);
}

#[test]
fn nodes_with_different_configuration_refuse() {
    for change in [
        (|a: &mut NodeReport| a.spec_hash = "other".into()) as fn(&mut NodeReport),
        |a| a.cluster = "other".into(),
        |a| a.bundle_generation = 2,
        |a| a.install_id = "disk-of-node1".into(),
    ] {
        let mut seen = blank();
        change(peer(&mut seen, 1));
        let step = etcd(&seen).step;
        assert_eq!(step.action, Action::Refuse);
        assert!(step.reason.to_string().contains("node3"), "{}", step.reason);
    }
}

#[test]
fn a_node_resumes_its_log_without_any_peer() {
    let mut seen = blank();
    seen.peers.iter_mut().for_each(|p| p.report = Err("gone".into()));
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Resume);
}

#[test]
fn an_older_snapshot_counts_as_a_lost_disk() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.generation) = (DiskStage::Served, true, 4);
    seen.etcd = quorum(members());
    view(&mut seen).generation = Some(4);
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    view(&mut seen).generation = Some(5);
    assert_eq!(etcd(&seen).step.action, Action::Join, "a snapshot from before the last boot");
    view(&mut seen).generation = Some(4);
    seen.own.etcd_member = Some("id-of-before".into());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was replaced meanwhile");
    seen.own.etcd_member = Some("id-node1".into());
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    (seen.own.etcd_member, seen.own.etcd_log) = (None, log("id-of-before", "g"));
    assert_eq!(
        etcd(&seen).step.action,
        Action::Join,
        "interrupted before the member id was recorded; the log has it"
    );
    seen.own.etcd_log = log("id-node1", "g");
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    seen.etcd = quorum(members()[1..].to_vec());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was removed meanwhile");
}

#[test]
fn an_interrupted_bootstrap_is_repeated_only_by_all_nodes() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) = (DiskStage::Data, true, Some(id()));
    seen.peers[1].report = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) = (DiskStage::Data, true, Some(id()));
    (0..2).for_each(|i| peer(&mut seen, i).bootstrap_id = Some(id()));
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap);
    peer(&mut seen, 0).bootstrapping = true;
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap, "a peer is in the bootstrap of this log");
    (peer(&mut seen, 0).bootstrapping, peer(&mut seen, 0).disk) = (false, DiskStage::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "it accepted clients' data: no bootstrap any more");
}

#[test]
fn the_peer_url_decides_how_to_join() {
    let mut seen = blank();
    seen.etcd = quorum(members());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    assert_eq!(join_method(&members(), "https://192.168.18.21:2380"), JoinMethod::Replace("id-node1".into()));
    let unstarted = vec![member("node1", "192.168.18.21", false), member("node2", "192.168.18.22", true)];
    assert_eq!(
        join_method(&unstarted, "https://192.168.18.21:2380"),
        JoinMethod::TakeListed,
        "a name proves nothing"
    );
    assert_eq!(join_method(&unstarted, "https://192.168.18.23:2380"), JoinMethod::Add);
}

#[test]
fn a_node_follows_a_peer_into_the_recorded_bootstrap() {
    let mut seen = blank();
    seen.own.bootstrap_id = Some("g".into());
    (peer(&mut seen, 1).bootstrap_id, peer(&mut seen, 1).bootstrapping) = (Some("g".into()), true);
    peer(&mut seen, 0).install_id = "a-new-disk".into();
    let step = etcd(&seen);
    assert_eq!(
        (step.step.action, step.token.as_str()),
        (Action::Bootstrap, "hspas-g"),
        "node2's disk was lost since"
    );
    seen.peers[0].report = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap, "node3 has proved that all nodes recorded it");
    seen.own.disk = DiskStage::Served;
    assert_eq!(etcd(&seen).step.action, Action::Wait, "a disk that served does not bootstrap");
}

#[test]
fn a_bootstrap_recorded_on_too_few_disks_names_the_node_to_reboot() {
    let mut seen = blank();
    (peer(&mut seen, 1).bootstrap_id, peer(&mut seen, 1).bootstrapping) = (Some("g".into()), true);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("reboot node3"), "{}", step.reason);
    peer(&mut seen, 0).bootstrap_id = Some("g".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "two of three can be a quorum");
}

#[test]
fn nothing_starts_beside_a_duplicate_or_on_an_older_snapshot() {
    let mut seen = blank();
    seen.etcd = registered("77");
    seen.sentinels = sentinels(["", "192.168.18.21", "192.168.18.21"]);
    peer(&mut seen, 0).data.redis = true;
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.promote_another),
        (Action::Wait, false),
        "etcd's gate checks for a duplicate first"
    );
    seen.own.data = DiskData { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.own.disk, view(&mut seen).generation) = (DiskStage::Served, Some(9));
    assert_eq!(postgres(&seen).action, Action::Wait, "an older snapshot joins etcd again first");
    assert_eq!(redis(&seen).step.action, Action::Wait);
}

/// node1 with its log, a blank node2, and on node3 a disk whose member was replaced.
fn replaced_member() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.etcd_log) = (DiskStage::Served, true, log("id-node1", "c"));
    seen.own.data.postgres = true;
    let node3 = peer(&mut seen, 1);
    (node3.disk, node3.data.etcd, node3.etcd_log) = (DiskStage::Served, true, log("id-of-before", "c"));
    seen
}

#[test]
fn the_log_of_a_replaced_member_does_not_count() {
    let mut seen = replaced_member();
    assert_eq!(postgres(&seen).action, Action::Wait, "two of three could be a quorum");
    assert!(recovery(&spec(), &seen).expect_err("refused").contains("enough for a quorum"));
    seen.removed = vec!["id-of-before".into()];
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(
        step.reason
            .to_string()
            .contains("1 of 3 nodes still have etcd's log, 2 are needed (the log on node3"),
        "{}",
        step.reason
    );
    assert_eq!(etcd(&seen).step.action, Action::Resume, "the log on node1 counts");
    assert_eq!(recovery(&spec(), &seen).expect("allowed").etcd, EtcdRecovery::FromLog);
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (DiskStage::Served, true);
    assert_eq!(postgres(&seen).action, Action::Wait, "node2's log may be a member's: its ids cannot be read");
    peer(&mut seen, 0).etcd_member = Some("id-of-before".into());
    assert_eq!(postgres(&seen).action, Action::Refuse, "the recorded member id counts");
}

#[test]
fn a_replaced_member_does_not_resume_its_log() {
    let mut seen = replaced_member();
    assert_eq!(etcd(&seen).step.action, Action::Resume, "no etcd has reported the removal");
    seen.removed = vec!["id-node1".into()];
    assert_eq!(etcd(&seen).step.action, Action::Refuse, "one log of three is left, and it is not this one");
    let costs = recovery(&spec(), &seen).expect("allowed").costs;
    assert!(costs.iter().any(|c| c.contains("this node's etcd member was replaced")), "{costs:?}");
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (DiskStage::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Wait, "the two peers may form a quorum");
    seen.etcd = quorum(members());
    assert_eq!(etcd(&seen).step.action, Action::Join);
}

#[test]
fn a_log_of_another_bootstrap_joins_the_existing_cluster() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) =
        (DiskStage::Data, true, Some("other".into()));
    seen.etcd = quorum(members());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    seen.own.bootstrap_id = Some("g".into());
    (peer(&mut seen, 0).bootstrap_id, peer(&mut seen, 0).disk) = (Some("g".into()), DiskStage::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "a log of the same bootstrap is resumed");
    peer(&mut seen, 0).bootstrap_id = None;
    assert_eq!(etcd(&seen).step.action, Action::Join);
    (seen.own.etcd_log, peer(&mut seen, 0).etcd_log) = (log("id-node1", "c"), log("id-node2", "c"));
    assert_eq!(etcd(&seen).step.action, Action::Resume, "node2 joined the cluster of this log");
}

#[test]
fn a_node_checks_for_a_duplicate_while_a_served_cluster_has_no_quorum() {
    let mut seen = blank();
    assert!(!etcd(&seen).look_for_duplicate, "all new");
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (DiskStage::Served, true));
    assert!(etcd(&seen).look_for_duplicate, "this blank machine may have the address of the real node");
    seen.peers[0].report = Err("gone".into());
    assert!(!etcd(&seen).look_for_duplicate, "the unreachable node explains the missing quorum");
}

#[test]
fn the_reason_to_join_names_what_the_quorum_lists() {
    let mut seen = blank();
    let mut listed = members();
    listed[0].client_urls.clear();
    seen.etcd = quorum(listed);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Join);
    assert!(step.reason.to_string().contains("never started"), "{}", step.reason);
    seen.etcd = quorum(members());
    assert!(etcd(&seen).step.reason.to_string().contains("member id-node1"), "by its exact id");
    seen.etcd = quorum(members()[1..].to_vec());
    assert!(etcd(&seen).step.reason.to_string().contains("does not list"), "{}", etcd(&seen).step.reason);
}
