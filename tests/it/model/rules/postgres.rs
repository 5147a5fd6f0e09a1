//! Patroni's gate, snapshots and interrupted initializations.

use super::{agreed, agreed_in, booted_in, ends_in_service, in_service, reboot, switch_disk, until};
use crate::model::Event;
use crate::model::world::{EtcdCluster, InitKey, World};
use hanode_core::gate::{InitFacts, Round};
use hanode_core::plan::EtcdRecovery;
use std::time::Duration;

/// Machine 0 initializes PostgreSQL; the others have not started Patroni.
fn initializing() -> World {
    initializing_in(agreed())
}

fn initializing_in(mut world: World) -> World {
    (0..3).for_each(|i| world.gate_etcd(i));
    world.publish();
    until(&mut world, 0, |m| m.disk.incomplete_postgres);
    world
}

/// Time passes for machine 1, until another node's interrupted initialization counts as abandoned.
fn wait_for_abandoned(world: &mut World) {
    let deletes =
        |world: &World| world.etcd.values().all(|cluster| matches!(cluster.initialize, InitKey::Absent));
    for _ in 0..80 {
        if deletes(world) {
            return;
        }
        world.pass_time();
        world.watch(1);
    }
    panic!("the key stays: {:#?}", world.machines);
}

#[test]
fn an_interrupted_initialization_is_repeated_at_once() {
    let mut world = initializing();
    world.restart_patroni(0);
    (0..3).for_each(|_| world.tick(0));
    assert!(world.machines[0].disk.postgres.is_some(), "{:#?}", world.machines);
    ends_in_service(&mut world);
}

#[test]
fn patronis_that_have_not_started_abandon_an_interrupted_initialization() {
    let mut world = initializing();
    // Their etcd is in service.
    world.machines[1..3].iter_mut().for_each(|m| m.disk.served = true);
    switch_disk(&mut world, 0);
    (1..3).for_each(|i| reboot(&mut world, i));
    ends_in_service(&mut world);
}

/// The Patroni that has just begun again has not reported it yet.
#[test]
fn a_new_initialization_is_not_abandoned_like_the_one_before() {
    let mut world = initializing();
    let (seen, own, spec) = (world.observe(1), world.own(1).clone(), world.spec.clone());
    let plan = world.plan(1, &seen);
    let guard = &mut world.machines[1].init_guard;
    let mut deletes = |seconds, revision: &str| {
        let round =
            Round { spec: &spec, own: &own, seen: &seen, plan: &plan, now: Duration::from_secs(seconds) };
        let facts = InitFacts { revision: Some(revision.into()), ..InitFacts::default() };
        !guard.abandoned(&round, &facts).is_empty()
    };
    assert!(!deletes(0, "1") && !deletes(29, "1"));
    assert!(deletes(30, "1"));
    assert!(!deletes(31, "2") && !deletes(60, "2"));
    assert!(deletes(61, "2"));
}

/// Machine 0 was off while others gave up its initialization.
fn abandoned(world: &mut World) {
    world.crash(0);
    (1..3).for_each(|i| world.tick(i));
    wait_for_abandoned(world);
}

#[test]
fn data_of_an_initialization_that_another_node_completed_is_moved_aside() {
    let mut world = initializing();
    abandoned(&mut world);
    world.run_on(40);
    assert!(world.machines[1..3].iter().all(|m| m.disk.postgres.is_some()), "{:#?}", world.machines);
    ends_in_service(&mut world);
}

#[test]
fn data_of_an_abandoned_initialization_does_not_start() {
    let mut world = initializing();
    abandoned(&mut world);
    (1..3).for_each(|i| world.crash(i));
    ends_in_service(&mut world);
}

/// Two nodes that complete a restore would have data with the same identity.
#[test]
fn an_interrupted_restore_waits_for_a_node_that_may_still_restore() {
    let mut world = World::new(3, 40);
    world.request_restore();
    (0..3).for_each(|i| world.fresh_disk(i));
    let mut world = initializing_in(agreed_in(booted_in(world)));
    world.crash(0);
    for _ in 0..80 {
        (1..3).for_each(|i| world.tick(i));
        world.pass_time();
        (1..3).for_each(|i| world.watch(i));
    }
    let restores = |cluster: &EtcdCluster| matches!(cluster.initialize, InitKey::InProgress(0, _));
    assert!(world.etcd.values().any(restores), "{:#?}", world.machines);
    ends_in_service(&mut world);
}

#[test]
fn an_initialization_by_another_node_continues() {
    let mut world = initializing();
    abandoned(&mut world);
    until(&mut world, 1, |m| m.disk.incomplete_postgres);
    world.boot(0);
    (0..4).for_each(|_| world.tick(0));
    assert!(!world.machines[0].disk.incomplete_postgres, "moved aside: {:#?}", world.machines[0]);
    ends_in_service(&mut world);
}

