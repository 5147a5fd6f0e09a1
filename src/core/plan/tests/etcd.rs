//! etcd: what a log, a quorum, a bootstrap and a duplicate decide.

use super::*;

#[test]
fn an_unreachable_node_is_not_a_blank_node() {
    let mut seen = blank();
    seen.peers[1].answer = Err("timed out".into());
    let step = etcd(&seen);
    assert_eq!(step.step.action, Action::Wait);
    assert_eq!(step.step.reason, "no etcd quorum answers, and node3 not heard of yet (node3: timed out)");
    assert_eq!(step.record, None);
}

#[test]
fn bootstrap_is_first_written_then_begun_by_all() {
    let mut seen = blank();
    assert_eq!(etcd(&seen).record, Some(id()), "all blank and agreed: write it down");
    seen.own.bootstrap_id = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "others have not written it");
    peer(&mut seen, 0).bootstrap_id = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    peer(&mut seen, 1).bootstrap_id = Some(id());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.initial_state.as_str()), (Action::Bootstrap, "new"));
    assert_eq!(step.token, format!("hspas-{}", id()));
    assert_eq!(step.initial_cluster[0], "node1=https://192.168.18.21:2380");
}

#[test]
fn a_peer_that_is_ahead_does_not_stop_the_bootstrap() {
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
fn a_peer_in_another_bootstrap_is_waited_for() {
    let mut seen = blank();
    let other = peer(&mut seen, 0);
    (other.bootstrap_id, other.bootstrapping) = (Some("other".into()), true);
    peer(&mut seen, 1).bootstrap_id = Some("other".into());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None));
}

#[test]
fn whoever_served_makes_it_a_living_cluster() {
    let mut seen = blank();
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (DiskStage::Served, true));
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None), "their quorum will answer");
    peer(&mut seen, 0).data.etcd = false;
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse, "one log of three will never be a quorum");
    assert!(step.reason.contains("recover --from-this-node"), "{}", step.reason);
    seen = blank();
    seen.own.disk = DiskStage::Served;
    assert_eq!(etcd(&seen).step.action, Action::Refuse);
}

#[test]
fn nodes_that_were_given_different_things_refuse() {
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
        assert!(step.reason.contains("node3"), "{}", step.reason);
    }
}

#[test]
fn a_log_of_ones_own_is_resumed_with_nobody_else_in_sight() {
    let mut seen = blank();
    seen.peers.iter_mut().for_each(|p| p.answer = Err("gone".into()));
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Resume);
}

#[test]
fn an_older_disk_is_a_lost_disk() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.generation) = (DiskStage::Served, true, 4);
    (seen.etcd, seen.generation_in_etcd) = (Some(living()), Some(4));
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    seen.generation_in_etcd = Some(5);
    assert_eq!(etcd(&seen).step.action, Action::Join, "a snapshot from before the last boot");
    seen.generation_in_etcd = Some(4);
    seen.own.etcd_member = Some("id-of-before".into());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was replaced meanwhile");
    seen.own.etcd_member = Some("id-node1".into());
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    (seen.own.etcd_member, seen.own.etcd_log) = (None, log("id-of-before", "g"));
    assert_eq!(etcd(&seen).step.action, Action::Join, "cut before it was noted as in service; the log tells");
    seen.own.etcd_log = log("id-node1", "g");
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    seen.etcd = Some(living()[1..].to_vec());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was removed meanwhile");
}

#[test]
fn an_interrupted_bootstrap_is_begun_again_only_by_all() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) = (DiskStage::Data, true, Some(id()));
    seen.peers[1].answer = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) = (DiskStage::Data, true, Some(id()));
    (0..2).for_each(|i| peer(&mut seen, i).bootstrap_id = Some(id()));
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap);
    peer(&mut seen, 0).bootstrapping = true;
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap, "the others are under way with this very log");
    (peer(&mut seen, 0).bootstrapping, peer(&mut seen, 0).disk) = (false, DiskStage::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "it took clients' data: no bootstrap any more");
}

#[test]
fn joining_goes_by_the_peer_url() {
    let mut seen = blank();
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    assert_eq!(join_method(&living(), "https://192.168.18.21:2380"), JoinMethod::Replace("id-node1".into()));
    let unstarted = vec![member("node1", "192.168.18.21", false), member("node2", "192.168.18.22", true)];
    assert_eq!(
        join_method(&unstarted, "https://192.168.18.21:2380"),
        JoinMethod::TakeListed,
        "a name proves nothing"
    );
    assert_eq!(join_method(&unstarted, "https://192.168.18.23:2380"), JoinMethod::Add);
}

#[test]
fn a_bootstrap_begun_elsewhere_is_gone_on_with() {
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
    seen.peers[0].answer = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Bootstrap, "that all had written it is proved");
    seen.own.disk = DiskStage::Served;
    assert_eq!(etcd(&seen).step.action, Action::Wait, "a lost log is not begun again");
}

