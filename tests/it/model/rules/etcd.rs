//! The plan unit, a bootstrap and etcd's gate.

use super::{agreed, ends_in_service, in_service, reboot, switch_disk, until};
use crate::model::Event;
use crate::model::world::{Machine, World};
use hanode_core::plan::Remedy;

const DUPLICATE: usize = 3;

#[test]
fn a_node_without_its_cluster_looks_for_a_duplicate() {
    let mut world = in_service();
    (0..3).for_each(|i| reboot(&mut world, i));
    switch_disk(&mut world, 0);
    world.machines[DUPLICATE].node = 0;
    world.boot(DUPLICATE);
    world.tick(0);
    assert!(world.refused_with(Remedy::SwitchDuplicateOff), "{:#?}", world.machines);
}

/// All machines have passed the plan unit.
fn start_all(world: &mut World) {
    for i in (0..world.spec.nodes.len()).cycle().take(100) {
        if !world.machines[i].started {
            world.boot(i);
            world.tick(i);
        }
    }
}

#[test]
fn a_log_of_an_earlier_bootstrap_is_cleared_before_the_next_is_recorded() {
    for power_fails in [false, true] {
        let mut world = World::new(5, 40);
        start_all(&mut world);
        // Too few for a quorum.
        (0..2).for_each(|i| world.gate_etcd(i));
        (0..5).for_each(|i| world.crash(i));
        world.fresh_disk(2);
        (0..5).for_each(|i| world.boot(i));
        if power_fails {
            (0..2).for_each(|i| world.apply(Event::CutPower(i, 0)));
        }
        start_all(&mut world);
        world.crash(4);
        (0..20).for_each(|_| (0..4).for_each(|i| world.tick(i)));
        assert!(world.quorum(0).is_some(), "four of five have no quorum: {:#?}", world.machines);
    }
}

#[test]
fn a_bootstrap_begins_at_etcds_gate_if_the_quorum_was_lost_since() {
    let mut world = agreed();
    (0..2).for_each(|i| world.gate_etcd(i));
    world.publish();
    switch_disk(&mut world, 2);
    until(&mut world, 2, |m| m.started);
    (0..2).for_each(|i| switch_disk(&mut world, i));
    ends_in_service(&mut world);
}

#[test]
fn data_of_no_cluster_is_moved_aside_at_a_bootstrap() {
    let mut world = World::new(3, 40);
    (world.machines[1].disk.redis, world.machines[1].disk.postgres) = (Some(9), Some(9));
    ends_in_service(&mut world);
    let data = |m: &Machine| (m.disk.redis, m.disk.postgres);
    assert!(world.machines[..3].iter().all(|m| data(m) == (Some(0), Some(0))), "{:#?}", world.machines);
}

#[test]
fn a_member_that_voted_in_a_bootstrap_keeps_its_log() {
    let mut world = agreed();
    (0..2).for_each(|i| world.gate_etcd(i));
    world.publish();
    reboot(&mut world, 0);
    world.tick(0);
    world.tick(0);
    ends_in_service(&mut world);
}

#[test]
fn a_member_that_restarts_in_a_bootstrap_counts_as_new() {
    let mut world = agreed();
    world.gate_etcd(0);
    world.machines[0].etcd_runs = false;
    world.gate_etcd(0);
    (1..3).for_each(|i| switch_disk(&mut world, i));
    reboot(&mut world, 0);
    ends_in_service(&mut world);
}

#[test]
fn data_of_a_bootstrap_stays_if_etcd_starts_again_without_its_log() {
    let mut world = agreed();
    world.gate_etcd(0);
    let m = &mut world.machines[0];
    (m.etcd_runs, m.disk.etcd, m.disk.redis) = (false, None, Some(9));
    world.gate_etcd(0);
    assert_eq!(world.machines[0].disk.redis, Some(9), "{:#?}", world.machines[0]);
}

/// A duplicate of machine 0, which the others reach and machine 0 does not, waits at its gates.
fn hidden_duplicate(world: &mut World) {
    world.cut.extend([(0, DUPLICATE), (DUPLICATE, 0)]);
    world.machines[DUPLICATE].node = 0;
    world.boot(DUPLICATE);
    world.tick(DUPLICATE);
    assert!(world.machines[DUPLICATE].started, "{:#?}", world.machines);
}

#[test]
fn a_duplicate_waits_for_the_key_of_its_name_and_refuses() {
    let mut world = in_service();
    hidden_duplicate(&mut world);
    world.tick(DUPLICATE);
    assert!(!world.refused_with(Remedy::SwitchDuplicateOff), "the key may expire: {:#?}", world.machines);
    (0..30).for_each(|_| world.tick(DUPLICATE));
    assert!(world.refused_with(Remedy::SwitchDuplicateOff), "{:#?}", world.machines);
}