#[test]
fn a_server_that_outlived_its_patroni_stops_before_its_data_is_moved() {
    let mut world = initializing();
    world.restart_patroni(0);
    abandoned_while_frozen(&mut world);
    ends_in_service(&mut world);
}

/// Others give up machine 0's initialization while it runs without Patroni.
fn abandoned_while_frozen(world: &mut World) {
    world.apply(Event::Freeze(0));
    (1..3).for_each(|i| world.tick(i));
    wait_for_abandoned(world);
}

#[test]
fn data_that_the_operator_chose_is_kept_though_its_mark_is_of_the_former_cluster() {
    let mut world = in_service();
    let cluster = world.machines[0].disk.etcd.clone().expect("a log").0;
    world.machines[0].disk.postgres_init = Some(cluster);
    (0..3).for_each(|i| world.crash(i));
    (1..3).for_each(|i| world.fresh_disk(i));
    (0..3).for_each(|i| world.boot(i));
    world.write();
    let commits = world.machines[0].disk.postgres;
    world.recover(0, EtcdRecovery::Empty);
    ends_in_service(&mut world);
    assert_eq!(world.machines[0].disk.postgres, commits, "{:#?}", world.machines);
}

#[test]
fn a_registered_initialization_is_unmarked() {
    let world = in_service();
    assert!(world.machines[..3].iter().all(|m| m.disk.postgres_init.is_none()), "{:#?}", world.machines);
}

#[test]
fn the_time_without_an_initializing_patroni_starts_again_once_one_is_seen() {
    let mut world = initializing();
    world.tick(1);
    let seconds = |world: &mut World, ticks: usize| (0..ticks).for_each(|_| world.pass_time());
    let hang = |world: &mut World| {
        world.apply(Event::Freeze(0));
        seconds(world, 25);
        world.watch(1);
    };
    let key =
        |world: &World| world.etcd.values().map(|cluster| cluster.initialize).next().expect("a cluster");
    hang(&mut world);
    world.apply(Event::Freeze(0));
    world.publish();
    world.watch(1);
    hang(&mut world);
    assert!(matches!(key(&world), InitKey::InProgress(..)), "{:?}", key(&world));
}

#[test]
fn an_older_snapshot_counts_as_lost() {
    let mut world = in_service();
    world.apply(Event::Snapshot(0));
    for _ in 0..3 {
        reboot(&mut world, 0);
        world.run_on(40);
    }
    world.apply(Event::Rollback(0));
    world.boot(0);
    until(&mut world, 0, |m| m.disk.stale.postgres && m.disk.stale.redis);
    ends_in_service(&mut world);
}

/// No cluster is registered, and no Patroni runs: the operator has deleted its keys.
fn unregistered() -> World {
    let mut world = in_service();
    world.write();
    for i in 0..3 {
        reboot(&mut world, i);
    }
    for i in 0..3 {
        until(&mut world, i, |m| m.started);
        world.gate_etcd(i);
    }
    world.forget_postgres();
    world
}

#[test]
fn data_that_is_not_registered_is_compared_and_starts() {
    let mut world = unregistered();
    ends_in_service(&mut world);
    assert!(world.machines[..3].iter().all(|m| m.disk.postgres == Some(1)), "{:#?}", world.machines);
}

#[test]
fn data_that_is_not_registered_outlasts_a_power_cut_before_its_patroni_starts() {
    for effects in 0..4 {
        let mut world = unregistered();
        world.machines[0].disk.postgres = Some(2);
        (0..3).for_each(|i| world.gate_patroni(i));
        world.apply(Event::CutPower(0, effects));
        world.gate_patroni(0);
        assert!(!world.machines[0].up, "{:#?}", world.machines);
        ends_in_service(&mut world);
    }
}

#[test]
fn the_end_of_the_log_is_not_measured_while_a_cluster_is_registered() {
    let mut world = in_service();
    reboot(&mut world, 0);
    world.machines[0].disk.etcd = None;
    until(&mut world, 0, |m| m.started);
    world.gate_patroni(0);
    assert_eq!(world.machines[0].wal_end, None);
    world.machines[0].disk.postgres = None;
    ends_in_service(&mut world);
}

#[test]
fn data_stays_if_another_node_initializes_after_it_was_observed() {
    let mut world = unregistered();
    world.observe_ahead(0);
    world.etcd.values_mut().for_each(|cluster| cluster.initialize = InitKey::InProgress(1, 99));
    world.gate_patroni(0);
    assert!(world.machines[0].disk.postgres.is_some(), "{:#?}", world.machines[0]);
}