#[test]
fn a_bootstrap_that_too_few_disks_know_names_the_node_to_reboot() {
    let mut seen = blank();
    (peer(&mut seen, 1).bootstrap_id, peer(&mut seen, 1).bootstrapping) = (Some("g".into()), true);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("reboot node3"), "{}", step.reason);
    peer(&mut seen, 0).bootstrap_id = Some("g".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "two of three can be a quorum");
}

#[test]
fn nothing_starts_beside_a_twin_or_on_an_older_disk() {
    let mut seen = blank();
    (seen.etcd, seen.initialize) = (Some(living()), Some(true));
    seen.sentinels = sentinels(["", "192.168.18.21", "192.168.18.21"]);
    peer(&mut seen, 0).data.redis = true;
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.promote_another),
        (Action::Wait, false),
        "etcd's gate looks for a duplicate first"
    );
    seen.own.data = DiskData { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.own.disk, seen.generation_in_etcd) = (DiskStage::Served, Some(9));
    assert_eq!(postgres(&seen).action, Action::Wait, "an older snapshot joins etcd anew first");
    assert_eq!(redis(&seen).step.action, Action::Wait);
}

/// node1 with its log, a blank node2, and on node3 a discarded disk: its member was replaced.
fn a_discarded_disk() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.etcd_log) = (DiskStage::Served, true, log("id-node1", "c"));
    seen.own.data.postgres = true;
    let node3 = peer(&mut seen, 1);
    (node3.disk, node3.data.etcd, node3.etcd_log) = (DiskStage::Served, true, log("id-of-before", "c"));
    seen
}

#[test]
fn a_replaced_members_log_is_none() {
    let mut seen = a_discarded_disk();
    assert_eq!(postgres(&seen).action, Action::Wait, "two of three could be a quorum");
    assert!(recovery(&spec(), &seen).expect_err("refused").contains("comes back by itself"));
    seen.removed = vec!["id-of-before".into()];
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(
        step.reason.contains("1 of 3 nodes still have etcd's log, 2 are needed (on node3"),
        "{}",
        step.reason
    );
    assert_eq!(etcd(&seen).step.action, Action::Resume, "its own log is one");
    assert_eq!(recovery(&spec(), &seen).expect("allowed").etcd, EtcdRecovery::FromLog);
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (DiskStage::Served, true);
    assert_eq!(postgres(&seen).action, Action::Wait, "node2's may be a member's: its head cannot be read");
    peer(&mut seen, 0).etcd_member = Some("id-of-before".into());
    assert_eq!(postgres(&seen).action, Action::Refuse, "as it was noted beside the log");
}

#[test]
fn a_discarded_disk_does_not_go_on_with_its_log() {
    let mut seen = a_discarded_disk();
    assert_eq!(etcd(&seen).step.action, Action::Resume, "nobody has said so");
    seen.removed = vec!["id-node1".into()];
    assert_eq!(etcd(&seen).step.action, Action::Refuse, "one log of three is left, and it is not this one");
    let costs = recovery(&spec(), &seen).expect("allowed").costs;
    assert!(costs.iter().any(|c| c.contains("this disk was replaced since")), "{costs:?}");
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (DiskStage::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Wait, "for the quorum that two others can be");
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
}

#[test]
fn beside_a_living_cluster_a_log_of_another_bootstrap_does_not_count() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.bootstrap_id) =
        (DiskStage::Data, true, Some("other".into()));
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    seen.own.bootstrap_id = Some("g".into());
    (peer(&mut seen, 0).bootstrap_id, peer(&mut seen, 0).disk) = (Some("g".into()), DiskStage::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "of this one it does");
    peer(&mut seen, 0).bootstrap_id = None;
    assert_eq!(etcd(&seen).step.action, Action::Join);
    (seen.own.etcd_log, peer(&mut seen, 0).etcd_log) = (log("id-node1", "c"), log("id-node2", "c"));
    assert_eq!(
        etcd(&seen).step.action,
        Action::Resume,
        "node2 is a newcomer of the cluster that this log is of"
    );
}

#[test]
fn while_a_served_cluster_is_silent_a_twin_is_looked_for() {
    let mut seen = blank();
    assert!(!etcd(&seen).look_for_duplicate, "all new");
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (DiskStage::Served, true));
    assert!(
        etcd(&seen).look_for_duplicate,
        "this blank machine may stand where the living node should answer"
    );
    seen.peers[0].answer = Err("gone".into());
    assert!(!etcd(&seen).look_for_duplicate, "that is why the cluster is silent");
}

#[test]
fn a_member_that_never_started_is_one_again_after_its_disk_was_lost_too() {
    let mut seen = blank();
    let mut members = living();
    members[0].client_urls.clear();
    seen.etcd = Some(members);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Join);
    assert!(step.reason.contains("never started"), "{}", step.reason);
    seen.etcd = Some(living());
    assert!(etcd(&seen).step.reason.contains("member id-node1"), "by its exact id");
    seen.etcd = Some(living()[1..].to_vec());
    assert!(etcd(&seen).step.reason.contains("does not list"), "{}", etcd(&seen).step.reason);
}

// --- by the operator's word ---