#[test]
fn a_duplicate_does_not_remove_a_member_whose_patroni_is_down() {
    let mut world = in_service();
    hidden_duplicate(&mut world);
    world.restart_patroni(0);
    world.cut.clear();
    (0..30).for_each(|_| world.tick(DUPLICATE));
    assert!(world.refused_with(Remedy::SwitchDuplicateOff), "{:#?}", world.machines);
}

#[test]
fn a_replaced_disk_waits_until_the_key_of_its_name_expires() {
    let mut world = in_service();
    switch_disk(&mut world, 0);
    until(&mut world, 0, |m| m.started);
    world.tick(0);
    assert!(world.machines[0].refused.is_empty() && !world.machines[0].etcd_runs, "{:#?}", world.machines[0]);
    ends_in_service(&mut world);
}

#[test]
fn a_member_that_replaced_the_observed_one_is_not_removed() {
    let mut world = in_service();
    world.crash(0);
    world.fresh_disk(0);
    (0..30).for_each(|_| world.tick(1));
    world.boot(0);
    until(&mut world, 0, |m| m.started);
    world.observe_ahead(0);
    hidden_duplicate(&mut world);
    world.gate_etcd(DUPLICATE);
    world.publish();
    assert!(world.machines[DUPLICATE].etcd_runs, "{:#?}", world.machines);
    world.gate_etcd(0);
    assert!(!world.machines[0].etcd_runs, "{:#?}", world.machines);
}

/// Machine 0 is a member that has not started: its power failed before it recorded its member id.
fn added() -> World {
    let mut world = in_service();
    world.crash(0);
    world.fresh_disk(0);
    (0..30).for_each(|_| world.tick(1));
    world.boot(0);
    until(&mut world, 0, |m| m.started);
    // Remove, clear, add.
    world.apply(Event::CutPower(0, 2));
    world.gate_etcd(0);
    assert!(
        !world.machines[0].up && world.machines[0].disk.etcd_member.is_none(),
        "{:#?}",
        world.machines[0]
    );
    world
}

#[test]
fn a_listed_member_that_never_started_clears_an_incomplete_log() {
    let mut world = added();
    world.machines[0].disk.torn_etcd = true;
    ends_in_service(&mut world);
}

#[test]
fn a_member_that_just_joined_is_not_restarted_before_it_has_a_log() {
    let mut world = added();
    world.boot(0);
    until(&mut world, 0, |m| m.etcd_runs);
    let log = world.machines[0].disk.etcd.take();
    world.watch(0);
    assert!(world.machines[0].etcd_runs, "{:#?}", world.machines[0]);
    world.machines[0].disk.etcd = log;
    ends_in_service(&mut world);
}

#[test]
fn a_resumed_member_that_lost_its_log_joins_again() {
    let mut world = in_service();
    reboot(&mut world, 0);
    world.run_on(40);
    world.machines[0].disk.etcd = None;
    world.watch(0);
    assert!(!world.machines[0].etcd_runs, "{:#?}", world.machines[0]);
}

#[test]
fn an_etcd_that_waits_at_its_gate_is_not_restarted() {
    let mut world = in_service();
    hidden_duplicate(&mut world);
    world.machines[DUPLICATE].disk.etcd = world.machines[1].disk.etcd.clone();
    world.machines[DUPLICATE].disk.served = true;
    (0..30).for_each(|_| world.tick(DUPLICATE));
    assert_eq!(world.machines[DUPLICATE].etcd_restarts, 0, "{:#?}", world.machines[DUPLICATE]);
}

#[test]
fn a_node_starts_beside_a_duplicate_if_its_cluster_answers() {
    let mut world = in_service();
    reboot(&mut world, 0);
    world.machines[DUPLICATE].node = 0;
    world.boot(DUPLICATE);
    world.tick(0);
    assert!(world.machines[0].started, "{:#?}", world.machines);
}

#[test]
fn a_listed_member_starts_with_the_members_that_etcd_lists() {
    let mut world = World::new(5, 40);
    ends_in_service(&mut world);
    world.crash(4);
    world.etcd.values_mut().for_each(|cluster| cluster.members.retain(|(_, node, _)| *node != 4));
    world.crash(0);
    world.fresh_disk(0);
    (0..30).for_each(|_| world.tick(1));
    world.boot(0);
    until(&mut world, 0, |m| m.started);
    world.apply(Event::CutPower(0, 2));
    world.gate_etcd(0);
    assert!(!world.machines[0].up, "{:#?}", world.machines[0]);
    ends_in_service(&mut world);
}

#[test]
fn an_etcd_that_lost_its_log_joins_again_beside_its_own_patroni() {
    let mut world = in_service();
    world.apply(Event::LoseLog(0));
    (0..3).for_each(|_| world.tick(0));
    assert!(world.machines[0].etcd_runs, "{:#?}", world.machines[0]);
}

#[test]
fn a_member_that_others_do_not_reach_is_not_restarted() {
    let mut world = in_service();
    world.cut.extend([(1, 0), (2, 0)]);
    world.watch(0);
    assert_eq!(world.machines[0].etcd_restarts, 0, "{:#?}", world.machines[0]);
}
